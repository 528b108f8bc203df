"""Pooling of a history's positions to one vector: by attention, or the newest."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.dense import (
    Parameters,
    at_least_float32,
    broadcast,
    embedding_init,
    embedding_lookup,
    small_init,
)


class AttentionPooling(Parameters):
    """Attention pooling (Eq. 7 and 8): each request's titles among [R, L, D] to one vector, [B, D].

    Padding gets no weight; a request without titles pools to a learned vector.
    """

    @nn.compact
    def __call__(self, h_RxLxD: jax.Array, example_RxL: jax.Array, examples: int) -> jax.Array:
        D, wide = h_RxLxD.shape[-1], at_least_float32(self.dtype)
        h_NxD, of_N = h_RxLxD.reshape(-1, D), example_RxL.reshape(-1)
        s_N = (h_NxD @ self.weight("attention", small_init, D)).astype(wide)
        # Any shift leaves a softmax as it is; the largest score keeps its exponentials from overflowing.
        largest_B = jax.ops.segment_max(jax.lax.stop_gradient(s_N), of_N, examples)
        e_N = jnp.exp(s_N - largest_B.at[of_N].get(mode="fill", fill_value=0.0))
        total_B = jax.ops.segment_sum(e_N, of_N, examples)
        there_B = jax.ops.segment_sum(jnp.ones_like(e_N), of_N, examples) > 0
        alpha_N = e_N / jnp.where(there_B, total_B, 1.0).at[of_N].get(mode="fill", fill_value=1.0)
        weighted_NxD = alpha_N[:, None] * h_NxD.astype(wide)
        pooled_BxD = jax.ops.segment_sum(weighted_NxD, of_N, examples).astype(self.dtype)
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(there_B[:, None], pooled_BxD, broadcast(empty_D, pooled_BxD.shape))


class LastPosition(Parameters):
    """Each request's newest title among [R, L, D], [B, D]; of a request without titles, a learned vector."""

    @nn.compact
    def __call__(self, h_RxLxD: jax.Array, example_RxL: jax.Array, examples: int) -> jax.Array:
        D, of_N = h_RxLxD.shape[-1], example_RxL.reshape(-1)
        newest_B = jnp.full(examples, -1).at[of_N].max(jnp.arange(len(of_N)), mode="drop")
        h_BxD = embedding_lookup(h_RxLxD.reshape(-1, D), newest_B, mode="clip")
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(newest_B[:, None] >= 0, h_BxD, broadcast(empty_D, h_BxD.shape))
