"""Conversion of packed sequence rows to windows of plays, on the device.

Axis letters: B rows, L positions.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Sampling
from jaxrec.core.batch import Outcome
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout
from jaxrec.models.layers import rng
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks.inputs.later_plays import LaterPlays, later_plays
from jaxrec.tasks.inputs.tokens import of_queries, of_windows
from jaxrec.tasks.inputs.unknown_titles import mask_to_unknown
from jaxrec.tasks.ranking_inputs import decode

# Layer ids of the draws: the end of a window, the windows that stay whole, the positions that are kept, the
# windows that are the latest.
_WINDOW_DRAW, _WHOLE_DRAW, _KEPT_DRAW, _LATEST_DRAW = 0x3D0C, 0x3D0D, 0x3D0E, 0x3D0F


class TargetWindows(NamedTuple):
    """Windows, with the next title as the target of each position.

    Attributes:
        window: Plays of the input.
        target: [B, L] int32 id of the next title, 0 at padding.
        outcome: [B, L] outcomes of the targets.
        later: Plays from the targets on; None: the target alone.
    """

    window: ItemWindow
    target: jax.Array
    outcome: Outcome
    later: LaterPlays | None = None


def random_share(sampling: Sampling) -> float:
    """Return the probability that a window has a drawn end, in [0, 1]: `sampling.window`."""
    return {"latest": 0.0, "random": 1.0, "mixed": 1.0 - sampling.latest_share}[sampling.window]


def window_index(title: jax.Array, size: int, random: float, key: jax.Array) -> jax.Array:
    """Return the indices [B, size + 1] of the plays of windows, the last play being a target only.

    Args:
        title: [B, P] int32 titles of rows, right-aligned.
        size: Number of positions of a window.
        random: As for `training`.
        key: [B, 2] uint32, one key for each row.
    """
    stored = title.shape[1]
    last_B = jnp.full(len(title), stored, jnp.int32)
    if random:
        plays_B = (title != PAD).sum(1)
        spare_B = jnp.clip(plays_B - (size + 1), 0, stored - (size + 1))
        uniform_B = rng.uniform((), key, _WINDOW_DRAW)
        back_B = jnp.minimum((uniform_B * (spare_B + 1)).astype(jnp.int32), spare_B)
        if random < 1:
            back_B = jnp.where(rng.uniform((), key, _LATEST_DRAW) < random, back_B, 0)
        last_B = stored - back_B
    return last_B[:, None] - (size + 1) + jnp.arange(size + 1)


def training(
    words: Any, layout: Layout, size: int, random: float, unknown_rate: float, key: jax.Array,
    num_later: int = 0,
) -> TargetWindows:  # fmt: skip
    """Build training windows of `size` positions.

    Args:
        words: [B, words] uint32 packed rows.
        layout: Shape of the dataset's rows.
        size: Number of positions of a window.
        random: Probability that the end of a window is drawn uniformly among the ends that leave the fewest
            empty positions. The other windows hold the latest plays of their rows.
        unknown_rate: Fraction of input titles that are replaced by the unknown title.
        key: [B, 2] uint32, one key for each row.
        num_later: Number of plays of `TargetWindows.later`; 0: None.
    """
    rows = decode(words, layout.row_dtype())
    index = window_index(rows["title"], size, random, key)
    title, time, completion = (
        jnp.take_along_axis(rows[name], index, axis=1) for name in ("title", "time", "completion")
    )
    inputs, target = title[:, :-1], jnp.where(title[:, :-1] != PAD, title[:, 1:], PAD)
    if layout.selects_targets:
        target = jnp.where(jnp.take_along_axis(rows["selected"], index[:, 1:], axis=1) > 0, target, PAD)
    if unknown_rate:
        inputs = mask_to_unknown(inputs, unknown_rate, rng.fold_in(key[:, None], jnp.arange(size)))
    outcome = Outcome(
        completion[:, 1:].astype(jnp.float32), **_outcomes_of_targets(rows, index[:, 1:], title[:, :-1])
    )
    later = later_plays(rows, index[:, 1:], num_later) if num_later else None
    tokens = of_windows(rows, index) if layout.token_kinds else None
    return TargetWindows(ItemWindow(inputs, time[:, :-1], time[:, 1:], tokens), target, outcome, later)


def _outcomes_of_targets(rows: dict[str, Any], index: jax.Array, title: jax.Array) -> dict[str, Any]:
    """Return labels and kinds of the next plays or tokens of positions, those that rows have.

    Args:
        rows: Decoded training rows.
        index: [B, L] int32 next plays or tokens.
        title: [B, L] int32 titles of the positions; nothing comes after padding.
    """
    outcomes: dict[str, Any] = {}
    if "label" in rows:
        outcomes["label"] = jnp.take_along_axis(rows["label"], index[..., None], axis=1)
        outcomes["label_known"] = jnp.take_along_axis(rows["label_known"], index, axis=1)
    if "kinds" in rows:
        kinds = jnp.take_along_axis(rows["kinds"], index, axis=1)
        outcomes["kinds"] = jnp.where(title != PAD, kinds, jnp.zeros((), kinds.dtype))
    return outcomes


def masked(windows: TargetWindows, kept_B: Any) -> TargetWindows:
    """Return windows in which rows that are not `kept_B` [B] have neither targets nor next tokens."""
    kept_Bx1, outcome = jnp.asarray(kept_B)[:, None], windows.outcome
    if outcome.kinds is not None:
        outcome = outcome._replace(kinds=jnp.where(kept_Bx1, outcome.kinds, jnp.zeros((), jnp.uint32)))
    return windows._replace(target=jnp.where(kept_Bx1, windows.target, 0), outcome=outcome)


class RowWindows(NamedTuple):
    """Training windows beside the rows that they are of.

    Attributes:
        windows: Windows of L positions.
        rows: Decoded rows.
        play: [B, L + 1] plays of each window among those of its row; the last play is a target only.
    """

    windows: TargetWindows
    rows: dict[str, jax.Array]
    play: jax.Array


def row_windows(words: Any, layout: Layout, sampling: Sampling, size: int, key: jax.Array) -> RowWindows:
    """Build the training windows of `size` positions that `sampling` declares, and return their rows.

    Args:
        words: [B, words] uint32 packed rows.
        layout: Shape of the dataset's rows.
        sampling: Ends of the windows, and share of the unknown title.
        size: Number of positions of a window.
        key: [B, 2] uint32, one key for each row.
    """
    random, rows = random_share(sampling), decode(words, layout.row_dtype())
    windows = training(words, layout, size, random, sampling.id_dropout, key)
    return RowWindows(windows, rows, window_index(rows["title"], size, random, key))


def kept_positions(size: int, alpha: float) -> int:
    """Number of positions kept by stochastic length: size^(alpha / 2), rounded up.

    Args:
        size: Number of positions of a window.
        alpha: `sampling.stochastic_length`, in (1, 2).
    """
    return math.ceil(size ** (alpha / 2))


def stochastic_length(
    windows: TargetWindows, alpha: float, key: jax.Array
) -> tuple[TargetWindows, jax.Array]:
    """Subsample windows by HSTU's stochastic length (Zhai et al. 2024, Eq. 4).

    A window of n > N^(alpha / 2) titles stays whole with probability N^alpha / n^2. Otherwise a uniform
    random subset of `kept_positions(N, alpha)` positions is kept, and the gaps are closed. The target of a
    kept position is the title after that position in the whole window.

    Args:
        windows: Windows of N positions.
        alpha: Exponent of the length.
        key: [B, 2] uint32, one key for each row.

    Returns:
        Windows of N positions, right-aligned, and long [B] bool: True for a window that stays whole and has
        more titles than `kept_positions`.
    """
    size, kept = windows.target.shape[1], kept_positions(windows.target.shape[1], alpha)
    present_BxL = windows.window.title_BxL != PAD
    length_B = present_BxL.sum(1)
    whole_B = rng.uniform((), key, _WHOLE_DRAW) * length_B**2 < float(size) ** alpha
    long_B = (length_B > kept) & whole_B
    order_BxL = jnp.where(present_BxL, rng.uniform((size,), key, _KEPT_DRAW), 2.0)
    last_Bx1 = jnp.sort(order_BxL, axis=1)[:, kept - 1 : kept]
    kept_BxL = present_BxL & ((order_BxL <= last_Bx1) | long_B[:, None])
    # Indices of the kept positions in their order, right-aligned; -1 sorts to the left and marks padding.
    index_BxL = jnp.sort(jnp.where(kept_BxL, jnp.arange(size), -1), axis=1)

    def close_gaps(x: jax.Array) -> jax.Array:
        index = index_BxL.reshape(*index_BxL.shape, *[1] * (x.ndim - 2))
        moved = jnp.take_along_axis(x, jnp.maximum(index, 0), axis=1)
        return jnp.where(index >= 0, moved, jnp.zeros((), x.dtype))

    return jax.tree.map(close_gaps, windows), long_B


def queries(words: Any, layout: Layout, size: int) -> tuple[ItemWindow, dict[str, jax.Array]]:
    """Return the latest `size` plays before each target, and the decoded rows.

    Args:
        words: [B, words] uint32 packed query rows.
        layout: Shape of the dataset's rows.
        size: Number of positions of a window.
    """
    rows = decode(words, layout.query_dtype())
    title, time = rows["history_title"][:, -size:], rows["history_time"][:, -size:]
    until = jnp.concatenate([time[:, 1:], rows["target_time"][:, None]], axis=1)
    tokens = of_queries(rows, size) if layout.token_kinds else None
    return ItemWindow(title, time, until, tokens), rows
