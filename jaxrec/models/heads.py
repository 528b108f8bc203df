"""The tasks' heads (3.3.1): an MLP each on the user vector, the candidate's title vector and a product.

The first layer is W_u u + W_t t + W_x x(u, t), the plain dense layer of the concatenation taken
apart: W_u u is worked out once a user, W_t t once a title of the catalogue or once a candidate,
whichever is fewer rows. Nothing random may touch t before it. Where a user is scored against the whole
catalogue, the layer is a matrix of that user's which every title goes through (`Matcher.every`).

Beside them there may be a head for retrieval, a dot product alone.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.dense import Parameters, at_least_float32, broadcast, kernel_init, small_init
from jaxrec.models.layers.title_encoder import TitleLookup

# Pairs of a user and a title that are scored together on a CPU: what they leave behind has to stay in its
# caches. A thousand titles go at about the same rate by two users or by eight, slower by one or by sixteen;
# five thousand by one. Cutting the titles up loses.
_CPU_PAIRS = 2**13


def per_candidate(u: jax.Array) -> jax.Array:
    """A user's part [B, D], or one for each candidate [B, C, D], to meet [B, C, D]."""
    return u[:, None] if u.ndim == 2 else u


def dot_score(u: jax.Array, titles: TitleLookup, name: str, kernel: jax.Array) -> jax.Array:
    """The published score of SASRec and GRU4Rec, [B, C]: u [B, D] or [B, C, D] times the title's projection
    by `kernel` [F, D], which `name` stands for: the one by which titles enter the history."""
    chex.assert_rank(u, {2, 3}, custom_message="u [B, D] or [B, C, D]")
    return jnp.einsum("bcd,bcd->bc", *jnp.broadcast_arrays(per_candidate(u), titles.through(name, kernel)))


class ProductFeatures(Parameters):
    """x(u, t) = (P u) * (Q t), [B, C, width]: what a sum of the two cannot say, shared by the heads."""

    user: int  # width of the user vector
    title: int  # width of a title's
    width: int

    def setup(self):
        self.of_user = self.weight("user", kernel_init, self.user, self.width)
        self.of_title = self.weight("title", kernel_init, self.title, self.width)

    def __call__(self, u: jax.Array, titles: TitleLookup) -> jax.Array:
        of_user, t_BxCxD = per_candidate(u @ self.of_user), titles.through("product", self.of_title)
        return broadcast(of_user, jnp.broadcast_shapes(of_user.shape, t_BxCxD.shape)) * t_BxCxD


class RetrievalHead(Parameters):
    """r(u, t) = <P u, Q t>, [B, C], in at least float32: two towers over the vectors that the matchers read,
    so that the best titles of a catalogue are those nearest to P u."""

    user: int  # width of the user vector
    title: int  # width of a title's
    width: int

    def setup(self):
        self.of_user = self.weight("user", small_init, self.user, self.width)
        self.of_title = self.weight("title", kernel_init, self.title, self.width)

    def __call__(self, u: jax.Array, titles: TitleLookup) -> jax.Array:
        s_BxC = dot_score(u @ self.of_user, titles, "retrieval", self.of_title)
        return s_BxC.astype(at_least_float32(self.dtype))

    def every(self, u_BxU: jax.Array, t_VxR: jax.Array) -> jax.Array:
        """Scores [B, V] of every title's Q t, [V, R]."""
        wide = at_least_float32(self.dtype)
        return jnp.matmul(u_BxU @ self.of_user, t_VxR.T, preferred_element_type=wide)


class MlpHead(Parameters):
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

    def __call__(self, u: jax.Array, titles: TitleLookup, x: jax.Array | None) -> jax.Array:
        chex.assert_rank(u, {2, 3}, custom_message="u [B, D] or [B, C, D]")
        chex.assert_shape(u, (..., self.user), custom_message="u: the width of the user vector")
        of_user, t_BxCxD = u @ self.of_user, titles.through(self.task, self.of_title)
        of_user = per_candidate(of_user + broadcast(self.bias, of_user.shape))
        h_BxCxD = broadcast(of_user, jnp.broadcast_shapes(of_user.shape, t_BxCxD.shape)) + t_BxCxD
        if x is not None:
            h_BxCxD = h_BxCxD + x @ self.of_product
        h_BxCxD = self._hidden(h_BxCxD)
        s_BxC = h_BxCxD @ self.out
        if self.last_bias:
            s_BxC = s_BxC + broadcast(self.out_bias, s_BxC.shape)
        return s_BxC.astype(at_least_float32(self.dtype))

    def _hidden(self, h: jax.Array) -> jax.Array:
        """From before the first ReLU to after the last."""
        h = nn.relu(h)
        for kernel, bias in self.layers:
            h = h @ kernel
            h = nn.relu(h + broadcast(bias, h.shape))
        return h

    def every(self, u_BxU: jax.Array, t_VxF: jax.Array, product: ProductFeatures | None) -> jax.Array:
        """Scores [B, V] of titles [V, F], before any squashing: what `__call__` gives.

        Titles through (Q times P u) W_x + W_t, W_u u in the row of a constant 1; or, where x is narrower
        than a title, Q t through (P u times W_x), the rest added.
        """
        chex.assert_shape(u_BxU, (None, self.user), custom_message="u_BxU")
        chex.assert_shape(t_VxF, (None, self.title), custom_message="t_VxF")
        # Asked for here: inside the loop a module may not look for its parameters.
        of_user, of_title, of_product, bias = self.of_user, self.of_title, self.of_product, self.bias
        p_UxX, q_FxX = of_user[:, :0], of_title[:, :0]
        if product is not None:
            p_UxX, q_FxX = product.of_user, product.of_title
        V, narrow = len(t_VxF), self.title < self.product
        if narrow:
            t_VxK = jnp.concatenate([t_VxF, jnp.ones((V, 1), t_VxF.dtype)], axis=1)
        else:
            t_VxK, of_title_VxH = t_VxF @ q_FxX, t_VxF @ of_title

        def scores(u_TxU: jax.Array) -> jax.Array:
            x_TxX, shift_TxH = u_TxU @ p_UxX, u_TxU @ of_user + bias
            if narrow:
                kernel_TxFxH = (q_FxX * x_TxX[:, None]) @ of_product + of_title
                kernel_TxKxH = jnp.concatenate([kernel_TxFxH, shift_TxH[:, None]], axis=1)
            else:
                kernel_TxKxH = x_TxX[:, :, None] * of_product
            T, K, H = kernel_TxKxH.shape
            h_VxTxH = (t_VxK @ jnp.moveaxis(kernel_TxKxH, 0, 1).reshape(K, T * H)).reshape(V, T, H)
            if not narrow:
                h_VxTxH = h_VxTxH + of_title_VxH[:, None] + shift_TxH
            s_VxT = (self._hidden(h_VxTxH.reshape(V * T, H)) * self.out).sum(-1).reshape(V, T)
            return s_VxT.T

        s_BxV = score_in_tiles(scores, u_BxU, max(_CPU_PAIRS // V, 1))
        if self.last_bias:
            s_BxV = s_BxV + self.out_bias
        return s_BxV.astype(at_least_float32(self.dtype))


def score_in_tiles(scores: Callable[[jax.Array], jax.Array], u_BxU: jax.Array, users: int) -> jax.Array:
    """`scores` [T, V] of all users [B, U]: on a CPU so many at a time, elsewhere at once."""
    B = len(u_BxU)
    if jax.default_backend() != "cpu" or users >= B:
        return scores(u_BxU)
    u_NxTxU = jnp.pad(u_BxU, ((0, -B % users), (0, 0))).reshape(-1, users, u_BxU.shape[-1])
    s_NxTxV = jax.lax.map(scores, u_NxTxU)
    return s_NxTxV.reshape(-1, s_NxTxV.shape[-1])[:B]
