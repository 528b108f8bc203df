"""Trie of the codes of titles as arrays: compressed sparse rows, breadth-first, with two dense levels.

Nodes are numbered level by level, in the order of their tokens, so that the children of a node are
consecutive, and so are the leaves below it (STATIC, arXiv 2602.22647). A device finds the children of any
node by one gather of as many slots as the level's largest number of children. Each leaf is one title.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.core.batch import TitleTrie, TrieLevel

DENSE_LEVELS = 2  # these have a table of all tokens: nearly all tokens follow the first nodes


def build_trie(tokens: np.ndarray, ids: np.ndarray, titles: int, size: int) -> TitleTrie:
    """Return the trie of the codes of n titles.

    Args:
        tokens: [n, depth] int tokens below `size`; no two rows are equal.
        ids: [n] ids of the titles.
        titles: Number of title ids V.
        size: Number of tokens of a level.

    Raises:
        ValueError: Two titles have the same code.
    """
    n, depth = tokens.shape
    order = np.lexsort(tokens.T[::-1])
    tokens, ids = tokens[order], np.asarray(ids)[order]
    is_new = np.zeros(n, bool)
    is_new[:1] = True
    parent_of_row = np.zeros(n, np.int64)
    levels, path = [], np.zeros((titles, depth), np.int32)
    for level in range(depth):
        is_new[1:] |= tokens[1:, level] != tokens[:-1, level]
        node_of_row = np.cumsum(is_new) - 1
        rows = np.flatnonzero(is_new)
        dense = size if level < DENSE_LEVELS else 0
        levels.append(_level(tokens[rows, level], parent_of_row[rows], np.append(rows, n), dense))
        path[ids, level] = node_of_row
        parent_of_row = node_of_row
    if len(rows) != n:
        raise ValueError(f"{n - len(rows):,} titles have the code of another title")
    return TitleTrie(tuple(levels), ids.astype(np.int32), path)


def _level(token: np.ndarray, parent: np.ndarray, leaf: np.ndarray, dense: int) -> TrieLevel:
    """Return a level of child nodes with these tokens and parents.

    Args:
        token: [m] tokens, in the order of the nodes.
        parent: [m] indices of the parents in the level above.
        leaf: [m + 1] number of leaves before those of each node.
        dense: Number of tokens of the level's dense table; 0: none.
    """
    count = np.bincount(parent)
    first = np.r_[0, np.cumsum(count)]
    table = None
    if dense:
        table = np.full((len(count), dense), -1, np.int32)
        table[parent, token] = np.arange(len(token))
    return TrieLevel(
        token.astype(np.int32),
        parent.astype(np.int32),
        first.astype(np.int32),
        np.arange(dense or count.max(), dtype=np.int32),
        np.flatnonzero(count > 1).astype(np.int32),
        leaf.astype(np.int32),
        np.diff(leaf).astype(np.int32),
        table,
    )


def allow(trie: TitleTrie, allowed: Any, xp: Any = np) -> TitleTrie:
    """Return the sub-trie of allowed titles, with arrays of the same shapes.

    A node is open if a leaf below it is allowed. Closed nodes are no children: their parents' probabilities
    are divided among the open ones.

    Args:
        trie: A trie.
        allowed: [V] or [B, V] bool by title id; [B, V] gives a sub-trie for each query.
        xp: `numpy` or `jax.numpy`, by which the arrays are computed.
    """
    before = xp.cumsum(allowed[..., trie.title].astype(np.int32), axis=-1)
    before = xp.concatenate([xp.zeros_like(before[..., :1]), before], axis=-1)
    levels = tuple(
        level._replace(open_leaves=before[..., level.leaf[1:]] - before[..., level.leaf[:-1]])
        for level in trie.levels
    )
    return trie._replace(levels=levels)


def trie_to_arrays(trie: TitleTrie) -> dict[str, Any]:
    """Return the arrays of a trie by name: "title", "node", and "<level>/<field>" of each level."""
    of_levels = {
        f"{i}/{name}": array
        for i, level in enumerate(trie.levels)
        for name, array in level._asdict().items()
        if array is not None
    }
    return of_levels | {"title": trie.title, "node": trie.node}


def trie_from_arrays(arrays: Mapping[str, Any]) -> TitleTrie:
    """Return the trie of arrays by name: the inverse of `trie_to_arrays`."""
    levels: list[dict[str, Any]] = [{} for _ in range(arrays["node"].shape[1])]
    for name, array in arrays.items():
        level, _, field = name.rpartition("/")
        if level:
            levels[int(level)][field] = array
    return TitleTrie(tuple(TrieLevel(**fields) for fields in levels), arrays["title"], arrays["node"])


def nbytes(trie: TitleTrie) -> int:
    """Return the bytes of all arrays of a trie."""
    return sum(array.nbytes for array in trie_to_arrays(trie).values())
