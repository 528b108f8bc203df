"""Dropout and noise: their law, and that each draw is its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec.models.layers import rng

KEYS = rng.row_keys(7, 3, jnp.arange(64))


def kept(key=KEYS, layer=1, rate=0.2, width=2000, half=0):
    return np.asarray(rng.dropout_mask(key, layer, width, rate)[half])


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_its_share_and_scale(rate, half):
    keep = kept(rate=rate, half=half)
    x = np.asarray(rng.dropout(jnp.full(keep.shape, 3.0), keep, rate))
    share = (x == 0).mean()
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(x[x != 0], 3.0 / (1 - rate), rtol=2e-5)  # the rate is in 2**-16ths
    by_row, by_place = (x == 0).mean(1), (x == 0).mean(0)
    assert abs(by_row - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 2000)
    assert abs(by_place - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 64)


@pytest.mark.parametrize(
    "other",
    [
        {"layer": 2},
        {"half": 1},
        {"key": rng.row_keys(7, 4, jnp.arange(64))},
        {"key": rng.row_keys(8, 3, jnp.arange(64))},
        {"key": rng.row_keys(7 + 2**32, 3, jnp.arange(64))},
        {"key": rng.row_keys(7, 3, jnp.arange(64) + 1)},
        {"key": rng.fold_in(KEYS, 0)},
        {"key": rng.fold_in(KEYS, jnp.arange(64))},
    ],
    ids=["layer", "half", "step", "seed", "high seed", "row", "part", "parts"],
)
def test_masks_of_other_layers_halves_steps_seeds_rows_and_parts_are_independent(other):
    a, b = kept(), kept(**other)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_parts_of_a_key_are_independent_of_one_another():
    parts = [kept(key=rng.fold_in(KEYS, n)) for n in range(20)]
    together = np.corrcoef([p.ravel() for p in parts]) - np.eye(20)
    assert abs(together).max() < 5 / np.sqrt(parts[0].size)


def test_neighbouring_elements_are_independent():
    a = kept()
    assert abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_a_draw_is_the_rows_own_wherever_the_row_stands():
    order = np.random.default_rng(0).permutation(64)
    whole = kept(width=15)
    assert np.array_equal(kept(KEYS[order], width=15), whole[order])
    assert np.array_equal(kept(rng.row_keys(7, 3, jnp.arange(8)), width=15), whole[:8])
    assert np.array_equal(kept(KEYS.reshape(8, 8, 2), width=15), whole.reshape(8, 8, 15))


def test_row_keys_differ():
    keys = np.concatenate([rng.row_keys(0, step, jnp.arange(1000)) for step in range(5)])
    assert len(np.unique(keys[:, 0])) > 4990
    assert len(np.unique(keys, axis=0)) == 5000


def test_normal_and_uniform():
    u = np.asarray(rng.uniform((2000,), KEYS, 1))
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * 0.2887 / np.sqrt(u.size)
    z = np.asarray(rng.normal((2000,), KEYS, 5), np.float64)
    n = np.sqrt(z.size)
    assert abs(z.mean()) < 4 / n
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2) / n
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96) / n
    assert abs((z < 1).mean() - 0.8413) < 4 * 0.37 / n


@pytest.mark.parametrize("n", [0, 1, 2, 7, 2**16 - 1, 2**16, 3_000_001, 2**31 - 1, 2**31])
def test_below_is_the_high_word_of_the_bits_times_n(n):
    bits = np.asarray(rng._bits(KEYS, 1, 6)).astype(object)
    got = rng.randint(n, (2, 3), KEYS, 1)
    assert got.shape == (64, 2, 3)
    assert got.dtype == jnp.int32
    wanted = (bits * n // 2**32).astype(np.int64).reshape(64, 2, 3)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(jax.jit(lambda n: rng.randint(n, (2, 3), KEYS, 1))(jnp.uint32(n)), wanted)


def test_below_reaches_each_number_as_often():
    got = np.asarray(rng.randint(10, (2000,), KEYS, 1))
    assert (got.min(), got.max()) == (0, 9)
    assert stats.chisquare(np.bincount(got.ravel())).pvalue > 1e-3


def test_layers_of_a_model_have_numbers_of_their_own(small):
    paths = jax.tree_util.tree_flatten_with_path(small.variables["params"])[0]
    modules = {tuple(k.key for k in path[:i]) for path, _ in paths for i in range(len(path))}
    numbers = [rng.layer_id(m) + i for m in modules for i in (0, 1)]
    assert len(set(numbers)) == len(numbers)
