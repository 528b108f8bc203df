"""Cross network (DCN-v2; Wang et al., arXiv 2008.13535) and a residual MLP, beside the heads' first layer.

The input is x_0 = [u, t, x(u, t)]: the user vector, which holds the user's and the request's features, the
title vector and the product features. A layer is x_{l+1} = x_0 * (W_l x_l + b_l) + x_l (Eq. 1 of the paper).
The output is x(u, t) + c + K_2 relu(K_1 c + a) with c = P x_L + p. The heads read it in place of x(u, t): the
network is shared, so that its cost does not grow with the number of heads.

A rank r below D replaces W_l by V_l U_l with V_l [D, r] and U_l [r, D] (Section 3.3 of the paper): 2 r D
products of a pair in place of D^2. The exact product of the second layer does not split into parts of u and
of t, since x_1 holds products of both.

The first layer W_0 x_0 is a sum as in `models.heads`: the part of u is computed once per user, and that of t
once per title or per candidate, whichever is fewer rows.

Axis letters: B users, C candidates, V titles, U width of the user vector, F width of a title vector, X
product features, D width of x_0, H width of the output, T users of a tile.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.heads import MlpHead, ProductFeatures, per_candidate
from jaxrec.models.layers.dense import Parameters, broadcast, kernel_init, small_init
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleLookup, TitleProjections

CROSS_KERNEL = "cross"  # name of the projection in `TitleProjections`
_PAIRS = 2**13  # pairs of a user and a title in a tile: all arrays of a tile have D values for each pair


class CrossNetwork(Parameters):
    """Cross layers and a residual MLP on user, title and product features.

    Attributes:
        user: Width U of the user vector.
        title: Width F of a title vector.
        product: Width X of the product features, which is H; 0 without.
        layers: Number of cross layers, at least 1.
        out: Width H of the output.
        rank: Rank of the matrices of the layers; 0: full.
    """

    user: int
    title: int
    product: int
    layers: int
    out: int
    rank: int = 0

    def setup(self):
        """Create the parameters."""
        D, zeros = self.user + self.title + self.product, nn.initializers.zeros
        if self.rank:
            kernels = [self.weight(f"down_{i}", kernel_init, D, self.rank) for i in range(self.layers)]
            self.ups = [self.weight(f"up_{i}", kernel_init, self.rank, D) for i in range(self.layers)]
        else:
            kernels = [self.weight(f"kernel_{i}", kernel_init, D, D) for i in range(self.layers)]
        biases = [self.weight(f"bias_{i}", zeros, D) for i in range(self.layers)]
        self.of_user, of_title, self.of_product = jnp.split(kernels[0], [self.user, self.user + self.title])
        # A cached projection replaces the title's vector, so the projection holds the vector too.
        self.of_title = jnp.concatenate([jnp.eye(self.title, dtype=of_title.dtype), of_title], axis=1)
        self.first_bias, self.later = biases[0], list(zip(kernels[1:], biases[1:], strict=True))
        self.out_kernel = self.weight("kernel_out", kernel_init, D, self.out)
        self.out_bias = self.weight("bias_out", zeros, self.out)
        self.residual = (
            self.weight("kernel_hidden", kernel_init, self.out, self.out),
            self.weight("bias_hidden", zeros, self.out),
            self.weight("kernel_residual", small_init, self.out, self.out),
        )

    def __call__(self, u: jax.Array, titles: TitleLookup, x: jax.Array | None) -> jax.Array:
        """Return the features that the heads read in place of the product features, [B, C, H].

        Args:
            u: User vectors, [B, U] or [B, C, U].
            titles: Candidates [B, C].
            x: Product features [B, C, X]; None without.
        """
        projected = titles.through(CROSS_KERNEL, self.of_title)
        t_BxCxF, first_BxCxD = projected[..., : self.title], projected[..., self.title :]
        of_user = u @ self.of_user
        if not self.rank:
            of_user = of_user + broadcast(self.first_bias, of_user.shape)
        of_user = per_candidate(of_user)
        pairs = jnp.broadcast_shapes(of_user.shape[:-1], t_BxCxF.shape[:-1])
        wide = [broadcast(per_candidate(u), (*pairs, self.user)), broadcast(t_BxCxF, (*pairs, self.title))]
        linear = broadcast(of_user, (*pairs, of_user.shape[-1])) + first_BxCxD
        if x is not None:
            wide.append(x)
            linear = linear + x @ self.of_product
        if self.rank:
            linear = linear @ self.ups[0]
            linear = linear + broadcast(self.first_bias, linear.shape)
        x0_BxCxD = jnp.concatenate(wide, axis=-1)
        xl_BxCxD = x0_BxCxD * linear + x0_BxCxD
        for i, (kernel, bias) in enumerate(self.later, start=1):
            linear = xl_BxCxD @ kernel
            linear = linear @ self.ups[i] if self.rank else linear
            xl_BxCxD = x0_BxCxD * (linear + broadcast(bias, linear.shape)) + xl_BxCxD
        c_BxCxH = xl_BxCxD @ self.out_kernel
        c_BxCxH = c_BxCxH + broadcast(self.out_bias, c_BxCxH.shape)
        kernel, bias, last = self.residual
        h_BxCxH = c_BxCxH @ kernel
        c_BxCxH = c_BxCxH + nn.relu(h_BxCxH + broadcast(bias, h_BxCxH.shape)) @ last
        return c_BxCxH if x is None else x + c_BxCxH

    def every(
        self, head: MlpHead, product: ProductFeatures | None, u_BxU: jax.Array, t_VxF: jax.Array
    ) -> jax.Array:
        """Score all titles by one head, [B, V]; equal to its scores with all titles as candidates.

        Users are scored in tiles on every device: a pair of a user and a title has D values.

        Args:
            head: The head.
            product: Product features of the model; None without product features.
            u_BxU: User vectors.
            t_VxF: Vectors of all titles.
        """
        kernels = {head.task: head.of_title, CROSS_KERNEL: self.of_title}
        if product is not None:
            kernels["product"] = product.of_title
        projections = TitleProjections({name: t_VxF @ kernel for name, kernel in kernels.items()})
        V, B = len(t_VxF), len(u_BxU)
        titles, users = ProjectedLookup(projections, jnp.arange(V)[None]), max(_PAIRS // V, 1)

        def score_tile(u_TxU: jax.Array) -> jax.Array:
            x = None if product is None else product(u_TxU, titles)
            return head(u_TxU, titles, self(u_TxU, titles, x))

        if users >= B:  # a served request is one user: a padded tile would score it 2^13 / V times
            return score_tile(u_BxU)
        u_NxTxU = jnp.pad(u_BxU, ((0, -B % users), (0, 0))).reshape(-1, users, u_BxU.shape[-1])
        return jax.lax.map(score_tile, u_NxTxU).reshape(-1, V)[:B]
