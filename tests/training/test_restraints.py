"""Tests of frozen parameters and of the anchor, with values by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import Optimizer, Start
from jaxrec.training import optimizer
from jaxrec.training.restraints import has_anchor, keep_frozen, restrain_gradients

PARAMS = {"a": {"kernel": jnp.array([1.0, -2.0])}, "b": jnp.array([3.0])}
GRADS = {"a": {"kernel": jnp.array([0.5, 0.25])}, "b": jnp.array([0.125])}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_anchors_gradient_is_its_weight_times_the_distance_from_the_reference():
    start = Start("w", anchor=0.1)
    reference = {"a": {"kernel": jnp.array([0.5, 9.0])}, "b": jnp.array([7.0])}
    taken = {"a": {"kernel": jnp.array([True, False])}, "b": jnp.array([True])}
    grads = restrain_gradients(start, GRADS, PARAMS, reference, taken)
    np.testing.assert_allclose(grads["a"]["kernel"], [0.5 + 0.1 * (1 - 0.5), 0.25], rtol=1e-6)
    np.testing.assert_allclose(grads["b"], [0.125 + 0.1 * (3 - 7)], rtol=1e-6)

    def penalty(params):
        return sum(
            0.05 * jnp.nansum((p - r) ** 2) for p, r in ((params["a"]["kernel"][:1], 0.5), (params["b"], 7))
        )

    expected = jax.tree.map(jnp.add, GRADS, jax.grad(penalty)(PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grads, expected)


def test_without_freeze_and_anchor_nothing_is_added():
    for start in (Start(), Start("w")):
        assert restrain_gradients(start, GRADS, PARAMS, (), ()) is GRADS
        assert keep_frozen(start, PARAMS, GRADS) is GRADS
        assert not has_anchor(start)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, bool), PARAMS)
    equal(restrain_gradients(Start("w", anchor=0.1), GRADS, PARAMS, GRADS, nothing), GRADS)


def test_frozen_parameters_stay_under_decay_and_kept_moments():
    """Decoupled decay and moments of another run move a parameter whose gradient is 0."""
    config = Optimizer(weight_decay=0.5)
    state = optimizer.make(config).init(PARAMS)
    state = (state[0]._replace(mu=GRADS, nu=GRADS), *state[1:])
    start = Start("w", freeze=("a/*",))
    grads = restrain_gradients(start, GRADS, PARAMS, (), ())
    equal(grads, {"a": {"kernel": jnp.zeros(2)}, "b": GRADS["b"]})
    moved, _ = optimizer.step(config, grads, state, PARAMS, value=0.0, fresh=False)
    assert (moved["a"]["kernel"] != PARAMS["a"]["kernel"]).all()
    equal(keep_frozen(start, PARAMS, moved), {"a": PARAMS["a"], "b": moved["b"]})
