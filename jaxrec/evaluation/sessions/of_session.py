"""Evaluation with the session on, off and shuffled, by position of the request in its session.

"on" is the model as it serves. "off" empties the session, "shuffled" gives each request the session of
another user with as many events. The history ends where the session begins in all of them. "own_left_out" is
"on" without the signals about the target itself, such as its trailer a second before the request.
"""

from typing import Any, NamedTuple

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
_COMPARED = (("on", "off"), ("on", "shuffled"), ("shuffled", "off"), (OWN_LEFT_OUT, "off"))


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


class SessionValues(NamedTuple):
    """Metrics of Q queries with each session.

    Attributes:
        by_session: Session -> metric -> values [Q] of the first target on the enabled list.
        is_shuffled: [Q] bool, False for queries without another user's session of the same length.
    """

    by_session: dict[str, dict[str, np.ndarray]]
    is_shuffled: np.ndarray


def evaluate_sessions(queries: Queries, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of the enabled list with each session, by position, and their paired differences.

    Args:
        queries: Queries of a run that reads sessions.
        names: Out of SESSIONS.

    Returns:
        As `summarize`, with "target_events" as of `tails.target_events`, and "not_shuffled": the number of
        queries that "shuffled" leaves out.
    """
    values = session_values(queries, names)
    return summarize(queries.rows, values) | {
        "target_events": tails.target_events(queries.rows, queries.loaded.task.layout),
        "not_shuffled": int((~values.is_shuffled).sum()),
    }


def session_values(queries: Queries, names: tuple[str, ...]) -> SessionValues:
    """Score the queries with each session.

    Args:
        queries: Queries of a run that reads sessions.
        names: Out of SESSIONS; "own_left_out" comes with "on".
    """
    rows, scorer = queries.rows, ListScorer(queries.loaded.task, queries.table, False, 1)
    other, is_shuffled = tails.shuffled(rows)
    changed = {"on": rows, "off": tails.emptied(rows), "shuffled": other}
    changed[OWN_LEFT_OUT] = tails.without_target(rows)
    wanted = dict.fromkeys((*names, *((OWN_LEFT_OUT,) if "on" in names else ())))
    return SessionValues({name: _metrics(scorer, queries, changed[name]) for name in wanted}, is_shuffled)


def summarize(rows: np.ndarray, values: SessionValues) -> dict[str, Any]:
    """Return means by position with 95% intervals, and paired differences; users are the units.

    Args:
        rows: The Q queries.
        values: Their metrics.

    Returns:
        "sessions": name -> position -> metric -> [mean, half of the interval]; "differences": "on - off" and
        others -> the same; "queries" and "users" by position.
    """
    groups, names = positions(rows)
    everyone, by_session = np.ones(len(rows), bool), values.by_session
    out: dict[str, Any] = {"list": LIST, "sessions": {}, "differences": {}}
    for name, of in by_session.items():
        mask = values.is_shuffled if name == "shuffled" else everyone
        out["sessions"][name] = by_position(rows, groups, names, of, mask)
    for first, second in _COMPARED:
        if first in by_session and second in by_session:
            of = {m: by_session[first][m] - by_session[second][m] for m in metrics.METRICS}
            mask = values.is_shuffled if "shuffled" in (first, second) else everyone
            out["differences"][f"{first} - {second}"] = by_position(rows, groups, names, of, mask)
    means = [GroupedMeans(rows["user"], group, len(names) - 1) for group in groups]
    for key in ("queries", "users"):
        counts = [*getattr(means[0], key).tolist(), int(getattr(means[1], key)[0])]
        out[key] = dict(zip(names, counts, strict=True))
    return out


def _metrics(scorer: ListScorer, queries: Queries, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of the first target on the enabled list."""
    scores = scorer(queries.loaded.params, SelectedRows(rows)).scores
    rank = metrics.rank(scores[:, LISTS.index(LIST), 0])
    return {name: f(rank).astype(np.float64) for name, f in metrics.METRICS.items()}


def by_position(
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
