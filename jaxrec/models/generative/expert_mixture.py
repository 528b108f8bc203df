"""Mixture of feed-forward experts: each position goes to two experts and to one that all share.

The router takes the two experts of largest probability and weighs them by their probabilities, scaled to a
sum of 1 (Lepikhin et al. 2020). Positions are sorted by expert, so that each expert's product is of its own
positions alone, and no position is dropped.

Axis letters: N positions, D width, E experts, F hidden width, S = 2 N choices.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.dense import Dense, Parameters, kernel_init

CHOICES = 2  # experts of a position


def _stacked_init(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Initializer of kernels [E, in, out], each as by `kernel_init`."""
    experts, rows, columns = shape
    return kernel_init(key, (rows, experts * columns), dtype).reshape(rows, experts, columns).swapaxes(0, 1)


class ExpertMixture(Parameters):
    """Feed-forward layer of E experts of which each position has two, beside a shared expert.

    Attributes:
        experts: Number of experts E, at least 2.
        hidden: Hidden width F of an expert.
    """

    experts: int
    hidden: int

    @nn.compact
    def __call__(self, x_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the output [N, D], and the experts [N, 2] int32 of each position."""
        (N, D), E = x_NxD.shape, self.experts
        first = self.weight("experts_hidden", _stacked_init, E, D, self.hidden)
        second = self.weight("experts_out", _stacked_init, E, self.hidden, D)
        logits_NxE = Dense(self.dtype, E, bias=False, name="router")(x_NxD)
        probability_NxE = jax.nn.softmax(logits_NxE.astype(jnp.promote_types(self.dtype, jnp.float32)))
        weight_Nx2, expert_Nx2 = jax.lax.top_k(probability_NxE, CHOICES)
        weight_Nx2 = (weight_Nx2 / weight_Nx2.sum(-1, keepdims=True)).astype(x_NxD.dtype)
        expert_S = expert_Nx2.reshape(-1)
        order_S = jnp.argsort(expert_S, stable=True)
        size_E = (expert_S[:, None] == jnp.arange(E)).sum(0, dtype=jnp.int32)
        h_SxF = nn.relu(jax.lax.ragged_dot(x_NxD[order_S // CHOICES], first, size_E))
        y_SxD = jax.lax.ragged_dot(h_SxF, second, size_E)
        y_Nx2xD = jnp.zeros_like(y_SxD).at[order_S].set(y_SxD).reshape(N, CHOICES, D)
        shared_NxF = nn.relu(Dense(self.dtype, self.hidden, name="shared_hidden")(x_NxD))
        shared_NxD = Dense(self.dtype, D, name="shared_out")(shared_NxF)
        return shared_NxD + jnp.einsum("nc,ncd->nd", weight_Nx2, y_Nx2xD), expert_Nx2
