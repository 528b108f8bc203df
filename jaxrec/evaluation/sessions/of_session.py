"""Evaluation with the session on, off and shuffled, by position of the request in its session.

"on" is the model as it serves. "off" empties the session, "shuffled" gives each request the session of
another user with as many events. The history ends where the session begins in all of them. "own_left_out" is
"on" without the signals about the target itself, such as its trailer a second before the request.
"""

from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import LISTS
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation import metrics
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.details.grouped_means import GroupedMeans
from jaxrec.evaluation.details.groups import span_names
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.evaluation.sessions import tails

SESSIONS = ("on", "off", "shuffled")
OWN_LEFT_OUT = "own_left_out"
LIST = "enabled"  # candidate list of the metrics
_FIRSTS = (1, 2, 3, 4)  # first position of each group
LATER = "2 or more"


def check_session(names: tuple[str, ...], reads_session: bool) -> None:
    """Raise InputError for unknown sessions, or for a model that reads none."""
    for name in names:
        if name not in SESSIONS:
            raise InputError(f"session={name}; allowed: {', '.join(SESSIONS)}")
    if names and not reads_session:
        raise InputError(
            f"session={','.join(names)}; allowed: none, for the model reads no session (data.session, and an "
            "expert with encoder='session')"
        )


def positions(rows: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
    """Return the groups of queries by position: numbers [Q] from 0, -1 for none; and the names of all groups.

    The first grouping has a group for each position, the second one all positions from 2 on.
    """
    position = rows["session_position"].astype(np.int64)
    of_position = np.searchsorted(_FIRSTS, position, side="right") - 1
    return [of_position, np.where(position > 1, 0, -1)], [*span_names(_FIRSTS), LATER]


def evaluate_sessions(queries: Queries, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of the enabled list with each session, by position, and their paired differences.

    Users are the units of the intervals.

    Args:
        queries: Queries of a run that reads sessions.
        names: Out of SESSIONS.

    Returns:
        "sessions": name -> position -> metric -> [mean, half of the 95% interval]; "differences": "on - off"
        and others -> the same; "queries" and "users" by position; "target_events" as of
        `tails.target_events`; "not_shuffled": queries without another user's session of the length, which
        "shuffled" leaves out.
    """
    rows = queries.rows
    scorer = ListScorer(queries.loaded.task, queries.table, False, 1)
    other, is_other = tails.shuffled(rows)
    made = {
        "on": rows,
        "off": tails.emptied(rows),
        "shuffled": other,
        OWN_LEFT_OUT: tails.without_target(rows),
    }
    wanted = tuple(dict.fromkeys((*names, *((OWN_LEFT_OUT,) if "on" in names else ()))))
    values = {name: _metrics(scorer, queries, made[name]) for name in wanted}
    groups, group_names = positions(rows)
    everyone, shuffles = np.ones(len(rows), bool), is_other
    out: dict[str, Any] = {"list": LIST, "sessions": {}, "differences": {}}
    for name in wanted:
        mask = shuffles if name == "shuffled" else everyone
        out["sessions"][name] = _by_position(rows, groups, group_names, values[name], mask)
    for first, second in (("on", "off"), ("on", "shuffled"), ("shuffled", "off"), (OWN_LEFT_OUT, "off")):
        if first in values and second in values:
            difference = {m: values[first][m] - values[second][m] for m in metrics.METRICS}
            mask = shuffles if "shuffled" in (first, second) else everyone
            compared = _by_position(rows, groups, group_names, difference, mask)
            out["differences"][f"{first} - {second}"] = compared
    means = [GroupedMeans(rows["user"], group, len(group_names) - 1) for group in groups]
    for key in ("queries", "users"):
        counts = [*getattr(means[0], key).tolist(), int(getattr(means[1], key)[0])]
        out[key] = dict(zip(group_names, counts, strict=True))
    return out | {
        "target_events": tails.target_events(rows, queries.loaded.task.layout),
        "not_shuffled": int((~is_other).sum()),
    }


def _metrics(scorer: ListScorer, queries: Queries, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of the first target on the enabled list."""
    scores = scorer(queries.loaded.params, SelectedRows(rows)).scores
    rank = metrics.rank(scores[:, LISTS.index(LIST), 0])
    return {name: f(rank).astype(np.float64) for name, f in metrics.METRICS.items()}


def _by_position(
    rows: np.ndarray,
    groups: list[np.ndarray],
    names: list[str],
    values: dict[str, np.ndarray],
    mask: np.ndarray,
) -> dict[str, dict[str, list[float | None]]]:
    """Return position -> metric -> [mean, half of the interval] of queries in `mask`; None without any."""
    out: dict[str, dict[str, list[float | None]]] = {name: {} for name in names}
    for group, of_group in zip(groups, (names[:-1], names[-1:]), strict=True):
        means = GroupedMeans(rows["user"], np.where(mask, group, -1), len(of_group))
        for metric, x in values.items():
            mean, half = means.of(x)
            for i, name in enumerate(of_group):
                out[name][metric] = [None if np.isnan(v[i]) else float(v[i]) for v in (mean, half)]
    return out
