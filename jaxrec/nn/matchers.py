"""The tasks' heads (3.3.1): an MLP each on the user vector, the candidate's title vector and a product.

The first layer is W_u u + W_t t + W_x x(u, t), the plain dense layer of the concatenation taken
apart: W_u u is worked out once a user, W_t t once a title of the catalogue or once a candidate,
whichever is fewer rows. Nothing random may touch t before it.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.nn.features import TitleRows
from jaxrec.nn.layers import Parameters, at_least_float32, kernel_init, small_init


def per_candidate(u: jax.Array) -> jax.Array:
    """A user's part [B, D], or one for each candidate [B, C, D], to meet [B, C, D]."""
    return u[:, None] if u.ndim == 2 else u


class Product(Parameters):
    """x(u, t) = (P u) * (Q t), [B, C, width]: what a sum of the two cannot say, shared by the heads."""

    width: int

    @nn.compact
    def __call__(self, u: jax.Array, titles: TitleRows) -> jax.Array:
        p = self.weight("user", kernel_init, u.shape[-1], self.width)
        q = self.weight("title", kernel_init, titles.width, self.width)
        return per_candidate(u @ p) * titles.through(q)


class Matcher(Parameters):
    """One task's score [B, C], before any squashing, in at least float32.

    u is [B, D] or [B, C, D]; x [B, C, X] or None for the plain concatenation. `last_bias` is False
    where the loss sees differences of scores alone.
    """

    hidden: tuple[int, ...]
    last_bias: bool

    @nn.compact
    def __call__(self, u: jax.Array, titles: TitleRows, x: jax.Array | None) -> jax.Array:
        parts = [u.shape[-1], titles.width, 0 if x is None else x.shape[-1]]
        kernel = self.weight("kernel", kernel_init, sum(parts), self.hidden[0])
        of_user, of_title, of_product = jnp.split(kernel, [parts[0], parts[0] + parts[1]])
        bias = self.weight("bias", nn.initializers.zeros, self.hidden[0])
        h_BxCxD = per_candidate(u @ of_user + bias) + titles.through(of_title)
        if x is not None:
            h_BxCxD = h_BxCxD + x @ of_product
        h_BxCxD = nn.relu(h_BxCxD)
        for i, width in enumerate(self.hidden[1:], start=1):
            layer = self.weight(f"kernel_{i}", kernel_init, h_BxCxD.shape[-1], width)
            h_BxCxD = nn.relu(h_BxCxD @ layer + self.weight(f"bias_{i}", nn.initializers.zeros, width))
        s_BxC = h_BxCxD @ self.weight("kernel_out", small_init, h_BxCxD.shape[-1])
        if self.last_bias:
            s_BxC = s_BxC + self.weight("bias_out", nn.initializers.zeros)
        return s_BxC.astype(at_least_float32(self.dtype))
