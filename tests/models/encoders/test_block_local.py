"""Block-local attention: equal to loops, equal to dense attention where all is visible, and causal."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.core.registry import BLOCK_LOCAL_ENCODERS
from jaxrec.models.encoders import block_local
from jaxrec.models.encoders.base import SequencePositions
from jaxrec.models.layers.attention import append_keys_values, attend
from jaxrec.models.next_item import ItemWindow, LayerStack, time_since_previous

B, D, H, SPAN, N = 2, 8, 2, 3, 4
L = SPAN * N
PADDING = 2  # leading positions of the second row


def window(length=L):
    r = np.random.default_rng(0)
    title = np.full((B, length), 5)
    title[1, :PADDING] = 0
    at = np.sort(r.integers(1e9, 1.2e9, (B, length + 1)), axis=1).astype(np.uint32)
    return ItemWindow(title, at[:, :-1], at[:, 1:])


def inputs(length=L):
    return jax.random.normal(jax.random.key(2), (B, length, D))


def stack_of(encoder, span):
    expert = Expert(max_len=L, num_layers=2, num_heads=H, mlp_ratio=1.0, dropout=0.5, encoder=encoder)
    return LayerStack("float32", expert, span=span)


@cache
def parameters(encoder):
    """Return random parameters of a stack with chunks; biases and summary queries are not 0."""
    r, stack = np.random.default_rng(1), stack_of(encoder, SPAN)
    abstract = jax.eval_shape(lambda: stack.init(jax.random.key(0), window(), inputs(), None))
    return jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape, scale=0.5), x.dtype), abstract)


def encode(encoder, span, window, x, key=None):
    stack, variables = stack_of(encoder, span), parameters(encoder)
    return jax.jit(lambda window, x: stack.apply(variables, window, x, key))(window, x)


@pytest.mark.parametrize("encoder", BLOCK_LOCAL_ENCODERS)
def test_two_chunks_equal_dense_attention(encoder):
    """All earlier positions are visible, with dropout too; a span of the window is dense."""
    key = jax.random.bits(jax.random.key(3), (B, L, 2), jnp.uint32)
    dense = encode(encoder, 0, window(), inputs(), key)
    for span in (L // 2, L):
        chunked = encode(encoder, span, window(), inputs(), key)
        for row, first in ((0, 0), (1, PADDING)):
            np.testing.assert_allclose(chunked[row, first:], dense[row, first:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", BLOCK_LOCAL_ENCODERS)
def test_a_position_reads_all_earlier_positions_and_no_later_one(encoder):
    stack, ways = stack_of(encoder, SPAN), np.random.default_rng(0).normal(size=D)
    variables, some = parameters(encoder), window()
    heard = jax.jit(jax.jacrev(lambda x: stack.apply(variables, some, x, None) @ ways))(inputs())
    heard_BxLxL = np.stack([np.abs(np.asarray(heard))[b, :, b].sum(2) for b in range(B)])
    assert (heard_BxLxL[0][np.tril_indices(L)] > 0).all()
    assert (heard_BxLxL[0][np.triu_indices(L, 1)] == 0).all()
    present_LxL = heard_BxLxL[1, PADDING:, PADDING:]
    assert (present_LxL[np.triu_indices(L - PADDING, 1)] == 0).all()
    assert (present_LxL[np.tril_indices(L - PADDING)] > 0).all()
    assert (heard_BxLxL[1, PADDING:, :PADDING] == 0).all()
    assert np.abs(np.asarray(heard)[0, :, 1]).max() == 0  # rows are independent
    other = inputs().at[:, -4:].multiply(1e3)
    np.testing.assert_array_equal(
        encode(encoder, SPAN, window(), other)[:, PADDING:-4],
        encode(encoder, SPAN, window(), inputs())[:, PADDING:-4],
    )


@pytest.mark.parametrize("encoder", BLOCK_LOCAL_ENCODERS)
def test_chunks_end_at_the_newest_position(encoder):
    """Padding on the left of a sequence, a part chunk of it or whole ones, changes no output."""
    expected = encode(encoder, SPAN, window(), inputs())
    for more in (1, SPAN, SPAN + 2):
        wide = jax.tree.map(lambda x, more=more: jnp.pad(x, ((0, 0), (more, 0))), window())
        x = jnp.pad(inputs(), ((0, 0), (more, 0), (0, 0)), constant_values=7.0)
        actual = encode(encoder, SPAN, wide, x)
        assert actual.shape == (B, L + more, D)
        for row, first in ((0, 0), (1, PADDING)):
            np.testing.assert_allclose(
                actual[row, more + first :], expected[row, first:], rtol=1e-5, atol=1e-6
            )


def positions():
    some = jax.tree.map(jnp.asarray, window())
    key = jnp.zeros((B, L, 2), jnp.uint32)
    gaps = time_since_previous(some)
    return SequencePositions(inputs(), some.title_BxL > 0, gaps, key, some.time_BxL, some.until_BxL, SPAN)


def test_attention_over_chunks_equals_a_loop_over_keys():
    r = np.random.default_rng(4)
    q, k, v = (r.normal(size=(B, L, H, D // H)).astype(np.float32) for _ in range(3))
    present, learned = np.asarray(window().title_BxL > 0), r.normal(size=(H, D // H)).astype(np.float32)
    chunks = block_local.chunks_of(positions())
    summary = block_local.ChunkSummary("float32", B)

    def chunked(x):
        return block_local.to_chunks(jnp.asarray(x), SPAN)

    def before(k, v):
        return summary.apply({"params": {"query": learned}}, chunks.present_Rxw, k, v)

    keys_values = append_keys_values(before, chunked(k), chunked(v))
    actual = attend("einsum", chunked(q), *keys_values, chunks.seen_RxwxM)
    actual = np.asarray(actual).reshape(B, L, H, D // H)

    def softmax(s):
        e = np.exp(s - s.max())
        return e / e.sum()

    for b, i, h in np.ndindex(B, L, H):
        if not present[b, i]:
            continue
        keys, values, chunk = [], [], i // SPAN
        for older in range(chunk - 1):
            at = [j for j in range(older * SPAN, (older + 1) * SPAN) if present[b, j]]
            if at:
                p = softmax(k[b, at, h] @ learned[h] * (D // H) ** -0.5)
                keys.append(p @ k[b, at, h])
                values.append(p @ v[b, at, h])
        near = [j for j in range(max(chunk - 1, 0) * SPAN, i + 1) if present[b, j]]
        keys, values = np.array([*keys, *k[b, near, h]]), np.array([*values, *v[b, near, h]])
        expected = softmax(keys @ q[b, i, h] * (D // H) ** -0.5) @ values
        np.testing.assert_allclose(actual[b, i, h], expected, rtol=2e-5, atol=1e-6)


def test_times_and_distances_of_keys_are_those_of_their_positions():
    gaps = np.asarray(block_local.chunk_gaps(positions())).reshape(B, N, SPAN, N + 2 * SPAN)
    distances = np.asarray(block_local.chunk_distances(SPAN, N))
    dense = np.asarray(positions().time_gaps_BxLxL)
    for c, i in np.ndindex(N, SPAN):
        at = c * SPAN + i
        key_of = {s: (s + 1) * SPAN - 1 for s in range(c - 1)}  # summaries: the newest of their chunks
        key_of |= {N + j: (c - 1) * SPAN + j for j in range(SPAN) if c}
        key_of |= {N + SPAN + j: c * SPAN + j for j in range(i + 1)}
        for m, key in key_of.items():
            assert distances[c, i, m] == at - key
            np.testing.assert_array_equal(gaps[:, c, i, m], dense[:, at, key])
