"""The arrays of a batch, on the host and on a device.

Axis letters in names: B examples, R rows, L history, K next titles, N negatives, V titles.
"""

from typing import Any, NamedTuple

import numpy as np

# ---------------------------------------------------------------- what a step sees


class Packing(NamedTuple):
    """Where histories lie once several share a row. For each share of B examples:

    titles [R, W]: of each place (example * stored history + stored column) * W + titles newer than it,
      for the W places of the longest window; B * stored history * W where nothing lies.
    shorter: for each shorter window w, longest first, [R_w, w]: the place in `titles`, flat; R * W where
      nothing lies.
    """

    titles: Any
    shorter: tuple[Any, ...]


class HostBatch(NamedTuple):
    """What travels to the devices: packed rows, which of them are real, and how histories may share rows."""

    words: np.ndarray  # [B, words] uint32, rows viewed as words
    valid: np.ndarray  # [B] bool; False for padding at an epoch's tail
    packing: Packing | None = None  # None: a history a row
    place: np.ndarray | None = None  # [B] row of its split, -1 for padding, where not in order; of the host


class TitleTable(NamedTuple):
    """Features of every title by id, put on the device once."""

    categories: Any  # [V, columns] int32
    numbers: Any  # [V, columns] float32, standardised
    cumulative: Any = None  # [V] int32 plays by training users of the titles up to each id, together


class History(NamedTuple):
    """What the model may know of B requests. A row holds the titles of one request, or of several."""

    title: Any  # [R, L] int32, 0 for padding
    completion: Any  # [R, L] float32 in [0, 1]
    sessions: Any  # [R, L] float32 plays of the title so far
    age: Any  # [R, L] float32 log1p(seconds since its last play)
    example: Any  # [R, L] int32: whose title it is, below B; B for padding
    newer: Any  # [R, L] int32: titles of the same request that are newer than it; below L
    shorter: (
        Any  # {window: [R_w, window] int32} for each shorter window: places of the flat rows; R * L: none
    )
    user_categories: Any  # [B, columns] int32
    user_numbers: Any  # [B, columns] float32
    context_categories: Any  # [B, columns] int32
    context_numbers: Any  # [B, columns] float32


class Batch(NamedTuple):
    """A decoded training batch."""

    history: History
    positive: Any  # [B, K] int32, 0 where absent
    completion: Any  # [B, K] float32 completion of each positive
    negative: Any  # [B, N] int32
    hard: Any  # [B, N] bool: a title this user abandoned
    valid: Any  # [B] bool
