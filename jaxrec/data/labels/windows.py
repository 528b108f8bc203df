"""Windows of anchors in the events of their users: the join that all rules share."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxrec.config.declarations import Label
from jaxrec.config.rules.declared.signals import PLAY as PLAYS
from jaxrec.data.labels.tables import NEVER, Anchors, Events, add_saturating, window_ms
from jaxrec.data.labels.timeline import Timeline, sums_between

_MOST_SECONDS = 2**43  # milliseconds up to 2**53 are whole numbers in float64
_T = TypeVar("_T")


class Window(NamedTuple):
    """Positions of events, from `first` [A] to before `last` [A]."""

    first: np.ndarray
    last: np.ndarray


class Observed(NamedTuple):
    """Events of a source, and what the split may see of them.

    Attributes:
        plays: Plays, sorted by (user, title, time).
        events: Events of all signals, sorted in the same way.
        signals: Names of the signals, in the order of `events.kind`.
        end: [A] int64: later events, and those at this time, are not visible to the anchor.
        titles: Number of titles V.
        abandon_threshold: Completion below which a play is abandoned.
    """

    plays: Events
    events: Events
    signals: tuple[str, ...]
    end: np.ndarray
    titles: int
    abandon_threshold: float


class EventWindows:
    """Events that rules read, and the windows of the anchors in them.

    No window reaches past `observed.end`, so that an event after it changes no label. Windows of users and
    titles are empty for anchors without a title. What several labels share is computed once.

    Attributes:
        anchors: The anchors, sorted by (user, title, time).
        observed: The events.
    """

    def __init__(self, anchors: Anchors, observed: Observed):
        self.anchors, self.observed = anchors, observed
        self._kept: dict[tuple[Any, ...], Any] = {}

    def once(self, key: tuple[Any, ...], compute: Callable[[], _T]) -> _T:
        """Return `compute()`, which is called once for each key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def events(self, signal: str) -> Events:
        """Return the events of a signal, or the plays."""
        if signal == PLAYS:
            return self.observed.plays
        kind = self.observed.signals.index(signal)
        events = self.observed.events
        return self.once(("events", signal), lambda: events.take(np.flatnonzero(events.kind == kind)))

    # ------------------------------------------------------------ windows of a user and a title

    def available_at(self, label: Label) -> np.ndarray:
        """Return the end [A] of the label's windows: request time + hours."""
        length = window_ms(label.hours)
        return self.once(("until", length), lambda: add_saturating(self.anchors.time, length))

    def owned(self, label: Label) -> Window:
        """Return the events of the label's signal in [time, time + hours) that the anchor owns.

        An event belongs to the last anchor of its user and title at or before it. The window of an anchor
        thus ends where the next anchor of the same user and title begins. Anchors of one time share events.
        """

        def window() -> Window:
            return self._pair_window(label.signal, np.minimum(self.available_at(label), self._next_anchor()))

        return self.once(("owned", label.signal, label.hours), window)

    def whole(self, label: Label) -> Window:
        """Return the events of the label's signal in [time, time + hours), also those of later anchors."""
        return self._pair_window(label.signal, self.available_at(label))

    def before(self, signal: str) -> Window:
        """Return the events of the anchor's user and title before the request."""
        group = self._groups(signal)
        timeline = self._pair_timeline(signal)
        last = timeline.first(group, np.minimum(self.anchors.time, self.observed.end))
        return Window(timeline.begin(group), last)

    def _pair_window(self, signal: str, until: np.ndarray) -> Window:
        group, timeline = self._groups(signal), self._pair_timeline(signal)

        def first_events() -> np.ndarray:
            return timeline.next(timeline.begin(group), group, self.anchors.time)

        first = self.once(("first", signal), first_events)
        return Window(first, timeline.next(first, group, np.minimum(until, self.observed.end)))

    def _pair_key(self, user: np.ndarray, title: np.ndarray) -> np.ndarray:
        return user * (self.observed.titles + 1) + (title + 1)

    def _anchor_key(self) -> np.ndarray:
        return self.once(("anchor",), lambda: self._pair_key(self.anchors.user, self.anchors.title))

    def _pair_timeline(self, signal: str) -> Timeline:
        def index() -> Timeline:
            events = self.events(signal)
            return Timeline(self._pair_key(events.user, events.title), events.time)

        return self.once(("pairs", signal), index)

    def _groups(self, signal: str) -> np.ndarray:
        def numbers() -> np.ndarray:
            group = self._pair_timeline(signal).groups(self._anchor_key())
            no_title = self.anchors.title < 0  # not the events without a title
            return np.where(no_title & (group >= 0), ~group, group) if no_title.any() else group

        return self.once(("groups", signal), numbers)

    def _next_anchor(self) -> np.ndarray:
        """Return the time [A] of the next later anchor of the same user and title; `NEVER` for none."""

        def times() -> np.ndarray:
            user, title, time = self.anchors
            same_pair = (user[1:] == user[:-1]) & (title[1:] == title[:-1])
            begins = np.flatnonzero(np.append(True, ~same_pair | (time[1:] != time[:-1])))
            later = np.full(len(begins), NEVER)
            follows = np.append(same_pair, False)[begins[1:] - 1]
            later[:-1] = np.where(follows, time[begins[1:]], NEVER)
            return np.repeat(later, np.diff(np.append(begins, len(time))))

        return self.once(("next",), times)

    def milliseconds(self, signal: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of a signal of seconds in milliseconds, and a mask of missing values.

        Returns:
            [N] int64, 0 where missing; [N] bool, True for NaN, a negative number, or one out of range.
        """

        def values() -> tuple[np.ndarray, np.ndarray]:
            value = self.events(signal).value.astype(np.float64)
            missing = ~((value >= 0) & (value < _MOST_SECONDS))
            return np.rint(np.where(missing, 0, value) * 1000).astype(np.int64), missing

        return self.once(("milliseconds", signal), values)

    def viewed(self, signal: str, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of seconds in each window, and a mask that is False where a value is missing.

        Args:
            signal: Signal whose values are seconds.
            window: Windows in its events.

        Returns:
            [A] int64 milliseconds, exact; [A] bool.
        """
        milliseconds, missing = self.milliseconds(signal)
        total = sums_between(milliseconds, *window)
        if not missing.any():
            return total, np.ones(len(total), bool)
        return total, sums_between(missing, *window) == 0

    def last_values(self, signal: str) -> np.ndarray:
        """Return the largest value [N] among the events of the same user, title and time."""
        events = self.events(signal)
        if not len(events.time):
            return events.value
        is_first = np.ones(len(events.time), bool)
        is_first[1:] = np.diff(self._pair_timeline(signal).packed) != 0
        begins = np.flatnonzero(is_first)
        return np.fmax.reduceat(events.value, begins)[np.cumsum(is_first) - 1]

    # ------------------------------------------------------------ events of a user, about any title

    def user_order(self, signal: str) -> np.ndarray:
        """Return the positions [E] that sort the events of a signal by (user, time), ties by title."""

        def positions() -> np.ndarray:
            timeline = self.user_timeline(signal)
            return np.argsort(timeline.pack(timeline.group, self.events(signal).time), stable=True)

        return self.once(("order", signal), positions)

    def user_timeline(self, signal: str) -> Timeline:
        """Return the index of the events of a signal in `user_order`."""

        def index() -> Timeline:
            events = self.events(signal)
            return Timeline(events.user, events.time, sort_times=True)

        return self.once(("users", signal), index)

    def count_of_user(self, timeline: Timeline, since: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Return the number [A] of events of the anchor's user in [since, until).

        Args:
            timeline: Index of events by user.
            since: [A] times.
            until: [A] times; later ones than the end of what the split may see are cut there.
        """
        group = timeline.groups(self.anchors.user)
        first = timeline.first(group, since)
        return timeline.next(first, group, np.minimum(until, self.observed.end)) - first

    def count_all(self, since: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Return the number [A] of plays and events of the anchor's user in [since, until)."""
        events = self.observed.events
        signals = self.once(("signals",), lambda: Timeline(events.user, events.time, sort_times=True))
        plays = self.count_of_user(self.user_timeline(PLAYS), since, until)
        return plays + self.count_of_user(signals, since, until)
