"""The behavioural sequence encoder (Eq. 6): pre-norm transformer blocks over [B, L, D]."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.nn.draws import dropout, layer_number
from jaxrec.nn.layers import Dense, Parameters, at_least_float32, kernel_init


class LayerNorm(Parameters):
    """Each row of [..., D] to mean 0 and variance 1, then scaled and shifted."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(at_least_float32(self.dtype))
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        normal = ((wide - mean) * jax.lax.rsqrt(variance + 1e-6)).astype(self.dtype)
        scale = self.weight("scale", nn.initializers.ones, x.shape[-1])
        return normal * scale + self.weight("bias", nn.initializers.zeros, x.shape[-1])


def attend(q_BxLxHxd, k_BxLxHxd, v_BxLxHxd, valid_BxL) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for each head, [B, L, H, d]; columns not valid get no weight.

    `jax.nn.dot_product_attention` is the same but for its softmax, which is float32 even in float64.
    A row with no valid column comes back finite.
    """
    dtype = at_least_float32(q_BxLxHxd.dtype)
    q_BxLxHxd = q_BxLxHxd * q_BxLxHxd.shape[-1] ** -0.5
    s_BxHxLxM = jnp.einsum("blhd,bmhd->bhlm", q_BxLxHxd, k_BxLxHxd, preferred_element_type=dtype)
    s_BxHxLxM = jnp.where(valid_BxL[:, None, None], s_BxHxLxM, -1e9)
    p_BxHxLxM = jax.nn.softmax(s_BxHxLxM, axis=-1).astype(v_BxLxHxd.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", p_BxHxLxM, v_BxLxHxd)


class SelfAttention(Parameters):
    """Multi-head attention of [B, L, D] over its valid columns.

    Keys have no bias: it would add the same to every score of a query, which softmax cannot see.
    """

    heads: int

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, valid_BxL: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        kernel = self.weight("kernel", kernel_init, D, 3 * D)
        q, k, v = jnp.split(x_BxLxD @ kernel, 3, axis=-1)
        q = q + self.weight("query_bias", nn.initializers.zeros, D)
        v = v + self.weight("value_bias", nn.initializers.zeros, D)
        q_BxLxHxd, k_BxLxHxd, v_BxLxHxd = (y.reshape(B, L, self.heads, -1) for y in (q, k, v))
        y_BxLxHxd = attend(q_BxLxHxd, k_BxLxHxd, v_BxLxHxd, valid_BxL)
        return Dense(self.dtype, D, name="out")(y_BxLxHxd.reshape(B, L, D))


class Block(Parameters):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); dropout on both before they are added."""

    heads: int
    feedforward: float  # hidden width as a multiple of D
    dropout: float

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, valid_BxL: jax.Array, key_Bx2: jax.Array | None) -> jax.Array:
        D, layer = x_BxLxD.shape[-1], layer_number(self.path)
        y = LayerNorm(self.dtype, name="attention_norm")(x_BxLxD)
        y = SelfAttention(self.dtype, self.heads, name="attention")(y, valid_BxL)
        x_BxLxD = x_BxLxD + dropout(y, self.dropout, key_Bx2, layer)
        y = LayerNorm(self.dtype, name="feedforward_norm")(x_BxLxD)
        y = nn.relu(Dense(self.dtype, round(self.feedforward * D), name="hidden")(y))
        y = Dense(self.dtype, D, name="out")(y)
        return x_BxLxD + dropout(y, self.dropout, key_Bx2, layer + 1)


class Encoder(Parameters):
    """`layers` blocks, then a norm: [B, L, D] to [B, L, D]. Rows of padding alone stay finite."""

    layers: int
    heads: int
    feedforward: float
    dropout: float

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, valid_BxL: jax.Array, key_Bx2: jax.Array | None) -> jax.Array:
        if x_BxLxD.shape[-1] % self.heads:
            raise ValueError(f"model.width={x_BxLxD.shape[-1]} must divide by heads={self.heads}")
        for i in range(self.layers):
            block = Block(self.dtype, self.heads, self.feedforward, self.dropout, name=f"block_{i}")
            x_BxLxD = block(x_BxLxD, valid_BxL, key_Bx2)
        return LayerNorm(self.dtype, name="norm")(x_BxLxD)
