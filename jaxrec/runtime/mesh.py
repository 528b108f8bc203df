"""The device mesh: replicated and row-sharded state, and sums over devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.core.ids import SHARDED

AXIS = "data"


def device_count() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def mesh() -> Mesh:
    """All devices of all processes along AXIS, in the order of a batch's shares."""
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def replicated_sharding() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Host or device arrays as arrays that every device holds.

    An uncommitted first state would compile the step a second time. The buffers are copies, so that
    donating them destroys nothing the caller still holds.
    """
    where = replicated_sharding()
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), where, lambda _: np.asarray(x)), tree
    )


def _is_sharded(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "key", None) == SHARDED


def partition_specs(tree: Any) -> Any:
    """How each leaf of a state lies on the devices: dealt by its first axis, or replicated; of None, all."""
    if tree is None:
        return PartitionSpec()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: PartitionSpec(AXIS) if _is_sharded(path) else PartitionSpec(), tree
    )


def state_shardings(tree: Any) -> Any:
    """The same as a tree of shardings over all devices."""
    where = mesh()
    return jax.tree.map(
        lambda spec: NamedSharding(where, spec),
        partition_specs(tree),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def split_sharded(tree: Any) -> tuple[Any, Any]:
    """The dealt leaves of a tree, None in place of the others; and the others, None in place of those."""
    flags = jax.tree_util.tree_map_with_path(lambda path, _: _is_sharded(path), tree)
    dealt = jax.tree.map(lambda flag, x: x if flag else None, flags, tree)
    return dealt, jax.tree.map(lambda flag, x: None if flag else x, flags, tree)


def merge_sharded(dealt: Any, others: Any) -> Any:
    """The inverse of `dealt_alone`."""
    return jax.tree.map(lambda a, b: b if a is None else a, dealt, others, is_leaf=lambda x: x is None)


def psum_replicated(tree: Any) -> Any:
    """A tree summed over devices, but for what is dealt, whose sums are at home; inside a mapped step."""
    dealt, others = split_sharded(tree)
    return merge_sharded(dealt, jax.lax.psum(others, AXIS))


def as_global_arrays(tree: Any) -> Any:
    """Replicated arrays as arrays of all processes, without a copy: what a mapped step gives back is, on
    several processes, an array of this process's devices alone, which no checkpoint takes."""
    if jax.process_count() == 1:
        return tree
    where = replicated_sharding()

    def widen(x: jax.Array) -> jax.Array:
        if not x.is_fully_addressable:
            return x
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, where, parts)

    return jax.tree.map(widen, tree)
