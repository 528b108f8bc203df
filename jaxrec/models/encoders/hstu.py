"""HSTU: gated pointwise attention without softmax, biased by position and time.

Zhai et al., ICML 2024.

"Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations",
Eq. 1 to 3. The heads of a layer share one bias and each layer has its own, as in Meta's research code.
Differences from Meta's code: the time between two titles is the time between their last plays, and is not
counted from the play after the query's; its buckets are those of `history_encoder.time_gap_bucket`; norms
have learned parameters; dropout applies to the output of a block before the residual sum, as in the other
encoders.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert
from jaxrec.models.encoders import block_local
from jaxrec.models.encoders.base import (
    EncodedPositions,
    KVCache,
    PackedTitles,
    SequenceEncoder,
    SequencePositions,
    candidate_keys,
    causal_mask,
    is_present,
)
from jaxrec.models.layers.attention import Before, EarlierKeys, KeysValues, append_keys_values, scores
from jaxrec.models.layers.dense import Dense, Parameters, broadcast, embedding_lookup, uniform_init
from jaxrec.models.layers.history_encoder import TIME_GAP_BUCKETS, elapsed_bucket, time_gap_bucket
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.pooling import LastPosition
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id

_bias_init = uniform_init(0.02)


def gaps(age_RxL: jax.Array, other_RxM: jax.Array | None = None) -> jax.Array:
    """Return the `time_gap_bucket` of the time between the last plays of two titles.

    A dataset stores ages in 16 bits, so the time since a play has an error of .4% (.8% after 100 days). Two
    plays of one evening a month ago are therefore simultaneous or hours apart.

    Args:
        age_RxL: log1p(seconds since the last play) of titles.
        other_RxM: Ages of the titles to compare with; None: the same titles.

    Returns:
        int32 buckets [R, L, L], or [R, L, M] with `other_RxM`.
    """
    seconds_RxL, seconds_RxM = jnp.expm1(age_RxL), jnp.expm1(age_RxL if other_RxM is None else other_RxM)
    return time_gap_bucket(jnp.log1p(jnp.abs(seconds_RxL[:, :, None] - seconds_RxM[:, None, :])))


class VisiblePositions(NamedTuple):
    """Attention mask of L queries over M keys, and the distances between them.

    Attributes:
        seen_RxLxM: Bool, True where attention is allowed.
        gaps_RxLxM: int32 time-gap buckets, from `gaps`.
        apart_LxM: int32 distances in positions; [n, L, M] where n rows in turn have distances of their own.
    """

    seen_RxLxM: jax.Array
    gaps_RxLxM: jax.Array
    apart_LxM: jax.Array


def visible_positions(seen_RxLxL: jax.Array, gaps_RxLxL: jax.Array) -> VisiblePositions:
    """Return the mask and distances of the titles of each row among themselves.

    Args:
        seen_RxLxL: Bool attention mask.
        gaps_RxLxL: int32 time-gap buckets, from `gaps`.
    """
    position_L = jnp.arange(seen_RxLxL.shape[1])
    return VisiblePositions(seen_RxLxL, gaps_RxLxL, jnp.abs(position_L[:, None] - position_L))


class RelativeBias(Parameters):
    """Attention bias rab^{p,t} [R, L, M] by distance and by time-gap bucket.

    A learned number for each distance is added to one for each bucket.

    There are `window` + 1 distances in positions: those of a window, and one more for a candidate.

    Attributes:
        window: Maximum number of titles of a history.
    """

    window: int

    @nn.compact
    def terms(self, gaps_RxLxM: jax.Array, apart_LxM: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the numbers [L, M] by distance and [R, L, M] by time-gap bucket, apart."""
        position_bias = embedding_lookup(
            self.weight("position_bias", _bias_init, self.window + 1), apart_LxM, "clip"
        )
        time_bias = embedding_lookup(
            self.weight("time_bias", _bias_init, TIME_GAP_BUCKETS), gaps_RxLxM, "clip"
        )
        return position_bias, time_bias

    def __call__(self, gaps_RxLxM: jax.Array, apart_LxM: jax.Array) -> jax.Array:
        position_LxM, time_RxLxM = self.terms(gaps_RxLxM, apart_LxM)
        if position_LxM.ndim == 3:
            rows = len(gaps_RxLxM) // len(position_LxM)
            position_LxM = broadcast(position_LxM, (rows, *position_LxM.shape))
            return position_LxM.reshape(gaps_RxLxM.shape) + time_RxLxM
        return broadcast(position_LxM, gaps_RxLxM.shape) + time_RxLxM


class HstuBlock(Parameters):
    """HSTU block: x + W (norm(A V) * U), without a feed-forward layer.

    U, V, Q, K = SiLU(W' norm(x)). For each head, A = SiLU(Q K^T + rab) / N where the mask allows attention,
    and 0 elsewhere. N is the window, for any length of the history.

    A call takes the cached keys and values of the titles `before` the row's own titles, and returns the
    output and the row's own keys and values. The M keys are those of `before` and then the row's own.

    Attributes:
        heads: Number of heads H; must divide D.
        window: N, the maximum number of titles of a history.
        dropout: Dropout rate, in [0, 1).
    """

    heads: int
    window: int
    dropout: float

    @classmethod
    def of_expert(cls, dtype: str, f: Expert, name: str) -> "HstuBlock":
        """Construct a block of an expert."""
        return cls(dtype, f.num_heads, f.max_len, f.dropout, name=name)

    @nn.compact
    def __call__(
        self,
        x_RxLxD: jax.Array,
        visible: VisiblePositions,
        key_RxLx2: jax.Array | None,
        before: Before | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        R, L, D = x_RxLxD.shape
        y = LayerNorm(self.dtype, name="norm")(x_RxLxD)
        u, *vqk = jnp.split(nn.silu(Dense(self.dtype, 4 * D, bias=False, name="uvqk")(y)), 4, axis=-1)
        v_RxLxHxd, q_RxLxHxd, k_RxLxHxd = (y.reshape(R, L, self.heads, -1) for y in vqk)
        k_RxMxHxd, v_RxMxHxd = append_keys_values(before, k_RxLxHxd, v_RxLxHxd)
        s_RxHxLxM = scores(q_RxLxHxd, k_RxMxHxd)
        bias_RxLxM = RelativeBias(self.dtype, self.window, name="bias")(visible.gaps_RxLxM, visible.apart_LxM)
        bias_RxLxM = bias_RxLxM.astype(s_RxHxLxM.dtype)
        a_RxHxLxM = nn.silu(s_RxHxLxM + bias_RxLxM[:, None]) / self.window
        a_RxHxLxM = jnp.where(visible.seen_RxLxM[:, None], a_RxHxLxM, 0.0).astype(v_RxMxHxd.dtype)
        y = jnp.einsum("bhlm,bmhd->blhd", a_RxHxLxM, v_RxMxHxd).reshape(R, L, D)
        y = Dense(self.dtype, D, name="out")(LayerNorm(self.dtype, name="gated_norm")(y) * u)
        if key_RxLx2 is not None and self.dropout:
            keep, _ = dropout_mask(key_RxLx2, layer_id(self.path), D, self.dropout)
            y = dropout(y, keep, self.dropout)
        return x_RxLxD + y, (k_RxLxHxd, v_RxLxHxd)


Layers = tuple[list[HstuBlock], LayerNorm]


def layers(dtype: str, f: Expert, kind: type[HstuBlock] = HstuBlock) -> Layers:
    """Construct the blocks, of a `kind`, and the final norm; the caller owns the parameters."""
    blocks = [kind.of_expert(dtype, f, name=f"block_{i}") for i in range(f.num_layers)]
    return blocks, LayerNorm(dtype, name="norm")


def through(
    modules: Layers, h_RxLxD: jax.Array, visible: VisiblePositions, key_RxLx2: jax.Array | None,
    before: Sequence[Before] | None = None,
) -> tuple[jax.Array, tuple[KeysValues, ...]]:  # fmt: skip
    """Apply the blocks and the final norm.

    Args:
        modules: From `layers`.
        h_RxLxD: Inputs.
        visible: Attention mask and distances.
        key_RxLx2: uint32 keys; None for no dropout.
        before: Cached keys and values of each block for titles before the row's own, which are visible too.

    Returns:
        Outputs [R, L, D], and the row's own keys and values of each block.
    """
    chex.assert_rank(h_RxLxD, 3, custom_message="h_RxLxD")
    chex.assert_shape(visible.seen_RxLxM, (*h_RxLxD.shape[:2], None), custom_message="visible.seen_RxLxM")
    chex.assert_equal_shape([visible.seen_RxLxM, visible.gaps_RxLxM], custom_message="visible.gaps_RxLxM")
    block_keys_values, none = [], tuple[None, ...]([None] * len(modules[0]))
    for block, block_before in zip(modules[0], before or none, strict=True):
        h_RxLxD, keys_values = block(h_RxLxD, visible, key_RxLx2, block_before)
        block_keys_values.append(keys_values)
    return modules[1](h_RxLxD), tuple(block_keys_values)


def encode_with_keys(
    dtype: str,
    fields: Expert,
    attention: str,
    positions: SequencePositions,
    earlier: EarlierKeys | None = None,
    kind: type[HstuBlock] = HstuBlock,
) -> EncodedPositions:
    """Encode every position of whole sequences, or one position more; see `encoders.base.CachedEncoder`.

    Args:
        dtype: Compute dtype.
        fields: Config of the encoder.
        attention: Not used.
        positions: B sequences of L positions; of one position with `earlier`.
        earlier: Keys and values of earlier positions; None: there are none.
        kind: Class of the blocks.
    """
    modules, key = layers(dtype, fields, kind), positions.key_BxLx2
    if earlier is not None:
        gaps_Bx1xM1 = elapsed_bucket(positions.until_BxL, earlier.time_BxM1)
        visible = VisiblePositions(earlier.seen_Bx1xM1, gaps_Bx1xM1, earlier.apart_1xM1)
        return EncodedPositions(*through(modules, positions.x_BxLxD, visible, key, earlier.layers))
    if block_local.has_chunks(positions):
        chunks = block_local.chunks_of(positions)
        (B, L), R = positions.present_BxL.shape, len(chunks.x_RxwxD)
        distances = block_local.chunk_distances(positions.span, R // B)
        seen = VisiblePositions(chunks.seen_RxwxM, block_local.chunk_gaps(positions), distances)
        summaries = block_local.chunk_summaries(dtype, fields.num_layers, B)
        others = block_local.keys_of_other_chunks(summaries, chunks)
        h_RxwxD, keys = through(modules, chunks.x_RxwxD, seen, chunks.key_Rxwx2, others)
        return block_local.encoded_chunks(h_RxwxD, keys, summaries, chunks, L)
    visible = visible_positions(causal_mask(positions.example_BxL), positions.time_gaps_BxLxL)
    return EncodedPositions(*through(modules, positions.x_BxLxD, visible, key))


def encode_positions(
    dtype: str,
    fields: Expert,
    attention: str,
    path: tuple[str, ...],
    positions: SequencePositions,
    kind: type[HstuBlock] = HstuBlock,
) -> jax.Array:
    """Encode every position of whole sequences, [B, L, D]; see `encoders.base.PositionEncoder`.

    `path` is not used; the other arguments are those of `encode_with_keys`.
    """
    return encode_with_keys(dtype, fields, attention, positions, kind=kind).h_BxLxD


class Hstu(SequenceEncoder):
    """HSTU expert: the vector of an example is its newest title's normalized output.

    A call returns [B, D]. The times of plays are always read, also if `model.features` does not name them.
    `mlp_ratio` and `attention` have no effect. All candidates of a history share one encoding of the history.
    """

    kind: ClassVar[type[HstuBlock]] = HstuBlock  # class of the blocks

    def setup(self):
        """Create the blocks and the pooling."""
        self.block, self.norm = layers(self.dtype, self.fields, self.kind)
        self.newest = LastPosition(self.dtype, name="newest")

    def _encode(self, titles: PackedTitles) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        visible = visible_positions(causal_mask(titles.example_RxL), gaps(titles.age_RxL))
        return through((self.block, self.norm), titles.x_RxLxD, visible, titles.key_RxLx2)

    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        return self.outputs(titles, examples)[0]

    def outputs(self, titles: PackedTitles, examples: int) -> tuple[jax.Array, jax.Array]:
        """Return the vectors [B, D] and the outputs [R, L, D]; see `SequenceEncoder.outputs`."""
        h_RxLxD = self._encode(titles)[0]
        return self.newest(h_RxLxD, titles.example_RxL, examples), h_RxLxD

    def encode_history(self, titles: PackedTitles) -> KVCache:
        """Return the cached keys and values of histories [B, L], one example per row."""
        return KVCache(self._encode(titles)[1], is_present(titles), titles.age_RxL)

    def join(self, histories: KVCache, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        """Encode candidates from cached histories, [B * C, D]; see `SequenceEncoder.join`."""
        (B, C), L, age_BxL = x_BxCxD.shape[:2], histories.age_BxL.shape[1], histories.age_BxL
        now_BxC = jnp.zeros((B, C), age_BxL.dtype)
        gaps_BxCxM = gaps(now_BxC, jnp.concatenate([age_BxL, now_BxC], axis=1))
        # The position of every candidate is the one after the last position of the history.
        apart_M = jnp.maximum(L - jnp.arange(L + C), 0)
        visible = VisiblePositions(histories.seen_by(C), gaps_BxCxM, jnp.broadcast_to(apart_M, (C, L + C)))
        modules = self.block, self.norm
        h_BxCxD, _ = through(modules, x_BxCxD, visible, candidate_keys(key_BxCx2), histories.layers)
        return self.newest(h_BxCxD, jnp.arange(B * C).reshape(B, C), B * C)
