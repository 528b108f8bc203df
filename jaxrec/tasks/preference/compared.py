"""Comparison of a policy with fixed ones: titles drawn from an older policy, log-ratios to the reference.

Positions are computed in chunks, so that probabilities of all titles are never in memory for all of them.
Axis letters: B rows, L positions, P = B L, V titles, D width, n draws, M reward models.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import NextItem, Post
from jaxrec.losses.chunks import positions_per_chunk, sum_dtype, to_chunks
from jaxrec.losses.preference import Pairs
from jaxrec.models.generative.actions import NEVER, log_pi, sample
from jaxrec.models.generative.policy import Policy
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import applied
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks.outputs import Sums


class FixedPolicy(NamedTuple):
    """Policy whose parameters a step does not change.

    Attributes:
        params: Parameters.
        projections: Vectors of all titles, from `Task.project_titles`.
        has_title: As in `Encoded`.
    """

    params: Any
    projections: Any
    has_title: jax.Array | None = None


class Encoded(NamedTuple):
    """Outputs of a policy.

    Attributes:
        state: [B, L, D] states of positions.
        title: [V, D] scored vectors of all titles.
        has_title: [V] bool, True for ids with a title; None: all from FIRST_TITLE on.
    """

    state: jax.Array
    title: jax.Array
    has_title: jax.Array | None = None

    def logits(self, ids_BxLxn: jax.Array) -> jax.Array:
        """Return s . e_a [B, L, n] of titles, at least float32."""
        wide = sum_dtype(self.state, self.title)
        return jnp.einsum("bld,blnd->bln", self.state, self.title[ids_BxLxn], preferred_element_type=wide)


class Followed(NamedTuple):
    """Log probabilities of a policy at drawn titles.

    Attributes:
        of_draws: [B, L, n] log probabilities of the titles.
        of_target: [B, L] log probability of the title that was chosen, without a gradient.
        kl: [B, L] KL to the reference in nats; 0 without one.
    """

    of_draws: jax.Array
    of_target: jax.Array
    kl: jax.Array


def encode(
    model: Policy, params: Any, window: ItemWindow, projections: Any, key: jax.Array | None = None
) -> Encoded:
    """Return the outputs of a policy at every position; without a key there is no dropout."""
    state_BxLxD = applied(Policy.__call__, model, params)(window, projections, key)
    return Encoded(state_BxLxD, applied(Policy.candidates, model, params)(projections))


def encode_fixed(model: Policy, policy: FixedPolicy, window: ItemWindow) -> Encoded:
    """Return the outputs of a fixed policy, without dropout and without a gradient."""
    encoded = encode(model, policy.params, window, policy.projections)
    return jax.lax.stop_gradient(encoded._replace(has_title=policy.has_title))


def _map_chunks(
    of_chunk: Callable, arrays: tuple[Any, ...], titles: int, wide: Any, settings: NextItem
) -> Any:  # fmt: skip
    """Return a function of chunks of positions [P, ...] for all of [B, L, ...]."""
    B, L = jax.tree.leaves(arrays)[0].shape[:2]
    size = positions_per_chunk(B * L, titles * jnp.dtype(wide).itemsize, settings.logits_budget_mib * 2**20)
    chunks = jax.tree.map(lambda x: to_chunks(x.reshape(B * L, *x.shape[2:]), size), arrays)
    out = jax.lax.map(lambda chunk: of_chunk(*chunk), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: B * L].reshape(B, L, *x.shape[2:]), out)


def draw(
    old: Encoded, played_BxLxn: jax.Array, key_Bx2: jax.Array, draws: int, settings: NextItem
) -> tuple[jax.Array, jax.Array]:
    """Draw titles [B, L, n] from a policy, and return their log probabilities by it.

    A draw is a function of the key of the row, the position and the number of the draw.

    Args:
        old: Outputs of the policy.
        played_BxLxn: int32 ids of titles that may not be drawn, 0 for none.
        key_Bx2: uint32 keys of the rows, of (seed, step, row).
        draws: Number of draws n.
        settings: Temperature, and memory of a chunk.
    """
    key_BxLx2 = rng.fold_in(key_Bx2[:, None], jnp.arange(old.state.shape[1]))

    def of_chunk(state: jax.Array, played: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = log_pi(state, old.title, played, settings.temperature, old.has_title)
        title = sample(values, key, draws)
        return title, jnp.take_along_axis(values, title, axis=1)

    arrays, wide = (old.state, played_BxLxn, key_BxLx2), sum_dtype(old.state)
    return _map_chunks(of_chunk, arrays, len(old.title), wide, settings)


def follow(
    policy: Encoded, reference: Encoded | None, played_BxLxn: jax.Array, ids: tuple[jax.Array, jax.Array],
    settings: NextItem,
) -> Followed:  # fmt: skip
    """Return the log probabilities of titles by a policy, and its exact KL to the reference.

    Args:
        policy: Outputs of the policy, which gradients reach.
        reference: Outputs of the reference. None: the KL is not computed.
        played_BxLxn: int32 ids of titles that may not be chosen, 0 for none.
        ids: Titles that were drawn [B, L, n], and the title that was chosen [B, L].
        settings: Temperature, and memory of a chunk.
    """

    @jax.checkpoint
    def of_chunk(
        state: jax.Array, title: jax.Array, played: jax.Array, target: jax.Array, *of_reference: jax.Array
    ) -> Followed:
        values = log_pi(state, policy.title, played, settings.temperature, policy.has_title)
        of_target = jax.lax.stop_gradient(jnp.take_along_axis(values, target[:, None], axis=1)[:, 0])
        kl = jnp.zeros(len(values), values.dtype)
        if reference is not None:
            fixed = log_pi(of_reference[0], reference.title, played, settings.temperature, policy.has_title)
            kl = (jnp.exp(values) * (values - fixed)).sum(-1)
        return Followed(jnp.take_along_axis(values, title, axis=1), of_target, kl)

    arrays = (policy.state, ids[0], played_BxLxn, ids[1]) + ((reference.state,) if reference else ())
    return _map_chunks(of_chunk, arrays, len(policy.title), sum_dtype(policy.state), settings)


def best(
    policy: Encoded, played_BxLxn: jax.Array, titles: int, settings: NextItem
) -> jax.Array:  # fmt: skip
    """Return the most probable titles [B, L, n] of a policy, the best first; 0 where fewer may be chosen.

    Args:
        policy: Outputs of the policy.
        played_BxLxn: int32 ids of titles that may not be chosen, 0 for none.
        titles: Number of titles n.
        settings: Temperature, and memory of a chunk.
    """

    def of_chunk(state: jax.Array, played: jax.Array) -> jax.Array:
        values = log_pi(state, policy.title, played, settings.temperature, policy.has_title)
        value, title = jax.lax.top_k(values, titles)
        return jnp.where(value > NEVER / 2, title.astype(jnp.int32), 0)

    arrays = policy.state, played_BxLxn
    return _map_chunks(of_chunk, arrays, len(policy.title), sum_dtype(policy.state), settings)


def pair_metrics(pairs: Pairs, log_winner: jax.Array, log_loser: jax.Array) -> Sums:
    """Return sums and counts over pairs; both log probabilities may fall, though their difference grows."""
    count = pairs.present.sum()
    return {
        "pairs_in_order": ((pairs.present & (pairs.margin > 0)).sum(), count),
        "margin": (jnp.where(pairs.present, pairs.margin, 0.0).sum(), count),
        "log_pi_winner": (jnp.where(pairs.present, log_winner, 0.0).sum(), count),
        "log_pi_loser": (jnp.where(pairs.present, log_loser, 0.0).sum(), count),
    }


def predicted(rewards_Mx: jax.Array, post: Post) -> jax.Array:
    """Return the rewards [...] of reward models [M, ...] by `post.source`: their mean, or a lower bound."""
    mean = rewards_Mx.mean(0)
    return mean - post.pessimism * rewards_Mx.std(0) if post.source == "ensemble" else mean


def pairs(
    policy: Encoded, reference: Encoded, winner_BxL: jax.Array, loser_BxL: jax.Array, log_pi_BxL: jax.Array,
    temperature: float,
) -> Pairs:  # fmt: skip
    """Return the margins of pairs by a policy, in which the normalisers of log pi cancel.

    Args:
        policy: Outputs of the policy, which gradients reach.
        reference: Outputs of the reference.
        winner_BxL: int32 ids, 0 without a pair.
        loser_BxL: int32 ids, 0 without a pair.
        log_pi_BxL: Log probability of the chosen title.
        temperature: Divisor of the scores.
    """
    ids_BxLx2 = jnp.stack([winner_BxL, loser_BxL], axis=-1)
    ratio_BxLx2 = (policy.logits(ids_BxLx2) - reference.logits(ids_BxLx2)) / temperature
    return Pairs(ratio_BxLx2[..., 0] - ratio_BxLx2[..., 1], log_pi_BxL, winner_BxL > 0)
