"""Pooling of a history to one vector: by attention, or by its newest title.

Axis letters: R rows of L positions, B examples, N = R L positions, D width.
"""

import chex
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
    """Attention pooling (Eq. 7 and 8) of each example's titles, [R, L, D] to [B, D].

    Padding gets no weight. An example without titles gets a learned vector.
    """

    @nn.compact
    def __call__(self, h_RxLxD: jax.Array, example_RxL: jax.Array, examples: int) -> jax.Array:
        """Pool [R, L, D] to [B, D].

        Args:
            h_RxLxD: encoded titles.
            example_RxL: index of the example of each title; at least `examples` for padding.
            examples: number of examples B.
        """
        chex.assert_rank(h_RxLxD, 3, custom_message="h_RxLxD")
        chex.assert_shape(example_RxL, h_RxLxD.shape[:2], custom_message="example_RxL")
        D, wide = h_RxLxD.shape[-1], at_least_float32(self.dtype)
        h_NxD, example_N = h_RxLxD.reshape(-1, D), example_RxL.reshape(-1)
        s_N = (h_NxD @ self.weight("attention", small_init, D)).astype(wide)
        # A shift does not change a softmax; subtracting the largest score prevents overflow.
        largest_B = jax.ops.segment_max(jax.lax.stop_gradient(s_N), example_N, examples)
        e_N = jnp.exp(s_N - largest_B.at[example_N].get(mode="fill", fill_value=0.0))
        total_B = jax.ops.segment_sum(e_N, example_N, examples)
        has_title_B = jax.ops.segment_sum(jnp.ones_like(e_N), example_N, examples) > 0
        alpha_N = e_N / jnp.where(has_title_B, total_B, 1.0).at[example_N].get(mode="fill", fill_value=1.0)
        weighted_NxD = alpha_N[:, None] * h_NxD.astype(wide)
        pooled_BxD = jax.ops.segment_sum(weighted_NxD, example_N, examples).astype(self.dtype)
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(has_title_B[:, None], pooled_BxD, broadcast(empty_D, pooled_BxD.shape))


class LastPosition(Parameters):
    """The newest title of each example, [R, L, D] to [B, D].

    An example without titles gets a learned vector.
    """

    @nn.compact
    def __call__(self, h_RxLxD: jax.Array, example_RxL: jax.Array, examples: int) -> jax.Array:
        """Select [B, D] from [R, L, D]; arguments as in `AttentionPooling`."""
        chex.assert_rank(h_RxLxD, 3, custom_message="h_RxLxD")
        chex.assert_shape(example_RxL, h_RxLxD.shape[:2], custom_message="example_RxL")
        D, example_N = h_RxLxD.shape[-1], example_RxL.reshape(-1)
        newest_B = jnp.full(examples, -1).at[example_N].max(jnp.arange(len(example_N)), mode="drop")
        h_BxD = embedding_lookup(h_RxLxD.reshape(-1, D), newest_B, mode="clip")
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(newest_B[:, None] >= 0, h_BxD, broadcast(empty_D, h_BxD.shape))
