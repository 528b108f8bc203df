"""Properties of slices that may explain a lower quality: titles, popularity, histories, calibration."""

from typing import Any

import numpy as np

from jaxrec.core.ids import LISTS, PAD
from jaxrec.data.storage.arrays import Arrays
from jaxrec.data.storage.evaluation_arrays import SECONDS_PER_DAY, DailyPlays
from jaxrec.evaluation.details.calibration import calibration_bins
from jaxrec.evaluation.slices.slicing import Slicing

NEW_DAYS = 7  # a title is new up to this age, counted from the first day of its plays
_CHANCE_DRAWS = 20


def causes(
    slicing: Slicing, rows: np.ndarray, arrays: Arrays, is_new: np.ndarray | None, scores: np.ndarray,
    keeps_abandoned: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the properties of each slice as JSON values, one entry per slice.

    - `unseen`: share of the targets that no training user played.
    - `divergence`: Jensen-Shannon divergence, in bits, of the titles of the targets from those of all
      queries; `divergence_by_chance`: the mean of it for as many queries drawn from all.
    - `history`: mean number of titles in the history.
    - `calibration`: mean gap between the softmax of the scores of the first list and the targets.
    - `new`: share of the targets that were new; None where the dataset has no plays by day.

    Args:
        slicing: The slices.
        rows: The Q held-out rows.
        arrays: Statistics of titles.
        is_new: From `new_targets`.
        scores: [Q, lists, K, 1 + negatives] of the model; without lists there is no calibration.
        keeps_abandoned: True if the model reads abandoned titles of the history.
    """
    target, length = rows["target"][:, 0], history_lengths(rows, keeps_abandoned)
    all_titles = np.bincount(target, minlength=len(arrays.title_plays)).astype(np.float64)
    out: dict[str, list[float | None]] = {
        name: [] for name in ("unseen", "divergence", "divergence_by_chance", "history", "calibration", "new")
    }
    for i in range(len(slicing.names)):
        own = np.flatnonzero(slicing.group == i)
        out["unseen"].append(float((arrays.title_plays[target[own]] == 0).mean()))
        titles = np.bincount(target[own], minlength=len(all_titles)).astype(np.float64)
        out["divergence"].append(divergence(titles, all_titles))
        out["divergence_by_chance"].append(_divergence_by_chance(target, len(own), all_titles))
        out["history"].append(float(length[own].mean()))
        out["calibration"].append(_calibration_error(scores[own], rows[own]))
        out["new"].append(None if is_new is None else float(is_new[own].mean()))
    return out


def history_lengths(rows: np.ndarray, keeps_abandoned: bool) -> np.ndarray:
    """Return the number [Q] of titles of the history that a model reads."""
    read = rows["history_title"] != PAD
    if "history_abandoned" in (rows.dtype.names or ()) and not keeps_abandoned:
        read &= rows["history_abandoned"] == 0
    return read.sum(1)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two distributions over titles, in bits, from 0 to 1.

    Args:
        p: [V] counts.
        q: [V] counts.
    """
    p, q = (x / max(x.sum(), 1e-300) for x in (p, q))
    middle = (p + q) / 2

    def relative_entropy(x: np.ndarray) -> float:
        positive = x > 0
        return float((x[positive] * np.log2(x[positive] / middle[positive])).sum())

    return max((relative_entropy(p) + relative_entropy(q)) / 2, 0.0)


def _divergence_by_chance(target: np.ndarray, size: int, all_titles: np.ndarray) -> float:
    rng = np.random.default_rng(0)
    drawn = (rng.choice(target, size, replace=False) for _ in range(_CHANCE_DRAWS))
    return float(np.mean([divergence(np.bincount(x, minlength=len(all_titles)), all_titles) for x in drawn]))


def _calibration_error(scores: np.ndarray, rows: np.ndarray) -> float | None:
    """Return the calibration error of the softmax over the first list (K=1); None without a list."""
    if not len(rows) or scores.shape[1:2] == (0,) or f"list_{LISTS[0]}" not in (rows.dtype.names or ()):
        return None
    of_list = scores[:, 0, 0].astype(np.float64)
    probability = np.exp(of_list - of_list.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    chosen = np.zeros(of_list.shape)
    chosen[:, 0] = 1.0
    user = np.broadcast_to(rows["user"][:, None], of_list.shape)
    return calibration_bins(probability.ravel(), chosen.ravel(), user.ravel())["error"]


def new_targets(
    rows: np.ndarray, daily: DailyPlays | None, query_time: np.ndarray | None, titles: int
) -> np.ndarray | None:
    """Return whether each target [Q] had no play of other users until NEW_DAYS before the query.

    A title whose first play is on the first day of the log is not new. None without plays by day or times.

    Args:
        rows: The Q held-out rows.
        daily: Plays by day.
        query_time: [Q] seconds since 1970.
        titles: Number of title ids V.
    """
    if daily is None or query_time is None or not len(daily.day):
        return None
    never = np.iinfo(np.int32).max
    first = np.full(titles, never, np.int64)
    np.minimum.at(first, daily.title, daily.day)
    begun = first[rows["target"][:, 0]]
    age = query_time.astype(np.int64) // SECONDS_PER_DAY - begun
    return (begun > daily.day.min()) & (age <= NEW_DAYS)
