"""Dropout and noise: their law, and that each draw is its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn import draws

KEYS = draws.row_keys(7, 3, jnp.arange(64))


def kept(key=KEYS, layer=1, rate=0.2, shape=(50, 40)):
    x = jnp.ones((len(key), *shape))
    return np.asarray(draws.dropout(x, rate, key, layer)) > 0


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_its_share_and_scale(rate):
    x = np.asarray(draws.dropout(jnp.full((64, 2000), 3.0), rate, KEYS, 1))
    share = (x == 0).mean()
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(x[x != 0], 3.0 / (1 - rate), rtol=1e-6)
    by_row, by_place = (x == 0).mean(1), (x == 0).mean(0)
    assert abs(by_row - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 2000)
    assert abs(by_place - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 64)


@pytest.mark.parametrize(
    "other",
    [
        {"layer": 2},
        {"key": draws.row_keys(7, 4, jnp.arange(64))},
        {"key": draws.row_keys(8, 3, jnp.arange(64))},
        {"key": draws.row_keys(7 + 2**32, 3, jnp.arange(64))},
        {"key": draws.row_keys(7, 3, jnp.arange(64) + 1)},
    ],
    ids=["layer", "step", "seed", "high seed", "row"],
)
def test_masks_of_other_layers_steps_seeds_and_rows_are_independent(other):
    a, b = kept(), kept(**other)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_neighbouring_elements_are_independent():
    a = kept().reshape(64, -1)
    assert abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_a_draw_is_the_rows_own_wherever_the_row_stands():
    x, order = jnp.ones((64, 3, 5)), np.random.default_rng(0).permutation(64)
    whole = draws.dropout(x, 0.2, KEYS, 1)
    assert np.array_equal(draws.dropout(x, 0.2, KEYS[order], 1), whole[order])
    assert np.array_equal(draws.dropout(x[:8], 0.2, draws.row_keys(7, 3, jnp.arange(8)), 1), whole[:8])
    last = draws.dropout(x.transpose(1, 2, 0), 0.2, KEYS, 1, axis=-1)
    assert np.array_equal(last.transpose(2, 0, 1), whole)


def test_nothing_is_dropped_without_a_key_or_a_rate():
    x = jnp.ones((64, 3))
    assert draws.dropout(x, 0.2, None, 1) is x
    assert draws.dropout(x, 0.0, KEYS, 1) is x


def test_row_keys_differ():
    keys = np.concatenate([draws.row_keys(0, step, jnp.arange(1000)) for step in range(5)])
    assert len(np.unique(keys[:, 0])) > 4990
    assert len(np.unique(keys, axis=0)) == 5000


def test_normal_and_uniform():
    u = np.asarray(draws.uniform((2000,), KEYS, 1))
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * 0.2887 / np.sqrt(u.size)
    z = np.asarray(draws.normal((2000,), KEYS, 5), np.float64)
    n = np.sqrt(z.size)
    assert abs(z.mean()) < 4 / n
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2) / n
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96) / n
    assert abs((z < 1).mean() - 0.8413) < 4 * 0.37 / n


def test_layers_of_a_model_have_numbers_of_their_own(small):
    paths = jax.tree_util.tree_flatten_with_path(small.variables["params"])[0]
    modules = {tuple(k.key for k in path[:i]) for path, _ in paths for i in range(len(path))}
    numbers = [draws.layer_number(m) + i for m in modules for i in (0, 1)]
    assert len(set(numbers)) == len(numbers)
