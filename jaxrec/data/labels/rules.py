"""Built-in rules of labels.

A rule is a function `(anchors, events, titles, label) -> (y, known, available_at)`:

- anchors: `Anchors`, sorted by (user, title, time): all those of some users. A rule is called several times.
- events: `EventWindows`, the windows of the anchors in plays and signals.
- titles: `LabelTitles`.
- label: `config.Label`.
- y [A]: value of the label from the events that are visible.
- known [A]: bool, False where the rule is undefined.
- available_at [A]: int64 time at which the label is final, in milliseconds.

A positive label is not final earlier than a negative one: both are at the end of the window. Otherwise the
last hours of a log would hold known labels of one kind only.
"""

import numpy as np

from jaxrec.config.declarations import Label
from jaxrec.config.rules.declared.signals import PLAY as PLAYS
from jaxrec.data.events.cleaning import completion as completion_of
from jaxrec.data.labels.tables import Anchors, LabelTitles, add_saturating, window_ms
from jaxrec.data.labels.timeline import sums_between
from jaxrec.data.labels.windows import EventWindows, Window

Values = tuple[np.ndarray, np.ndarray, np.ndarray]  # y, known, available_at
FINISHED = 0.9  # completion of a play from which on `continues` takes the title as finished


def happened(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where the anchor owns an event in its window, otherwise 0."""
    window = events.owned(label)
    return window.last > window.first, anchors.title >= 0, events.available_at(label)


def count(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return the number of events that the anchor owns in its window."""
    window = events.owned(label)
    return window.last - window.first, anchors.title >= 0, events.available_at(label)


def seconds(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return the sum of the seconds that the anchor owns, 0 without events.

    It is undefined where a value is missing.
    """
    milliseconds, is_complete = events.viewed(label.signal, events.owned(label))
    return milliseconds / 1000, is_complete & (anchors.title >= 0), events.available_at(label)


def last(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return the value of the last event that the anchor owns; undefined without events.

    Of several events at that time it is the largest value.
    """
    window = events.owned(label)
    has_event = window.last > window.first
    values = events.last_values(label.signal)
    y = np.zeros(len(has_event), np.float64)
    y[has_event] = values[window.last[has_event] - 1]
    known = has_event.copy()
    known[has_event] = np.isfinite(y[has_event])
    return y, known, events.available_at(label)


def positive(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where `last` is above 0, such as a thumb up, otherwise 0; undefined without events."""
    y, known, available_at = last(anchors, events, titles, label)
    return y > 0, known, available_at


def completion(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return the completion (Eq. 1) of the seconds that the anchor owns, in [0, 1].

    It is undefined for a title without a runtime, and where a watch time is missing.
    """
    share, known = _completion(anchors, events, titles, label, events.owned(label))
    return share, known, events.available_at(label)


def at_least(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where `completion` is at least `label.at`, otherwise 0; undefined where it is."""
    share, known = _completion(anchors, events, titles, label, events.owned(label))
    return share >= label.at, known, events.available_at(label)


def quick(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where user and title reach the completion `label.at` within the hours, otherwise 0.

    Unlike `at_least` it counts all events of the window, also those that a later anchor owns: the completion
    is one of the user and the title, and not of one request.
    """
    share, known = _completion(anchors, events, titles, label, events.whole(label))
    return share >= label.at, known, events.available_at(label)


def continues(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 for a title that the user began and did not finish before the request, otherwise 0.

    There is a play before the request, and each of them has a completion below `FINISHED`. The label is final
    at the request. Anchors own nothing here, for the events are those before them.
    """
    window = events.before(PLAYS)
    has_play = window.last > window.first
    finished = sums_between(_of_plays(events, titles) >= FINISHED, *window)
    _, is_complete = events.viewed(PLAYS, window)
    known = is_complete & _has_runtime(anchors, titles)
    return has_play & (finished == 0), known, anchors.time


def returned(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where the user has an event in the second half of the window, of any title, otherwise 0.

    The event is one of the user: all anchors before it count it.
    """
    half = add_saturating(anchors.time, window_ms(label.hours) // 2)
    until = events.available_at(label)
    number = events.count_of_user(events.user_timeline(label.signal), half, until)
    return number > 0, np.ones(len(number), bool), until


def switched_off(anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label) -> Values:
    """Return 1 where no event of the user follows an abandoned play within the window, otherwise 0.

    The play is the first that the anchor owns. Any later event counts, also of another title or a signal;
    those at the time of the play do not. The label is undefined without a play, or one not abandoned.
    """
    window = events.owned(label)
    rows = np.flatnonzero(window.last > window.first)
    play = window.first[rows]
    is_abandoned = np.zeros(len(anchors.time), bool)
    is_abandoned[rows] = _of_plays(events, titles)[play] < events.observed.abandon_threshold  # False for NaN
    since = anchors.time.copy()
    since[rows] = add_saturating(events.observed.plays.time[play], 1)
    until = events.available_at(label)
    number = events.count_all(since, until)
    return number == 0, is_abandoned, until


# ---------------------------------------------------------------- completion


def _has_runtime(anchors: Anchors, titles: LabelTitles) -> np.ndarray:
    return (anchors.title >= 0) & _valid_runtime(titles)[anchors.title]


def _valid_runtime(titles: LabelTitles) -> np.ndarray:
    """Return a mask [V + 1] of titles whose runtime is at least a millisecond; False at the end, for -1."""
    return np.append(np.rint(60_000.0 * titles.runtime) > 0, False)


def _completion(
    anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label, window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """Return the completion of the seconds in windows, and a mask of the anchors that have one."""
    milliseconds, is_complete = events.viewed(label.signal, window)
    known = is_complete & _has_runtime(anchors, titles)
    runtime = np.append(titles.runtime, 1.0)[np.where(known, anchors.title, -1)]
    return np.where(known, completion_of(milliseconds, runtime), 0.0), known


def _of_plays(events: EventWindows, titles: LabelTitles) -> np.ndarray:
    """Return the completion [N] of each play; NaN without a runtime or a watch time."""

    def shares() -> np.ndarray:
        title = events.observed.plays.title
        milliseconds, missing = events.milliseconds(PLAYS)
        known = ~missing & _valid_runtime(titles)[title]
        runtime = np.append(titles.runtime, 1.0)[np.where(known, title, -1)]
        return np.where(known, completion_of(milliseconds, runtime), np.nan)

    return events.once(("completion of plays",), shares)
