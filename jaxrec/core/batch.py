"""Batch arrays on the host and on a device.

Axis letters in names: B examples, R packed rows, L history, K next titles, N negatives, V titles.
"""

from typing import Any, NamedTuple

import numpy as np

# ---------------------------------------------------------------- inputs of a training or evaluation step


class Packing(NamedTuple):
    """Slots of a per-device batch of B examples whose histories share rows.

    titles [R, W]: for each slot of the longest window W, the source
      (example * stored history + stored column) * W + number of newer titles in the example's history;
      B * stored history * W in an empty slot.
    shorter: for each shorter window w, longest first, [R_w, w] flat indices into the slots of `titles`;
      R * W in an empty slot.
    """

    titles: Any
    shorter: tuple[Any, ...]


class HostBatch(NamedTuple):
    """Batch on the host, as transferred to the devices: packed rows and validity."""

    words: np.ndarray  # [B, words] uint32, rows viewed as words
    valid: np.ndarray  # [B] bool; False for padding at an epoch's tail
    packing: Packing | None = None  # slots where histories share rows; None: one row per history
    place: np.ndarray | None = None  # [B] row index in its split, -1 for padding; None: in order; host only


class TitleTable(NamedTuple):
    """Features of all titles, indexed by id and transferred to the device once."""

    categories: Any  # [V, columns] int32
    numbers: Any  # [V, columns] float32, standardised
    # [V] int32 popularity rank, V for padding and unknown; None: the order of ids. Read by evaluation only.
    rank: Any = None


class History(NamedTuple):
    """Model inputs of B examples.

    A row holds the titles of one example, or of several packed examples.
    """

    title: Any  # [R, L] int32, 0 for padding
    completion: Any  # [R, L] float32 in [0, 1]
    sessions: Any  # [R, L] float32 plays of the title so far
    age: Any  # [R, L] float32 log1p(seconds since the title's last play)
    example: Any  # [R, L] int32 index of the example that owns the title; B for padding
    newer: Any  # [R, L] int32 number of newer titles in the same example; less than L
    shorter: Any  # {w: [R_w, w] int32} per shorter window w: flat indices into the rows; R * L: empty
    user_categories: Any  # [B, columns] int32
    user_numbers: Any  # [B, columns] float32
    context_categories: Any  # [B, columns] int32
    context_numbers: Any  # [B, columns] float32


class Batch(NamedTuple):
    """Decoded training batch."""

    history: History
    positive: Any  # [B, K] int32, 0 where absent
    completion: Any  # [B, K] float32 completion of each positive
    negative: Any  # [B, N] int32
    hard: Any  # [B, N] bool: True for a title that the user abandoned
    valid: Any  # [B] bool
