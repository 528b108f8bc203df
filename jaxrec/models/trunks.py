"""Trunks of several heads: experts on user and title that the heads mix by gates (MMoE and PLE).

- "mmoe": multi-gate mixture of experts (Ma et al., KDD 2018). Every head mixes the same E experts.
- "ple": progressive layered extraction (Tang et al., RecSys 2020). Each head mixes the E shared experts and
  one expert of its own. On a second level the experts and gates of a head read its mixture of the first
  level, and the shared experts read a mixture of all experts of the first level.

The first layer is W_u u + W_t t + W_x x(u, t), as in `models.heads`: the titles' part of all experts and
gates is one kernel, which is projected once per title. Expert e is z_e = relu(W_u^e u + W_t^e t + W_x^e x +
b_e), the gate of head k is g_k = softmax(G_u^k u + G_t^k t), and the head's mixture is h_k = sum_e g_ke z_e.
The tower of the head is an MLP on h_k.

Axis letters: B users, C candidates, V titles, U width of the user vector, F width of a title vector, X
product features, K heads, E shared experts, G width of an expert, T users of a tile.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrec.models.heads import ProductFeatures, per_candidate, score_in_tiles
from jaxrec.models.layers.dense import Parameters, at_least_float32, broadcast, kernel_init, small_init
from jaxrec.models.layers.title_encoder import TitleLookup

KINDS = ("mmoe", "ple")
TITLE_KERNEL = "trunk"  # name of the projection in `TitleProjections`
# Values of the first layer in a tile of users on a CPU: 2^13 pairs, as `heads` has them, of 128 units.
_CPU_VALUES = 2**20


class Tower(Parameters):
    """MLP score of one head on its mixture of experts, [B, C], in at least float32.

    Attributes:
        width: Width G of the mixture.
        hidden: Widths of the hidden layers.
        last_bias: False if the loss depends only on differences of scores.
    """

    width: int
    hidden: tuple[int, ...]
    last_bias: bool

    def setup(self):
        """Create the parameters."""
        widths = (self.width, *self.hidden)
        self.layers = [
            (
                self.weight(f"kernel_{i}", kernel_init, widths[i], width),
                self.weight(f"bias_{i}", nn.initializers.zeros, width),
            )
            for i, width in enumerate(self.hidden)
        ]
        self.out = self.weight("kernel_out", small_init, widths[-1])
        if self.last_bias:
            self.out_bias = self.weight("bias_out", nn.initializers.zeros)

    def __call__(self, h: jax.Array) -> jax.Array:
        chex.assert_axis_dimension(h, -1, self.width)
        for kernel, bias in self.layers:
            h = h @ kernel
            h = nn.relu(h + broadcast(bias, h.shape))
        s = h @ self.out
        if self.last_bias:
            s = s + broadcast(self.out_bias, s.shape)
        return s.astype(at_least_float32(self.dtype))


def shared_columns(kind: str, heads: int, experts: int, width: int, levels: int) -> dict[str, np.ndarray]:
    """Return for each parameter of a trunk the mask of the columns that more than one of its heads read.

    A head alone reads its gates, and its own expert on the last level. What the second level reads of the
    first is shared. Arguments are those of `Trunk`, with the number of heads, two or more.
    """
    own = heads if kind == "ple" else 0
    last = np.arange(experts + own).repeat(width) < experts
    gates = np.zeros(heads * (experts + (own > 0)), bool)
    if levels == 1:
        return {"kernel": last, "bias": last, "gate": gates}
    every = np.ones_like(last)
    gate = np.append(gates, np.ones(experts + own, bool))
    second = {"kernel_second": last, "bias_second": last, "gate_second": gates}
    return {"kernel": every, "bias": every, "gate": gate, **second}


class Trunk(Parameters):
    """Experts and gates of all heads, from user vectors and titles to the inputs [B, C, G] of the towers.

    Attributes:
        heads: Names of the heads.
        kind: One of KINDS.
        user: Width U of the user vector.
        title: Width F of a title vector.
        product: Width X of the product features; 0 without.
        experts: Number E of shared experts.
        width: Width G of an expert.
        levels: Number of levels, 1 or 2; 1 for "mmoe".
    """

    heads: tuple[str, ...]
    kind: str
    user: int
    title: int
    product: int
    experts: int
    width: int
    levels: int

    def setup(self):
        """Create the parameters."""
        if self.kind not in KINDS or self.levels not in (1, 2) or (self.kind == "mmoe" and self.levels > 1):
            raise ValueError(
                f"kind={self.kind!r}, levels={self.levels}: must be mmoe of 1 level, or ple of 1 or 2"
            )
        K, G = len(self.heads), self.width
        self.own = K if self.kind == "ple" else 0  # experts of a single head
        every = self.experts + self.own
        self.gated = self.experts + (self.own > 0)  # experts that a head mixes
        gates = K * self.gated + (every if self.levels == 2 else 0)  # the last: of the shared mixture
        kernel = self.weight("kernel", kernel_init, self.user + self.title + self.product, every * G)
        of_user, of_title, self.of_product = jnp.split(kernel, [self.user, self.user + self.title])
        gate = self.weight("gate", small_init, self.user + self.title, gates)
        self.of_user = jnp.concatenate([of_user, gate[: self.user]], axis=1)
        self.of_title = jnp.concatenate([of_title, gate[self.user :]], axis=1)
        self.bias = self.weight("bias", nn.initializers.zeros, every * G)
        if self.levels == 2:
            self.second_kernel = self.weight("kernel_second", kernel_init, G, every * G)
            self.second_bias = self.weight("bias_second", nn.initializers.zeros, every * G)
            self.second_gate = self.weight("gate_second", small_init, G, K * self.gated)

    def __call__(self, u: jax.Array, titles: TitleLookup, x: jax.Array | None) -> dict[str, jax.Array]:
        """Return the inputs [B, C, G] of the heads' towers by head.

        Args:
            u: User vectors, [B, U] or [B, C, U].
            titles: Candidates [B, C].
            x: Product features [B, C, X]; None without.
        """
        chex.assert_rank(u, {2, 3}, custom_message="u [B, D] or [B, C, D]")
        chex.assert_shape(u, (..., self.user), custom_message="u: the width of the user vector")
        t_BxCxP = titles.through(TITLE_KERNEL, self.of_title)
        return self._mixtures(per_candidate(u @ self.of_user), t_BxCxP, x)

    def _mixtures(
        self, projected_u: jax.Array, projected_t: jax.Array, x: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Return the inputs of the towers from projections that broadcast to the candidates.

        Args:
            projected_u: [..., E' G + gates] projections of user vectors.
            projected_t: [..., E' G + gates] projections of titles.
            x: Product features; None without.
        """
        shape = jnp.broadcast_shapes(projected_u.shape, projected_t.shape)
        h = broadcast(projected_u, shape) + broadcast(projected_t, shape)
        G, K, every = self.width, len(self.heads), self.experts + self.own
        z, gate = h[..., : every * G], h[..., every * G :]
        if x is not None:
            z = z + x @ self.of_product
        z = nn.relu(z + broadcast(self.bias, z.shape)).reshape(*z.shape[:-1], every, G)
        h_k = self._mix(z, gate[..., : K * self.gated])
        if self.levels == 2:
            h_k = self._second(h_k, _weighted(self._weights(gate[..., K * self.gated :]), z))
        return {head: h_k[..., k, :] for k, head in enumerate(self.heads)}

    def _weights(self, gate: jax.Array) -> jax.Array:
        """Return the softmax of logits over their last axis, computed in at least float32."""
        return nn.softmax(gate.astype(at_least_float32(self.dtype))).astype(self.dtype)

    def _mix(self, z: jax.Array, gate: jax.Array) -> jax.Array:
        """Return the mixture of each head, [..., K, G].

        Args:
            z: [..., E', G] outputs of the experts, those of the heads last.
            gate: [..., K (E + 1)], or [..., K E] without own experts, logits of the gates.
        """
        weight = self._weights(gate.reshape(*gate.shape[:-1], len(self.heads), self.gated))
        h = _weighted(weight[..., : self.experts], z[..., None, : self.experts, :])
        if self.own:
            h = h + weight[..., -1, None] * z[..., self.experts :, :]
        return h

    def _second(self, h_k: jax.Array, shared: jax.Array) -> jax.Array:
        """Return the mixtures [..., K, G] of the second level.

        Args:
            h_k: [..., K, G] mixtures of the heads.
            shared: [..., G] mixture for the shared experts.
        """
        G, K = self.width, len(self.heads)
        kernel_s, kernel_k = jnp.split(self.second_kernel, [self.experts * G], axis=1)
        z_s = (shared @ kernel_s).reshape(*shared.shape[:-1], self.experts, G)
        z_k = jnp.einsum("...kg,gkh->...kh", h_k, kernel_k.reshape(G, K, G))
        z = jnp.concatenate([z_s, z_k], axis=-2)
        z = nn.relu(z + broadcast(self.second_bias.reshape(-1, G), z.shape))
        gate = jnp.einsum("...kg,gke->...ke", h_k, self.second_gate.reshape(G, K, self.gated))
        return self._mix(z, gate.reshape(*gate.shape[:-2], K * self.gated))

    def every(
        self, head: str, tower: Tower, u_BxU: jax.Array, t_VxF: jax.Array, product: ProductFeatures | None
    ) -> jax.Array:
        """Score all titles by one head, [B, V]; equal to `__call__` with all titles as candidates.

        Args:
            head: Name of the head.
            tower: Tower of the head.
            u_BxU: User vectors.
            t_VxF: Vectors of all titles.
            product: Product features of the model; None without product features.
        """
        chex.assert_shape(u_BxU, (None, self.user), custom_message="u_BxU")
        chex.assert_shape(t_VxF, (None, self.title), custom_message="t_VxF")
        # Read before the loop: a module cannot look up its parameters inside `lax.map`.
        user_kernel, _ = self.of_user, tower.out
        kernels = None if product is None else (product.of_user, t_VxF @ product.of_title)
        t_VxP = t_VxF @ self.of_title

        def score_tile(u_TxU: jax.Array) -> jax.Array:
            x = None if kernels is None else (u_TxU @ kernels[0])[:, None] * kernels[1]
            return tower(self._mixtures((u_TxU @ user_kernel)[:, None], t_VxP[None], x)[head])

        values = len(t_VxF) * (self.experts + self.own) * self.width
        return score_in_tiles(score_tile, u_BxU, max(_CPU_VALUES // values, 1))


def _weighted(weight: jax.Array, z: jax.Array) -> jax.Array:
    """Return the sum [..., G] of experts [..., E', G] by weights [..., E']; other axes broadcast."""
    h = weight[..., 0, None] * z[..., 0, :]
    for e in range(1, z.shape[-2]):
        h = h + weight[..., e, None] * z[..., e, :]
    return h
