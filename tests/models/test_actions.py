"""Actions of a policy: titles that stand for election, draws by counter, the best titles."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.models.generative.actions import NEVER, log_pi, sample
from jaxrec.models.layers import rng

P, V, D = 4, 23, 5
PLAYED = np.array([[0, 0], [7, 0], [7, 22], [3, 4]])


def log_probabilities(scale=1.0):
    random = np.random.default_rng(1)
    state, title = (jnp.asarray(random.normal(size=s), jnp.float32) for s in ((P, D), (V, D)))
    return log_pi(state * scale, title, jnp.asarray(PLAYED), 0.5), state, title


def test_reserved_and_played_titles_have_no_probability():
    values, state, title = log_probabilities()
    logits = np.asarray(state) @ np.asarray(title).T / 0.5
    logits[:, :2] = -np.inf
    for row, ids in enumerate(PLAYED):
        logits[row, ids] = -np.inf
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(values), expected, rtol=1e-5)
    assert (np.asarray(values)[expected == 0] < 0.9 * NEVER).all()


def test_draws_have_the_probabilities_of_the_policy_and_are_functions_of_their_keys():
    values, _, _ = log_probabilities(0.5)
    keys = rng.row_keys(3, 7, jnp.arange(P))
    draws = np.asarray(jax.jit(sample, static_argnums=2)(values, keys, 20_000))
    for row in range(P):
        share = np.bincount(draws[row], minlength=V) / 20_000
        p = np.exp(np.asarray(values[row], np.float64))
        chi2 = ((share - p) ** 2 / np.maximum(p, 1e-12))[p > 0].sum() * 20_000
        assert chi2 < 45.3  # the 99.9% quantile for 20 degrees of freedom
        assert not share[[0, 1, *(i for i in PLAYED[row] if i)]].any()
    few = sample(values[1:3], keys[1:3], 5)
    assert (np.asarray(few) == draws[1:3, :5]).all()  # of the key, not of the batch or the number of draws
    assert (np.asarray(sample(values, rng.row_keys(3, 8, jnp.arange(P)), 5)) != draws[:, :5]).any()
    pairs = np.corrcoef(draws[:, :2000].reshape(P, -1))
    assert np.abs(pairs - np.eye(P)).max() < 0.1
