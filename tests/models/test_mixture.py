"""Pooling, windows, the gate and its temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.config.schema import Gate as GateConfig
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.layers import rng
from jaxrec.models.layers.pooling import AttentionPooling
from jaxrec.models.mixture import Gate, TransformerExpert, gate_temperature


def test_pooling_by_hand():
    # request 0: scores 0 and ln 3, weights 1/4 and 3/4, in one row with request 2; padding (3) is not there;
    # request 1 shows nothing and has its own vector
    p = {"params": {"attention": jnp.array([jnp.log(3.0), 0.0]), "empty": jnp.array([7.0, 8.0])}}
    h = jnp.array([[[0.0, 4.0], [1.0, 8.0], [50.0, 9.0]], [[2.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    of = jnp.array([[0, 0, 3], [2, 3, 3]])
    got = AttentionPooling("float32").apply(p, h, of, 3)
    np.testing.assert_allclose(got, [[0.75, 7.0], [7.0, 8.0], [2.0, 1.0]], rtol=1e-6)
    grad = jax.grad(lambda h: AttentionPooling("float32").apply(p, h, of, 3).sum())(h)
    assert not np.any(grad[of == 3])
    assert np.all(np.any(grad[of < 3], axis=-1))


def test_pooling_survives_scores_far_apart():
    p = {"params": {"attention": jnp.array([1.0]), "empty": jnp.array([0.0])}}
    h = jnp.array([[[500.0], [499.0], [-500.0], [-499.0]]])
    got = AttentionPooling("float32").apply(p, h, jnp.array([[0, 0, 1, 1]]), 2)
    one = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(got, [[499 + one], [-500 + one]], rtol=1e-6)


def test_an_expert_keeps_the_histories_of_a_row_apart():
    expert = TransformerExpert("float32", Expert(5, 2, 2, 1.0, 0.0))
    x, of = jax.random.normal(jax.random.key(0), (1, 5, 4)), jnp.array([[0, 1, 1, 0, 2]])

    def titles(x):
        return PackedTitles(x, of, jnp.zeros(of.shape), None)

    variables = jax.jit(lambda x: expert.init(jax.random.key(0), titles(x), 2))(x)
    probe = jnp.arange(4.0)
    one = jax.jit(jax.grad(lambda x: (expert.apply(variables, titles(x), 2)[1] * probe).sum()))(x)
    assert not np.any(one[of != 1])
    assert np.all(np.any(one[of == 1], axis=-1))


@pytest.mark.parametrize(("step", "wanted"), [(0, 2.0), (25, 2**0.5), (50, 1.0), (80, 1.0), (12.5, 2**0.75)])
def test_temperature_falls_exponentially_then_stays(step, wanted):
    assert float(gate_temperature(step, 100, 2.0, 1.0, 0.5)) == pytest.approx(wanted, rel=1e-6)


def test_temperature_without_annealing_is_the_final_one_after_the_first_step():
    assert float(gate_temperature(1, 100, 2.0, 1.0, 0.0)) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def gate():
    module = Gate("float32", GateConfig((8, 4), 0.5))
    customer, pooled = jax.random.normal(jax.random.key(0), (64, 3)), list(jnp.ones((2, 64, 4)))
    variables = jax.jit(module.init)(jax.random.key(0), customer, pooled, 1.0, None)
    variables["params"]["mlp"]["out"]["bias"] = jnp.array([0.0, jnp.log(4.0)])
    variables["params"]["mlp"]["out"]["kernel"] *= 0
    return jax.jit(lambda tau, key: module.apply(variables, customer, pooled, tau, key))


def test_eq_9_without_noise(gate):
    for tau, wanted in ((1.0, [0.2, 0.8]), (2.0, [1 / 3, 2 / 3])):  # e^(ln 4 / 2) = 2
        used, clean = gate(tau, None)
        np.testing.assert_allclose(used, np.tile(wanted, (64, 1)), rtol=1e-5)
        assert np.array_equal(used, clean)


def test_eq_9_with_noise_drawn_per_expert_and_divided_by_the_temperature(gate):
    used, clean = gate(2.0, rng.row_keys(0, 0, jnp.arange(64)))
    np.testing.assert_allclose(clean, np.tile([1 / 3, 2 / 3], (64, 1)), rtol=1e-5)
    np.testing.assert_allclose(used.sum(-1), 1.0, rtol=1e-6)
    # the log-odds move by (e1 - e0) / tau: two draws of std .5, so std .5 sqrt(2) / 2
    moved = np.log(used[:, 1] / used[:, 0]) - np.log(2.0)
    assert 0.25 < moved.std() < 0.48
    assert abs(moved.mean()) < 0.2
