"""The behavioural sequence encoder (Eq. 6): pre-norm transformer blocks over rows of titles [R, L, D].

A row holds one history or several: `same` [R, L, L] says which of its places see one another. Or its places
are candidates, which see keys and values of a history that was read `before` them.
"""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.attention import KeysValues, append_keys_values, attend, attend_fused, split_fused
from jaxrec.models.layers.dense import Dense, Parameters, broadcast, kernel_init, matmul
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id


class SelfAttention(Parameters):
    """Multi-head attention of [R, L, D], each place over those of the same history, of which N may stand
    `before` them; and the places' own keys and values.

    Keys have no bias: it would add the same to every score of a query, which softmax cannot see.
    """

    heads: int
    form: str = "auto"  # of attention, or one of `attention.FORMS`

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, same_RxLxM: jax.Array, before: KeysValues | None = None
    ) -> tuple[jax.Array, KeysValues]:
        D = x_RxLxD.shape[-1]
        kernel = self.weight("kernel", kernel_init, D, 3 * D)
        of_query, of_value = (self.weight(f"{n}_bias", nn.initializers.zeros, D) for n in ("query", "value"))
        bias = jnp.concatenate([of_query, jnp.zeros_like(of_query), of_value])
        qkv_RxLx3D = matmul(x_RxLxD, kernel)
        qkv_RxLx3D = qkv_RxLx3D + broadcast(bias, qkv_RxLx3D.shape)
        q_RxLxHxd, k_RxLxHxd, v_RxLxHxd = split_fused(qkv_RxLx3D, self.heads)
        if before is None:
            y_RxLxD = attend_fused(self.form, qkv_RxLx3D, same_RxLxM, self.heads)
        else:
            seen = append_keys_values(before, k_RxLxHxd, v_RxLxHxd)
            y_RxLxD = attend(self.form, q_RxLxHxd, *seen, same_RxLxM).reshape(x_RxLxD.shape)
        return Dense(self.dtype, D, name="out")(y_RxLxD), (k_RxLxHxd, v_RxLxHxd)


class TransformerBlock(Parameters):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), dropout on both before they are added; and the
    attention's keys and values."""

    heads: int
    feedforward: float  # hidden width as a multiple of D
    dropout: float
    form: str = "auto"

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, same_RxLxM: jax.Array, key_RxLx2: jax.Array | None,
        before: KeysValues | None = None,
    ) -> tuple[jax.Array, KeysValues]:  # fmt: skip
        D, first, second = x_RxLxD.shape[-1], None, None
        if key_RxLx2 is not None and self.dropout:
            first, second = dropout_mask(key_RxLx2, layer_id(self.path), D, self.dropout)
        y = LayerNorm(self.dtype, name="attention_norm")(x_RxLxD)
        attention = SelfAttention(self.dtype, self.heads, self.form, name="attention")
        y, keys_values = attention(y, same_RxLxM, before)
        x_RxLxD = x_RxLxD + (y if first is None else dropout(y, first, self.dropout))
        y = LayerNorm(self.dtype, name="feedforward_norm")(x_RxLxD)
        y = nn.relu(Dense(self.dtype, round(self.feedforward * D), name="hidden")(y))
        y = Dense(self.dtype, D, name="out")(y)
        return x_RxLxD + (y if second is None else dropout(y, second, self.dropout)), keys_values


class TransformerStack(Parameters):
    """`layers` blocks, then a norm: [R, L, D] to [R, L, D]. Padding stays finite."""

    layers: int
    heads: int
    feedforward: float
    dropout: float
    form: str = "auto"  # of attention

    def setup(self):
        fields = self.heads, self.feedforward, self.dropout, self.form
        self.block = [TransformerBlock(self.dtype, *fields, name=f"block_{i}") for i in range(self.layers)]
        self.norm = LayerNorm(self.dtype, name="norm")

    def __call__(self, x_RxLxD: jax.Array, same_RxLxL: jax.Array, key_RxLx2: jax.Array | None) -> jax.Array:
        return self.with_keys(x_RxLxD, same_RxLxL, key_RxLx2)[0]

    def with_keys(
        self, x_RxLxD: jax.Array, same_RxLxM: jax.Array, key_RxLx2: jax.Array | None,
        before: tuple[KeysValues, ...] | None = None,
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:  # fmt: skip
        """The same, and each block's keys and values; or, with those of other places `before` them, of places
        that see these too: M of them, those before and then their own."""
        chex.assert_rank(x_RxLxD, 3, custom_message="x_RxLxD")
        chex.assert_shape(same_RxLxM, (*x_RxLxD.shape[:2], None), custom_message="same_RxLxM")
        if x_RxLxD.shape[-1] % self.heads:
            raise ValueError(f"model.width={x_RxLxD.shape[-1]} must divide by heads={self.heads}")
        found = []
        for block, seen in zip(self.block, before or [None] * self.layers, strict=True):
            x_RxLxD, keys_values = block(x_RxLxD, same_RxLxM, key_RxLx2, seen)
            found.append(keys_values)
        return self.norm(x_RxLxD), tuple(found)
