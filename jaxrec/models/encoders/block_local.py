"""Block-local causal attention of long sequences: `model.attention_span`.

The L positions of a sequence are n chunks of w positions, the last of which ends at the newest position. A
position attends to its own chunk up to itself, to the whole chunk before, and to one learned summary of each
older chunk (`ChunkSummary`), so it has at most n + 2w keys in place of L. Each chunk is a row of its own for
the blocks of an encoder, and the keys of other chunks are the keys `before` the row's own. No array [L, L]
exists.

The learned summaries are those of compressed memories (Rae et al. 2020, arXiv 1911.05507), here a weighted
mean; local blocks beside coarse keys are also in BigBird (Zaheer et al. 2020) and in Netflix's foundation
model (TechBlog 2025).

Axis letters: B sequences of L positions, n chunks of w positions each, R = B n rows, M = n + 2w keys.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.encoders.base import EncodedPositions, SequencePositions
from jaxrec.models.layers.attention import Before, KeysValues, scores
from jaxrec.models.layers.dense import Parameters, at_least_float32
from jaxrec.models.layers.history_encoder import elapsed_bucket


class Chunks(NamedTuple):
    """Chunks of sequences as rows of an encoder.

    Attributes:
        x_RxwxD: Encoded plays.
        seen_RxwxM: Bool, True where attention is allowed; the keys are in the order of `ChunkSummary`.
        present_Rxw: Bool, False at padding.
        key_Rxwx2: uint32 keys for dropout; None for no dropout.
    """

    x_RxwxD: jax.Array
    seen_RxwxM: jax.Array
    present_Rxw: jax.Array
    key_Rxwx2: jax.Array | None


def has_chunks(positions: SequencePositions) -> bool:
    """Return True if sequences are longer than the span, so that their attention is block-local."""
    return 0 < positions.span < positions.x_BxLxD.shape[1]


def to_chunks(x_BxL: jax.Array, span: int) -> jax.Array:
    """Return [B n, w, ...] of [B, L, ...]; zeros precede a sequence whose length is no multiple of w."""
    (B, L), rest = x_BxL.shape[:2], x_BxL.shape[2:]
    padded = jnp.pad(x_BxL, ((0, 0), (-L % span, 0), *[(0, 0)] * len(rest)))
    return padded.reshape(B * (padded.shape[1] // span), span, *rest)


def from_chunks(x_RxwxD: jax.Array, rows: int, length: int) -> jax.Array:
    """Return the newest `length` positions [B, L, D] of chunks: the inverse of `to_chunks`."""
    return x_RxwxD.reshape(rows, -1, x_RxwxD.shape[-1])[:, -length:]


def before_chunks(x_Rxw: jax.Array, rows: int) -> jax.Array:
    """Return [R, w, ...] of the chunk before each chunk; zeros before the oldest."""
    x_Bxn = x_Rxw.reshape(rows, -1, *x_Rxw.shape[1:])
    shifted = jnp.concatenate([jnp.zeros_like(x_Bxn[:, :1]), x_Bxn[:, :-1]], axis=1)
    return shifted.reshape(x_Rxw.shape)


def of_all_chunks(x_R: jax.Array, rows: int) -> jax.Array:
    """Return [R, n, ...]: for each chunk the values [R, ...] of all chunks of its sequence."""
    x_Bxn = x_R.reshape(rows, -1, *x_R.shape[1:])
    n = x_Bxn.shape[1]
    return jnp.broadcast_to(x_Bxn[:, None], (rows, n, *x_Bxn.shape[1:])).reshape(-1, *x_Bxn.shape[1:])


def chunks_of(positions: SequencePositions) -> Chunks:
    """Return the chunks of sequences, with their attention masks."""
    span, rows = positions.span, len(positions.x_BxLxD)
    present_Rxw = to_chunks(positions.present_BxL, span)
    R = len(present_Rxw)
    n = R // rows
    is_older_nxn = jnp.arange(n) < jnp.arange(n)[:, None] - 1  # [chunk, summary]
    summary_Rxn = of_all_chunks(present_Rxw.any(1), rows) & jnp.tile(is_older_nxn, (rows, 1))
    own_Rxwxw = present_Rxw[:, None] & jnp.tri(span, dtype=bool)
    keys_RxM = jnp.concatenate([summary_Rxn, before_chunks(present_Rxw, rows)], axis=1)
    seen_RxwxM = jnp.concatenate(
        [jnp.broadcast_to(keys_RxM[:, None], (R, span, keys_RxM.shape[1])), own_Rxwxw], axis=2
    )
    key = None if positions.key_BxLx2 is None else to_chunks(positions.key_BxLx2, span)
    return Chunks(to_chunks(positions.x_BxLxD, span), seen_RxwxM & present_Rxw[..., None], present_Rxw, key)


def chunk_gaps(positions: SequencePositions) -> jax.Array:
    """Return the time-gap buckets [R, w, M] between keys and the query of each position.

    The time of a summary is that of the newest position of its chunk.
    """
    span, rows = positions.span, len(positions.x_BxLxD)
    time_Rxw, until_Rxw = (to_chunks(x, span) for x in (positions.time_BxL, positions.until_BxL))
    times = of_all_chunks(time_Rxw[:, -1], rows), before_chunks(time_Rxw, rows), time_Rxw
    return elapsed_bucket(until_Rxw, jnp.concatenate(times, axis=1))


def chunk_distances(span: int, n: int) -> jax.Array:
    """Return the distances [n, w, M] int32 in positions between the keys and positions of each chunk.

    The position of a summary is that of the newest position of its chunk. Distances to keys that a position
    does not attend to are not meaningful.
    """
    at_nxw = jnp.arange(n * span).reshape(n, span)
    ends_nxn = jnp.broadcast_to(at_nxw[:, -1], (n, n))
    keys_nxM = jnp.concatenate([ends_nxn, at_nxw - span, at_nxw], axis=1)
    return jnp.abs(at_nxw[:, :, None] - keys_nxM[:, None])


class ChunkSummary(Parameters):
    """Keys and values of other chunks for the chunks of sequences: summaries, then the chunk before.

    The summary of a chunk is the mean of its keys and of its values, weighted by a softmax over the scores of
    the keys against a learned query of each head. With the initial query 0 the mean is plain.

    Attributes:
        rows: Number of sequences B.
    """

    rows: int

    def __call__(self, present_Rxw: jax.Array, k_RxwxHxd: jax.Array, v_RxwxHxd: jax.Array) -> KeysValues:
        """Return keys and values [R, n + w, H, d].

        Args:
            present_Rxw: Bool, False at padding.
            k_RxwxHxd: Keys of the chunks.
            v_RxwxHxd: Values of the chunks.
        """
        means = self.means(present_Rxw, k_RxwxHxd, v_RxwxHxd)
        k, v = (
            jnp.concatenate([of_all_chunks(mean, self.rows), before_chunks(x, self.rows)], axis=1)
            for mean, x in zip(means, (k_RxwxHxd, v_RxwxHxd), strict=True)
        )
        return k, v

    @nn.compact
    def means(self, present_Rxw: jax.Array, k_RxwxHxd: jax.Array, v_RxwxHxd: jax.Array) -> KeysValues:
        """Return the mean keys and values [R, H, d] of chunks; the arguments are those of a call."""
        chex.assert_equal_shape([k_RxwxHxd, v_RxwxHxd], custom_message="k_RxwxHxd, v_RxwxHxd")
        heads, d = k_RxwxHxd.shape[2:]
        query = self.weight("query", nn.initializers.zeros, heads, d) * d**-0.5
        query_Rx1xHxd = jnp.broadcast_to(query, (len(k_RxwxHxd), 1, heads, d))
        s_RxHx1xw = scores(query_Rx1xHxd, k_RxwxHxd)
        s_RxHx1xw = jnp.where(present_Rxw[:, None, None], s_RxHx1xw, -1e9)
        p_RxwxH = jax.nn.softmax(s_RxHx1xw, axis=-1)[:, :, 0].transpose(0, 2, 1)
        p_RxwxH = jnp.where(present_Rxw[..., None], p_RxwxH, 0.0)
        k, v = (
            jnp.einsum(
                "rwh,rwhd->rhd", p_RxwxH.astype(x.dtype), x, preferred_element_type=at_least_float32(x.dtype)
            ).astype(x.dtype)
            for x in (k_RxwxHxd, v_RxwxHxd)
        )
        return k, v


def chunk_summaries(dtype: str, layers: int, rows: int) -> tuple[ChunkSummary, ...]:
    """Return the summaries of each layer; the calling module owns their parameters.

    Args:
        dtype: Compute dtype.
        layers: Number of layers.
        rows: Number of sequences.
    """
    return tuple(ChunkSummary(dtype, rows, name=f"summary_{i}") for i in range(layers))


def keys_of_other_chunks(summaries: Sequence[ChunkSummary], chunks: Chunks) -> tuple[Before, ...]:
    """Return a function for each layer from keys and values of chunks to those of the chunks before.

    Args:
        summaries: From `chunk_summaries`.
        chunks: From `chunks_of`.
    """
    return tuple(partial(summary, chunks.present_Rxw) for summary in summaries)


def encoded_chunks(
    h_RxwxD: jax.Array, layers: Sequence[KeysValues], summaries: Sequence[ChunkSummary], chunks: Chunks,
    length: int,
) -> EncodedPositions:  # fmt: skip
    """Return the newest `length` positions of chunks, with their keys and the means of all chunks.

    Args:
        h_RxwxD: Outputs.
        layers: Keys and values [R, w, H, d] of each layer.
        summaries: From `chunk_summaries`.
        chunks: From `chunks_of`.
        length: Number of positions L.
    """
    rows = summaries[0].rows
    means, keys = list[KeysValues](), list[KeysValues]()
    for summary, (k, v) in zip(summaries, layers, strict=True):
        k_mean, v_mean = (x.reshape(rows, -1, *x.shape[1:]) for x in summary.means(chunks.present_Rxw, k, v))
        means.append((k_mean, v_mean))
        k, v = (x.reshape(rows, -1, *x.shape[2:])[:, -length:] for x in (k, v))
        keys.append((k, v))
    return EncodedPositions(from_chunks(h_RxwxD, rows, length), tuple(keys), tuple(means))
