"""Policy over titles: a next-title model with probabilities of all titles, and heads on rewards.

A policy is log pi(a | s) = log softmax over the titles that may be chosen: no padding, no unknown title, none
that was played before. The state s of a position is the output of the next-title model there.

Axis letters: B users, L positions, V titles, D width, M reward models.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.batch import TitleTable
from jaxrec.models.layers.dense import Mlp, Parameters, at_least_float32
from jaxrec.models.next_item import ItemWindow, NextItemModel


class Heads(NamedTuple):
    """Heads of a policy.

    Attributes:
        value: A value of the state: the expected reward, or its soft form.
        title: A value of each title by itself.
        rewards: Number of reward models on the pair of state and title.
    """

    value: bool = False
    title: bool = False
    rewards: int = 0


class Facts(NamedTuple):
    """Rewards of the user before a request.

    Attributes:
        mean_BxL: Mean of the earlier rewards, shrunk to that of all users, minus that of all users.
        count_BxL: Number of the earlier rewards.
    """

    mean_BxL: jax.Array
    count_BxL: jax.Array


class TitleValues(Parameters):
    """Value of each title by itself, [V], 0 at first.

    The parameter is named as an embedding of titles, so that a start finds its rows by the titles' keys.

    Attributes:
        titles: Number of titles V.
    """

    titles: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.weight("embedding", nn.initializers.zeros, self.titles, 1)[:, 0]


class _TitleHead(Parameters):
    """Parent of `TitleValues`, which gives its parameter the path <head>/title_id/embedding."""

    titles: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return TitleValues(self.dtype, self.titles, name="title_id")()


class Policy(NextItemModel):
    """Next-title model with heads on rewards.

    The parameters of the next-title model have the names of `NextItemModel`, so that a policy starts from it.

    Attributes:
        heads: Heads beside the probabilities.
    """

    heads: Heads = Heads()

    def setup(self) -> None:
        """Create the next-title model and the heads."""
        super().setup()
        hidden = self.config.head_hidden
        if self.heads.value:
            self.value_head = Mlp(self.dtype, hidden, 1, name="value")
        if self.heads.title:
            self.title_head = _TitleHead(self.dtype, self.titles, name="title_value")
        self.reward_heads = [
            Mlp(self.dtype, hidden, 1, name=f"reward_{m}") for m in range(self.heads.rewards)
        ]

    def of_table(self, window: ItemWindow, table: TitleTable) -> jax.Array:
        """Compute the states [B, L, D] and every head from a title table, to initialise the parameters."""
        catalogue = self.catalogue(table)
        state_BxLxD = self(window, catalogue)
        zeros_BxL = jnp.zeros(window.title_BxL.shape)
        if self.heads.value:
            self.value(state_BxLxD, Facts(zeros_BxL, zeros_BxL))
        if self.heads.title:
            self.title_values()
        self.rewards(state_BxLxD, self.candidates(catalogue)[window.title_BxL])
        return state_BxLxD

    def value(self, state_BxLxD: jax.Array, facts: Facts) -> jax.Array:
        """Return the value [B, L] of states and earlier rewards, relative to that of all users.

        The value of a position reads nothing of the title that is chosen there.
        """
        columns = (facts.mean_BxL, jnp.log1p(facts.count_BxL))
        facts_BxLxF = jnp.stack(columns, axis=-1).astype(state_BxLxD.dtype)
        out_BxLx1 = self.value_head(jnp.concatenate([state_BxLxD, facts_BxLxF], axis=-1))
        return out_BxLx1[..., 0].astype(at_least_float32(out_BxLx1.dtype))

    def title_values(self) -> jax.Array:
        """Return the value [V] of each title by itself, relative to that of all titles."""
        values_V = self.title_head()
        return values_V.astype(at_least_float32(values_V.dtype))

    def rewards(self, state: jax.Array, title: jax.Array) -> jax.Array:
        """Return the rewards [M, ...] of pairs by each reward model, relative to that of all users.

        Args:
            state: [..., D] states.
            title: [..., D] scored vectors of titles.
        """
        if not self.reward_heads:
            return jnp.zeros((0, *state.shape[:-1]))
        pair = jnp.concatenate([state, title, state * title], axis=-1)
        out = jnp.stack([head(pair)[..., 0] for head in self.reward_heads])
        return out.astype(at_least_float32(out.dtype))

    def rewards_of_titles(self, state: jax.Array, title: jax.Array) -> jax.Array:
        """Return the rewards [M, ..., n] of n titles for each state, as `rewards` of the pairs.

        The first layer of an MLP of (s, e, s * e) is the sum of three, of which the first is computed once a
        state, and the second once a title where all states have the same titles.

        Args:
            state: [..., D] states.
            title: [..., n, D] scored vectors of titles, with 1 for axes along which they are the same.
        """
        if not self.config.head_hidden:
            return self.rewards(*jnp.broadcast_arrays(state[..., None, :], title))
        pair, D = state[..., None, :] * title, state.shape[-1]
        out = []
        for head in self.reward_heads:
            layers = jax.tree.map(lambda x: x.astype(state.dtype), head.variables["params"])
            first = layers["hidden_0"]
            of_state, of_title, of_pair = (first["kernel"][i * D : (i + 1) * D] for i in range(3))
            x = (state @ of_state + first["bias"])[..., None, :] + title @ of_title + pair @ of_pair
            for name in (*(f"hidden_{i}" for i in range(1, len(self.config.head_hidden))), "out"):
                x = nn.relu(x) @ layers[name]["kernel"] + layers[name]["bias"]
            out.append(x[..., 0])
        rewards = jnp.stack(out)
        return rewards.astype(at_least_float32(rewards.dtype))
