"""Examples of exposures: a row for each event of the signal "impression".

A row is a request whose only candidate is the title that was shown. Its labels are those of the exposure,
and it has no negatives. An exposure without a strictly earlier play of its user gives no row, as the first
play of a user gives no row of requests.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.examples import IMPRESSION
from jaxrec.config.schema import Data, Label
from jaxrec.core.ids import SPLITS, UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import Log, TitleStats, event_states
from jaxrec.data.examples.histories import Past, fill_features, fill_history
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.increments.selection import TargetSelection
from jaxrec.data.labels.of_targets import PartitionLabels
from jaxrec.data.labels.tables import Anchors
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.signals.records import events_of

NO_PAST = "exposures without an earlier play of the user"  # a count
_COMPLETION = Label("target_completion", "completion", hours=24)
_CHUNK = 16_384  # rows filled at once, which bounds memory


class _Exposures(NamedTuple):
    """Exposures of a partition, sorted by user, time and title.

    Attributes:
        user: [A] int64 in [0, U).
        rank: [A] int64 popularity rank of the title shown.
        time: [A] int64 milliseconds.
        split: [A] int8 index into SPLITS.
        start: [A] end of the past: the first play of the user that is not strictly earlier.
        first: [A] begin of the past: the user's first play.
    """

    user: np.ndarray
    rank: np.ndarray
    time: np.ndarray
    split: np.ndarray
    start: np.ndarray
    first: np.ndarray

    def at(self, rows: np.ndarray | slice) -> "_Exposures":
        """Return the exposures of an index."""
        return _Exposures(*(column[rows] for column in self))


def build(
    log: Log,
    catalogue: TitleStats,
    layout: Layout,
    labels: PartitionLabels,
    signals: PastSignals | None = None,
    selection: TargetSelection | None = None,
) -> Examples:
    """Build the rows of all exposures of a partition's users.

    `target_completion` is the completion of the plays that the exposure led to: those of its user and title
    within a day and before the next exposure of both, as of the label rule "completion". It is 0 without such
    a play, and for a title without a runtime. As for labels, plays that the split may not see do not count.

    Args:
        log: Log of the partition.
        catalogue: Titles in the order of rank.
        layout: Layout of the rows.
        labels: Labels of the partition, with the events of its signals.
        signals: Signals of the plays, where the layout has some.
        selection: Exposures that become rows; None: all.
    """
    data = labels.config.data
    exposures = _exposures(log, labels)
    # Exposures without a past are anchors too: they own events.
    anchors = Anchors(exposures.user, exposures.rank, exposures.time)
    completion = labels.of_anchors(anchors, exposures.split, (_COMPLETION,)).y[:, 0]
    values = labels.of_anchors(anchors, exposures.split, labels.config.labels)
    has_past = np.flatnonzero(exposures.start > exposures.first)
    out = Examples({}, {}, {}, {NO_PAST: len(anchors.time) - len(has_past)})

    rows = np.zeros(len(has_past), layout.row_dtype())
    exposures = exposures.at(has_past)
    rows["position"] = np.arange(len(rows)) - np.searchsorted(exposures.user, exposures.user)
    rows["target"][:, 0] = catalogue.id_of_rank[exposures.rank]
    rows["target_completion"][:, 0] = completion[has_past]
    if layout.labels:
        rows["label"][:, 0], rows["label_known"][:, 0] = values.y[has_past], values.known[has_past]
    _fill_past(rows, log, catalogue, layout, data, exposures, signals)
    kept, kept_user = _selected(log, catalogue, exposures, selection)
    for s, name in enumerate(SPLITS):
        selected = (exposures.split == s) & kept
        user = exposures.user[selected]
        users = (
            (log.split == s) & kept_user if data.split == "users" else np.isin(np.arange(len(log.hash)), user)
        )
        out.rows[name], out.users[name] = rows[selected], log.hash[users]
        out.rows[name]["user"] = (np.cumsum(users) - 1)[user]
        out.user_time[name] = user, exposures.time[selected]
    exact = out.rows[SPLITS[splits.TRAIN]]["target_completion"][:, 0] * 2.0**32  # exact: a power of two
    out.completion_sum, out.completions = int(np.rint(exact).astype(np.int64).sum()), len(exact)
    return out


def _selected(
    log: Log, catalogue: TitleStats, exposures: _Exposures, selection: TargetSelection | None
) -> tuple[np.ndarray | bool, np.ndarray | bool]:
    """Return masks of the exposures [A] and of the users [U] that may have rows."""
    if selection is None:
        return True, True
    user, rank, time, split = exposures[:4]
    context = _context(log, _own_play(log, exposures))[0]
    kept = selection.targets(log, user, time, split, catalogue.hash[rank], context)
    return kept, selection.users(log)


def _exposures(log: Log, labels: PartitionLabels) -> _Exposures:
    """Return the events of the signal of exposures, in the order of rows.

    Titles that are not in the catalogue yet are left out.
    """
    config = labels.config
    records = events_of(labels.signals, config.signals, IMPRESSION)
    records = records[labels.inputs.rank_of_row[records["title"]] >= 0]
    user, time = np.searchsorted(log.hash, records["user"]), records["time"]
    split = splits.target_splits(config.data, log.split, log.hash, user, time, least=1)
    plays = Timeline(log.user, log.time)
    group = plays.groups(user)
    rank = labels.inputs.rank_of_row[records["title"]]
    return _Exposures(user, rank, time, split, plays.first(group, time), plays.begin(group))


def _fill_past(
    rows: np.ndarray, log: Log, catalogue: TitleStats, layout: Layout, data: Data, exposures: _Exposures,
    signals: PastSignals | None,
) -> None:  # fmt: skip
    """Fill histories and features.

    The context of an exposure is that of the play of the same user, title and time: both are one row of the
    log. It is unknown where cleaning left that play out.
    """
    states, play = event_states(log, catalogue.runtime), _own_play(log, exposures)
    for i in range(0, len(rows), _CHUNK):
        chunk = rows[i : i + _CHUNK]
        user, _, time, _, start, first = exposures.at(slice(i, i + _CHUNK))
        fill_history(
            chunk, log, states, catalogue.id_of_rank, Past(start, first, time), layout.max_history,
            data.abandon_threshold, signals,
        )  # fmt: skip
        context = _context(log, play[i : i + _CHUNK])
        fill_features(chunk, (log.user_categories[user], log.user_numbers[user]), context)


def _context(log: Log, play: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return categories and numbers [A, columns] of the context of plays; unknown where there is none, -1."""
    is_known = (play >= 0)[:, None]
    return (
        np.where(is_known, log.context_categories[play], UNKNOWN),
        np.where(is_known, log.context_numbers[play], 0),
    )


def _own_play(log: Log, exposures: _Exposures) -> np.ndarray:
    """Return the play [A] of the user and the title at the time of each exposure; -1 for none."""
    titles = max(int(log.rank.max(initial=0)), int(exposures.rank.max(initial=0))) + 1
    order = np.lexsort((log.time, log.rank, log.user))
    plays = Timeline((log.user * titles + log.rank)[order], log.time[order])
    group = plays.groups(exposures.user * titles + exposures.rank)
    at, after = (plays.first(group, time) for time in (exposures.time, exposures.time + 1))
    return np.where(after > at, np.append(order, -1)[at], -1)
