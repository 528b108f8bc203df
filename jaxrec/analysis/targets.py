"""Training targets of a dataset, in memory: titles, labels and features as of the request."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrec.core.row_format import label_is_known
from jaxrec.data.storage.arrays import split_columns
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.row_blocks import row_blocks

_COLUMNS = ("user", "title", "completion")  # fields of `Targets`
_GROUPS = ("y", "known", "filled", "features")  # dicts of `Targets`


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of requests, N in all.

    Of the next titles of a request the first is a target: the others are targets of later requests.

    Attributes:
        user: [N] index of the user in the split, ascending.
        title: [N] ids.
        completion: [N] float32; NaN where unknown.
        y: Label -> [N] float32.
        known: Label -> [N] bool.
        filled: Label -> [N] bool, True where it is a prediction.
        features: Feature of users or of the context -> [N, columns]; signal of histories -> [N, 1], the mean
            of its values over the titles of the history, in which a title without an event counts as 0.
    """

    user: np.ndarray
    title: np.ndarray
    completion: np.ndarray
    y: dict[str, np.ndarray]
    known: dict[str, np.ndarray]
    filled: dict[str, np.ndarray]
    features: dict[str, np.ndarray]


def read_targets(dataset: Dataset, most: int) -> Targets:
    """Return the training targets of the first users, whose order is that of a hash.

    Args:
        dataset: Dataset to read.
        most: Number of targets after which no further block is read; it bounds the memory.
    """
    parts: list[Targets] = []
    total = 0
    for rows in row_blocks(dataset.rows("train")):
        parts.append(_targets_of(rows, dataset))
        total += len(parts[-1].user)
        if total >= most:
            break
    user, title, completion = (np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
    groups = (_joined([getattr(part, name) for part in parts]) for name in _GROUPS)
    return Targets(user, title, completion, *groups)


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _targets_of(rows: np.ndarray, dataset: Dataset) -> Targets:
    layout = dataset.layout
    if layout.rows == "next_item":
        is_target = rows["title"] > 0
        if layout.token_kinds:
            is_target &= rows["selected"] > 0
        row, at = np.nonzero(is_target)
        title, completion = rows["title"][row, at], rows["completion"][row, at].astype(np.float32)
    else:
        row, at = np.arange(len(rows)), np.zeros(len(rows), np.int64)
        # Copies: a view would keep the whole rows in memory.
        title, completion = rows["target"][row, at], rows["target_completion"][row, at]
    if not dataset.manifest["has_completion"]:
        completion = np.full(len(title), np.nan, np.float32)
    y: dict[str, np.ndarray] = {}
    known: dict[str, np.ndarray] = {}
    filled: dict[str, np.ndarray] = {}
    for i, name in enumerate(layout.labels):
        y[name] = rows["label"][row, at, i].astype(np.float32)
        known[name] = label_is_known(rows["label_known"][row, at], i)
        predicted = rows["label_filled"][row, at] if layout.filled else np.zeros(len(row), np.uint32)
        filled[name] = label_is_known(predicted, i)
    features: dict[str, np.ndarray] = {}
    for where in ("user", "context"):
        stored = {
            kind: rows[f"{where}_{kind}"][row] if f"{where}_{kind}" in (rows.dtype.names or ()) else None
            for kind in ("categories", "numbers")
        }
        features |= split_columns(layout.of(where), stored["categories"], stored["numbers"])
    features |= _means_of_signals(rows, layout.history_signals)
    return Targets(rows["user"][row].astype(np.int64), title, completion, y, known, filled, features)


def _means_of_signals(rows: np.ndarray, signals: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean value [N, 1] of each signal over the titles of histories, as of `Targets.features`."""
    if not signals:
        return {}
    is_title = rows["history_title"] > 0
    values = np.nan_to_num(rows["history_signals"].astype(np.float32)) * is_title[..., None]
    means = values.sum(axis=1) / np.maximum(is_title.sum(axis=1), 1)[:, None]
    return {name: means[:, i : i + 1] for i, name in enumerate(signals)}
