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


def dot(u: jax.Array, titles: TitleRows, name: str, kernel: jax.Array) -> jax.Array:
    """The published score of SASRec and GRU4Rec, [B, C]: u [B, D] or [B, C, D] times the title's projection
    by `kernel` [F, D], which `name` stands for: the one by which titles enter the history."""
    return jnp.einsum("bcd,bcd->bc", *jnp.broadcast_arrays(per_candidate(u), titles.through(name, kernel)))


class Product(Parameters):
    """x(u, t) = (P u) * (Q t), [B, C, width]: what a sum of the two cannot say, shared by the heads."""

    user: int  # width of the user vector
    title: int  # width of a title's
    width: int

    def setup(self):
        self.of_user = self.weight("user", kernel_init, self.user, self.width)
        self.of_title = self.weight("title", kernel_init, self.title, self.width)

    def __call__(self, u: jax.Array, titles: TitleRows) -> jax.Array:
        return per_candidate(u @ self.of_user) * titles.through("product", self.of_title)


class Matcher(Parameters):
    """One task's score [B, C], before any squashing, in at least float32.

    u is [B, D] or [B, C, D]; x [B, C, X] or None for the plain concatenation. `last_bias` is False
    where the loss sees differences of scores alone.
    """

    task: str
    user: int  # width of the user vector
    title: int  # width of a title's
    product: int  # width of x; 0 without one
    hidden: tuple[int, ...]
    last_bias: bool

    def setup(self):
        kernel = self.weight("kernel", kernel_init, self.user + self.title + self.product, self.hidden[0])
        self.of_user, self.of_title, self.of_product = jnp.split(kernel, [self.user, self.user + self.title])
        self.bias = self.weight("bias", nn.initializers.zeros, self.hidden[0])
        self.layers = [
            (
                self.weight(f"kernel_{i}", kernel_init, self.hidden[i - 1], width),
                self.weight(f"bias_{i}", nn.initializers.zeros, width),
            )
            for i, width in enumerate(self.hidden[1:], start=1)
        ]
        self.out = self.weight("kernel_out", small_init, self.hidden[-1])
        if self.last_bias:
            self.out_bias = self.weight("bias_out", nn.initializers.zeros)

    def __call__(self, u: jax.Array, titles: TitleRows, x: jax.Array | None) -> jax.Array:
        h_BxCxD = per_candidate(u @ self.of_user + self.bias) + titles.through(self.task, self.of_title)
        if x is not None:
            h_BxCxD = h_BxCxD + x @ self.of_product
        h_BxCxD = nn.relu(h_BxCxD)
        for kernel, bias in self.layers:
            h_BxCxD = nn.relu(h_BxCxD @ kernel + bias)
        s_BxC = h_BxCxD @ self.out
        if self.last_bias:
            s_BxC = s_BxC + self.out_bias
        return s_BxC.astype(at_least_float32(self.dtype))
