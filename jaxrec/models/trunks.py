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

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrec.config.heads import HeadSpec
from jaxrec.config.schema import Model
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


def shared_masks(config: Model, heads: tuple[HeadSpec, ...], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the masks of `RankingModel.shared_parameters` for a model of these heads."""
    pairs = sum(head.on == "pair" for head in heads)
    own = {f"{part}_{head.name}" for head in heads for part in ("matcher", "tower", "state")}
    own |= {"retrieval"} | ({"product", "trunk", "cross"} if pairs < 2 else set())
    masks = {name: jax.tree.map(lambda _, at=name: at not in own, tree) for name, tree in params.items()}
    if "trunk" in masks and "trunk" not in own:
        sizes = config.trunk_experts, config.trunk_width, config.trunk_levels
        masks["trunk"] = shared_columns(config.trunk, pairs, *sizes)
    return masks


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
        width = (self.experts + self.own) * self.width
        z, gate = h[..., :width], h[..., width:]
        if x is not None:
            z = z + x @ self.of_product
        z = nn.relu(z + broadcast(self.bias, z.shape))
        experts = jnp.split(z, self.experts + self.own, axis=-1)
        of_heads = gate[..., : len(self.heads) * self.gated]
        mixtures = self._mixtures_of_heads(experts, jnp.split(of_heads, len(self.heads), axis=-1))
        if self.levels == 2:
            shared = self._mixture(gate[..., len(self.heads) * self.gated :], experts)
            mixtures = self._second(mixtures, shared)
        return dict(zip(self.heads, mixtures, strict=True))

    def _mixture(self, gate: jax.Array, experts: list[jax.Array]) -> jax.Array:
        """Return the sum [..., G] of experts by the softmax, in at least float32, of logits [..., E']."""
        weight = nn.softmax(gate.astype(at_least_float32(self.dtype))).astype(self.dtype)
        # The gradient of `split` is one concatenation; that of slices is a sum of padded arrays, each as wide
        # as all experts.
        first, *others = (w * z for w, z in zip(jnp.split(weight, len(experts), -1), experts, strict=True))
        return sum(others, first)

    def _mixtures_of_heads(self, experts: list[jax.Array], gates: list[jax.Array]) -> list[jax.Array]:
        """Return the mixture [..., G] of each head.

        Args:
            experts: Outputs [..., G], those of the shared experts first.
            gates: Logits of each head's gate.
        """
        shared, own = experts[: self.experts], experts[self.experts :]
        return [self._mixture(gate, shared + own[k : k + 1]) for k, gate in enumerate(gates)]

    def _second(self, mixtures: list[jax.Array], shared: jax.Array) -> list[jax.Array]:
        """Return the mixtures of the second level.

        Args:
            mixtures: Mixture [..., G] of each head.
            shared: Mixture [..., G] for the shared experts.
        """
        inputs = [shared] * self.experts + mixtures
        kernels = jnp.split(self.second_kernel, len(inputs), axis=1)
        biases = jnp.split(self.second_bias, len(inputs))
        experts = [
            nn.relu(z @ kernel + broadcast(bias, z.shape))
            for z, kernel, bias in zip(inputs, kernels, biases, strict=True)
        ]
        of_gates = jnp.split(self.second_gate, len(mixtures), axis=1)
        gates = [h @ kernel for h, kernel in zip(mixtures, of_gates, strict=True)]
        return self._mixtures_of_heads(experts, gates)

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
