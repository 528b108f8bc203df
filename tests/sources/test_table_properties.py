"""Properties of readers: values that are written come back, or are counted as rows that cannot be parsed."""

import datetime
import tempfile
from pathlib import Path

import polars as pl
import pytest

from jaxrec.config.schema import Columns, Tables
from jaxrec.core.errors import InputError
from jaxrec.sources import open_source
from jaxrec.sources.columns import MAX_TEXT_BYTES

pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
from hypothesis import example, given, settings
from hypothesis import strategies as st

SHORT = settings(max_examples=12, derandomize=True, database=None, deadline=None)
LONG = settings(max_examples=400, derandomize=True, database=None, deadline=None)
FIRST, LAST = 631_152_000_000, 4_102_444_799_999  # ms of 1990-01-01 and just before 2100-01-01
WORDS = Columns().null_words
# Keys as users write them: a few letters, so that near ones meet, and any other text.
NEAR = st.text(st.sampled_from("aA0 .,;\"'\n\r\t-_\\e\u00e9\u0301\u200b\u00a0\ufeff"), min_size=1, max_size=4)
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
TEXT = NEAR | ANY | st.sampled_from(WORDS)
KEYS = st.lists(TEXT, min_size=1, max_size=8, unique=True)
TIMES = st.integers(FIRST, LAST)


def read(frame: pl.DataFrame, suffix: str = ".csv", **columns):
    """Write a log, read it, and return its rows of user, title and time, and the number left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, f"log{suffix}"))
        frame.write_csv(path, quote_style="always") if suffix == ".csv" else frame.write_parquet(path)
        settings = Columns(runtime="", seconds="", **columns)
        source = open_source(Tables(interactions=path, columns=settings), ())
        chunks = list(source.interactions())
        titles = source.titles().key
        rows = [
            (user, titles[title], time)
            for c in chunks
            for user, title, time in zip(c.user.tolist(), c.title.tolist(), c.time.tolist(), strict=True)
        ]
        return rows, sum(source.drops.counts.values())


def log_of(users, times=None) -> pl.DataFrame:
    time = [FIRST + i for i in range(len(users))] if times is None else times
    return pl.DataFrame({"user_id": users, "title_id": ["t"] * len(users), "time": time})


def stripped(key: str) -> str:
    """Return a key as text tables hold it: without blanks around it."""
    return pl.Series([key]).str.strip_chars()[0]


def is_key(key: str) -> bool:
    size = len(key.encode())
    return bool(key) and key not in WORDS and "\0" not in key and size <= MAX_TEXT_BYTES


def check_text_keys(keys):
    expected = [stripped(key).encode() for key in keys if is_key(stripped(key))]
    if not expected:  # empty ones are counted, and a column of other invalid values is refused
        try:
            assert read(log_of(keys)) == ([], len(keys))
        except InputError as error:
            assert "log.csv, row 1, column 'user_id'" in str(error)
        return
    rows, dropped = read(log_of([*keys, "last"]))
    assert [user for user, _, _ in rows] == [*expected, b"last"]
    assert dropped == len(keys) - len(expected)


def check_parquet_keys(keys):
    """No key is changed, so that distinct ones stay distinct."""
    expected = [key.encode() for key in keys if is_key(key)]
    rows, dropped = read(log_of([*keys, "last"]), ".parquet")
    assert [user for user, _, _ in rows] == [*expected, b"last"]
    assert dropped == len(keys) - len(expected)


@SHORT
@given(KEYS)
@example(["a", "a ", "A", "a\u0301", "\u00e1", "a\u200b", "0", "00", "1e1", "10"])
@example(['"', '""', "a\nb", "a\r\nb", "a,b"])
def test_text_keys_of_csv(keys):
    check_text_keys(keys)


@pytest.mark.slow
@LONG
@given(KEYS)
def test_many_text_keys_of_csv(keys):
    check_text_keys(keys)


@SHORT
@given(KEYS)
@example(["a", "a ", "a\0", "\u00e1", "a\u0301"])
def test_text_keys_of_parquet(keys):
    check_parquet_keys(keys)


@pytest.mark.slow
@LONG
@given(KEYS)
def test_many_text_keys_of_parquet(keys):
    check_parquet_keys(keys)


WHOLE = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float64]


@SHORT
@given(st.sampled_from(WHOLE), st.data())
def test_whole_numbers_of_any_type_are_keys(dtype, data):
    low, high = (-(2**53), 2**53) if dtype == pl.Float64 else (dtype.min(), dtype.max())
    bounds = (pl.select(x).item() for x in (low, high)) if dtype != pl.Float64 else (low, high)
    keys = data.draw(st.lists(st.integers(*bounds), min_size=1, max_size=8, unique=True))
    rows, dropped = read(log_of(pl.Series(keys, dtype=dtype)), ".parquet")
    assert [user for user, _, _ in rows] == keys and dropped == 0


UNITS = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}


@SHORT
@given(
    st.sampled_from([*UNITS]), st.lists(TIMES, min_size=1, max_size=8), st.sampled_from([".csv", ".parquet"])
)
def test_whole_times_of_each_unit(unit, times, suffix):
    stored = [time // 1000 if unit == "s" else time * int(UNITS[unit]) for time in times]
    rows, dropped = read(log_of(["u"] * len(times), stored), suffix, time_unit=unit)
    expected = [time // 1000 * 1000 if unit == "s" else time for time in times]
    assert [time for _, _, time in rows] == expected and dropped == 0


def spell(time: int, form: str, minutes: int) -> str:
    """Return a time as ISO 8601 text with the offset of a zone."""
    zone = datetime.timezone(datetime.timedelta(minutes=minutes))
    moment = datetime.datetime.fromtimestamp(0, zone) + datetime.timedelta(milliseconds=time)
    offset = moment.strftime("%z")
    digits = f"{moment.microsecond // 1000:03d}"
    return {
        "extended": f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}{offset[:3]}:{offset[3:]}",
        "basic": f"{moment:%Y%m%dT%H%M%S}.{digits}{offset}",
        "blank": f"{moment:%Y-%m-%d %H:%M:%S}.{digits}000{offset}",
        "comma": f"{moment:%Y-%m-%d %H:%M:%S},{digits}{offset[:3]}:{offset[3:]}",
    }[form]


FORMS = st.sampled_from(["extended", "basic", "blank", "comma"])


@SHORT
@given(st.lists(st.tuples(TIMES, FORMS, st.integers(-23 * 60 - 59, 23 * 60 + 59)), min_size=1, max_size=8))
def test_times_as_text_with_any_offset(times):
    texts = [spell(*time) for time in times]
    for suffix in (".csv", ".parquet"):
        rows, dropped = read(log_of(["u"] * len(times), texts), suffix)
        assert [time for _, _, time in rows] == [time for time, _, _ in times] and dropped == 0


@SHORT
@given(
    st.lists(TIMES, min_size=1, max_size=8),
    st.sampled_from(["ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Asia/Tokyo", "America/St_Johns"]),
)
def test_timestamps_of_each_precision_and_zone(times, unit, zone):
    stamps = pl.Series(times).cast(pl.Datetime("ms")).cast(pl.Datetime(unit))
    if zone:
        stamps = stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    rows, dropped = read(log_of(["u"] * len(times), stamps), ".parquet")
    assert [time for _, _, time in rows] == times and dropped == 0
