"""Sessions of several next titles as targets, and the filter that keeps those of a high reward.

A session begins at any play. It goes on to the next plays whose starts are no further apart than
`codes.gap_hours`, up to `codes.titles` titles. Of OneRec (arXiv 2502.18965) is the filter: sessions train
the decoder if their mean reward is in the upper half.

Axis letters: B rows, P plays, m titles of a session.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Config
from jaxrec.core.batch import HostBatch
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import next_item_inputs
from jaxrec.tasks.preference.inputs import row_rewards
from jaxrec.tasks.ranking_inputs import decode


class Sessions(NamedTuple):
    """Sessions that begin at each play.

    Attributes:
        title: [B, P, m] int32 titles of the session, 0 after its end.
        mean: [B, P] mean of the known rewards; -inf where none is known.
    """

    title: jax.Array
    mean: jax.Array


def sessions_of(
    title_BxP: jax.Array, time_BxP: jax.Array, rewards: tuple[jax.Array, jax.Array], titles: int,
    gap_seconds: float,
) -> Sessions:  # fmt: skip
    """Return the session that begins at each play.

    Args:
        title_BxP: int32 titles of plays in the order of time, 0 for none.
        time_BxP: uint32 starts of the plays in seconds.
        rewards: Rewards [B, P] of the plays, and bool [B, P], True where they are known.
        titles: Largest number of titles m; a title that comes again ends the session.
        gap_seconds: Longest time between the starts of two plays.
    """
    P, index = title_BxP.shape[1], jnp.arange(title_BxP.shape[1])
    reward_BxP, known_BxP = rewards
    goes_on = title_BxP != PAD
    total, count = jnp.zeros(title_BxP.shape, reward_BxP.dtype), jnp.zeros(title_BxP.shape, jnp.int32)
    parts: list[jax.Array] = []
    for j in range(titles):
        at = jnp.minimum(index + j, P - 1)
        title = title_BxP[:, at]
        if j:
            apart = time_BxP[:, at] - time_BxP[:, jnp.maximum(at - 1, 0)]
            is_new = jnp.stack([title != earlier for earlier in parts]).all(0)
            goes_on &= (index + j < P) & (title != PAD) & (apart <= gap_seconds) & is_new
        parts.append(jnp.where(goes_on, title, PAD))
        is_rated = goes_on & known_BxP[:, at]
        total, count = total + jnp.where(is_rated, reward_BxP[:, at], 0.0), count + is_rated
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), -jnp.inf)
    return Sessions(jnp.stack(parts, axis=-1), mean)


def middle_reward(host: HostBatch, layout: Layout, config: Config) -> jax.Array:
    """Return the median, a scalar, over all plays of the global batch, of a session's mean reward from there.

    Plays whose session has no known reward do not count. Of an even number the upper middle is taken. The
    result is the same on all devices, and -inf without `codes.reward`.
    """
    if not config.codes.reward:
        return jnp.float32(-jnp.inf)
    rows = decode(host.words, layout.row_dtype())
    title_BxP = jnp.where(jnp.asarray(host.valid)[:, None], rows["title"], PAD)
    rewards = row_rewards(rows, config, layout, config.codes.reward)
    mean = sessions_of(title_BxP, rows["time"], rewards, config.codes.titles, _gap(config)).mean
    ordered = jnp.sort(jax.lax.all_gather(mean, AXIS).reshape(-1))  # unknown means come first
    unknown = jnp.isneginf(ordered).sum()
    middle = unknown + (len(ordered) - unknown) // 2
    return ordered[jnp.minimum(middle, len(ordered) - 1)]


def after_positions(
    words: Any, layout: Layout, config: Config, size: int, key: jax.Array
) -> tuple[next_item_inputs.TargetWindows, Sessions]:  # fmt: skip
    """Return windows and the session [B, L, m] after each position, up to the end of the window.

    Args:
        words: [B, words] uint32 packed rows.
        layout: Shape of the dataset's rows.
        config: Config of the run.
        size: Number of positions of a window.
        key: [B, 2] uint32, one key for each row.
    """
    windows, rows, index = next_item_inputs.row_windows(words, layout, config.sampling, size, key)
    of_rows = row_rewards(rows, config, layout, config.codes.reward)
    rewards = (
        jnp.take_along_axis(of_rows.reward, index[:, 1:], axis=1),
        jnp.take_along_axis(of_rows.known, index[:, 1:], axis=1),
    )
    time_BxL = windows.window.until_BxL
    return windows, sessions_of(windows.target, time_BxL, rewards, config.codes.titles, _gap(config))


def _gap(config: Config) -> float:
    return config.codes.gap_hours * 3600
