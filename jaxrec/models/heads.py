"""Task heads (3.3.1): MLPs on user vectors, title vectors and product features.

Symbols: u the user vector, t the title vector, x(u, t) the product features.

The first layer is W_u u + W_t t + W_x x(u, t), equal to a dense layer of the concatenation. W_u u is computed
once per user. W_t t is computed once per title or once per candidate, whichever is fewer rows. This requires
that t is not random, so no dropout applies to t. To score all titles for a user, the first layer becomes a
matrix of this user that multiplies all title vectors (`MlpHead.every`).

A model may also have a retrieval head, which is a dot product.

Axis letters: B users, C candidates, V titles, U width of the user vector, F width of a title vector,
X product features, H hidden units, T users of a tile, R width of the retrieval vectors.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.declarations import Blend
from jaxrec.config.heads import Page
from jaxrec.models.layers.dense import Parameters, at_least_float32, broadcast, kernel_init, small_init
from jaxrec.models.layers.title_encoder import TitleLookup

# Pairs of a user and a title in a tile on a CPU, whose caches bound the size of a tile. For a thousand
# titles, tiles of two and of eight users are about equally fast, and tiles of one and of sixteen users are
# slower. For five thousand titles, tiles of one user are the fastest. Splitting the titles is slower.
_CPU_PAIRS = 2**13


def per_candidate(u: jax.Array) -> jax.Array:
    """Insert a candidate axis: [B, D] to [B, 1, D]; [B, C, D] is unchanged."""
    return u[:, None] if u.ndim == 2 else u


def dot_score(u: jax.Array, titles: TitleLookup, name: str, kernel: jax.Array) -> jax.Array:
    """Dot product of user vectors and projected titles, [B, C].

    The dot product is the published score of SASRec and GRU4Rec.

    Args:
        u: User vectors [B, D] or [B, C, D].
        titles: Candidates [B, C].
        name: Name of the kernel in cached projections.
        kernel: [F, D], the projection of titles in the input of the experts.
    """
    chex.assert_rank(u, {2, 3}, custom_message="u [B, D] or [B, C, D]")
    return jnp.einsum("bcd,bcd->bc", *jnp.broadcast_arrays(per_candidate(u), titles.through(name, kernel)))


class OutputMaps(Parameters):
    """Square matrices [D, D] that map the vectors of users and of titles before their dot product.

    The identity at the initialisation. Matrices X and Y with X Y^T = 1 change no score.

    Attributes:
        width: Width D of the vectors.
    """

    width: int

    def setup(self):
        """Create the parameters."""
        self.of_user = self.weight("user", _identity, self.width, self.width)
        self.of_title = self.weight("title", _identity, self.width, self.width)


def _identity(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    return jnp.eye(shape[0], dtype=dtype)


class ProductFeatures(Parameters):
    """Product features x(u, t) = (P u) * (Q t), [B, C, width], shared by the heads.

    The products model interactions that the sum W_u u + W_t t cannot represent.

    Attributes:
        user: Width of the user vector.
        title: Width of a title vector.
        width: Number of product features.
    """

    user: int
    title: int
    width: int

    def setup(self):
        """Create the parameters."""
        self.of_user = self.weight("user", kernel_init, self.user, self.width)
        self.of_title = self.weight("title", kernel_init, self.title, self.width)

    def __call__(self, u: jax.Array, titles: TitleLookup) -> jax.Array:
        projected_u, t_BxCxD = per_candidate(u @ self.of_user), titles.through("product", self.of_title)
        return broadcast(projected_u, jnp.broadcast_shapes(projected_u.shape, t_BxCxD.shape)) * t_BxCxD


class RetrievalHead(Parameters):
    """Two-tower retrieval score r(u, t) = <P u, Q t>, [B, C], in at least float32.

    The towers have the same inputs as the MLP heads. The best titles are those with the largest inner product
    with P u.

    Attributes:
        user: Width of the user vector.
        title: Width of a title vector.
        width: Width R of the towers' outputs.
    """

    user: int
    title: int
    width: int

    def setup(self):
        """Create the parameters."""
        self.of_user = self.weight("user", small_init, self.user, self.width)
        self.of_title = self.weight("title", kernel_init, self.title, self.width)

    def __call__(self, u: jax.Array, titles: TitleLookup) -> jax.Array:
        s_BxC = dot_score(u @ self.of_user, titles, "retrieval", self.of_title)
        return s_BxC.astype(at_least_float32(self.dtype))

    def every(self, u_BxU: jax.Array, t_VxR: jax.Array) -> jax.Array:
        """Score all titles, [B, V].

        Args:
            u_BxU: User vectors.
            t_VxR: Projections Q t of all titles.
        """
        score_dtype = at_least_float32(self.dtype)
        return jnp.matmul(u_BxU @ self.of_user, t_VxR.T, preferred_element_type=score_dtype)


class MlpHead(Parameters):
    """MLP score of one task, [B, C], without a final activation, in at least float32.

    A call takes u, [B, D] or [B, C, D], the candidates, and x, [B, C, X], or None without product features.

    Attributes:
        task: Name of the task.
        user: Width of the user vector.
        title: Width of a title vector.
        product: Width of x; 0 without product features.
        hidden: Widths of the hidden layers.
        last_bias: False if the loss depends only on differences of scores.
    """

    task: str
    user: int
    title: int
    product: int
    hidden: tuple[int, ...]
    last_bias: bool

    def setup(self):
        """Create the parameters."""
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
        projected_u, t_BxCxD = u @ self.of_user, titles.through(self.task, self.of_title)
        projected_u = per_candidate(projected_u + broadcast(self.bias, projected_u.shape))
        h_BxCxD = broadcast(projected_u, jnp.broadcast_shapes(projected_u.shape, t_BxCxD.shape)) + t_BxCxD
        if x is not None:
            h_BxCxD = h_BxCxD + x @ self.of_product
        h_BxCxD = self._hidden(h_BxCxD)
        s_BxC = h_BxCxD @ self.out
        if self.last_bias:
            s_BxC = s_BxC + broadcast(self.out_bias, s_BxC.shape)
        return s_BxC.astype(at_least_float32(self.dtype))

    def _hidden(self, h: jax.Array) -> jax.Array:
        """Apply the layers from the first ReLU to the last."""
        h = nn.relu(h)
        for kernel, bias in self.layers:
            h = h @ kernel
            h = nn.relu(h + broadcast(bias, h.shape))
        return h

    def every(self, u_BxU: jax.Array, t_VxF: jax.Array, product: ProductFeatures | None) -> jax.Array:
        """Score all titles, [B, V]; equal to `__call__` with all titles as candidates.

        If a title vector is narrower than x, the first layer of a user is the kernel (Q * P u) W_x + W_t, and
        W_u u is the row of a constant input 1. Otherwise it is the kernel P u * W_x on Q t, and the other
        terms are added.

        Args:
            u_BxU: User vectors.
            t_VxF: Vectors of all titles.
            product: Product features of the model; None without product features.
        """
        chex.assert_shape(u_BxU, (None, self.user), custom_message="u_BxU")
        chex.assert_shape(t_VxF, (None, self.title), custom_message="t_VxF")
        # Read before the loop: a module cannot look up its parameters inside `lax.map`.
        user_kernel, title_kernel, product_kernel, bias = (
            self.of_user,
            self.of_title,
            self.of_product,
            self.bias,
        )
        p_UxX, q_FxX = user_kernel[:, :0], title_kernel[:, :0]
        if product is not None:
            p_UxX, q_FxX = product.of_user, product.of_title
        V, narrow = len(t_VxF), self.title < self.product
        if narrow:
            t_VxK = jnp.concatenate([t_VxF, jnp.ones((V, 1), t_VxF.dtype)], axis=1)
        else:
            t_VxK, projected_VxH = t_VxF @ q_FxX, t_VxF @ title_kernel

        def score_tile(u_TxU: jax.Array) -> jax.Array:
            x_TxX, shift_TxH = u_TxU @ p_UxX, u_TxU @ user_kernel + bias
            if narrow:
                kernel_TxFxH = (q_FxX * x_TxX[:, None]) @ product_kernel + title_kernel
                kernel_TxKxH = jnp.concatenate([kernel_TxFxH, shift_TxH[:, None]], axis=1)
            else:
                kernel_TxKxH = x_TxX[:, :, None] * product_kernel
            T, K, H = kernel_TxKxH.shape
            h_VxTxH = (t_VxK @ jnp.moveaxis(kernel_TxKxH, 0, 1).reshape(K, T * H)).reshape(V, T, H)
            if not narrow:
                h_VxTxH = h_VxTxH + projected_VxH[:, None] + shift_TxH
            s_VxT = (self._hidden(h_VxTxH.reshape(V * T, H)) * self.out).sum(-1).reshape(V, T)
            return s_VxT.T

        s_BxV = score_in_tiles(score_tile, u_BxU, max(_CPU_PAIRS // V, 1))
        if self.last_bias:
            s_BxV = s_BxV + self.out_bias
        return s_BxV.astype(at_least_float32(self.dtype))


def score_in_tiles(score_tile: Callable[[jax.Array], jax.Array], u_BxU: jax.Array, users: int) -> jax.Array:
    """Score all titles for users, [B, V]: in tiles on a CPU, at once on other devices.

    Args:
        score_tile: Function from user vectors [T, U] to scores [T, V].
        u_BxU: User vectors.
        users: Number of users of a tile on a CPU.
    """
    B = len(u_BxU)
    if jax.default_backend() != "cpu" or users >= B:
        return score_tile(u_BxU)
    u_NxTxU = jnp.pad(u_BxU, ((0, -B % users), (0, 0))).reshape(-1, users, u_BxU.shape[-1])
    s_NxTxV = jax.lax.map(score_tile, u_NxTxU)
    return s_NxTxV.reshape(-1, s_NxTxV.shape[-1])[:B]


def blended(
    blend: Blend, pages: Sequence[Page], logits: Sequence[str], score: Callable[[str], jax.Array],
    served_BxP: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """Return the scores of a blend: the weighted sum of its heads.

    Args:
        blend: The blend.
        pages: Requests of the blends that serve some of them.
        logits: Names of the heads whose scores are logits; their log probabilities are added.
        score: Function from the name of a head to its scores.
        served_BxP: [B, pages] bool, True where a page's blend serves the request; None: every request.
    """
    total = jnp.float32(0)
    for term in blend.terms:
        value = score(term.head)
        total = total + term.weight * (nn.log_sigmoid(value) if term.head in logits else value)
    for i, page in enumerate(pages):
        if page.blend == blend.name and served_BxP is not None:
            total = jnp.where(served_BxP[:, i, None], total, score(page.otherwise))
    return total
