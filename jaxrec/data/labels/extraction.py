"""Extraction of labels from events: anchors and rules to values, with what is known of them.

The module uses NumPy only. Its time grows with anchors and events, and with no loop over either.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.config.declarations import Label
from jaxrec.core.errors import InputError
from jaxrec.core.registry import ALL_LABEL_RULES
from jaxrec.data.labels.tables import NEVER, Anchors, Events, Extracted, LabelTitles
from jaxrec.data.labels.timeline import sort_pairs
from jaxrec.data.labels.windows import EventWindows, Observed

_MOST_KEYS = 2**62


def extract(
    anchors: Anchors,
    plays: Events,
    events: Events,
    titles: LabelTitles,
    labels: Sequence[Label],
    end: int | np.ndarray,
    signals: tuple[str, ...] = (),
    abandon_threshold: float = 0.05,
) -> dict[str, Extracted]:
    """Return the values of labels at anchors.

    The window of a label is [time, time + hours). An event belongs to the last anchor of its user and title
    at or before it, among the anchors of one call: two requests never count one event. Exposures that should
    not compete, such as the first and the second target of a request, are extracted by calls of their own.
    The docstrings of the rules state where this does not apply.

    Args:
        anchors: Anchors in any order.
        plays: Plays, sorted by (user, title, time).
        events: Events of all signals, sorted in the same way.
        titles: Properties of the catalogue.
        labels: Declarations that config validation has passed.
        end: End of what the split may see, in milliseconds; one for all anchors or [A]. Events at or after it
            change nothing, and a label that is not final by then is unknown.
        signals: Names of the signals, in the order of `events.kind`.
        abandon_threshold: Completion below which a play is abandoned.

    Returns:
        Name of the label -> its values, in the order of the anchors.

    Raises:
        InputError: A rule has no such name, or an own rule returned wrong arrays.
        ValueError: Plays or events are not sorted.
    """
    ends = np.broadcast_to(np.asarray(end, np.int64), len(anchors.time))
    anchors, plays, events = _numbered(anchors, plays, events, len(titles.runtime))
    order = sort_pairs(anchors.user * (len(titles.runtime) + 1) + anchors.title + 1, anchors.time)
    if order is not None:
        anchors, ends = Anchors(*(column[order] for column in anchors)), ends[order]
    plays, events = (_visible(table, ends) for table in (plays, events))
    observed = Observed(plays, events, signals, ends, len(titles.runtime), abandon_threshold)
    windows = EventWindows(anchors, observed)
    return {label.name: _apply(label, windows, titles, order) for label in labels}


def _apply(label: Label, windows: EventWindows, titles: LabelTitles, order: np.ndarray | None) -> Extracted:
    """Return the values of one label, in the order of the caller's anchors."""
    rule = ALL_LABEL_RULES.resolve(label.rule)
    size = len(windows.anchors.time)
    arrays = rule(windows.anchors, windows, titles, label)
    if len(arrays) != 3 or any(np.shape(array) != (size,) for array in arrays):
        shapes = [np.shape(array) for array in arrays]
        raise InputError(
            f"rule {label.rule!r} of label {label.name!r}: shapes {shapes} must be three of ({size},)"
        )
    y, defined, available_at = (np.asarray(array) for array in arrays)
    defined, available_at = defined.astype(bool), available_at.astype(np.int64)
    with np.errstate(over="ignore"):
        y = np.where(defined, y, 0).astype(np.float32)
    if not np.isfinite(y).all():
        raise InputError(
            f"rule {label.rule!r} of label {label.name!r}: known values must be finite in float32"
        )
    known = defined & (available_at <= windows.observed.end) & (available_at < NEVER)
    if order is None:
        return Extracted(y, known, available_at)
    y, known, available_at = (_restored(array, order) for array in (y, known, available_at))
    return Extracted(y, known, available_at)


def _restored(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the array in the order before sorting."""
    out = np.empty_like(array)
    out[order] = array
    return out


def _visible(events: Events, end: np.ndarray) -> Events:
    """Return the events before the last end."""
    latest = end.max(initial=np.iinfo(np.int64).min)
    hidden = events.time >= latest
    return events.take(~hidden) if hidden.any() else events


def _numbered(anchors: Anchors, plays: Events, events: Events, titles: int) -> tuple[Anchors, Events, Events]:
    """Return the tables with titles in int64 and with users whose pairs with titles fit into int64.

    Users, such as hashes, that do not fit are numbered in their order.
    """
    tables: tuple[Any, ...] = (anchors, plays, events)
    most = _MOST_KEYS // (titles + 1)
    users = [table.user for table in tables]
    if any(len(user) and not (int(user.min()) >= 0 and int(user.max()) < most) for user in users):
        if any(user.dtype == np.uint64 for user in users):  # with int64 NumPy would make them float64
            users = [user.astype(np.uint64) for user in users]
        _, number = np.unique(np.concatenate(users), return_inverse=True)
        users = np.split(number, np.cumsum([len(user) for user in users])[:-1])
    numbered: list[Any] = []
    for user, table in zip(users, tables, strict=True):
        columns = {
            "user": user.astype(np.int64, copy=False),
            "title": table.title.astype(np.int64, copy=False),
        }
        numbered.append(table._replace(**columns))
    anchors, plays, events = numbered
    return anchors, plays, events
