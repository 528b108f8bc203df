"""Layer normalization, by XLA or by a kernel of ours."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.kernels import layer_norm, pallas
from jaxrec.models.layers.dense import Parameters, at_least_float32, broadcast


class LayerNorm(Parameters):
    """Each row of [..., D] to mean 0 and variance 1, then scaled and shifted."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.weight("scale", nn.initializers.ones, x.shape[-1])
        bias = self.weight("bias", nn.initializers.zeros, x.shape[-1])
        norm = layer_norm.normed if pallas.is_available(jax.default_backend(), self.dtype) else normalize
        return norm(x.astype(self.dtype), scale, bias)


def normalize(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> jax.Array:
    """What `norm_kernel.normed` is, for XLA to compile."""
    wide = x.astype(at_least_float32(x.dtype))
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    normal = ((wide - mean) * jax.lax.rsqrt(variance + layer_norm.EPSILON)).astype(x.dtype)
    return normal * broadcast(scale_D, x.shape) + broadcast(bias_D, x.shape)
