"""Trie of codes as arrays: equal to a trie of Python dicts; sub-tries of allowed titles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.codes.residual_codes import random_codes
from jaxrec.codes.trie import DENSE_LEVELS, allow, build_trie, nbytes, trie_from_arrays, trie_to_arrays
from jaxrec.runtime.private_apis import compiled_programs

FIRST = 2  # id of the first title


def made(n=60, levels=3, size=6, seed=0):
    tokens = random_codes(n, levels, size, seed).tokens
    return tokens, build_trie(tokens, np.arange(n) + FIRST, n + FIRST, size)


def in_dicts(tokens):
    root: dict = {}
    for row, path in enumerate(tokens.tolist()):
        node = root
        for token in path[:-1]:
            node = node.setdefault(token, {})
        node[path[-1]] = row + FIRST
    return root


def walk(trie, level=0, node=0):
    """Return the trie of arrays as dicts, by the children of each node."""
    if level == len(trie.levels):
        return int(trie.title[node])
    x = trie.levels[level]
    children = range(int(x.first[node]), int(x.first[node + 1]))
    return {int(x.token[c]): walk(trie, level + 1, c) for c in children if x.open_leaves[c]}


@pytest.mark.parametrize("seed", range(3))
def test_the_arrays_are_a_trie_of_dicts(seed):
    tokens, trie = made(seed=seed)
    assert walk(trie) == in_dicts(tokens)


def test_arrays_by_name_are_the_trie():
    _, trie = made()
    arrays = trie_to_arrays(trie)
    assert {"title", "node", "0/dense", "3/token"} < set(arrays) and "2/dense" not in arrays
    again = trie_from_arrays(dict(reversed(arrays.items())))
    assert jax.tree.structure(again) == jax.tree.structure(trie)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, trie))


def test_every_level_by_hand():
    tokens = np.array([[1, 0, 0], [0, 2, 0], [1, 0, 1], [1, 2, 0]])
    trie = build_trie(tokens, np.array([2, 3, 4, 5]), 6, 3)
    first, second, third = trie.levels
    assert first.token.tolist() == [0, 1] and first.dense.tolist() == [[0, 1, -1]]
    assert second.token.tolist() == [2, 0, 2] and second.parent.tolist() == [0, 1, 1]
    assert second.dense.tolist() == [[-1, -1, 0], [1, -1, 2]] and second.several.tolist() == [1]
    assert third.token.tolist() == [0, 0, 1, 0] and third.dense is None
    assert third.first.tolist() == [0, 1, 3, 4] and third.slot.tolist() == [0, 1]
    assert third.several.tolist() == [1]
    assert trie.title.tolist() == [3, 2, 4, 5] and second.leaf.tolist() == [0, 1, 3, 4]
    assert trie.node.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 2], [1, 2, 3]]


def test_the_first_levels_are_dense_and_agree_with_the_sparse_rows():
    _, trie = made()
    assert [level.dense is not None for level in trie.levels] == [True] * DENSE_LEVELS + [False] * 2
    for level in trie.levels[:DENSE_LEVELS]:
        for node, row in enumerate(level.dense):
            children = np.arange(level.first[node], level.first[node + 1])
            assert row[level.token[children]].tolist() == children.tolist()
            assert (row >= 0).sum() == len(children)


def test_two_titles_of_one_code_are_refused():
    with pytest.raises(ValueError, match="1 titles have the code of another title"):
        build_trie(np.array([[0, 1], [0, 1]]), np.array([2, 3]), 4, 2)


def test_a_sub_trie_holds_the_allowed_titles_alone():
    tokens, trie = made()
    allowed = np.zeros(62, bool)
    allowed[[4, 9, 33, 50]] = True
    rows = np.flatnonzero(allowed) - FIRST
    expected = in_dicts(np.zeros((0, 4), int))
    for row in rows.tolist():
        node = expected
        for token in tokens[row, :-1].tolist():
            node = node.setdefault(token, {})
        node[int(tokens[row, -1])] = row + FIRST
    assert walk(allow(trie, allowed)) == expected


def test_a_sub_trie_compiles_nothing_and_can_differ_by_query():
    _, trie = made()
    on_device = jax.tree.map(jnp.asarray, trie)
    counts = jax.jit(lambda t: sum((level.open_leaves > 0).sum(-1) for level in t.levels))
    allowed = np.zeros((2, 62), bool)
    allowed[0, 5], allowed[1, [5, 9]] = True, True
    whole, first = counts(on_device), counts(allow(on_device, jnp.asarray(allowed[0]), jnp))
    assert compiled_programs(counts) == 1
    assert first == 4 and whole == sum(len(level.token) for level in trie.levels)
    both = allow(on_device, jnp.asarray(allowed), jnp)
    assert [(level.open_leaves > 0).sum(-1).tolist() for level in both.levels][-1] == [1, 2]


def test_the_memory_of_a_trie_is_that_of_its_arrays():
    _, trie = made()
    leaves = jax.tree.leaves(trie)
    assert nbytes(trie) == sum(leaf.nbytes for leaf in leaves)
