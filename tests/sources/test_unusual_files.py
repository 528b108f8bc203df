"""Tests of files that are passed over, columns of several types, and values that arrays cannot hold."""

import gzip

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Feature, Tables
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING
from jaxrec.core.tables import Lists
from jaxrec.sources import open_source, table
from jaxrec.sources.finding import find_files

HEADER = "user_id,title_id,time,seconds_viewed\n"
ROW = "u{0},t1,170000000000{0},60\n"
TITLES = "title_id,runtime_minutes\nt1,90\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "titles.csv").write_text(TITLES)
    (tmp_path / "log").mkdir()
    return tmp_path


def open_log(features=(), titles="titles.csv", log="log", **columns):
    return open_source(Tables(interactions=log, titles=titles, columns=Columns(**columns)), features)


def read(source):
    """Return the chunks of a source, the users of all, and the rows left out."""
    chunks = list(source.interactions())
    return chunks, [key for c in chunks for key in c.user.tolist()], source.drops


# ---------------------------------------------------------------- files


def test_all_tables_of_a_folder_are_read_whatever_their_suffix(folder):
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    (folder / "log" / "b.CSV").write_text(HEADER + ROW.format(2))
    (folder / "log" / "c.csv.gz").write_bytes(gzip.compress((HEADER + ROW.format(3)).encode()))
    (folder / "log" / "d.tsv").write_text((HEADER + ROW.format(4)).replace(",", "\t"))
    (folder / "more").mkdir()
    (folder / "more" / "e.csv").write_text(HEADER + ROW.format(5))
    (folder / "log" / "link").symlink_to(folder / "more")
    _, users, drops = read(open_log())
    assert sorted(users) == [b"u1", b"u2", b"u3", b"u4", b"u5"]
    assert not drops.counts


def test_files_left_out_are_named_and_hidden_ones_are_no_data(folder, caplog):
    for name in (
        "a.csv",
        "notes.md",
        "old.xlsx",
        "_SUCCESS",
        ".hidden.csv",
        "_delta_log/x.csv",
        ".git/y.csv",
    ):
        path = folder / "log" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + ROW.format(1))
    assert find_files("source.interactions", "log") == ["log/a.csv"]
    [record] = caplog.records
    assert record.getMessage() == (
        "source.interactions: 2 files left out: log/notes.md (not a table), log/old.xlsx (not a table)"
    )


def test_a_file_that_is_found_twice_is_read_once(folder, caplog):
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    (folder / "log" / "b.csv").symlink_to(folder / "log" / "a.csv")
    (folder / "log" / "loop").symlink_to(folder / "log")
    assert find_files("source.interactions", "log") == ["log/a.csv"]
    assert "log/b.csv (the same file as log/a.csv)" in caplog.text


def test_folders_of_a_glob_are_searched(folder):
    for day in (1, 2):
        (folder / f"day={day}").mkdir()
        (folder / f"day={day}" / "part.csv").write_text(HEADER + ROW.format(day))
        (folder / f"day={day}" / "_SUCCESS").write_text("")
    assert find_files("k", "day=*") == ["day=1/part.csv", "day=2/part.csv"]
    assert find_files("k", "day=*/*") == ["day=1/part.csv", "day=2/part.csv"]
    assert find_files("k", "day=*/**") == ["day=1/part.csv", "day=2/part.csv"]


def test_other_parquet_suffixes(folder):
    pl.DataFrame({"a": [1]}).write_parquet("log/a.parq")
    pl.DataFrame({"a": [1]}).write_parquet("log/b.PQ")
    assert find_files("k", "log") == ["log/a.parq", "log/b.PQ"]


def test_parts_without_rows_are_left_out_and_named(folder, caplog):
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    (folder / "log" / "b.csv").write_text(HEADER)
    (folder / "log" / "c.csv").write_text("")
    assert read(open_log())[1] == [b"u1"]
    assert "2 files left out: log/b.csv (no rows), log/c.csv (no rows)" in caplog.text
    (folder / "log" / "a.csv").unlink()
    with pytest.raises(InputError, match=r"log/b\.csv has columns but no rows"):
        open_log()


def test_a_header_that_names_a_column_twice_is_refused(folder):
    (folder / "log" / "a.csv").write_text(HEADER.replace("time", "user_id") + ROW.format(1))
    with pytest.raises(InputError) as error:
        open_log()
    assert str(error.value) == ("log/a.csv: the header names column 'user_id' twice; allowed: each name once")


# ---------------------------------------------------------------- types of columns


def parquet_log(*devices):
    """Write one Parquet part for each series of devices."""
    for i, device in enumerate(devices):
        rows = {"user_id": ["u"] * len(device), "title_id": ["t1"] * len(device)}
        rows |= {"time": range(len(device)), "seconds_viewed": [60.0] * len(device), "device": device}
        pl.DataFrame(rows).write_parquet(f"log/{i}.parquet")


DEVICE = (Feature("device", "category", "context", 8),)


@pytest.mark.parametrize(
    "other",
    [pl.Series([None, None]), pl.Series([None, 7.0]), pl.Series([None, 7], dtype=pl.Int8)],
    ids=["no values", "float with a gap", "narrow"],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_part_may_have_a_wider_type_or_none(folder, other, order):
    parquet_log(*[pl.Series([3, 4]), other][::order])
    chunks, _, drops = read(open_log(DEVICE))
    values = np.concatenate([c.context["device"] for c in chunks][::order])
    expected = [MISSING if v is None else int(v) for v in other.to_list()]
    assert values.dtype == np.int64 and values.tolist() == [3, 4, *expected]
    assert not drops.counts


def test_a_number_with_decimals_among_whole_numbers_leaves_its_row_out(folder):
    parquet_log(pl.Series([3, 4]), pl.Series([5.5, 7.0]))
    chunks, _, drops = read(open_log(DEVICE))
    assert [v for c in chunks for v in c.context["device"].tolist()] == [3, 4, 7]
    assert drops.examples == {
        "row that cannot be parsed": "log/1.parquet, row 1, column 'device': 5.5; allowed: single values"
    }


def test_parts_that_do_not_agree_are_named(folder):
    parquet_log(pl.Series(["tv"]), pl.Series([5.5, 7.0]))
    with pytest.raises(InputError) as error:
        open_log(DEVICE)
    assert str(error.value) == (
        "log/1.parquet, column 'device' (feature 'device', where='context'): numbers with decimals, but "
        "strings in log/0.parquet; allowed: one type"
    )


def test_keys_of_pandas_with_a_gap(folder):
    rows = {"user_id": [1.0, None, 3.0, 2.5], "title_id": ["t1"] * 4, "time": [0.0, 1.0, 2.0, 3.0]}
    pl.DataFrame(rows | {"seconds_viewed": [60.0] * 4}).write_parquet("log/a.parquet")
    chunks, users, drops = read(open_log())
    assert users == [1, 3] and chunks[0].time.tolist() == [0, 2]
    assert drops.counts == {"row that cannot be parsed": 2}


@pytest.mark.parametrize("values", [[["a"]], [{"id": 1}]], ids=["lists", "structs"])
def test_lists_of_nested_values_are_refused(folder, values):
    pl.DataFrame({"title_id": ["t1"], "runtime_minutes": [90], "genres": [values]}).write_parquet("t.parquet")
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    with pytest.raises(InputError, match=r"t\.parquet, column 'genres'.*allowed: lists of single values"):
        open_log((Feature("genres", "categories", "title", 8, most=2),), titles="t.parquet")


def test_lists_written_as_text_are_refused(folder):
    (folder / "titles.csv").write_text("title_id,runtime_minutes,genres\nt1,90,\"['Drama', 'War']\"\n")
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    source = open_log((Feature("genres", "categories", "title", 8, most=2),))
    with pytest.raises(InputError, match=r"titles\.csv, row 1, column 'genres'.*are lists written as text"):
        source.titles()


def test_large_unsigned_categories_in_lists_stay_apart(folder):
    big = 2**63 + 5
    genres = pl.Series([[5, big]], dtype=pl.List(pl.UInt64))
    pl.DataFrame({"title_id": ["t1"], "runtime_minutes": [90], "genres": genres}).write_parquet("t.parquet")
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    lists = open_log((Feature("genres", "categories", "title", 8, most=2),), "t.parquet").titles()
    genres = lists.features["genres"]
    assert isinstance(genres, Lists) and genres.values.tolist() == [5, big - 2**64]


# ---------------------------------------------------------------- values


def test_words_that_mean_missing(folder, caplog):
    words = ["NA", "NULL", "\\N", "None", "nan", "u7"]
    rows = "".join(f"{w},t1,{1700000000000 + i},60,{w}\n" for i, w in enumerate(words))
    (folder / "log" / "a.csv").write_text(HEADER.strip() + ",device\n" + rows)
    chunks, users, drops = read(open_log(DEVICE))
    assert users == [b"u7"] and chunks[0].context["device"].tolist() == ["u7"]
    assert drops.counts == {"row that cannot be parsed": 5}
    assert drops.examples["row that cannot be parsed"] == (
        "log/a.csv, row 1, column 'user_id': 'NA', which means missing (source.columns.null_words); "
        "allowed: whole numbers or strings"
    )
    assert "column 'user_id': 'NULL' in 1 rows is a missing value" in caplog.text
    assert "column 'device': 'NA' in 1 rows is a category like others" in caplog.text
    chunks, users, drops = read(open_log(DEVICE, null_words=()))
    assert len(users) == 6 and chunks[0].context["device"].tolist() == words and not drops.counts


def test_a_word_that_means_missing_is_a_missing_number(folder):
    (folder / "titles.csv").write_text("title_id,runtime_minutes,budget\nt1,90,NA\nt2,NULL,5\n")
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    titles = open_log((Feature("budget", "number", "title", 2),)).titles()
    np.testing.assert_array_equal(titles.features["budget"], [np.nan, 5])
    np.testing.assert_array_equal(titles.runtime, [90, np.nan])


@pytest.mark.parametrize("value", ["1.7976931348623157e308", "-1e39", "inf", "-inf"])
def test_a_feature_that_float32_cannot_hold_is_refused_by_file_and_row(folder, value):
    (folder / "titles.csv").write_text(f"title_id,runtime_minutes,budget\nt1,90,5\nt2,90,{value}\n")
    (folder / "log" / "a.csv").write_text(HEADER + ROW.format(1))
    with pytest.raises(InputError) as error:
        open_log((Feature("budget", "number", "title", 2),)).titles()
    assert str(error.value) == (
        f"titles.csv, row 2, column 'budget': {value!r}; allowed: numbers within 3.4e+38, or empty"
    )


@pytest.mark.parametrize("key", ["u\0", "u" * 257])
def test_keys_that_arrays_cannot_hold_are_left_out_and_shown(folder, key):
    (folder / "log" / "a.csv").write_text(HEADER + f"{key},t1,1700000000000,60\n" + ROW.format(1))
    _, users, drops = read(open_log())
    assert users == [b"u1"] and drops.counts == {"row that cannot be parsed": 1}
    assert (
        "text of at most 256 bytes without the character NUL" in drops.examples["row that cannot be parsed"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "2020-09-13 12:26:40+00", "2020-09-13 12:26:40.000000+00", "2020-09-13 12:26:40 UTC",
        "20200913T122640Z", "2020-09-13t12:26:40z", "2020-09-13 14:26:40+02", "2020-09-13 08:56:40-0330",
        "1600000000.0", "1600000000.000",
    ],
)  # fmt: skip
def test_spellings_of_times(folder, text):
    (folder / "log" / "a.csv").write_text(HEADER + f"u1,t1,{text},60\n")
    chunks, _, drops = read(open_log(time_unit="s"))
    assert chunks[0].time.tolist() == [1_600_000_000_000] and not drops.counts


@pytest.mark.parametrize("text", ["2020-0913", "2020-09-13 12:26:40+0", "2020-09-13 12:26:40 CET", "1e9"])
def test_other_spellings_of_times_are_refused(folder, text):
    (folder / "log" / "a.csv").write_text(HEADER + f"u1,t1,{text},60\n")
    with pytest.raises(InputError, match="allowed: whole numbers, timestamps, dates or ISO 8601 strings"):
        read(open_log(time_unit="s"))


def test_a_decimal_typed_time_of_whole_seconds_is_read(folder):
    times = pl.Series([1_600_000_000.0, None])
    rows = {"user_id": ["a", "b"], "title_id": ["t1"] * 2, "time": times, "seconds_viewed": [60.0] * 2}
    pl.DataFrame(rows).write_parquet("log/a.parquet")
    chunks, users, _ = read(open_log(time_unit="s"))
    assert users == [b"a"] and chunks[0].time.tolist() == [1_600_000_000_000]


def test_a_column_of_many_types_is_an_error_of_the_first_file_that_differs():
    assert table.columns.common_family(["no values", "strings", "no values"]) == "strings"
    assert table.columns.common_family(["whole numbers", "strings"]) == ""
    assert table.columns.common_family(["numbers with decimals"]) == "strings"
