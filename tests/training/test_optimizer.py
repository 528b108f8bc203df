"""The chain against steps worked by hand, and the plateau against PyTorch's table of rates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Optimizer
from jaxrec.core.ids import SHARDED
from jaxrec.models.kernels import adam_update
from jaxrec.runtime.private_apis import compiled_programs
from jaxrec.training import optimizer

PARAMS = {"kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([1.0]), "norm": {"scale": jnp.array([1.0])}}
PLAIN = Optimizer(learning_rate=0.1, weight_decay=0.0, plateau_factor=0.5, plateau_patience=2)


def update(config, grads, params=PARAMS):
    tx = optimizer.make(config)
    return tx.update(grads, tx.init(params), params, value=0.0, fresh=False)[0]


def ones():
    return jax.tree.map(jnp.ones_like, PARAMS)


def test_adams_first_step_is_the_rate():
    np.testing.assert_allclose(update(PLAIN, ones())["kernel"], [-0.1, -0.1], rtol=1e-5)


def test_decoupled_decay_joins_the_step():
    got = update(replace(PLAIN, weight_decay=0.01), ones())
    np.testing.assert_allclose(got["kernel"], [-0.1 * (1 + 0.02), -0.1 * (1 - 0.04)], rtol=1e-5)
    np.testing.assert_allclose(got["bias"], [-0.1 * 1.01], rtol=1e-5)


def test_coupled_decay_joins_the_gradient():
    # gradient 0: the first Adam step is the sign of decay * parameter, whatever the decay
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(replace(PLAIN, weight_decay=0.01, weight_decay_mode="coupled"), zeros)
    np.testing.assert_allclose(got["kernel"], [-0.1, 0.1], rtol=1e-4)


def rates(config, values, between=3):
    """The rate after each evaluation, with stale steps between them, whose value must not count."""
    tx = optimizer.make(config)
    state, out = tx.init(PARAMS), []
    step = jax.jit(lambda s, v, f: tx.update(ones(), s, PARAMS, value=v, fresh=f))
    for value in values:
        for _ in range(between):
            _, state = step(state, jnp.float32(0.0), jnp.bool_(False))
        updates, state = step(state, jnp.float32(value), jnp.bool_(True))
        out.append(float(optimizer.learning_rate(state, config)))
    assert compiled_programs(step) == 1
    return out, updates


def test_plateau_is_pytorchs():
    # torch.optim.lr_scheduler.ReduceLROnPlateau(factor=.5, patience=2): the rate falls on the third
    # evaluation in a row that is no better than the best by one part in 10,000, and the count restarts.
    values = [1.0, 0.9, 0.95, 0.91, 0.9, 0.85, 0.85, 0.84999, 0.8499, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    wanted = [0.1] * 4 + [0.05] * 4 + [0.05, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.0125]
    got, updates = rates(PLAIN, values)
    np.testing.assert_allclose(got, wanted)
    np.testing.assert_allclose(updates["kernel"], -0.0125, rtol=1e-3)  # it acts in the step that learns of it


def test_the_rate_warms_up_linearly_and_is_reported_as_it_is():
    config = replace(PLAIN, warmup_steps=4, plateau_patience=0)
    params = {"embedding": jnp.zeros((2, 3)), "kernel": jnp.zeros(3)}
    state = optimizer.make(config).init(params)
    for n, rate in enumerate([0.025, 0.05, 0.075, 0.1, 0.1, 0.05]):
        plateau = {"value": 1.0, "fresh": n in (4, 5)}  # the second is no better than the first: halved
        if n < 5:
            assert float(optimizer.learning_rate(state, config)) == pytest.approx(rate)
        before = params
        grads = jax.tree.map(jnp.ones_like, params)
        params, state = optimizer.step(config, grads, state, params, **plateau)
        for name in params:
            np.testing.assert_allclose(before[name] - params[name], rate, rtol=1e-4)  # Adam's step is 1
    assert float(optimizer.learning_rate(state, config)) == pytest.approx(0.05)


def test_a_stale_zero_freezes_nothing():
    assert rates(PLAIN, [5.0, 4.0, 3.0, 2.0, 1.0])[0] == pytest.approx([0.1] * 5)


def test_patience_0_and_a_factor_that_lowers_nothing():
    assert rates(replace(PLAIN, plateau_patience=0), [1.0, 1.0, 1.0])[0] == pytest.approx([0.1, 0.05, 0.025])
    assert rates(replace(PLAIN, plateau_factor=1.0), [1.0] * 12)[0] == pytest.approx([0.1] * 12)


def test_state_is_a_tree_of_arrays():
    state = optimizer.make(PLAIN).init(PARAMS)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


def random_tree(key, scale=1.0):
    """Arrays of less than a block, of whole blocks and of some more, and one that does not decay."""
    shapes = {"bias": (1,), "kernel": (32, 32), "out": (3, 7), "embedding": (41, 25), "log_variance": ()}
    keys = jax.random.split(key, len(shapes))
    return {
        name: scale * jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


@pytest.mark.parametrize("mode", ["decoupled", "coupled"])
def test_a_fused_update_is_that_of_the_chain(mode, monkeypatch):
    """With decay, warm-up and a plateau; the parameters take two kernels."""
    monkeypatch.setattr(adam_update, "_MAX_LEAVES", 3)
    config = replace(
        PLAIN, weight_decay=0.3, weight_decay_mode=mode, warmup_steps=3, beta2=0.99, plateau_patience=0
    )
    params, divisor = random_tree(jax.random.key(0)), jnp.float32(7)
    plain = fused = (params, optimizer.make(config).init(params))
    step = jax.jit(lambda g, s, p, **kw: optimizer.step(config, g, s, p, **kw))
    fused_step = jax.jit(lambda g, s, p, **kw: optimizer.fused_step(config, g, divisor, s, p, **kw))
    for n in range(5):
        sums = random_tree(jax.random.key(n + 1), 10.0)
        means = jax.tree.map(lambda g: g / 7, sums)
        plateau = {"value": jnp.float32(1), "fresh": jnp.bool_(n in (1, 3))}
        plain = step(means, plain[1], plain[0], **plateau)
        *fused, (square, sharded) = fused_step(sums, fused[1], fused[0], **plateau)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), fused, [*plain])
        assert float(square) == pytest.approx(float(optimizer.norm(means)) ** 2, rel=1e-5) and sharded == 0
    assert float(optimizer.learning_rate(fused[1], config)) == pytest.approx(0.05)  # halved once


def test_a_fused_update_keeps_sharded_parameters_apart():
    """Their squared norm is one of the devices' parts of it."""
    params = {"table": {SHARDED: jnp.ones((4, 3))}, "kernel": jnp.ones(2)}
    grads = {"table": {SHARDED: jnp.full((4, 3), 2.0)}, "kernel": jnp.full(2, 3.0)}
    state = optimizer.make(PLAIN).init(params)
    after, moments, squares = optimizer.fused_step(
        PLAIN, grads, jnp.float32(1), state, params, value=0.0, fresh=False
    )
    assert [float(x) for x in squares] == [2 * 9.0, 12 * 4.0]
    wanted = optimizer.step(PLAIN, grads, state, params, value=0.0, fresh=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), (after, moments), wanted)
