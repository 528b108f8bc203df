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
    """Batch on the host, as transferred to the devices: packed rows and validity.

    Attributes:
        words: [B, words] uint32, packed rows.
        valid: [B] bool; False for padding at an epoch's tail.
        packing: Slots where histories share rows; None: one row per history.
        place: [B] row index in its split, -1 for padding; None: the rows are in order. Stays on the host.
    """

    words: np.ndarray
    valid: np.ndarray
    packing: Packing | None = None
    place: np.ndarray | None = None


class IndexBatch(NamedTuple):
    """Training batch on the host whose rows the devices hold: indices instead of packed rows.

    Attributes:
        rows: [local devices * B] int32, the rows of the global batch, one shard after another, once for each
            local device.
        valid: [B / processes] bool; False for padding.
        packing: As in `HostBatch`.
    """

    rows: np.ndarray
    valid: np.ndarray
    packing: Packing | None = None


class TitleTable(NamedTuple):
    """Features of all titles, indexed by id and transferred to the device once.

    Attributes:
        categories: [V, columns] int32.
        numbers: [V, columns] float32, standardised.
        rank: [V] int32 popularity rank, V for padding and unknown; None: the order of ids. Read by evaluation
            only.
    """

    categories: Any
    numbers: Any
    rank: Any = None


class History(NamedTuple):
    """Model inputs of B examples.

    A row holds the titles of one example, or of several packed examples.

    Attributes:
        title: [R, L] int32, 0 for padding.
        completion: [R, L] float32 in [0, 1].
        sessions: [R, L] float32 number of plays of the title so far.
        age: [R, L] float32 log1p(seconds since the title's last play).
        example: [R, L] int32 index of the example that owns the title; B for padding.
        newer: [R, L] int32 number of newer titles in the same example; less than L.
        shorter: {w: [R_w, w] int32} for each shorter window w: flat indices into the rows; R * L for an empty
            slot.
        user_categories: [B, columns] int32.
        user_numbers: [B, columns] float32.
        context_categories: [B, columns] int32.
        context_numbers: [B, columns] float32.
    """

    title: Any
    completion: Any
    sessions: Any
    age: Any
    example: Any
    newer: Any
    shorter: Any
    user_categories: Any
    user_numbers: Any
    context_categories: Any
    context_numbers: Any


class Batch(NamedTuple):
    """Decoded training batch.

    Attributes:
        history: Inputs of the model.
        positive: [B, K] int32, 0 where absent.
        completion: [B, K] float32 completion of each positive.
        negative: [B, N] int32.
        hard: [B, N] bool, True for a title that the user abandoned.
        valid: [B] bool, False for padding.
    """

    history: History
    positive: Any
    completion: Any
    negative: Any
    hard: Any
    valid: Any
