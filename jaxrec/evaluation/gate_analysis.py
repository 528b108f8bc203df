"""Gate report: expert weights by history length, time gap and mood.

Eq. 10 keeps the entropy of each user near a target. A gate with the same weights for every user can meet that
target too. The mutual information of expert and user, H(mean weights) - mean H, separates the two cases: the
information is 0 if all users get the same weights, and at most ln E for E experts.
"""

import itertools
from typing import Any

import numpy as np

from jaxrec.core.ids import PAD
from jaxrec.evaluation.details.groups import span_names

COLLAPSED = 0.01  # nats of mutual information; below, the gate does not depend on the user

_TITLES = (1, 2, 3, 5, 8, 13, 21)  # first of each group of history lengths
_GAPS = {"under an hour": 3600.0, "a day": 86_400.0, "a week": 7 * 86_400.0, "four weeks": 28 * 86_400.0}
_MOODS = 5  # groups of equal size


def entropy(gate: np.ndarray) -> np.ndarray:
    """Return the entropy [...] in nats of weights [..., E]."""
    return -(gate * np.log(np.where(gate > 0, gate, 1.0))).sum(-1)


def gate_report(gate: np.ndarray, rows: np.ndarray, keeps_abandoned: bool) -> dict[str, Any]:
    """Summarize the weights of the gate over the queries of a split.

    Args:
        gate: expert weights [Q, E], without noise.
        rows: the Q held-out rows.
        keeps_abandoned: True if the model reads abandoned titles of the history.

    Returns:
        A dictionary of JSON values: `mean` [E]; `entropy`, `entropy_of_mean` and `information` in nats;
        `collapsed`; and the mean weights of groups of queries: `by_history` (number of titles that the model
        reads), `by_gap` (time since the newest of these titles was played) and, if the source stores moods,
        `by_mood`.
    """
    gate = np.asarray(gate, np.float64)
    mean = gate.mean(0)
    of_each, of_mean = float(entropy(gate).mean()), float(entropy(mean))
    shown = rows["history_title"] != PAD
    if not keeps_abandoned:
        shown &= rows["history_abandoned"] == 0
    out: dict[str, Any] = {
        "mean": mean.tolist(),
        "entropy": of_each,
        "entropy_of_mean": of_mean,
        "information": of_mean - of_each,
        "collapsed": of_mean - of_each < COLLAPSED,
        "by_history": _groups(gate, *_by_history(shown.sum(1))),
        "by_gap": _groups(gate, *_by_gap(rows["history_age"], shown)),
    }
    if np.isfinite(rows["mood"]).all():
        out["by_mood"] = _groups(gate, *_by_mood(rows["mood"]))
    return out


def _groups(gate: np.ndarray, group: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return the mean weights and the number of queries of each nonempty group.

    Args:
        gate: expert weights [Q, E].
        group: group index [Q] of each query; -1 for none.
        names: the name of each group.
    """
    summaries = {}
    for n, name in enumerate(names):
        if (in_group := group == n).any():
            summaries[name] = {"weights": gate[in_group].mean(0).tolist(), "queries": int(in_group.sum())}
    return summaries


def _by_history(titles: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Group queries by number of titles [Q]; return group indices [Q] and names."""
    return np.searchsorted(_TITLES, titles, side="right"), ["none", *span_names(_TITLES)]


def _by_gap(age: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Group queries by the time since the newest title shown was played.

    Args:
        age: log1p of seconds [Q, L] since each title was played.
        shown: [Q, L] bool, True for titles that the model reads.

    Returns:
        Group indices [Q], -1 for no titles, and group names.
    """
    newest = shown.shape[1] - 1 - shown[:, ::-1].argmax(1)
    seconds = np.expm1(np.take_along_axis(age, newest[:, None], 1)[:, 0].astype(np.float64))
    group = np.searchsorted(list(_GAPS.values()), seconds, side="right")
    first, *longer = _GAPS
    names = [first, *(f"under {name}" for name in longer), f"{longer[-1]} or more"]
    return np.where(shown.any(1), group, -1), names


def _by_mood(mood: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Group queries by quantiles of mood [Q]; return group indices [Q] and names."""
    edges = np.quantile(mood, np.arange(1, _MOODS) / _MOODS)
    ends = [float(mood.min()), *edges.tolist(), float(mood.max())]
    names = [f"{a:.2f} to {b:.2f}" for a, b in itertools.pairwise(ends)]
    if len(set(names)) < _MOODS:  # moods too similar for distinct names: one group
        return np.zeros(len(mood), int), [f"{ends[0]:.2f} to {ends[-1]:.2f}"]
    return np.searchsorted(edges, mood, side="right"), names
