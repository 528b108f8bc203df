"""From packed words of sequences to windows of plays, on the device."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout
from jaxrec.models.layers import rng
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks.ranking_inputs import decode, mask_to_unknown

# Layer numbers of draws: a window's end, which windows stay whole, which places are kept.
_WINDOW_DRAW, _WHOLE_DRAW, _KEPT_DRAW = 0x3D0C, 0x3D0D, 0x3D0E


class TargetWindows(NamedTuple):
    """Windows, and the title that each place has to say: the next one."""

    window: ItemWindow
    target: jax.Array  # [B, L] int32, 0 where the place is padding
    completion: jax.Array  # [B, L] float32, of the target


def training(
    words: Any, layout: Layout, size: int, random: bool, unknown_rate: float, key: jax.Array
) -> TargetWindows:  # fmt: skip
    """Windows of `size` places from rows of words [B, words]; `key` [B, 2] is each row's.

    They are the latest plays of the row or, with `random`, end anywhere so that they are as full as may
    be: each end is as likely as another. A share `unknown_rate` of what is read is shown as unknown.
    """
    rows = decode(words, layout.row_dtype())
    stored = rows["title"].shape[1]
    last_B = jnp.full(len(words), stored, jnp.int32)
    if random:
        plays_B = (rows["title"] != PAD).sum(1)
        spare_B = jnp.clip(plays_B - (size + 1), 0, stored - (size + 1))
        drawn_B = rng.uniform((), key, _WINDOW_DRAW)
        last_B = stored - jnp.minimum((drawn_B * (spare_B + 1)).astype(jnp.int32), spare_B)
    at = last_B[:, None] - (size + 1) + jnp.arange(size + 1)
    title, time, completion = (
        jnp.take_along_axis(rows[name], at, axis=1) for name in ("title", "time", "completion")
    )
    read, target = title[:, :-1], jnp.where(title[:, :-1] != PAD, title[:, 1:], PAD)
    if unknown_rate:
        read = mask_to_unknown(read, unknown_rate, rng.fold_in(key[:, None], jnp.arange(size)))
    return TargetWindows(
        ItemWindow(read, time[:, :-1], time[:, 1:]), target, completion[:, 1:].astype(jnp.float32)
    )


def kept_positions(size: int, alpha: float) -> int:
    """How many places stochastic length leaves of a long window of `size`: size^(alpha / 2), rounded up."""
    return math.ceil(size ** (alpha / 2))


def stochastic_length(aimed: TargetWindows, alpha: float, key: jax.Array) -> tuple[TargetWindows, jax.Array]:
    """HSTU's stochastic length (Zhai et al. 2024, Eq. 4) on windows of N places; `key` [B, 2] is each row's.

    A window of n > N^(alpha / 2) titles stays whole with the probability N^alpha / n^2; else so many of
    its places are kept, each set of them as likely, and the gaps are closed. A place still has to say the
    title that came after it in the whole window. Returns windows of N places, right-aligned, and which
    [B] are long: whole, and longer than what thinning leaves.
    """
    size, kept = aimed.target.shape[1], kept_positions(aimed.target.shape[1], alpha)
    there_BxL = aimed.window.title_BxL != PAD
    length_B = there_BxL.sum(1)
    whole_B = rng.uniform((), key, _WHOLE_DRAW) * length_B**2 < float(size) ** alpha
    long_B = (length_B > kept) & whole_B
    drawn_BxL = jnp.where(there_BxL, rng.uniform((size,), key, _KEPT_DRAW), 2.0)
    last_Bx1 = jnp.sort(drawn_BxL, axis=1)[:, kept - 1 : kept]
    stays_BxL = there_BxL & ((drawn_BxL <= last_Bx1) | long_B[:, None])
    # The places that stay, in their order, at the right; -1, which sorts to the left, looks nothing up.
    at_BxL = jnp.sort(jnp.where(stays_BxL, jnp.arange(size), -1), axis=1)

    def close(x: jax.Array) -> jax.Array:
        found = jnp.take_along_axis(x, jnp.maximum(at_BxL, 0), axis=1)
        return jnp.where(at_BxL >= 0, found, jnp.zeros((), x.dtype))

    return jax.tree.map(close, aimed), long_B


def queries(words: Any, layout: Layout, size: int) -> tuple[ItemWindow, dict[str, jax.Array]]:
    """The latest `size` plays before each query's target, and the decoded rows."""
    rows = decode(words, layout.query_dtype())
    title, time = rows["history_title"][:, -size:], rows["history_time"][:, -size:]
    until = jnp.concatenate([time[:, 1:], rows["target_time"][:, None]], axis=1)
    return ItemWindow(title, time, until), rows
