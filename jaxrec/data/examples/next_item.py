"""From the sorted log of a partition's users to rows of sequences: a vectorised function, no loop over users.

A user's sequence is its targets in the order of their times. A target is what `data/examples.py` means by
one, but nothing need come before it: its completion in the end is no less than data.abandon_below, and
with data.targets="new" it is the first play of its title; without watch time every play is one. What ends
up abandoned, and how far a title was seen in the end, later sessions may have decided, those of held-out
days too.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import EventState, Log, TitleStats, event_states, ranges
from jaxrec.data.examples.ranking import Examples

LEAST = 2  # titles of a training row: one to look back on, one to predict
_CELLS = 4_000_000  # plays copied at once, which bounds memory


class _Sequences(NamedTuple):
    """The targets of all users, by user and in their order. T targets, U users."""

    user: np.ndarray  # [T] int64, ascending
    first: np.ndarray  # [U] where each user's begin
    split: np.ndarray  # [T] int8
    title: np.ndarray  # [T] int32 ids
    time: np.ndarray  # [T] uint32 seconds
    completion: np.ndarray  # [T] float32, in the end


def targets(log: Log, then: EventState, key_hash: np.ndarray, data: Data) -> np.ndarray:
    """[T] events that are targets, by user and in the order of their times (equal ones: `splits.in_order`).

    key_hash [V] is of the titles of `log.rank`.
    """
    is_target = then.total >= data.abandon_below
    if data.targets == "new":
        is_target &= then.first
    event = np.flatnonzero(is_target)
    user, time = log.user[event], log.time[event]
    return event[splits.in_order(data, log.hash, user, time, key_hash[log.rank[event]])]


def build(log: Log, catalogue: TitleStats, layout: Layout, data: Data) -> Examples:
    """All rows of a partition's users: training pieces, and a query for each held-out target which has a
    title before it. Raises nothing; users too short give no row and are counted."""
    then = event_states(log, catalogue.runtime)
    event = targets(log, then, catalogue.hash, data)
    user = log.user[event]
    found = _Sequences(
        user,
        np.searchsorted(user, np.arange(len(log.hash))),
        splits.of_targets(data, log.split, log.hash, user, log.time[event], LEAST),
        catalogue.id_of_rank[log.rank[event]],
        (log.time[event] // 1000).astype(np.uint32),
        then.total[event].astype(np.float32),
    )
    out = Examples({}, {}, {})
    _train(out, found, log, layout, data)
    for split in range(1, len(SPLITS)):
        _queries(out, found, log, layout, data, split)
    return out


def _train(out: Examples, found: _Sequences, log: Log, layout: Layout, data: Data) -> None:
    """The training pieces, each the plays before its end.

    A place looks back on `history` titles at most, so the last history + 1 plays of a piece hold `history`
    titles to predict. Piece r of a user's n titles ends at n - r * history, while two are left: then every
    title but the user's first is predicted in the last plays of one piece, and of one alone.
    """
    trained = found.split == splits.TRAIN  # of each user, the first ones
    count = np.bincount(found.user[trained], minlength=len(log.hash))
    enough = count >= LEAST
    pieces = np.where(enough, 1 if data.rows == "one" else (count - LEAST) // layout.history + 1, 0)
    user, piece = ranges(np.zeros(len(count), np.int64), pieces)
    rows = np.zeros(len(user), layout.row_dtype())
    end = found.first[user] + count[user] - piece * layout.history
    _copy_plays(rows, "", found, found.first[user], end)
    mine = log.split == splits.TRAIN if data.split == "users" else enough
    rows["user"] = _number(mine)[user]
    predicted = trained & (np.arange(len(found.user)) > found.first[found.user])
    exact = found.completion[predicted] * 2.0**32  # a power of two rounds nothing
    name = SPLITS[splits.TRAIN]
    out.rows[name], out.users[name] = rows, log.hash[mine]
    out.completion_sum = int(np.rint(exact).astype(np.int64).sum())
    out.completions = int(predicted.sum())
    out.counts["users with one training title, which gives no row"] = int((count == 1).sum())


def _queries(out: Examples, found: _Sequences, log: Log, layout: Layout, data: Data, split: int) -> None:
    """A split's queries: its targets that have a title before them, with the latest of these."""
    held = found.split == split
    before = np.arange(len(held)) > found.first[found.user]
    at = np.flatnonzero(held & before)
    user = found.user[at]
    rows = np.zeros(len(at), layout.query_dtype())
    _copy_plays(rows, "history_", found, found.first[user], at)
    if data.split == "users":
        mine = log.split == split
    else:
        mine = np.zeros(len(log.hash), bool)
        mine[user] = True
    rows["user"] = _number(mine)[user]
    rows["position"] = np.arange(len(at)) - np.searchsorted(user, user)
    rows["target"][:, 0], rows["target_time"] = found.title[at], found.time[at]
    rows["target_completion"][:, 0] = found.completion[at]
    name = SPLITS[split]
    out.rows[name], out.users[name] = rows, log.hash[mine]
    out.counts[f"{name} targets with no title before them"] = int((held & ~before).sum())


def _number(mine: np.ndarray) -> np.ndarray:
    """[U] each user's number among those of `mine`."""
    return np.cumsum(mine) - 1


def _copy_plays(rows: np.ndarray, prefix: str, found: _Sequences, first: np.ndarray, end: np.ndarray) -> None:
    """Fills the plays of rows, which are zeros, with the latest of the targets first[i] to end[i] - 1."""
    names = [n for n in ("title", "time", "completion") if f"{prefix}{n}" in (rows.dtype.names or ())]
    width = rows.dtype[f"{prefix}title"].shape[0]
    step = max(_CELLS // width, 1)
    for i in range(0, len(rows), step):
        length = np.minimum(end[i : i + step] - first[i : i + step], width)
        row, at = ranges(end[i : i + step] - length, length)
        column = width - (end[i : i + step][row] - at)
        for name in names:
            rows[f"{prefix}{name}"][i + row, column] = getattr(found, name)[at]
