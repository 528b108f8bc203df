"""Distribution and independence of the random numbers for dropout and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec.models.layers import rng

KEYS = rng.row_keys(7, 3, jnp.arange(64))


def make_mask(key=KEYS, layer=1, rate=0.2, width=2000, half=0):
    return np.asarray(rng.dropout_mask(key, layer, width, rate)[half])


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_has_its_rate_and_scale(rate, half):
    keep = make_mask(rate=rate, half=half)
    x = np.asarray(rng.dropout(jnp.full(keep.shape, 3.0), keep, rate))
    fraction = (x == 0).mean()
    assert abs(fraction - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(x[x != 0], 3.0 / (1 - rate), rtol=2e-5)  # the rate is a multiple of 2**-16
    by_row, by_column = (x == 0).mean(1), (x == 0).mean(0)
    assert abs(by_row - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 2000)
    assert abs(by_column - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 64)


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
    ids=["layer", "half", "step", "seed", "high seed", "row", "fold", "folds"],
)
def test_masks_of_other_layers_halves_steps_seeds_rows_and_folds_are_independent(other):
    a, b = make_mask(), make_mask(**other)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_folds_of_a_key_are_independent():
    masks = [make_mask(key=rng.fold_in(KEYS, n)) for n in range(20)]
    correlation = np.corrcoef([m.ravel() for m in masks]) - np.eye(20)
    assert abs(correlation).max() < 5 / np.sqrt(masks[0].size)


def test_neighbouring_elements_are_independent():
    a = make_mask()
    assert abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_numbers_depend_on_the_row_key_and_not_on_its_position():
    order = np.random.default_rng(0).permutation(64)
    whole = make_mask(width=15)
    assert np.array_equal(make_mask(KEYS[order], width=15), whole[order])
    assert np.array_equal(make_mask(rng.row_keys(7, 3, jnp.arange(8)), width=15), whole[:8])
    assert np.array_equal(make_mask(KEYS.reshape(8, 8, 2), width=15), whole.reshape(8, 8, 15))


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
def test_randint_is_the_high_word_of_the_bits_times_n(n):
    bits = np.asarray(rng._bits(KEYS, 1, 6)).astype(object)
    actual = rng.randint(n, (2, 3), KEYS, 1)
    assert actual.shape == (64, 2, 3)
    assert actual.dtype == jnp.int32
    expected = (bits * n // 2**32).astype(np.int64).reshape(64, 2, 3)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(jax.jit(lambda n: rng.randint(n, (2, 3), KEYS, 1))(jnp.uint32(n)), expected)


def test_randint_is_uniform():
    actual = np.asarray(rng.randint(10, (2000,), KEYS, 1))
    assert (actual.min(), actual.max()) == (0, 9)
    assert stats.chisquare(np.bincount(actual.ravel())).pvalue > 1e-3


def test_layer_ids_of_a_model_are_distinct(small):
    paths = jax.tree_util.tree_flatten_with_path(small.variables["params"])[0]
    modules = {tuple(k.key for k in path[:i]) for path, _ in paths for i in range(len(path))}
    ids = [rng.layer_id(m) + i for m in modules for i in (0, 1)]
    assert len(set(ids)) == len(ids)
