"""Layer normalization, by XLA or by a Pallas kernel."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.kernels import layer_norm, pallas
from jaxrec.models.layers.dense import Parameters, at_least_float32, broadcast


class LayerNorm(Parameters):
    """Layer norm over the last axis of [..., D], with learned scale and bias.

    A call returns the same shape in the compute dtype: scale (x - mean) / sqrt(variance + 1e-6) + bias (Ba,
    Kiros & Hinton 2016).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize x [..., D]; same shape, in the compute dtype."""
        scale = self.stored_weight("scale", nn.initializers.ones, x.shape[-1])
        bias = self.stored_weight("bias", nn.initializers.zeros, x.shape[-1])
        x = x.astype(self.dtype)
        if pallas.is_available(jax.default_backend(), self.dtype):
            return layer_norm.fused_layer_norm(x, scale, bias)  # which casts them itself
        return normalize(x, scale.astype(self.dtype), bias.astype(self.dtype))


def normalize(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Layer norm of x [..., D], compiled by XLA; equal to `fused_layer_norm`.

    Args:
        x: [..., D].
        scale_D: learned scale.
        bias_D: learned bias.
    """
    wide = x.astype(at_least_float32(x.dtype))
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    normal = ((wide - mean) * jax.lax.rsqrt(variance + layer_norm.EPSILON)).astype(x.dtype)
    return normal * broadcast(scale_D, x.shape) + broadcast(bias_D, x.shape)


def rms_normalize(x: jax.Array) -> jax.Array:
    """Root-mean-square norm of x [..., D] without a learned scale (Zhang & Sennrich 2019)."""
    wide = x.astype(at_least_float32(x.dtype))
    mean_square = jnp.square(wide).mean(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + layer_norm.EPSILON)).astype(x.dtype)
