"""The cross network against a plain loop over pairs, layers and rows, in values and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrec.models.features.cross import CROSS_KERNEL, CrossNetwork
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleLookup, TitleProjections

B, C, V, U, F, X = 2, 3, 5, 4, 3, 2
H = X
IDS = np.random.default_rng(0).integers(0, V, (B, C)).astype(np.int32)


def naive(p, u, vectors, x, layers):
    """Return the outputs [B, C, H]: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, a row of W_l at a time.

    Numbers may be complex: the imaginary part at 1e-30 of one entry is the derivative with respect to it.
    """
    out = np.zeros((B, C, H), complex)
    for b in range(B):
        for c in range(C):
            x0 = np.concatenate([u[b] if u.ndim == 2 else u[b, c], vectors[IDS[b, c]], x[b, c]])
            xl = x0
            for layer in range(layers):
                w = p[f"down_{layer}"] @ p[f"up_{layer}"] if "up_0" in p else p[f"kernel_{layer}"]
                bias = p[f"bias_{layer}"]
                xl = np.array([
                    x0[i] * (sum(w[j, i] * xl[j] for j in range(len(xl))) + bias[i]) + xl[i]
                    for i in range(len(x0))
                ])  # fmt: skip
            low = xl @ p["kernel_out"] + p["bias_out"]
            hidden = low @ p["kernel_hidden"] + p["bias_hidden"]
            out[b, c] = (
                (x[b, c] if x.shape[2] else 0) + low + (hidden * (hidden.real > 0)) @ p["kernel_residual"]
            )
    return out


def inputs(layers, per_candidate, product, rank=0):
    r = np.random.default_rng(7)
    D = U + F + X * product
    shapes = {f"bias_{i}": (D,) for i in range(layers)}
    if rank:
        shapes |= {f"down_{i}": (D, rank) for i in range(layers)} | {
            f"up_{i}": (rank, D) for i in range(layers)
        }
    else:
        shapes |= {f"kernel_{i}": (D, D) for i in range(layers)}
    shapes |= {"kernel_out": (D, H), "bias_out": (H,), "kernel_hidden": (H, H), "bias_hidden": (H,)}
    p = {name: r.normal(0, 0.5, shape) for name, shape in (shapes | {"kernel_residual": (H, H)}).items()}
    u = r.normal(size=(B, C, U) if per_candidate else (B, U))
    return p, u, r.normal(size=(V, F)), r.normal(size=(B, C, X * product)), r.normal(size=(B, C, H))


@pytest.mark.parametrize(
    ("layers", "per_candidate", "product", "rank"),
    [(1, False, True, 0), (2, True, True, 0), (2, False, False, 0), (2, False, True, 3)],
)
def test_values_and_gradients_are_those_of_the_loop(layers, per_candidate, product, rank):
    *arguments, weight = inputs(layers, per_candidate, product, rank)
    network = CrossNetwork("float32", U, F, X * product, layers, H, rank)

    def total(p, u, vectors, x, titles):
        return network.apply({"params": p}, u, titles(vectors, p), x if product else None)

    def lookup(vectors, _):
        return TitleLookup(vectors, IDS)

    def cached(vectors, p):
        kernel = network.apply({"params": p}, method=lambda m: m.of_title)
        return ProjectedLookup(TitleProjections({CROSS_KERNEL: vectors @ kernel}), IDS)

    single = jax.tree.map(np.float32, arguments)
    expected = naive(*arguments, layers).real
    with jax.disable_jit():
        for titles in (lookup, cached):
            np.testing.assert_allclose(total(*single, titles), expected, rtol=2e-5, atol=2e-5)

    def loss(p, u, vectors, x):
        y = network.apply({"params": p}, u, lookup(vectors, p), x if product else None)
        return (y * weight.astype(np.float32)).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*single)
    leaves, tree = jax.tree.flatten(arguments)
    for i, (leaf, gradient) in enumerate(zip(leaves, jax.tree.leaves(gradients), strict=True)):
        slopes = np.zeros(leaf.shape)
        for at in np.ndindex(leaf.shape):
            shifted = leaf.astype(complex)
            shifted[at] += 1e-30j
            moved = jax.tree.unflatten(tree, [*leaves[:i], shifted, *leaves[i + 1 :]])
            slopes[at] = (naive(*moved, layers) * weight).sum().imag / 1e-30
        np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4)


def shapes(small, heads, **changes):
    """Return a model with changed settings, and the shapes of its parameters."""
    model = small.model.clone(
        config=dataclasses.replace(small.model.config, **changes), heads=small.model.heads[:heads]
    )
    arguments = jax.random.key(0), small.history, small.candidate, small.table, 1.0
    return model, jax.eval_shape(model.init, *arguments)["params"]


def test_heads_read_the_network_beside_the_product(small):
    model, params = shapes(small, 2, cross=2)
    plain = shapes(small, 2)[1]
    H = small.model.config.head_hidden[-1]
    D = len(plain["product"]["user"]) + len(plain["product"]["title"]) + H
    assert {name: params["cross"][name].shape for name in ("kernel_0", "kernel_1", "kernel_out")} == {
        "kernel_0": (D, D), "kernel_1": (D, D), "kernel_out": (D, H),
    }  # fmt: skip
    assert len(params["matcher_ctr"]["kernel"]) == len(plain["matcher_ctr"]["kernel"]) == D
    assert {*params} - {*plain} == {"cross"}
    assert all(jax.tree.leaves(model.shared_parameters(params)["cross"]))


def test_a_single_head_on_pairs_owns_the_network(small):
    model, params = shapes(small, 1, cross=1)
    assert not any(jax.tree.leaves(model.shared_parameters(params)["cross"]))
