"""HSTU (Zhai et al., ICML 2024): gated pointwise attention, biased by place and time, with no softmax.

"Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", its Eq. 1 to 3. Heads share a layer's bias and each layer has its own, as in Meta's
research code. Otherwise than there: the time between two titles is that between their last plays, not
counted from the play after the query's; its buckets are `features.gap`; norms are learned; dropout is
on what a block adds, as in our other encoders.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.nn.attention import scores
from jaxrec.nn.draws import drop, keeps, layer_number
from jaxrec.nn.features import GAPS, gap
from jaxrec.nn.layers import Dense, Parameters, looked_up, repeated, spread
from jaxrec.nn.pooling import ExpertFields, Newest, Titles, seen
from jaxrec.nn.transformer import LayerNorm

_bias_init = spread(0.02)


def gaps(age_RxL: jax.Array) -> jax.Array:
    """The bucket (`features.gap`) of the time between every two titles' last plays, [R, L, L].

    Ages are log1p(seconds), which a dataset stores in 16 bits: a play is dated to within .4% of the time
    since (.8% past 100 days), so two of one evening a month ago come out as simultaneous, or hours apart.
    """
    ago_RxL = jnp.expm1(age_RxL)
    return gap(jnp.log1p(jnp.abs(ago_RxL[:, :, None] - ago_RxL[:, None, :])))


class Bias(Parameters):
    """rab^{p,t} [R, L, L]: a learned number for how many places apart two titles are, plus one for the
    bucket of the time between them. Of places, there are those of a window and one for a candidate."""

    window: int

    @nn.compact
    def __call__(self, gaps_RxLxL: jax.Array) -> jax.Array:
        place_L = jnp.arange(gaps_RxLxL.shape[1])
        apart_LxL = jnp.abs(place_L[:, None] - place_L)
        of_place = looked_up(self.weight("position_bias", _bias_init, self.window + 1), apart_LxL, "clip")
        of_time = looked_up(self.weight("time_bias", _bias_init, GAPS), gaps_RxLxL, "clip")
        return repeated(of_place, gaps_RxLxL.shape) + of_time


class Block(Parameters):
    """x + W (norm(A V) * U), with U, V, Q, K = SiLU(W' norm(x)) and, for each head, A = SiLU(Q K^T + rab) / N
    among titles that are seen, 0 elsewhere; N is the window, whatever a history shows. No feed-forward."""

    heads: int
    window: int
    dropout: float

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, seen_RxLxL: jax.Array, gaps_RxLxL: jax.Array, key_RxLx2: jax.Array | None
    ) -> jax.Array:
        R, L, D = x_RxLxD.shape
        y = LayerNorm(self.dtype, name="norm")(x_RxLxD)
        u, *vqk = jnp.split(nn.silu(Dense(self.dtype, 4 * D, bias=False, name="uvqk")(y)), 4, axis=-1)
        v_RxLxHxd, q_RxLxHxd, k_RxLxHxd = (y.reshape(R, L, self.heads, -1) for y in vqk)
        s_RxHxLxL = scores(q_RxLxHxd, k_RxLxHxd)
        bias_RxLxL = Bias(self.dtype, self.window, name="bias")(gaps_RxLxL).astype(s_RxHxLxL.dtype)
        a_RxHxLxL = nn.silu(s_RxHxLxL + bias_RxLxL[:, None]) / self.window
        a_RxHxLxL = jnp.where(seen_RxLxL[:, None], a_RxHxLxL, 0.0).astype(v_RxLxHxd.dtype)
        y = jnp.einsum("bhlm,bmhd->blhd", a_RxHxLxL, v_RxLxHxd).reshape(R, L, D)
        y = Dense(self.dtype, D, name="out")(LayerNorm(self.dtype, name="gated_norm")(y) * u)
        if key_RxLx2 is not None and self.dropout:
            keep, _ = keeps(key_RxLx2, layer_number(self.path), D, self.dropout)
            y = drop(y, keep, self.dropout)
        return x_RxLxD + y


def blocks(
    dtype: str, f: ExpertFields, h_RxLxD: jax.Array, seen_RxLxL: jax.Array, gaps_RxLxL: jax.Array,
    key_RxLx2: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """`f.layers` blocks, then a norm, [R, L, D]; their parameters are of the module that calls."""
    for i in range(f.layers):
        block = Block(dtype, f.heads, f.window, f.dropout, name=f"block_{i}")
        h_RxLxD = block(h_RxLxD, seen_RxLxL, gaps_RxLxL, key_RxLx2)
    return LayerNorm(dtype, name="norm")(h_RxLxD)


class Hstu(Parameters):
    """Each request's titles to one vector [B, D]: its newest title's output, normed. Times are known whatever
    `model.reads` says; `feedforward` and `attention` say nothing here."""

    fields: ExpertFields

    @nn.compact
    def __call__(self, titles: Titles, examples: int) -> jax.Array:
        f, seen_RxLxL = self.fields, seen(titles.example_RxL)
        h_RxLxD = blocks(self.dtype, f, titles.x_RxLxD, seen_RxLxL, gaps(titles.age_RxL), titles.key_RxLx2)
        return Newest(self.dtype, name="newest")(h_RxLxD, titles.example_RxL, examples)
