"""Cleaning of signals, their order, copies, counts and hash, by hand."""

import numpy as np
import pytest

from jaxrec.config.schema import Data, Signal
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Drops, Signals
from jaxrec.data.signals.cleaning import SignalTally, clean_signals
from jaxrec.data.signals.records import counts_of, describe, record_dtype, sort_events

KINDS = (
    Signal("thumb", "sign"),
    Signal("stay", "seconds"),
    Signal("search", "text", "user"),
    Signal("stars", "number"),
)
THUMB, STAY, SEARCH, STARS = range(4)
NOW = 1_700_000_000_000
NAN, INF = float("nan"), float("inf")


def chunk(*rows, **fields):
    """Return a chunk of events (user, title, time, kind, value, text)."""
    user, title, time, kind, value, text = zip(*rows, strict=True)
    return Signals(
        np.array(user), np.array(title), np.array(time), np.array(kind, np.int8), np.array(value, np.float32),
        np.array(text), **fields,
    )  # fmt: skip


def cleaned(events, part=0):
    tally = SignalTally()
    return clean_signals(events, KINDS, Data(), tally, part), tally


def test_an_invalid_event_is_counted_under_its_first_reason_with_an_example():
    events = chunk(
        ("a", 3, NOW, THUMB, 1, ""),
        ("a", 3, NOW, THUMB, -1, ""),
        ("a", 3, NOW, THUMB, 0, ""),
        ("a", 3, NOW, THUMB, 2, ""),
        ("a", -1, NOW, THUMB, 2, ""),
        ("a", 3, 1_700_000_000, THUMB, 1, ""),
        ("a", 3, NOW, STAY, 0, ""),
        ("a", 3, NOW, STAY, -0.5, ""),
        ("a", 3, NOW, STAY, INF, ""),
        ("a", 3, NOW, STARS, -0.5, ""),
        ("a", 3, NOW, STARS, NAN, ""),
        ("a", -1, NOW, SEARCH, 0, "western"),
        ("a", -1, -(2**62), SEARCH, 0, "western"),
        file="f.csv", row=np.arange(101, 114), unknown="x9",
        names={"title": "film", "time": "when", "thumb": "up"},
    )  # fmt: skip
    records, tally = cleaned(events)
    kept = [(r["kind"], r["title"], r["value"]) for r in records]
    assert kept == [(THUMB, 3, 1), (THUMB, 3, -1), (STAY, 3, 0), (STARS, 3, -0.5), (SEARCH, -1, 0)]
    assert tally.events == {THUMB: 6, STAY: 3, SEARCH: 2, STARS: 2}
    dropped = tally.dropped()
    far = -(2**62)
    allowed = "allowed: data.earliest=1990-01-01 up to data.latest=2100-01-01"
    assert {k: d.examples for k, d in dropped.items()} == {
        THUMB: {
            "title not in the catalogue": "f.csv, row 105, column 'film': 'x9'",
            "time out of range": "f.csv, row 106, column 'when': 1700000000 ms since 1970 (1970-01-20); "
            f"{allowed}; in another unit (source.columns.time_unit) it is 2023-11-14",
            "sign neither -1 nor 1": "f.csv, row 103, column 'up': 0",
        },
        STAY: {
            "seconds negative": "f.csv, row 108, column 'stay': -0.5 seconds",
            "value not finite": "f.csv, row 109, column 'stay': inf seconds",
        },
        STARS: {"value not finite": "f.csv, row 111, column 'stars': nan"},
        SEARCH: {
            "time out of range": f"f.csv, row 113, column 'when': {far} ms since 1970 (far past); {allowed}"
        },
    }
    assert dropped[THUMB].counts == {
        "title not in the catalogue": 1, "time out of range": 1, "sign neither -1 nor 1": 2,
    }  # fmt: skip


def test_a_record_takes_25_bytes_and_8_more_for_the_hash_of_text():
    assert record_dtype(KINDS[:2]).itemsize == 25 and record_dtype(KINDS).itemsize == 33
    rows = [
        ("a", 1, NOW, THUMB, 1, ""),
        ("b", -1, NOW, SEARCH, 0, "drama"),
        ("b", -1, NOW, SEARCH, 0, "dramas"),
    ]
    records, _ = cleaned(chunk(*rows))
    assert records["text"].tolist() == [0, *of_keys(np.array(["drama", "dramas"])).tolist()]
    assert records["user"].tolist() == of_keys(np.array(["a", "b", "b"])).tolist()


@pytest.mark.parametrize("wrong, allowed", [(1, 0.05), (1, 0.02)])
def test_the_share_of_each_signal_is_compared_with_the_limit(wrong, allowed):
    """A thumb of 20 is wrong: 5%, though 1 of 1,020 events of all signals."""
    many = [("a", 1, NOW, STAY, 1, "")] * 1000
    thumbs = [("a", 1, NOW, THUMB, 7 if i < wrong else 1, "") for i in range(20)]
    _, tally = cleaned(chunk(*many, *thumbs))
    data = Data(max_invalid_fraction=allowed)
    if wrong / 20 <= allowed:
        return tally.check(KINDS, data)
    with pytest.raises(InputError) as error:
        tally.check(KINDS, data)
    assert str(error.value) == (
        "1 of 20 events of signal 'thumb' (5.0%) would be left out, more than "
        "data.max_invalid_fraction=0.02; most of them: sign neither -1 nor 1, 1 events, the first at source, "
        "row 1001, column 'thumb': 7"
    )


def test_tallies_are_added_in_any_order():
    """Events that the reader could not parse count too; the example is that of the first part."""
    unreadable = {THUMB: Drops({"row that cannot be parsed": 2}, {"row that cannot be parsed": "row 7"})}
    parts = [
        chunk(("a", 1, NOW, THUMB, 5, ""), unreadable=unreadable),
        chunk(("a", 1, NOW, THUMB, 6, ""), ("a", 1, NOW, STAY, 6, "")),
    ]
    tallies = [cleaned(events, part)[1] for part, events in enumerate(parts)]
    for order in ((0, 1), (1, 0)):
        total = SignalTally()
        for part in order:
            total.add(tallies[part])
        assert total.events == {THUMB: 4, STAY: 1, SEARCH: 0, STARS: 0}
        [(kind, drops)] = total.dropped().items()
        assert kind == THUMB and drops.counts == {"row that cannot be parsed": 2, "sign neither -1 nor 1": 2}
        assert drops.examples["sign neither -1 nor 1"] == "source, row 1, column 'thumb': 5"
        assert len(drops.examples) == 2


ROWS = [
    ("a", 2, NOW, STARS, 3, ""),
    ("a", 2, NOW, STARS, 3, ""),  # a copy
    ("a", 2, NOW, STARS, 4, ""),
    ("a", 2, NOW, STAY, 3, ""),
    ("a", 2, NOW + 1, STARS, 3, ""),
    ("a", 1, NOW + 5, STARS, 3, ""),
    ("a", -1, NOW + 9, SEARCH, 0, "drama"),
    ("a", -1, NOW + 9, SEARCH, 0, "comedy"),
    ("a", -1, NOW + 9, SEARCH, 0, "drama"),  # a copy
    ("c", 1, NOW, STARS, 0.0, ""),
    ("c", 1, NOW, STARS, -0.0, ""),  # a copy
    ("b", 1, NOW, STARS, 1, ""),  # b has no play
]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_events_changes_neither_the_sorted_events_nor_their_hash(seed):
    rows = [ROWS[i] for i in np.random.default_rng(seed).permutation(len(ROWS))]
    users = np.sort(of_keys(np.array(["a", "c", "d"])))
    title_hash = np.array([11, 12, 13], np.uint64)
    events, copies = sort_events(cleaned(chunk(*rows))[0], users, len(KINDS))
    expected, _ = sort_events(cleaned(chunk(*ROWS))[0], users, len(KINDS))
    assert events.tobytes() == expected.tobytes() and copies.tolist() == [0, 0, 1, 2]
    assert (np.diff(events["user"].astype(object)) >= 0).all()
    of_a = events[events["user"] == of_keys(np.array(["a"]))[0]]
    rest = [(-1, 9, SEARCH, 0)] * 2 + [(1, 5, STARS, 3), (2, 0, STAY, 3), (2, 0, STARS, 3), (2, 0, STARS, 4)]
    columns = (of_a["title"], of_a["time"] - NOW, of_a["kind"], of_a["value"])
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == [*rest, (2, 1, STARS, 3)]
    counts = counts_of(events, KINDS, title_hash)
    halves = [counts_of(part, KINDS, title_hash) for part in (events[:3], events[3:])]
    entries, others = describe(KINDS, counts | {"plays": 5}, copies, {STARS: 8, SEARCH: 3, STAY: 1}, {})
    assert others == {"plays": 5}
    added = {name: halves[0][name] + halves[1][name] for name in counts}
    assert describe(KINDS, added, copies, {STARS: 8, SEARCH: 3, STAY: 1}, {})[0] == entries
    assert entries["signals"] == {
        "thumb": {"read": 0, "copies": 0, "dropped": {}, "kept": 0},
        "stay": {"read": 1, "copies": 0, "dropped": {}, "kept": 1},
        "search": {"read": 3, "copies": 1, "dropped": {}, "kept": 2},
        "stars": {"read": 8, "copies": 2, "dropped": {"user without a valid play": 1}, "kept": 5},
    }


@pytest.mark.parametrize("row", [0, 2, 3, 4, 5, 6, 9])
def test_a_changed_event_changes_the_hash(row):
    users, title_hash = np.sort(of_keys(np.array(["a", "c"]))), np.arange(11, 21).astype(np.uint64)
    unique = [r for i, r in enumerate(ROWS) if i not in (1, 8, 10, 11)]

    def hash_of(rows):
        events, _ = sort_events(cleaned(chunk(*rows))[0], users, len(KINDS))
        counts = counts_of(events, KINDS, title_hash)
        return describe(KINDS, counts, np.zeros(4, int), {}, {})[0]["signals_sum"]

    at = unique.index(ROWS[row])
    user, title, time, kind, value, text = unique[at]
    changed = [
        ("c" if user == "a" else "a", title, time, kind, value, text),
        (user, title, time + 7, kind, value, text),
    ]
    changed += (
        [(user, title, time, kind, value, text + "s")] if text else [(user, title, time, kind, 9, text)]
    )
    changed += [] if text else [(user, 4, time, kind, value, text)]
    sums = {hash_of(unique), *(hash_of([*unique[:at], other, *unique[at + 1 :]]) for other in changed)}
    assert len(sums) == 1 + len(changed)


def test_no_signals_give_no_counts():
    empty = np.empty(0, record_dtype(()))
    events, copies = sort_events(empty, np.arange(3, dtype=np.uint64), 0)
    assert len(events) == len(copies) == 0 and counts_of(events, (), np.empty(0, np.uint64)) == {}
    assert describe((), {"plays": 5}, copies, {}, {}) == ({}, {"plays": 5})
