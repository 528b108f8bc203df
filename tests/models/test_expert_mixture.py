"""Mixture of experts of the decoder: equal to a naive form, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.generative.expert_mixture import ExpertMixture

N, D, F = 13, 6, 5


def naive(params, x):
    """Compute every expert for every position, and add the two of largest probability."""
    probability = jax.nn.softmax(x @ params["router"]["kernel"])
    best = jnp.argsort(-probability, axis=1, stable=True)[:, :2]
    weight = jnp.take_along_axis(probability, best, 1)
    weight = weight / weight.sum(1, keepdims=True)
    hidden = jax.nn.relu(jnp.einsum("nd,edf->enf", x, params["experts_hidden"]))
    each = jnp.einsum("enf,efd->end", hidden, params["experts_out"])
    mixed = (each[best.T, jnp.arange(len(x))] * weight.T[..., None]).sum(0)
    shared = params["shared_hidden"], params["shared_out"]
    h = jax.nn.relu(x @ shared[0]["kernel"] + shared[0]["bias"])
    return mixed + h @ shared[1]["kernel"] + shared[1]["bias"]


@pytest.mark.parametrize("experts,bias", [(2, 0.0), (5, 0.0), (5, -1e3)], ids=["all", "some", "starved"])
def test_the_mixture_equals_every_expert_at_every_position(experts, bias):
    draws = np.random.default_rng(0)
    x = jnp.asarray(draws.normal(size=(N, D)), jnp.float32).at[:, 0].set(1.0)
    mixture = ExpertMixture("float32", experts, F)
    params = jax.jit(mixture.init)(jax.random.key(0), x)["params"]
    # The first input is 1: its weight is a bias of the router, by which nobody chooses the last expert.
    params["router"]["kernel"] = params["router"]["kernel"].at[0, -1].set(bias)

    def outputs(f):
        value = lambda params, x: jnp.sin(f(params, x)).sum()  # noqa: E731
        return jax.jit(lambda params, x: (f(params, x), jax.grad(value, (0, 1))(params, x)))(params, x)

    apply = lambda params, x: mixture.apply({"params": params}, x)[0]  # noqa: E731
    if bias:
        chosen = jax.jit(mixture.apply)({"params": params}, x)[1]
        assert int(chosen.max()) == experts - 2
    for a, b in zip(*(jax.tree.leaves(outputs(f)) for f in (apply, naive)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
