"""Behavioural sequence encoder (Eq. 6): pre-norm blocks over titles [R, L, D].

A row holds one or several histories; the attention mask [R, L, L] separates them. Alternatively, the
positions of a row are candidates, which attend to cached keys and values of the history `before` them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.attention import (
    Before,
    KeysValues,
    append_keys_values,
    attend,
    attend_fused,
    split_fused,
)
from jaxrec.models.layers.dense import Dense, Parameters, broadcast, kernel_init, matmul
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id


class SelfAttention(Parameters):
    """Multi-head attention of L queries over M keys.

    The keys are the cached keys `before`, and then the row's own.

    Keys have no bias: a bias would add the same constant to all scores of a query, and softmax is invariant
    to a constant.

    Attributes:
        heads: Number of heads H; must divide D.
        form: Attention implementation: "auto" or one of `attention.FORMS`.
    """

    heads: int
    form: str = "auto"

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, mask_RxLxM: jax.Array, before: Before | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """Return the output [R, L, D], and the row's own keys and values."""
        D = x_RxLxD.shape[-1]
        kernel = self.weight("kernel", kernel_init, D, 3 * D)
        query_bias, value_bias = (
            self.weight(f"{n}_bias", nn.initializers.zeros, D) for n in ("query", "value")
        )
        bias = jnp.concatenate([query_bias, jnp.zeros_like(query_bias), value_bias])
        qkv_RxLx3D = matmul(x_RxLxD, kernel)
        qkv_RxLx3D = qkv_RxLx3D + broadcast(bias, qkv_RxLx3D.shape)
        q_RxLxHxd, k_RxLxHxd, v_RxLxHxd = split_fused(qkv_RxLx3D, self.heads)
        if before is None:
            y_RxLxD = attend_fused(self.form, qkv_RxLx3D, mask_RxLxM, self.heads)
        else:
            keys_values = append_keys_values(before, k_RxLxHxd, v_RxLxHxd)
            y_RxLxD = attend(self.form, q_RxLxHxd, *keys_values, mask_RxLxM).reshape(x_RxLxD.shape)
        return Dense(self.dtype, D, name="out")(y_RxLxD), (k_RxLxHxd, v_RxLxHxd)


class TransformerBlock(Parameters):
    """Pre-norm block: x + attention(norm(x)), then x + feed-forward(norm(x)).

    Dropout applies to both terms before they are added.

    Attributes:
        heads: Number of heads H; must divide D.
        feedforward: Hidden width as a multiple of D.
        dropout: Dropout rate, in [0, 1).
        form: Attention implementation: "auto" or one of `attention.FORMS`.
    """

    heads: int
    feedforward: float
    dropout: float
    form: str = "auto"

    @nn.compact
    def __call__(
        self, x_RxLxD: jax.Array, mask_RxLxM: jax.Array, key_RxLx2: jax.Array | None,
        before: Before | None = None,
    ) -> tuple[jax.Array, KeysValues]:  # fmt: skip
        """Return the output [R, L, D], and the row's own keys and values."""
        D, (first, second) = x_RxLxD.shape[-1], self.kept_units(key_RxLx2, x_RxLxD.shape[-1])
        y, keys_values = self.attended(x_RxLxD, mask_RxLxM, before)
        x_RxLxD = x_RxLxD + (y if first is None else dropout(y, first, self.dropout))
        y = LayerNorm(self.dtype, name="feedforward_norm")(x_RxLxD)
        y = nn.relu(Dense(self.dtype, round(self.feedforward * D), name="hidden")(y))
        y = Dense(self.dtype, D, name="out")(y)
        return x_RxLxD + (y if second is None else dropout(y, second, self.dropout)), keys_values

    def attended(
        self, x_RxLxD: jax.Array, mask_RxLxM: jax.Array, before: Before | None
    ) -> tuple[jax.Array, KeysValues]:
        """Return attention(norm(x)) [R, L, D], and the row's own keys and values."""
        y = LayerNorm(self.dtype, name="attention_norm")(x_RxLxD)
        return SelfAttention(self.dtype, self.heads, self.form, name="attention")(y, mask_RxLxM, before)

    def kept_units(self, key_RxLx2: jax.Array | None, width: int) -> tuple[Any, Any]:
        """Return the dropout masks of attention and of the feed-forward net; None without dropout."""
        first, second = None, None
        if key_RxLx2 is not None and self.dropout:
            first, second = dropout_mask(key_RxLx2, layer_id(self.path), width, self.dropout)
        return first, second


class TransformerStack(Parameters):
    """Stack of `layers` blocks and a norm, [R, L, D] to [R, L, D].

    Outputs of padding are finite.

    Attributes:
        layers: Number of blocks.
        heads: Number of heads H; must divide D.
        feedforward: Hidden width as a multiple of D.
        dropout: Dropout rate, in [0, 1).
        form: Attention implementation: "auto" or one of `attention.FORMS`.
        kind: Class of the blocks, with the fields and the call of `TransformerBlock`.
    """

    layers: int
    heads: int
    feedforward: float
    dropout: float
    form: str = "auto"
    kind: Callable[..., Any] = TransformerBlock

    def setup(self):
        """Create the blocks and the final norm."""
        fields = self.heads, self.feedforward, self.dropout, self.form
        self.block = [self.kind(self.dtype, *fields, name=f"block_{i}") for i in range(self.layers)]
        self.norm = LayerNorm(self.dtype, name="norm")

    def __call__(self, x_RxLxD: jax.Array, mask_RxLxL: jax.Array, key_RxLx2: jax.Array | None) -> jax.Array:
        return self.with_keys(x_RxLxD, mask_RxLxL, key_RxLx2)[0]

    def with_keys(
        self, x_RxLxD: jax.Array, mask_RxLxM: jax.Array, key_RxLx2: jax.Array | None,
        before: Sequence[Before] | None = None,
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:  # fmt: skip
        """Apply the blocks and return their keys and values too.

        Args:
            x_RxLxD: Inputs.
            mask_RxLxM: Bool attention mask over M keys: the cached keys `before`, and then the row's own.
            key_RxLx2: uint32 keys; None for no dropout.
            before: Cached keys and values of each block, or functions that make them; None for none.

        Returns:
            Outputs [R, L, D], and the row's own keys and values of each block.

        Raises:
            ValueError: The width is not a multiple of the number of heads.
        """
        chex.assert_rank(x_RxLxD, 3, custom_message="x_RxLxD")
        chex.assert_shape(mask_RxLxM, (*x_RxLxD.shape[:2], None), custom_message="mask_RxLxM")
        if x_RxLxD.shape[-1] % self.heads:
            raise ValueError(f"model.width={x_RxLxD.shape[-1]} must divide by heads={self.heads}")
        block_keys_values, none = [], tuple[None, ...]([None] * self.layers)
        for block, block_before in zip(self.block, before or none, strict=True):
            x_RxLxD, keys_values = block(x_RxLxD, mask_RxLxM, key_RxLx2, block_before)
            block_keys_values.append(keys_values)
        return self.norm(x_RxLxD), tuple(block_keys_values)
