"""Values of signals for the titles of histories, as of requests: the join of histories with events.

The value of a signal for a user and a title at a request is made of their events strictly before the request,
whether a play came before them or after them. An event at the time of the request, such as the feedback on an
exposure, is not among them.

    event        log(1 + number of events)
    seconds      log(1 + sum of the seconds)
    sign         sign of the last event
    number       sign(x) log(1 + abs(x)) of the last value x
    no event     NaN

Of several events at one time the last is the one with the largest value. Sums are exact to the millisecond,
so that no value depends on other users.
"""

from collections.abc import Sequence

import numpy as np

from jaxrec.config.declarations import Signal
from jaxrec.config.rules.declared.signals import EVERY_ROW
from jaxrec.core.tables import Interactions, Signals
from jaxrec.data.events.event_log import Log
from jaxrec.data.labels.timeline import Timeline

_MOST_SECONDS = 2.0**43  # of one event; milliseconds up to 2**53 are whole numbers in float64


class PastSignals:
    """Values of signals for the plays of a log, as of any time.

    Args:
        names: Names of the signals to give the values of.
        signals: Declared signals.
        records: [M] events of users of the log, sorted by `data.signals.records.sort_events`.
        log: Log with N plays.
        row_of_rank: [V] row of the title at each popularity rank, which `records["title"]` numbers.
    """

    def __init__(
        self, names: Sequence[str], signals: Sequence[Signal], records: np.ndarray, log: Log,
        row_of_rank: np.ndarray,
    ) -> None:  # fmt: skip
        titles = np.int64(len(row_of_rank))
        pair_of_play = log.user * titles + row_of_rank[log.rank]
        kinds = {signal.name: kind for kind, signal in enumerate(signals)}
        self._values = []
        for name in names:
            events = records[records["kind"] == kinds[name]]
            pair = np.searchsorted(log.hash, events["user"]) * titles + events["title"]
            self._values.append(_PairValues(signals[kinds[name]], pair, events, pair_of_play))

    def before(self, play: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the values [Q, signals] float16 of the plays' users and titles, NaN for none.

        Args:
            play: [Q] indices of plays.
            time: [Q] times in milliseconds; events at them and after them do not count.
        """
        out = np.full((len(play), len(self._values)), np.nan, np.float16)
        for column, values in zip(out.T, self._values, strict=True):
            values.fill(column, play, time)
        return out


class _PairValues:
    """Values of one signal by user and title.

    Args:
        signal: The signal.
        pair: [M] number of the user and the title of each event, ascending.
        events: [M] events of the signal.
        pair_of_play: [N] number of the user and the title of each play.
    """

    def __init__(
        self, signal: Signal, pair: np.ndarray, events: np.ndarray, pair_of_play: np.ndarray
    ) -> None:
        self._timeline = Timeline(pair, events["time"])
        self._group = self._timeline.groups(pair_of_play).astype(np.int32)  # negative without an event
        self._kind, self._value = signal.value, events["value"].astype(np.float64)
        if signal.value == "seconds":
            milliseconds = np.rint(np.minimum(self._value, _MOST_SECONDS) * 1000).astype(np.int64)
            self._running = np.append(np.int64(0), np.cumsum(milliseconds))

    def fill(self, column: np.ndarray, play: np.ndarray, time: np.ndarray) -> None:
        """Write the values [Q] of plays with an event before the times [Q]."""
        group = self._group[play]
        at = np.flatnonzero(group >= 0)
        group = group[at].astype(np.int64)
        begin, end = self._timeline.begin(group), self._timeline.first(group, time[at])
        is_past = end > begin
        column[at[is_past]] = self._between(begin[is_past], end[is_past])

    def _between(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the values [Q] float64 of the events from `begin` to before `end`, at least one each."""
        if self._kind == "event":
            return np.log1p(end - begin)
        if self._kind == "seconds":
            return np.log1p((self._running[end] - self._running[begin]) / 1000.0)
        last = self._value[end - 1]
        return last if self._kind == "sign" else np.copysign(np.log1p(np.abs(last)), last)


def single_values(signals: Sequence[Signal], kind: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the values [M] float16 of events, each as if it were alone; 1 for an event or a text.

    Args:
        signals: Declared signals.
        kind: [M] index into `signals` of each event.
        value: [M] float32.
    """
    forms = np.array([signal.value for signal in signals], object)[kind]
    value = value.astype(np.float64)
    of_number = np.copysign(np.log1p(np.minimum(np.abs(value), _MOST_SECONDS)), value)
    out = np.where((forms == "seconds") | (forms == "number"), of_number, 1.0)
    return np.where(forms == "sign", value, out).astype(np.float16)


def events_of_plays(plays: Interactions, signals: Sequence[Signal], names: Sequence[str]) -> Signals:
    """Return the events of signals in the columns of plays, each at the time of its play.

    A play has no event where the column `context[name]` is 0 or missing. A signal whose column is "*" has an
    event in every row.

    Args:
        plays: Rows of histories.
        signals: Declared signals.
        names: Names of the signals to read.
    """
    size = len(plays.user)
    values: dict[int, np.ndarray] = {}
    for kind, signal in enumerate(signals):
        if signal.name in names and signal.column == EVERY_ROW:
            values[kind] = np.ones(size)
        elif signal.name in names and signal.name in plays.context:
            column = plays.context[signal.name].astype(np.float64)
            values[kind] = np.where(np.isnan(column), 0.0, column)
    row = np.concatenate([np.empty(0, np.int64), *(np.flatnonzero(column) for column in values.values())])
    kinds = np.concatenate(
        [np.empty(0, np.int8), *(np.full(np.count_nonzero(x), kind, np.int8) for kind, x in values.items())]
    )
    units = np.array([signal.unit for signal in signals])[kinds]
    value = np.concatenate([np.empty(0), *(column[column != 0] for column in values.values())]) * units
    is_event = np.array([signal.value == "event" for signal in signals])[kinds]
    with np.errstate(over="ignore"):  # infinite values are left out by cleaning
        value = np.where(is_event, 1.0, value).astype(np.float32)
    return Signals(plays.user[row], plays.title[row], plays.time[row], kinds, value)
