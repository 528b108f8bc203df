"""Targets of positions from the plays of the next hours: `next_item.horizon_hours`.

Multi-token targets of PinnerFormer (arXiv 2205.04507) and of Netflix's foundation model (TechBlog 2025). The
request of a position is at the time of its next play, which is the first target. The other targets are the
plays after it, whose weights fall by half every `next_item.half_life_hours`.

Axis letters: B rows, P stored plays of a row, L positions, J targets of a position.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import NextItem
from jaxrec.core.ids import PAD
from jaxrec.losses.next_item import TargetSets
from jaxrec.losses.ranking import engagement_weight


class LaterPlays(NamedTuple):
    """Next plays of every position, in the order of time; no input of a model.

    Attributes:
        title: [B, L, J] int32 ids, 0 for none.
        hours: [B, L, J] float32 hours from the first of the plays.
        completion: [B, L, J] float32, in [0, 1].
    """

    title: jax.Array
    hours: jax.Array
    completion: jax.Array


def later_plays(rows: dict[str, Any], index: jax.Array, most: int) -> LaterPlays:
    """Return the next `most` plays of positions; plays that are no targets of training are absent.

    The plays after the end of a window count, if the row holds them.

    Args:
        rows: Decoded training rows with `title`, `time` and `completion` [B, P], and `selected` where the
            layout has this field.
        index: [B, L] int32 index in its row of each position's next play, consecutive.
        most: Number of plays J.
    """
    (_, L), stored = index.shape, rows["title"].shape[1]
    index_BxN = index[:, :1] + jnp.arange(L + most - 1)

    def of_positions(x_BxP: jax.Array) -> jax.Array:
        x_BxN = jnp.take_along_axis(x_BxP, jnp.minimum(index_BxN, stored - 1), axis=1)
        return jnp.stack([x_BxN[:, j : j + L] for j in range(most)], axis=-1)

    is_target = rows["title"] != PAD
    if "selected" in rows:
        is_target &= rows["selected"] > 0
    title = of_positions(jnp.where(is_target, rows["title"], PAD))
    is_stored = (index[..., None] + jnp.arange(most)) < stored
    time = of_positions(rows["time"])
    seconds = (time - time[..., :1]).astype(
        jnp.int32
    )  # of unsigned times; the order of plays is that of time
    return LaterPlays(
        jnp.where(is_stored, title, PAD),
        jnp.maximum(seconds, 0).astype(jnp.float32) / 3600,
        of_positions(rows["completion"]).astype(jnp.float32),
    )


def target_sets(
    plays: LaterPlays, target: jax.Array, objective: NextItem, threshold: float | jax.Array
) -> tuple[TargetSets, jax.Array]:
    """Return the targets of positions with their weights, and a factor [B, L] of the loss.

    The weight of a play is reward * 2^(-hours / half_life); the reward is Eq. 13 with `personalised`, else 1.
    A title that is played several times counts once, at its first play, with the largest of the weights. The
    factor is the mean reward of the targets, weighted by 2^(-hours / half_life), so that with one target the
    loss is that of Eq. 13.

    Args:
        plays: Next plays of the positions.
        target: [B, L] int32 first targets; positions with 0 have no targets.
        objective: Settings of the horizon and of the rewards.
        threshold: Mean completion of the training targets.
    """
    is_play = (plays.title != PAD) & (plays.hours <= objective.horizon_hours) & (target != PAD)[..., None]
    title = jnp.where(is_play, plays.title, PAD)
    decay = jnp.where(is_play, jnp.exp2(-plays.hours / objective.half_life_hours), 0.0)
    weight = decay
    if objective.personalised:
        weight = decay * engagement_weight(plays.completion, objective.alpha, threshold)
    same_BxLxJxJ = (title[..., :, None] == title[..., None, :]) & is_play[..., None, :]
    weight = jnp.where(same_BxLxJxJ, weight[..., None, :], 0.0).max(-1)
    J = title.shape[-1]
    is_repeat = (same_BxLxJxJ & jnp.tri(J, k=-1, dtype=bool)).any(-1)
    is_first = is_play & ~is_repeat
    weight, decay = (jnp.where(is_first, x, 0.0) for x in (weight, decay))
    total = decay.sum(-1)
    factor = jnp.where(total > 0, weight.sum(-1) / jnp.where(total > 0, total, 1.0), 0.0)
    return TargetSets(jnp.where(is_first, title, PAD), weight), factor
