"""Cleaning by hand: completion, the reasons for leaving rows out, duplicates."""

import numpy as np
import pytest

from jaxrec.config.schema import Data
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Drops, Interactions, Titles
from jaxrec.data.events.cleaning import COPY, check_dropped, clean, completion, drop_copies, milliseconds_of

TITLES = Titles(key=np.array([70, 80, 90]), runtime=np.array([90.0, 0.0, np.nan]))
NOON = 1_700_000_000_000  # 2023-11-14


def chunk(title, time, seconds, **more):
    n = len(title)
    return Interactions(
        np.arange(n), np.array(title), np.array(time, np.int64), np.array(seconds, np.float64), **more
    )


def rejected_row(title=0, time=NOON, seconds=60.0, **more):
    """Clean one row, which must be left out; return the reason and the example."""
    drops = Drops()
    origin = {
        "file": "log.csv",
        "row": np.array([7]),
        "names": dict.fromkeys(("title", "time", "seconds"), "c"),
    }
    cleaned = clean(chunk([title], [time], [seconds], **origin, **more), TITLES, Data(), drops, True)
    assert len(cleaned.title) == 0 and list(drops.counts.values()) == [1]
    return next(iter(drops.examples.items()))


def test_completion_is_time_seen_over_runtime_clipped():
    seen = np.array([0, 270_000, 2_700_000, 5_400_000, 9_000_000])
    np.testing.assert_array_equal(completion(seen, np.full(5, 90.0)), [0, 0.05, 0.5, 1, 1])


def test_completion_at_the_threshold_is_not_below_it():
    length = 20 * np.arange(1, 10_000)  # milliseconds; as minutes most of them are rounded
    for minutes in (length / 60_000, length * (1 / 60_000)):
        assert (completion(length // 20, minutes) == 0.05).all()


def test_rows_that_pass_keep_their_order_and_columns():
    context = {"device": np.array(["tv", "web", "tv"])}
    drops = Drops()
    cleaned = clean(
        chunk([0, -1, 0], [NOON, NOON, NOON + 1], [1.2345, 1, 0.0], context=context),
        TITLES,
        Data(),
        drops,
        True,
    )
    np.testing.assert_array_equal(cleaned.user_hash, of_keys(np.array([0, 2])))
    np.testing.assert_array_equal(cleaned.title, [0, 0])
    np.testing.assert_array_equal(cleaned.time, [NOON, NOON + 1])
    np.testing.assert_array_equal(cleaned.viewed, [1234, 0])  # 1234.5 rounds to even
    np.testing.assert_array_equal(cleaned.context["device"], ["tv", "tv"])
    assert [x.dtype for x in (cleaned.user_hash, cleaned.title, cleaned.time, cleaned.viewed)] == [
        "u8",
        "i8",
        "i8",
        "i8",
    ]
    assert drops.counts == {"title not in the catalogue": 1}


def test_seconds_become_whole_milliseconds_without_drift():
    milliseconds = np.random.default_rng(0).integers(0, 10**7, 10_000)
    cleaned = clean(chunk([0] * 10_000, [NOON] * 10_000, milliseconds / 1000), TITLES, Data(), Drops(), True)
    np.testing.assert_array_equal(cleaned.viewed, milliseconds)


def test_each_reason_has_its_example():
    location = "log.csv, row 7, column 'c': "
    assert rejected_row(title=-1, unknown="x9") == ("title not in the catalogue", location + "'x9'")
    times = "; allowed: data.earliest=1990-01-01 up to data.latest=2100-01-01"
    assert rejected_row(time=1_700_000_000) == (
        "time out of range",
        location
        + "1700000000 ms since 1970 (1970-01-20)"
        + times
        + "; in another unit (source.columns.time_unit) it is 2023-11-14",
    )
    far = NOON * 1000
    assert rejected_row(time=far) == (
        "time out of range",
        location
        + f"{far} ms since 1970 (far future)"
        + times
        + "; in another unit (source.columns.time_unit) it is 2023-11-14",
    )
    assert rejected_row(seconds=-0.5) == ("seconds negative", location + "-0.5 seconds")
    assert rejected_row(seconds=np.nan) == ("seconds not finite", location + "nan seconds")
    assert rejected_row(seconds=-np.inf) == ("seconds not finite", location + "-inf seconds")
    assert rejected_row(seconds=1e300) == ("seconds not finite", location + "1e+300 seconds")
    assert rejected_row(title=1) == ("title without a runtime", location + "title 80 has runtime 0")
    assert rejected_row(title=2) == ("title without a runtime", location + "title 90 has runtime nan")


def test_a_row_is_counted_once():
    assert rejected_row(title=-1, time=0, seconds=-1)[0] == "title not in the catalogue"
    assert rejected_row(title=1, time=0, seconds=np.nan)[0] == "time out of range"


def test_the_range_of_times_is_half_open():
    data = Data(earliest="2023-11-14", latest="2023-11-15")
    first, after = milliseconds_of("2023-11-14", "a"), milliseconds_of("2023-11-15", "a")
    assert (first, after) == (1_699_920_000_000, 1_700_006_400_000)
    times = [first - 1, first, after - 1, after]
    cleaned = clean(chunk([0] * 4, times, [1] * 4), TITLES, data, Drops(), True)
    np.testing.assert_array_equal(cleaned.time, [first, after - 1])


def test_an_invalid_date_is_refused():
    with pytest.raises(InputError, match=r"^data.earliest='soon' must be a date, as '2024-01-31'$"):
        milliseconds_of("soon", "data.earliest")


def test_ratings_need_neither_seconds_nor_runtimes():
    drops = Drops()
    cleaned = clean(chunk([0, 1, 2], [NOON] * 3, [np.nan] * 3), TITLES, Data(), drops, False)
    np.testing.assert_array_equal(cleaned.viewed, [-1, -1, -1])
    assert not drops.counts


def test_the_duplicate_kept_does_not_depend_on_the_order_of_rows():
    user = np.array([2, 1, 1, 1, 1, 1], np.uint64)
    title = np.array([5, 5, 5, 5, 6, 5])
    time = np.array([10, 10, 10, 11, 10, 10])
    viewed = np.array([1, 3, 7, 3, 3, 7])
    tie = np.array([[0], [0], [4], [0], [0], [2]])
    expected = [(1, 10, 5, 7, 2), (1, 10, 6, 3, 0), (1, 11, 5, 3, 0), (2, 10, 5, 1, 0)]
    for seed in range(20):
        p = np.random.default_rng(seed).permutation(6)
        kept = p[drop_copies(user[p], title[p], time[p], viewed[p], tie[p])]
        rows = zip(user[kept], time[kept], title[kept], viewed[kept], tie[kept, 0], strict=True)
        assert list(rows) == expected


def test_without_duplicates_all_rows_are_kept_in_order():
    kept = drop_copies(np.array([3, 1], np.uint64), np.array([0, 0]), np.array([0, 0]), np.array([0, 0]))
    np.testing.assert_array_equal(kept, [1, 0])
    empty = np.empty(0, np.int64)
    assert len(drop_copies(empty, empty, empty, empty)) == 0


def test_too_many_dropped_rows_raise_with_the_largest_reason():
    drops = Drops()
    drops.add("seconds negative", 2, "a.csv, row 1, column 's': -1 seconds")
    drops.add("time out of range", 4, "a.csv, row 2, column 't': 0")
    drops.add(COPY, 60, "no loss")
    check_dropped(drops, 120, Data(max_invalid_fraction=0.05))  # exactly the fraction allowed
    with pytest.raises(InputError) as e:
        check_dropped(drops, 100, Data(max_invalid_fraction=0.05))
    assert str(e.value) == (
        "6 of 100 rows (6.0%) would be left out, more than data.max_invalid_fraction=0.05; most of them: "
        "time out of range, 4 rows, the first at a.csv, row 2, column 't': 0"
    )
