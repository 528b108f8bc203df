"""Records of the events of signals: sorted without copies, counted by signal, and hashed in any order."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.config.schema import Signal
from jaxrec.core.hashing import mix
from jaxrec.core.tables import Drops

NO_PLAY = "user without a valid play"
_SUM = "sum of the hashes of events of signals"  # among `Examples.counts`


def record_dtype(signals: tuple[Signal, ...]) -> np.dtype:
    """Return the dtype of an event's record: 25 bytes, and 8 more where a signal has text.

    The text is stored as its hash, 0 for kinds without text.
    """
    fields: list[tuple[str, str]] = [
        ("user", "<u8"), ("title", "<i4"), ("time", "<i8"), ("kind", "i1"), ("value", "<f4"),
    ]  # fmt: skip
    return np.dtype(fields + [("text", "<u8")] * any(signal.value == "text" for signal in signals))


def sort_events(records: np.ndarray, users: np.ndarray, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort events by user, title and time, and drop copies and the events of other users.

    Ties are in the order of kind and value, so that the result does not depend on the order of the events.

    Args:
        records: [N] of `record_dtype`, all events of their users.
        users: [U] ascending hashes of the users to keep.
        kinds: Number of signals.

    Returns:
        The events kept [M], and the number [kinds] of copies dropped.
    """
    if not len(records) or not len(users):
        return records[:0], np.zeros(kinds, np.int64)
    at = np.minimum(np.searchsorted(users, records["user"]), len(users) - 1)
    records = records[users[at] == records["user"]]
    columns = [np.ascontiguousarray(records[name]) for name in records.dtype.names or ()]
    order = np.lexsort(columns[::-1])
    copy = np.ones(len(records), bool)
    copy[:1] = False
    for column in columns:
        ordered = column[order]
        copy[1:] &= ordered[1:] == ordered[:-1]
    records = records[order]
    return records[~copy], np.bincount(records["kind"][copy], minlength=kinds)


def events_of(records: np.ndarray, signals: tuple[Signal, ...], name: str) -> np.ndarray:
    """Return the events of one signal, sorted by user, time and title.

    Args:
        records: [N] of `record_dtype`.
        signals: Declared signals.
        name: Name of the signal, one of them.
    """
    kind = [signal.name for signal in signals].index(name)
    records = records[records["kind"] == kind]
    return records[np.lexsort((records["title"], records["time"], records["user"]))]


def counts_of(records: np.ndarray, signals: tuple[Signal, ...], title_hash: np.ndarray) -> dict[str, int]:
    """Return the number of events by signal, and the sum of the hashes of all events.

    The counts of several partitions are added up in any order, and read by `describe`.

    Args:
        records: [N] of `record_dtype`.
        signals: Declared signals; without any there are no counts.
        title_hash: [V] uint64 hash of each title's key, by row of the catalogue.
    """
    if not signals:
        return {}
    title = np.append(title_hash, np.uint64(0))[records["title"]]  # -1: no title
    columns = [records["user"], title, records["time"], records["kind"], records["value"].view(np.uint32)]
    columns += [records["text"]] if "text" in (records.dtype.names or ()) else []
    kept = np.bincount(records["kind"], minlength=len(signals)).tolist()
    counts = {_count(signal): n for signal, n in zip(signals, kept, strict=True)}
    return counts | {_SUM: int(mix(*columns).sum(dtype=np.uint64))}


def _count(signal: Signal) -> str:
    return f"events of signal {signal.name}"


def describe(
    signals: tuple[Signal, ...],
    counts: Mapping[str, int],
    copies: np.ndarray,
    read: Mapping[int, int],
    dropped: Mapping[int, Drops],
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the manifest's entries of signals, and the other counts.

    Args:
        signals: Declared signals.
        counts: Counts of all partitions, those of `counts_of` among them.
        copies: [kinds] number of copies dropped.
        read: Kind -> number of events read.
        dropped: Kind -> events left out by cleaning and the reader.

    Returns:
        "signals": signal -> events read, copies, events dropped by reason, and events kept; and
        "signals_sum": hash of the events, which does not depend on their order. Empty without signals.
    """
    others = {name: n for name, n in counts.items() if name != _SUM and name not in map(_count, signals)}
    if not signals:
        return {}, others
    entries = {}
    for kind, signal in enumerate(signals):
        kept, all_read = counts.get(_count(signal), 0), read.get(kind, 0)
        reasons = dict(dropped[kind].counts) if kind in dropped else {}
        without_play = all_read - sum(reasons.values()) - int(copies[kind]) - kept
        reasons |= {NO_PLAY: without_play} if without_play else {}
        entries[signal.name] = {
            "read": all_read,
            "copies": int(copies[kind]),
            "dropped": dict(sorted(reasons.items())),
            "kept": kept,
        }
    return {"signals": entries, "signals_sum": f"{counts.get(_SUM, 0) % 2**64:016x}"}, others
