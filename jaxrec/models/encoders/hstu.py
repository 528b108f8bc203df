"""HSTU (Zhai et al., ICML 2024): gated pointwise attention, biased by place and time, with no softmax.

"Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", its Eq. 1 to 3. Heads share a layer's bias and each layer has its own, as in Meta's
research code. Otherwise than there: the time between two titles is that between their last plays, not
counted from the play after the query's; its buckets are `features.gap`; norms are learned; dropout is
on what a block adds, as in our other encoders.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert
from jaxrec.models.encoders.base import (
    KVCache,
    PackedTitles,
    SequenceEncoder,
    SequencePositions,
    candidate_keys,
    causal_mask,
    is_present,
)
from jaxrec.models.layers.attention import KeysValues, append_keys_values, scores
from jaxrec.models.layers.dense import Dense, Parameters, broadcast, embedding_lookup, uniform_init
from jaxrec.models.layers.history_encoder import TIME_GAP_BUCKETS, time_gap_bucket
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.pooling import LastPosition
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id

_bias_init = uniform_init(0.02)


def gaps(age_RxL: jax.Array, other_RxM: jax.Array | None = None) -> jax.Array:
    """The bucket (`features.gap`) of the time between every two titles' last plays, [R, L, L]; or between
    those of titles and of others, [R, L, M].

    Ages are log1p(seconds), which a dataset stores in 16 bits: a play is dated to within .4% of the time
    since (.8% past 100 days), so two of one evening a month ago come out as simultaneous, or hours apart.
    """
    ago_RxL, ago_RxM = jnp.expm1(age_RxL), jnp.expm1(age_RxL if other_RxM is None else other_RxM)
    return time_gap_bucket(jnp.log1p(jnp.abs(ago_RxL[:, :, None] - ago_RxM[:, None, :])))


class VisiblePositions(NamedTuple):
    """Which of M titles each of L sees, and how far from it they are."""

    seen_RxLxM: jax.Array
    gaps_RxLxM: jax.Array  # of `gaps`
    apart_LxM: jax.Array  # places


def visible_positions(seen_RxLxL: jax.Array, gaps_RxLxL: jax.Array) -> VisiblePositions:
    """Of a row's titles among themselves."""
    place_L = jnp.arange(seen_RxLxL.shape[1])
    return VisiblePositions(seen_RxLxL, gaps_RxLxL, jnp.abs(place_L[:, None] - place_L))


class RelativeBias(Parameters):
    """rab^{p,t} [R, L, M]: a learned number for how many places apart two titles are, plus one for the
    bucket of the time between them. Of places, there are those of a window and one for a candidate."""

    window: int

    @nn.compact
    def __call__(self, gaps_RxLxM: jax.Array, apart_LxM: jax.Array) -> jax.Array:
        of_place = embedding_lookup(
            self.weight("position_bias", _bias_init, self.window + 1), apart_LxM, "clip"
        )
        of_time = embedding_lookup(self.weight("time_bias", _bias_init, TIME_GAP_BUCKETS), gaps_RxLxM, "clip")
        return broadcast(of_place, gaps_RxLxM.shape) + of_time


class HstuBlock(Parameters):
    """x + W (norm(A V) * U), with U, V, Q, K = SiLU(W' norm(x)) and, for each head, A = SiLU(Q K^T + rab) / N
    among titles that are seen, 0 elsewhere; N is the window, whatever a history shows. No feed-forward.

    M titles may be seen, those whose keys and values stand `before` the row's own; which are given back."""

    heads: int
    window: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x_RxLxD: jax.Array,
        sees: VisiblePositions,
        key_RxLx2: jax.Array | None,
        before: KeysValues | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        R, L, D = x_RxLxD.shape
        y = LayerNorm(self.dtype, name="norm")(x_RxLxD)
        u, *vqk = jnp.split(nn.silu(Dense(self.dtype, 4 * D, bias=False, name="uvqk")(y)), 4, axis=-1)
        v_RxLxHxd, q_RxLxHxd, k_RxLxHxd = (y.reshape(R, L, self.heads, -1) for y in vqk)
        k_RxMxHxd, v_RxMxHxd = append_keys_values(before, k_RxLxHxd, v_RxLxHxd)
        s_RxHxLxM = scores(q_RxLxHxd, k_RxMxHxd)
        bias_RxLxM = RelativeBias(self.dtype, self.window, name="bias")(sees.gaps_RxLxM, sees.apart_LxM)
        bias_RxLxM = bias_RxLxM.astype(s_RxHxLxM.dtype)
        a_RxHxLxM = nn.silu(s_RxHxLxM + bias_RxLxM[:, None]) / self.window
        a_RxHxLxM = jnp.where(sees.seen_RxLxM[:, None], a_RxHxLxM, 0.0).astype(v_RxMxHxd.dtype)
        y = jnp.einsum("bhlm,bmhd->blhd", a_RxHxLxM, v_RxMxHxd).reshape(R, L, D)
        y = Dense(self.dtype, D, name="out")(LayerNorm(self.dtype, name="gated_norm")(y) * u)
        if key_RxLx2 is not None and self.dropout:
            keep, _ = dropout_mask(key_RxLx2, layer_id(self.path), D, self.dropout)
            y = dropout(y, keep, self.dropout)
        return x_RxLxD + y, (k_RxLxHxd, v_RxLxHxd)


Layers = tuple[list[HstuBlock], LayerNorm]


def layers(dtype: str, f: Expert) -> Layers:
    """`f.layers` blocks and the norm behind them; their parameters are of the module that calls."""
    made = [
        HstuBlock(dtype, f.num_heads, f.max_len, f.dropout, name=f"block_{i}") for i in range(f.num_layers)
    ]
    return made, LayerNorm(dtype, name="norm")


def through(
    made: Layers, h_RxLxD: jax.Array, sees: VisiblePositions, key_RxLx2: jax.Array | None,
    before: tuple[KeysValues, ...] | None = None,
) -> tuple[jax.Array, tuple[KeysValues, ...]]:  # fmt: skip
    """[R, L, D] behind all layers, and each block's keys and values; `before` are those of other titles,
    which stand before the row's own and are seen too."""
    chex.assert_rank(h_RxLxD, 3, custom_message="h_RxLxD")
    chex.assert_shape(sees.seen_RxLxM, (*h_RxLxD.shape[:2], None), custom_message="sees.seen_RxLxM")
    chex.assert_equal_shape([sees.seen_RxLxM, sees.gaps_RxLxM], custom_message="sees.gaps_RxLxM")
    found = []
    for block, seen_before in zip(made[0], before or [None] * len(made[0]), strict=True):
        h_RxLxD, keys_values = block(h_RxLxD, sees, key_RxLx2, seen_before)
        found.append(keys_values)
    return made[1](h_RxLxD), tuple(found)


def encode_positions(
    dtype: str, fields: Expert, attention: str, path: tuple[str, ...], positions: SequencePositions
) -> jax.Array:
    """Encode every position of whole sequences; see `encoders.base.PositionEncoder`."""
    visible = visible_positions(causal_mask(positions.example_BxL), positions.time_gaps_BxLxL)
    return through(layers(dtype, fields), positions.x_BxLxD, visible, positions.key_BxLx2)[0]


class Hstu(SequenceEncoder):
    """Encode each example's titles to one vector [B, D]: the normalised output of its newest title.

    Times between plays are used whatever `model.features` holds; `mlp_ratio` and `attention` have no effect.
    Candidates share one pass over the history.
    """

    def setup(self):
        self.block, self.norm = layers(self.dtype, self.fields)
        self.newest = LastPosition(self.dtype, name="newest")

    def _through(self, titles: PackedTitles) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        sees = visible_positions(causal_mask(titles.example_RxL), gaps(titles.age_RxL))
        return through((self.block, self.norm), titles.x_RxLxD, sees, titles.key_RxLx2)

    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        return self.newest(self._through(titles)[0], titles.example_RxL, examples)

    def encode_history(self, titles: PackedTitles) -> KVCache:
        return KVCache(self._through(titles)[1], is_present(titles), titles.age_RxL)

    def join(self, remembered: KVCache, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        (B, C), L, age_BxL = x_BxCxD.shape[:2], remembered.age_BxL.shape[1], remembered.age_BxL
        now_BxC = jnp.zeros((B, C), age_BxL.dtype)
        gaps_BxCxM = gaps(now_BxC, jnp.concatenate([age_BxL, now_BxC], axis=1))
        # Each stands behind the history's last place and sees no other candidate.
        apart_M = jnp.maximum(L - jnp.arange(L + C), 0)
        sees = VisiblePositions(remembered.seen_by(C), gaps_BxCxM, jnp.broadcast_to(apart_M, (C, L + C)))
        made = self.block, self.norm
        h_BxCxD, _ = through(made, x_BxCxD, sees, candidate_keys(key_BxCx2), remembered.layers)
        return self.newest(h_BxCxD, jnp.arange(B * C).reshape(B, C), B * C)
