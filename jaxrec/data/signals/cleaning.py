"""Cleaning of the events of signals: checks as those of plays, and counts by signal.

An event that fails a check is left out and counted under the first reason that applies. The share of events
left out is compared with `data.max_invalid_fraction` for each signal by itself.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrec.config.schema import Data, Signal
from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Drops, Signals
from jaxrec.data.events.cleaning import (
    NEGATIVE,
    TIME,
    UNKNOWN_TITLE,
    check_dropped,
    locate,
    milliseconds_of,
    out_of_range,
)
from jaxrec.data.signals.records import record_dtype

NOT_FINITE = "value not finite"
NO_SIGN = "sign neither -1 nor 1"


@dataclass
class SignalTally:
    """Counts of the events of signals, over one or more parts of the source.

    Attributes:
        events: Kind -> number of events read, with those left out.
        drops: Part -> kind -> events left out.
        ranges: [ranges] number of valid events by range of user hashes; 0 without events.
    """

    events: dict[int, int] = field(default_factory=dict)
    drops: dict[int, dict[int, Drops]] = field(default_factory=dict)
    ranges: Any = 0

    def add(self, more: "SignalTally") -> None:
        """Add the counts of other parts."""
        for kind, count in more.events.items():
            self.events[kind] = self.events.get(kind, 0) + count
        self.drops.update(more.drops)
        self.ranges = self.ranges + more.ranges

    def dropped(self) -> dict[int, Drops]:
        """Return the events left out by kind, with the examples of the first part that has one."""
        total: dict[int, Drops] = {}
        for _, drops_of_kind in sorted(self.drops.items()):
            for kind, drops in drops_of_kind.items():
                total.setdefault(kind, Drops()).merge(drops)
        return total

    def check(self, signals: tuple[Signal, ...], data: Data) -> None:
        """Raise InputError if too large a share of a signal's events was left out."""
        for kind, drops in sorted(self.dropped().items()):
            check_dropped(drops, self.events[kind], data, f"events of signal {signals[kind].name!r}")


def clean_signals(
    chunk: Signals, signals: tuple[Signal, ...], data: Data, tally: SignalTally, part: int = 0
) -> np.ndarray:
    """Return the valid events of a chunk as records, in the order of the source, and count all events.

    Args:
        chunk: Events of the source.
        signals: Declared signals.
        data: Settings of the allowed times.
        tally: Counts and first examples; updated.
        part: Number of the part of the source, for the tally.

    Returns:
        [N] of `records.record_dtype`.

    Raises:
        InputError: data.earliest or data.latest is not a date.
    """
    earliest = milliseconds_of(data.earliest, "data.earliest")
    latest = milliseconds_of(data.latest, "data.latest")
    drops_of_kind = tally.drops.setdefault(part, {})
    good = np.ones(len(chunk.user), bool)

    def reject(reason: str, wrong: np.ndarray) -> None:
        rows = np.flatnonzero(good & wrong)
        kinds, first, counts = np.unique(chunk.kind[rows], return_index=True, return_counts=True)
        for kind, i, count in zip(kinds.tolist(), rows[first].tolist(), counts.tolist(), strict=True):
            example = _example(reason, chunk, signals[kind], i, earliest, latest)
            drops_of_kind.setdefault(kind, Drops()).add(reason, count, example)
        good[rows] = False

    def has_value(value: str) -> np.ndarray:
        return np.array([signal.value == value for signal in signals])[chunk.kind]

    about_title = np.array([signal.about == "title" for signal in signals])[chunk.kind]
    reject(UNKNOWN_TITLE, about_title & (chunk.title < 0))
    reject(TIME, (chunk.time < earliest) | (chunk.time >= latest))
    reject(NOT_FINITE, ~np.isfinite(chunk.value))
    reject(NEGATIVE, has_value("seconds") & (chunk.value < 0))
    reject(NO_SIGN, has_value("sign") & (np.abs(chunk.value) != 1))
    for kind, count in enumerate(np.bincount(chunk.kind, minlength=len(signals)).tolist()):
        tally.events[kind] = tally.events.get(kind, 0) + count
    for kind, unreadable in chunk.unreadable.items():
        tally.events[kind] += sum(unreadable.counts.values())
        drops_of_kind.setdefault(kind, Drops()).merge(unreadable)

    records = np.zeros(int(good.sum()), record_dtype(signals))
    records["user"], records["title"] = of_keys(chunk.user[good]), chunk.title[good]
    records["time"], records["kind"] = chunk.time[good], chunk.kind[good]
    records["value"] = chunk.value[good] + np.float32(0)  # -0 becomes 0: equal values have equal bytes
    if chunk.text is not None:
        has_text = has_value("text")[good]
        records["text"][has_text] = of_keys(np.asarray(chunk.text)[good][has_text])
    return records


def _example(reason: str, chunk: Signals, signal: Signal, i: int, earliest: int, latest: int) -> str:
    """Return file, row, column and value of event `i`, which is left out.

    Allowed times are from `earliest` to below `latest`, in milliseconds since 1970.
    """
    role = {UNKNOWN_TITLE: "title", TIME: "time"}.get(reason, signal.name)
    where = locate(chunk, role, i)
    if reason == UNKNOWN_TITLE:
        return f"{where}: {chunk.unknown!r}"
    if reason == TIME:
        return f"{where}: {out_of_range(int(chunk.time[i]), earliest, latest)}"
    unit = " seconds" if signal.value == "seconds" else ""
    return f"{where}: {chunk.value[i]:g}{unit}"
