"""Inputs and outputs of the rules of labels: anchors, events, titles, labels.

Users and titles are whole numbers, times milliseconds since 1970, UTC.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.tables import Lists

NEVER = np.iinfo(np.int64).max  # time at which a label is final that never is
PLAY = -1  # kind of a play
_MS_PER_HOUR = 3_600_000


class Anchors(NamedTuple):
    """Pairs of a user and a title at a time, which labels are of.

    Attributes:
        user: [A] number of the user.
        title: [A] row of Titles; -1 for a title that is not in the catalogue.
        time: [A] int64 time of the request.
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray


class Events(NamedTuple):
    """Events of users, sorted by (user, title, time).

    Of a user, a title and a time there is one play, as cleaning leaves it; of signals there may be several.

    Attributes:
        user: [N] number of the user.
        title: [N] row of Titles, or -1 for none.
        time: [N] int64.
        kind: [N] int8 index of the signal; `PLAY` for plays.
        value: [N] float32 or float64; seconds of plays. NaN or a negative number of seconds is a missing one.
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    value: np.ndarray

    def take(self, rows: np.ndarray) -> "Events":
        """Return the rows of an index or a mask."""
        return Events(*(column[rows] for column in self))


class LabelTitles(NamedTuple):
    """Properties of titles that rules read.

    Attributes:
        runtime: [V] float64 minutes; 0 or NaN where missing.
        categories: Feature -> whole numbers of its categories, an entry per title.
    """

    runtime: np.ndarray
    categories: dict[str, Lists]


class Extracted(NamedTuple):
    """Values of a label.

    Attributes:
        y: [A] float32, 0 where the rule is undefined. Where the window is not over, the value of the events
            so far.
        known: [A] bool; False where the rule is undefined or the label is not final at the end of what the
            split may see.
        available_at: [A] int64 time at which the label is final.
    """

    y: np.ndarray
    known: np.ndarray
    available_at: np.ndarray


def window_ms(hours: float) -> int:
    """Return the length of a window in milliseconds, at least 1 and at most `NEVER`."""
    return int(min(max(round(hours * _MS_PER_HOUR), 1), NEVER))


def add_saturating(time: np.ndarray, milliseconds: int) -> np.ndarray:
    """Return time [N] + milliseconds, or `NEVER` where the sum is no int64; milliseconds >= 0."""
    return np.where(
        time > NEVER - milliseconds, NEVER, time + milliseconds
    )  # a sum that overflows is not taken


__all__ = ["NEVER", "PLAY", "Anchors", "Events", "Extracted", "LabelTitles", "add_saturating", "window_ms"]
