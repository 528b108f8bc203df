"""The matcher taken apart is the dense layer of the concatenation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.heads import MlpHead, ProductFeatures
from jaxrec.models.layers.title_encoder import TitleLookup

B, C, V = 3, 4, 9
IDS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, C)))
CATALOGUE = jax.random.normal(jax.random.key(3), (V, 5))


def plain(p, u, t, product: bool):
    """W [u, t, (P u) * (Q t)] and on, in one row a candidate."""
    u = jnp.broadcast_to(u if u.ndim == 3 else u[:, None], (B, C, u.shape[-1]))
    parts = [u, t]
    if product:
        parts.append((u @ p["product"]["user"]) * (t @ p["product"]["title"]))
    m = p["matcher"]
    h = jax.nn.relu(jnp.concatenate(parts, -1) @ m["kernel"] + m["bias"])
    h = jax.nn.relu(h @ m["kernel_1"] + m["bias_1"])
    return h @ m["kernel_out"] + m.get("bias_out", 0.0)


@pytest.mark.parametrize("shape", [(B, 6), (B, C, 6)], ids=["one user vector", "one a candidate"])
@pytest.mark.parametrize("by_catalogue", [True, False])
@pytest.mark.parametrize("product", [True, False])
def test_values_and_gradients_are_the_plain_forms(shape, by_catalogue, product):
    u = jax.random.normal(jax.random.key(0), shape)
    matcher, products = (
        MlpHead("float32", "ctr", 6, 5, 4 * product, (7, 4), True),
        ProductFeatures("float32", 6, 5, 4),
    )

    def rows(vectors):
        return TitleLookup(vectors, IDS) if by_catalogue else TitleLookup(vectors[IDS], None)

    def apart(p, u, vectors):
        x = products.apply({"params": p["product"]}, u, rows(vectors)) if product else None
        return matcher.apply({"params": p["matcher"]}, u, rows(vectors), x)

    def together(p, u, vectors):
        return plain(p, u, vectors[IDS], product)

    first = products.init(jax.random.key(1), u, rows(CATALOGUE))
    x = products.apply(first, u, rows(CATALOGUE)) if product else None
    p = {
        "product": first["params"],
        "matcher": matcher.init(jax.random.key(2), u, rows(CATALOGUE), x)["params"],
    }
    weight = jax.random.normal(jax.random.key(4), (B, C))
    both = [
        jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) * weight).sum(), argnums=(0, 1, 2)))(
            p, u, CATALOGUE
        )
        for f in (apart, together)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *both)


def test_a_loss_of_differences_has_no_last_bias():
    u = jnp.ones((B, 6))
    names = [
        {
            *MlpHead("float32", "ctr", 6, 5, 0, (7,), bias).init(
                jax.random.key(0), u, TitleLookup(CATALOGUE, IDS), None
            )["params"]
        }
        for bias in (True, False)
    ]
    assert names == [{"kernel", "bias", "kernel_out", "bias_out"}, {"kernel", "bias", "kernel_out"}]
