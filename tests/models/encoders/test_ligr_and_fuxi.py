"""Equations of the blocks of LiGR and FuXi-alpha in loops over positions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.core.registry import ENCODERS, resolve
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.layers import history_encoder, rng
from jaxrec.models.layers.normalization import rms_normalize

WINDOW, L, D, H, EXAMPLES, PAD = 7, 6, 8, 2, 4, 9
# Owners of the titles: examples 0 and 2 share a row, example 1 is next to padding, example 3 is empty.
OWNERS = jnp.array([[0, 0, 0, 2, 2, PAD], [PAD, 1, 1, 1, 1, PAD]])
AGO = np.array([[9e5, 8.9e5, 40, 7e7, 3e3, 0], [0, 4e6, 4e6, 86400, 5, 0]])  # seconds


def silu(x):
    return x * sigmoid(x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def rms(x):
    return x / np.sqrt((x**2).mean() + 1e-6)


def ligr_block(p, h, ago):
    """Return the outputs of a LiGR block for the positions of one example."""
    d, out, attention = D // H, [], p["attention"]
    normal = [norm(x, p["attention_norm"]) for x in h]
    q, k, v = zip(*(np.split(x @ attention["kernel"], 3) for x in normal), strict=True)
    for i, x in enumerate(h):
        y = np.zeros(D)
        for head in range(H):
            part = slice(head * d, head * d + d)
            query = (q[i] + attention["query_bias"])[part]
            e = np.exp([query @ k[j][part] / np.sqrt(d) for j in range(i + 1)])
            y[part] = sum(w * (v[j] + attention["value_bias"])[part] for j, w in enumerate(e / e.sum()))
        y = y @ attention["out"]["kernel"] + attention["out"]["bias"]
        x = x + sigmoid(x @ p["attention_gate"]["kernel"] + p["attention_gate"]["bias"]) * y
        z = norm(x, p["feedforward_norm"])
        z = (silu(z @ p["gate"]["kernel"]) * (z @ p["hidden"]["kernel"])) @ p["out"]["kernel"]
        out.append(x + sigmoid(x @ p["feedforward_gate"]["kernel"] + p["feedforward_gate"]["bias"]) * z)
    return out


def fuxi_block(p, h, ago):
    """Return the outputs of a FuXi block for the positions of one example."""
    d, out = D // H, []
    u, v, q, k = zip(
        *(np.split(silu(rms(x) @ p["uvqk"]["kernel"]), [3 * D, 4 * D, 5 * D]) for x in h), strict=True
    )
    for i, x in enumerate(h):
        heads = []
        for head in range(H):
            part, channels = slice(head * d, head * d + d), np.zeros((3, d))
            for j in range(i + 1):
                bucket = min(int(2 * np.log(1 + abs(ago[j] - ago[i]))), history_encoder.TIME_GAP_BUCKETS - 1)
                content = silu(q[i][part] @ k[j][part]) / WINDOW
                weights = p["bias"]["position_bias"][i - j], p["bias"]["time_bias"][bucket], content
                channels += np.outer(weights, v[j][part])
            heads.append(channels)
        # The channels of one head are adjacent.
        y = (rms(np.concatenate([c.reshape(-1) for c in heads])) * u[i]) @ p["out"]["kernel"]
        y = y + p["out"]["bias"] + x
        z = silu(rms(y) @ p["gate"]["kernel"]) * (rms(y) @ p["hidden"]["kernel"])
        out.append(y + z @ p["feedforward_out"]["kernel"])
    return out


BLOCKS = {"ligr": ligr_block, "fuxi": fuxi_block}


def made(kind, dtype, dropout=0.0):
    """Return an expert, random titles, and parameters none of which is 0 or 1."""
    r = np.random.default_rng(0)
    module = resolve(ENCODERS[kind])(dtype, Expert(WINDOW, 2, H, 1.5, dropout, kind))
    titles = PackedTitles(
        jnp.asarray(r.normal(size=(2, L, D)), dtype), OWNERS, jnp.log1p(jnp.asarray(AGO)), None
    )
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), titles, EXAMPLES))
    variables = jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape) * 0.7, dtype), shapes)
    return module, titles, variables


@pytest.mark.parametrize("kind", BLOCKS)
def test_outputs_equal_the_equations_in_loops(kind):
    with jax.enable_x64(True):
        module, titles, variables = made(kind, "float64")
        outputs = jax.jit(lambda v: module.apply(v, titles, EXAMPLES))(variables)
        p = jax.tree.map(np.asarray, variables["params"])
    stack, x, owners = p.get("encoder", p), np.asarray(titles.x_RxLxD), np.asarray(OWNERS)
    for example in range(3):
        h = list(x[owners == example])
        for layer in ("block_0", "block_1"):
            h = BLOCKS[kind](stack[layer], h, AGO[owners == example])
        np.testing.assert_allclose(outputs[example], norm(h[-1], stack["norm"]), atol=1e-10)
    np.testing.assert_array_equal(outputs[3], p["newest"]["empty"])


def test_rms_norm_by_hand():
    np.testing.assert_allclose(rms_normalize(jnp.array([[3.0, 4.0]])), [[0.84852815, 1.1313709]], rtol=1e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_dropout_needs_keys(kind):
    module, titles, variables = made(kind, "float32", dropout=0.5)
    plain, _, _ = made(kind, "float32")
    expected = plain.apply(variables, titles, EXAMPLES)
    np.testing.assert_array_equal(module.apply(variables, titles, EXAMPLES), expected)
    key = rng.fold_in(rng.row_keys(0, 0, jnp.arange(2))[:, None], jnp.arange(L))
    dropped = module.apply(variables, titles._replace(key_RxLx2=key), EXAMPLES)
    assert np.abs(np.asarray(dropped - expected))[:3].max(axis=1).min() > 1e-2
