"""How the gate weighs its experts over a split: on the whole, and by what might call for one or the other.

Eq. 10 holds each user's entropy near a target, which a gate that gives everyone the same weights meets
too. The mutual information of the choice and the user, H(mean weights) - mean H, tells them apart: it is
0 where all users get the same and at most ln E.
"""

import itertools
from typing import Any

import numpy as np

from jaxrec.core.ids import PAD

COLLAPSED = 0.01  # nats of mutual information under which the gate says nothing of the user

_TITLES = (1, 2, 3, 5, 8, 13, 21)  # first of each group of history lengths
_GAPS = {"under an hour": 3600.0, "a day": 86_400.0, "a week": 7 * 86_400.0, "four weeks": 28 * 86_400.0}
_MOODS = 5  # groups of equal size


def entropy(gate: np.ndarray) -> np.ndarray:
    """H [...] in nats of weights [..., E]."""
    return -(gate * np.log(np.where(gate > 0, gate, 1.0))).sum(-1)


def gate_report(gate: np.ndarray, rows: np.ndarray, keeps_abandoned: bool) -> dict[str, Any]:
    """Of the noise-free weights [Q, E] of held-out rows: `mean` [E], `entropy`, `entropy_of_mean` and
    `information` in nats, `collapsed`, and the mean weights of groups of queries: `by_history` (titles
    shown), `by_gap` (since the last of them was played), `by_mood` (where the source knows it)."""
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
    """Mean weights and queries of each group [Q] that has any; -1 belongs to none."""
    found = {}
    for n, name in enumerate(names):
        if (of_it := group == n).any():
            found[name] = {"weights": gate[of_it].mean(0).tolist(), "queries": int(of_it.sum())}
    return found


def _by_history(titles: np.ndarray) -> tuple[np.ndarray, list[str]]:
    last = [str(n - 1) for n in _TITLES[1:]]
    spans = zip(map(str, _TITLES), last, strict=False)
    names = [a if a == b else f"{a} to {b}" for a, b in spans]
    return np.searchsorted(_TITLES, titles, side="right"), ["none", *names, f"{_TITLES[-1]} or more"]


def _by_gap(age: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """By seconds since the newest title shown was played; `age` [Q, L] holds their log1p."""
    newest = shown.shape[1] - 1 - shown[:, ::-1].argmax(1)
    seconds = np.expm1(np.take_along_axis(age, newest[:, None], 1)[:, 0].astype(np.float64))
    group = np.searchsorted(list(_GAPS.values()), seconds, side="right")
    first, *others = _GAPS
    names = [first, *(f"under {name}" for name in others), f"{others[-1]} or more"]
    return np.where(shown.any(1), group, -1), names


def _by_mood(mood: np.ndarray) -> tuple[np.ndarray, list[str]]:
    edges = np.quantile(mood, np.arange(1, _MOODS) / _MOODS)
    ends = [float(mood.min()), *edges.tolist(), float(mood.max())]
    names = [f"{a:.2f} to {b:.2f}" for a, b in itertools.pairwise(ends)]
    if len(set(names)) < _MOODS:  # one size for all
        return np.zeros(len(mood), int), [f"{ends[0]:.2f} to {ends[-1]:.2f}"]
    return np.searchsorted(edges, mood, side="right"), names
