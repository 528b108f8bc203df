"""State trees of checkpoints: shardings, host copies, and names and shapes of leaves."""

from typing import Any

import jax
import numpy as np

from jaxrec.core.errors import InputError


def with_shardings(state: Any, shardings: Any) -> Any:
    """Return an abstract state, a tree of jax.ShapeDtypeStruct, with shardings.

    Args:
        state: A tree of arrays or jax.ShapeDtypeStruct.
        shardings: A tree of shardings of the same structure, or one sharding for all leaves.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        return with_shardings(state, jax.tree.map(lambda _: shardings, state))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
    )


def to_host(x: jax.Array) -> jax.Array | np.ndarray:
    """Gather the shards of an array from all processes, each of which must call this.

    On several processes the result is a NumPy array, because Orbax accepts a jax array only if the array
    spans all processes.
    """
    if jax.process_count() == 1:
        return x
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)


def replace_leaves(tree: Any, source: Any) -> Any:
    """Replace each leaf of `tree` with the leaf of the same name in `source`."""
    leaves = {_dotted_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(source)[0]}
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_dotted_name(path)], tree)


# Fields of a state that moved into the state of the task: name in old checkpoints -> current name.
_MOVED_FIELDS = {"averages": "task_state.averages", "usage": "task_state.usage"}


def _dotted_name(path: Any) -> str:
    """Return the dotted name of a leaf, in terms of the current state."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    first, dot, rest = name.partition(".")
    return f"{_MOVED_FIELDS[first]}{dot}{rest}" if first in _MOVED_FIELDS else name


def leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of each leaf of a state or of Orbax metadata by dotted name.

    The shape of a random key is the shape of its words.
    """
    shapes = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        shapes[_dotted_name(path)] = tuple(leaf.shape)
    return shapes


def slashed_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their names, such as "params/title/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_shapes(what: str, saved: Any, expected: Any) -> None:
    """Raise InputError unless two trees have leaves of equal names and shapes; `what` is the checkpoint."""
    a, b = leaf_shapes(saved), leaf_shapes(expected)
    for name in sorted(a.keys() | b.keys()):
        before, after = a.get(name, "missing"), b.get(name, "missing")
        if before != after:
            raise InputError(
                f"{what}: {name} is {before} in the checkpoint, but {after} in the model of the config"
            )
