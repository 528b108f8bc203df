"""LiGR blocks in a causal encoder, as in eSASRec: gated residuals and a SwiGLU feed-forward layer.

Borisyuk et al., From Features to Transformers: Redefining Ranking for Scalable Impact, 2025 (arXiv
2502.03417); with SASRec's causal attention and a sampled softmax it is eSASRec (Tikhonovich et al., RecSys
2025, arXiv 2508.06450).
"""

from functools import partial

import jax
from flax import linen as nn

from jaxrec.models.encoders import sasrec
from jaxrec.models.encoders.transformer import TransformerBlock
from jaxrec.models.layers.attention import Before, KeysValues
from jaxrec.models.layers.dense import Dense
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.rng import dropout


class LigrBlock(TransformerBlock):
    """Pre-norm block with gated residuals, and without biases in its feed-forward layer.

    y = x + sigmoid(W_1 x + b_1) * attention(norm(x)), and
    z = y + sigmoid(W_2 y + b_2) * W_5 (SiLU(W_3 norm(y)) * W_4 norm(y)).

    Dropout applies to the output of attention and of the feed-forward layer, before the gate. The fields
    are those of `TransformerBlock`.
    """

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, mask_RxLxM: jax.Array, key_RxLx2: jax.Array | None,
        before: Before | None = None,
    ) -> tuple[jax.Array, KeysValues]:  # fmt: skip
        """Return the output [R, L, D], and the row's own keys and values."""
        D, (first, second) = x_RxLxD.shape[-1], self.kept_units(key_RxLx2, x_RxLxD.shape[-1])
        y, keys_values = self.attended(x_RxLxD, mask_RxLxM, before)
        x_RxLxD = x_RxLxD + self._gated("attention_gate", x_RxLxD, y, first)
        y = LayerNorm(self.dtype, name="feedforward_norm")(x_RxLxD)
        hidden = round(self.feedforward * D)
        y = nn.silu(Dense(self.dtype, hidden, bias=False, name="gate")(y)) * Dense(
            self.dtype, hidden, bias=False, name="hidden"
        )(y)
        y = Dense(self.dtype, D, bias=False, name="out")(y)
        return x_RxLxD + self._gated("feedforward_gate", x_RxLxD, y, second), keys_values

    def _gated(self, name: str, x: jax.Array, y: jax.Array, keep: jax.Array | None) -> jax.Array:
        """Return sigmoid(W x + b) * y [R, L, D], with dropout of y where `keep` is given."""
        gate = nn.sigmoid(Dense(self.dtype, x.shape[-1], name=name)(x))
        return gate * (y if keep is None else dropout(y, keep, self.dropout))


encode_positions = partial(sasrec.encode_positions, kind=LigrBlock)
encode_with_keys = partial(sasrec.encode_with_keys, kind=LigrBlock)


class Ligr(sasrec.SasRec):
    """Expert of LiGR blocks: the vector of an example is the output of its newest title, [B, D]."""

    kind = LigrBlock
