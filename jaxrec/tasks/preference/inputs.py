"""Windows of sequence rows with the rewards of their positions, on the device.

Axis letters: B rows, L positions of a window, P stored plays.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.heads import REWARD, head_values, labels_read
from jaxrec.config.rules.post import PAIRS, SHOWN
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout
from jaxrec.tasks import next_item_inputs


class RowRewards(NamedTuple):
    """Rewards of the plays of rows.

    Attributes:
        reward: [B, P] rewards, at least float32; 0 where unknown.
        known: [B, P] bool, False at padding.
    """

    reward: jax.Array
    known: jax.Array


class RewardWindows(NamedTuple):
    """Windows with the rewards of their targets, and what the row holds before them.

    Attributes:
        windows: Windows, with the next title as the target of each position.
        user: [B] uint32 number of the user in the split.
        reward: [B, L] reward of the target, 0 where unknown.
        known: [B, L] bool, True where there is a target and its reward is known.
        earlier_sum: [B, L] sum of the known rewards of the plays before the target.
        earlier_count: [B, L] number of these rewards.
        played: [B, L, P] int32 stored titles that were played before the target, 0 for none.
        play: [B, L] int32 index of the target among the stored plays.
        winner: [B, L] int32 title that is preferred at the position, 0 for none; None without pairs.
        loser: [B, L] int32 title that the winner is preferred to; None without pairs.
        shown: [B, L, n] int32 titles that were shown with the target and could have been chosen, 0 for none;
            None but for the objective "wbc".
    """

    windows: next_item_inputs.TargetWindows
    user: jax.Array
    reward: jax.Array
    known: jax.Array
    earlier_sum: jax.Array
    earlier_count: jax.Array
    played: jax.Array
    play: jax.Array
    winner: jax.Array | None = None
    loser: jax.Array | None = None
    shown: jax.Array | None = None


def check_labels(
    field: str, reward: str, config: Config, layout: Layout, shares: Mapping[str, float]
) -> None:
    """Raise InputError if rows lack a label of a reward, or know it nowhere.

    Args:
        field: Config field that names the reward.
        reward: Name of the reward; empty: none.
        config: Config of the run.
        layout: Shape of the dataset's rows.
        shares: Label -> share of the training targets at which it is known.
    """
    for label in labels_read(REWARD + reward, config) if reward else ():
        where = f"{field}={reward!r} reads label {label.name!r}"
        if label.name not in layout.labels:
            stored = ", ".join(layout.labels) or "no label"
            raise InputError(f"{where}, but the dataset's rows store {stored}")
        if not shares.get(label.name, 1.0):
            raise InputError(f"{where}, which is known at none of the training targets")


def check_pairs(config: Config, layout: Layout) -> None:
    """Raise InputError if the objective learns from pairs and rows have none."""
    if config.post.objective in PAIRS and not layout.pairs:
        raise InputError(
            f"post.objective={config.post.objective!r} learns from pairs, but the dataset's rows have none; "
            "allowed: a dataset that python -m jaxrec.pairs wrote"
        )


def check_shown(config: Config, layout: Layout) -> None:
    """Raise InputError if the objective learns from what was shown and rows hold nothing of it."""
    if config.post.objective == SHOWN and not layout.shown:
        raise InputError(
            f"post.objective={SHOWN!r} learns from what was shown, but the dataset's rows hold no such "
            "titles; allowed: a dataset of data.served above 0"
        )


def row_rewards(rows: dict[str, jax.Array], config: Config, layout: Layout, reward: str) -> RowRewards:
    """Return the rewards of a declared name of decoded rows; none is known with an empty name."""
    present_BxP = rows["title"] != PAD
    if not reward:
        return RowRewards(jnp.zeros(present_BxP.shape, jnp.float32), jnp.zeros_like(present_BxP))
    values, known = head_values(
        REWARD + reward, rows["label"], rows["label_known"], config, layout.labels, jnp
    )
    known &= present_BxP
    return RowRewards(jnp.where(known, values, 0.0), known)


def training(words: Any, layout: Layout, config: Config, size: int, key: jax.Array) -> RewardWindows:
    """Build training windows of `size` positions with the rewards of their targets.

    A reward is known once the play is over, so the rewards before a target are those of earlier plays. Some
    may be given after the target was chosen: they are for baselines, which need only be independent of the
    choice, and never for a policy.

    Args:
        words: [B, words] uint32 packed rows.
        layout: Shape of the dataset's rows.
        config: Config of the run.
        size: Number of positions of a window.
        key: [B, 2] uint32, one key for each row.
    """
    windows, rows, index = next_item_inputs.row_windows(words, layout, config.sampling, size, key)
    rewards = row_rewards(rows, config, layout, config.post.reward)

    def at_targets(x_BxP: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BxP, index[:, 1:], axis=1)

    def before_targets(x_BxP: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jnp.cumsum(x_BxP, axis=1), index[:, :-1], axis=1)

    has_target_BxL, more = windows.target != PAD, {}
    if layout.pairs:
        more = {n: jnp.where(has_target_BxL, at_targets(rows[f"pair_{n}"]), PAD) for n in ("winner", "loser")}
    stored = rows["title"].shape[1]
    is_before_BxLxP = jnp.arange(stored) <= index[:, :-1, None]
    played_BxLxP = jnp.where(is_before_BxLxP, rows["title"][:, None], PAD)
    if config.post.objective == SHOWN:
        shown_BxLxn = jnp.take_along_axis(rows["shown"], index[:, 1:, None], axis=1)
        was_played = (shown_BxLxn[..., None] == played_BxLxP[:, :, None]).any(-1)
        more["shown"] = jnp.where(has_target_BxL[..., None] & ~was_played, shown_BxLxn, PAD)
    return RewardWindows(
        windows,
        rows["user"],
        at_targets(rewards.reward),
        at_targets(rewards.known) & has_target_BxL,
        before_targets(rewards.reward),
        before_targets(rewards.known.astype(jnp.float32)),
        played_BxLxP,
        index[:, 1:],
        **more,
    )
