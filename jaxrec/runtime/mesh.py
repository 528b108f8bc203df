"""Device mesh: replicated and row-sharded state, and sums over devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.core.ids import SHARDED

AXIS = "data"


def device_count() -> int:
    """Return the number of devices of all processes together."""
    return jax.device_count()


def mesh() -> Mesh:
    """Return the mesh of all devices along AXIS, in the order of batch shards."""
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def replicated_sharding() -> NamedSharding:
    """Return the sharding of an array that is replicated on all devices."""
    return NamedSharding(mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Replicate host or device arrays on all devices.

    The arrays are committed to the devices, because an uncommitted first state would compile the step a
    second time. The buffers are copies, so donating a result leaves the arrays of the caller intact.
    """
    sharding = replicated_sharding()
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda _: np.asarray(x)), tree
    )


def _is_sharded(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "key", None) == SHARDED


def partition_specs(tree: Any) -> Any:
    """Return the PartitionSpec of each leaf of a state.

    A leaf named `SHARDED` is sharded along its first axis; any other leaf is replicated. For None the result
    is a single replicated spec, which applies to a whole tree.
    """
    if tree is None:
        return PartitionSpec()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: PartitionSpec(AXIS) if _is_sharded(path) else PartitionSpec(), tree
    )


def state_shardings(tree: Any) -> Any:
    """Return the sharding over all devices of each leaf of a state."""
    all_devices = mesh()
    return jax.tree.map(
        lambda spec: NamedSharding(all_devices, spec),
        partition_specs(tree),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def split_sharded(tree: Any) -> tuple[Any, Any]:
    """Split a tree into its sharded and its replicated leaves.

    Returns:
        Two trees of the same structure, (sharded, replicated), each with None in place of the leaves of the
        other tree.
    """
    flags = jax.tree_util.tree_map_with_path(lambda path, _: _is_sharded(path), tree)
    sharded = jax.tree.map(lambda flag, x: x if flag else None, flags, tree)
    return sharded, jax.tree.map(lambda flag, x: None if flag else x, flags, tree)


def merge_sharded(sharded: Any, replicated: Any) -> Any:
    """Merge sharded and replicated leaves into one tree; inverse of `split_sharded`."""
    return jax.tree.map(lambda a, b: b if a is None else a, sharded, replicated, is_leaf=lambda x: x is None)


def psum_replicated(tree: Any) -> Any:
    """Sum the replicated leaves of a tree over devices, inside a mapped step.

    Sharded leaves are returned unchanged, because each shard already holds its complete sum. Shapes and
    dtypes
    do not change.
    """
    sharded, replicated = split_sharded(tree)
    return merge_sharded(sharded, jax.lax.psum(replicated, AXIS))


def as_global_arrays(tree: Any) -> Any:
    """Convert process-local replicated arrays to global arrays, without a copy.

    On several processes a mapped step returns arrays that cover only the devices of this process, and a
    checkpoint cannot hold such an array. Arrays that already span all processes are returned unchanged.

    Args:
        tree: A tree of jax arrays.
    """
    if jax.process_count() == 1:
        return tree
    sharding = replicated_sharding()

    def to_global(x: jax.Array) -> jax.Array:
        if not x.is_fully_addressable:
            return x
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree.map(to_global, tree)
