"""Tests of CSV and Parquet tables read by a map of columns, and of error messages."""

import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Feature, Simulator, Tables
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.ids import MISSING
from jaxrec.sources import files, open_source, text

LOG = (
    "user_id,title_id,time,seconds_viewed,device\n"
    "u1,t1,1700000000000,60,tv\n"
    "u2,t2,2023-11-14,1.5,\n"
    "u1,t3,2023-11-14T22:13:20Z,0,web\n"
)
TITLES = 'title_id,runtime_minutes,year,genres\nt1,90,1999,"Drama, Crime"\nt2,,,\n'
USERS = "user_id,segment,age\nu1,gold,30\nu3,,\n"
RUNTIMES = "allowed: a number above 0, at most 1e+06, or 0 or empty for an unknown runtime"
ALLOWED = ".csv, .tsv, .inter, .user, .item, .txt, .dat, .data (also .gz and .zst) or .parquet, .parq, .pq"
SINGLE = "allowed: single values"
TIMES = "allowed: whole numbers, timestamps, dates or ISO 8601 strings"
FEATURES = (
    Feature("title_id", "category", "title", 8),
    Feature("genres", "categories", "title", 8, 3),
    Feature("year", "number", "title", 8),
    Feature("segment", "category", "user", 8),
    Feature("age", "number", "user", 8),
    Feature("device", "category", "context", 8),
    Feature("completion", "number", "interaction", 8),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(log=LOG, titles=TITLES, users=USERS)
    return tmp_path


def write(**tables):
    """Write CSV files by name and content."""
    for name, content in tables.items():
        with open(f"{name}.csv", "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())


def source(features=FEATURES, **fields):
    """Open the tables."""
    return open_source(
        Tables(**{"interactions": "log.csv", "titles": "titles.csv", "users": "users.csv"} | fields), features
    )


def read(features=FEATURES, **fields):
    """Return the source, titles, chunks of users and the concatenated log."""
    s = source(features, **fields)
    return s, s.titles(), list(s.users()), read_log(s)


def read_log(s):
    """Concatenate the chunks of the log."""
    chunks = list(s.interactions())
    columns = {
        n: np.concatenate([getattr(c, n) for c in chunks])
        for n in ("user", "title", "time", "seconds", "row")
    }
    return columns | {n: np.concatenate([c.context[n] for c in chunks]) for n in chunks[0].context}


def assert_rejected(message, **fields):
    """Assert that reading raises an InputError with exactly this message."""
    features = fields.pop("features", FEATURES)
    with pytest.raises(InputError) as e:
        read(features, **fields)
    assert str(e.value) == message


# ---------------------------------------------------------------- valid tables


def test_csv_tables(folder):
    s, titles, (users,), log = read()
    assert s.has_completion and s.truth() is None and not s.drops.counts
    assert titles.key.tolist() == ["t1", "t2"]
    np.testing.assert_array_equal(titles.runtime, [90, np.nan])
    assert titles.features["genres"].values.tolist() == ["Drama", "Crime"]
    assert titles.features["genres"].offsets.tolist() == [0, 2, 2]
    np.testing.assert_array_equal(titles.features["year"], [1999, np.nan])
    assert set(titles.features) == {"genres", "year"}  # title_id is not read as a feature column
    assert users.key.tolist() == [b"u1", b"u3"] and users.split is None
    assert users.features["segment"].tolist() == ["gold", ""]
    np.testing.assert_array_equal(users.features["age"], [30, np.nan])
    assert log["user"].tolist() == [b"u1", b"u2", b"u1"]
    assert log["title"].tolist() == [0, 1, -1]
    assert log["time"].tolist() == [1_700_000_000_000, 1_699_920_000_000, 1_700_000_000_000]
    assert log["seconds"].tolist() == [60, 1.5, 0]
    assert log["device"].tolist() == ["tv", "", "web"]
    assert log["row"].tolist() == [1, 2, 3]
    (chunk,) = s.interactions()
    assert chunk.file == "log.csv" and chunk.unknown == "t3" and chunk.names["seconds"] == "seconds_viewed"


def test_iterating_twice_gives_the_same_rows_and_drops(folder):
    write(log=LOG + "u1,t1,never,1,tv\n")
    s = source()
    first, again = read_log(s), read_log(s)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert s.drops.counts == {"row that cannot be parsed": 1}


@pytest.mark.parametrize("suffix, num_parts", [("csv", 2), ("parquet", 3)])
def test_parts_give_the_same_rows_as_the_whole_log(folder, monkeypatch, suffix, num_parts):
    """Parts are CSV files or slices of Parquet.

    The rows of the last part are all invalid and are dropped, also where the part is read on its own.
    """
    monkeypatch.setattr(files, "SLICE_ROWS", 2)
    log = pl.read_csv(LOG.encode(), schema_overrides={"time": pl.String})
    for i, part in enumerate((log, log.with_columns(time=pl.lit("never"))[:1])):
        getattr(part, f"write_{suffix}")(f"part{i}.{suffix}")
    s = source(interactions=f"part*.{suffix}")
    whole, drops = list(s.interactions()), []
    by_part = []
    for part in s.parts():
        by_part += s.interactions(part)
        drops.append(sum(s.drops.counts.values()))
    assert len(s.parts()) == num_parts and drops == [0] * (num_parts - 1) + [1]
    assert [c.row.tolist() for c in by_part] == [c.row.tolist() for c in whole]
    assert [c.title.tolist() for c in by_part] == [c.title.tolist() for c in whole]


def test_parquet_tables_of_various_types(folder):
    pl.DataFrame(
        {"user_id": [5, 6], "title_id": [3, 4], "time": [datetime(2023, 11, 14, 22, 13, 20), None],
         "seconds_viewed": [60, 5], "device": [1, None], "box": [True, None]},
        schema_overrides={"user_id": pl.Int32, "device": pl.Int8},
    ).write_parquet("log.parquet")  # fmt: skip
    pl.DataFrame(
        {"title_id": ["3", "x"], "runtime_minutes": [90, None], "genres": [[7, None], None]}
    ).write_parquet("titles.parquet")
    users = pl.DataFrame({"user_id": ["5", "007"], "segment": ["a", None]})
    users.with_columns(pl.col("segment").cast(pl.Categorical)).write_parquet("users.parquet")
    features = (*FEATURES[1:2], FEATURES[3], FEATURES[5], Feature("box", "category", "context", 8))
    s, titles, (users,), log = read(
        features, interactions="log.parquet", titles="titles.parquet", users="users.parquet"
    )
    assert s.drops.examples == {
        "row that cannot be parsed": "log.parquet, row 2, column 'time': empty; allowed: whole numbers, "
        "timestamps, dates or ISO 8601 strings"
    }
    # The log's title 3 is the catalogue's title "3".
    assert log["user"].tolist() == [5] and log["title"].tolist() == [0]
    assert log["time"].tolist() == [1_700_000_000_000] and log["device"].tolist() == [1]
    assert titles.features["genres"].values.tolist() == [7]
    assert titles.features["genres"].offsets.tolist() == [0, 1, 1]
    assert users.key.tolist() == [5, 7] and users.features["segment"].tolist() == ["a", ""]


def test_users_of_a_typed_table_are_converted_to_text_of_a_csv_log(folder):
    write(log=LOG.replace("u1", "12"))
    pl.DataFrame({"user_id": [12, 3]}).write_parquet("users.parquet")
    _, _, (users,), log = read((), users="users.parquet")
    assert users.key.tolist() == [b"12", b"3"]
    assert of_keys(log["user"])[0] == of_keys(users.key)[0] == of_keys(np.array(["12"]))[0]


def test_missing_whole_number_categories_become_the_missing_value(folder):
    pl.DataFrame({"user_id": ["u1", "u2"], "segment": [4, None]}).write_parquet("users.parquet")
    _, _, (users,), _ = read((FEATURES[3],), users="users.parquet")
    assert users.features["segment"].tolist() == [4, MISSING]


@pytest.mark.parametrize(
    ("unit", "text", "milliseconds"),
    [
        ("ms", "1700000000123", 1_700_000_000_123),
        ("s", "1700000000", 1_700_000_000_000),
        ("us", "1700000000123456", 1_700_000_000_123),
        ("s", "9000000000000000000", 4_611_686_018_427_387_000),  # clipped, without overflow into the range
        ("ms", "2023-11-14 22:13:20", 1_700_000_000_000),
        ("ms", "2023-11-14T22:13", 1_699_999_980_000),
        ("ms", "2023-11-15T00:13:20.25+02:00", 1_700_000_000_250),
        ("ms", "2023-11-14T17:43:20-0430", 1_700_000_000_000),
        ("ms", "1969-12-31T23:59:59Z", -1000),
    ],
)
def test_times_in_text(folder, unit, text, milliseconds):
    write(log=f"user_id,title_id,time,seconds_viewed\nu1,t1,{text},1\n")
    log = read((), columns=Columns(time_unit=unit))[3]
    assert log["time"].tolist() == [milliseconds]


@pytest.mark.parametrize("text", ["2023-13-01", "2023-02-30", "2023-11-14T25:00", "14.11.2023", "1.5"])
def test_rows_with_invalid_times_are_dropped(folder, text):
    write(log=LOG + f"u1,t1,{text},1,tv\n")
    s = source()
    assert len(read_log(s)["time"]) == 3
    assert s.drops.examples == {
        "row that cannot be parsed": f"log.csv, row 4, column 'time': {text!r}; "
        "allowed: whole numbers, timestamps, dates or ISO 8601 strings"
    }


def test_times_in_typed_columns(folder):
    zoned = datetime(2023, 11, 14, 22, 13, 20, 500, tzinfo=UTC)
    for values in (
        [zoned],
        pl.Series([zoned]).dt.convert_time_zone("Asia/Tokyo"),
        pl.Series([zoned]).cast(pl.Datetime("ns", "UTC")),
    ):
        pl.DataFrame(
            {"user_id": ["u"], "title_id": ["t1"], "time": values, "seconds_viewed": [1]}
        ).write_parquet("l.parquet")
        assert read((), interactions="l.parquet")[3]["time"].tolist() == [1_700_000_000_000]
    pl.DataFrame(
        {"user_id": ["u"], "title_id": ["t1"], "time": [date(2023, 11, 14)], "seconds_viewed": [1]}
    ).write_parquet("l.parquet")
    assert read((), interactions="l.parquet")[3]["time"].tolist() == [1_699_920_000_000]


@pytest.mark.parametrize("rows", [10, 77, 1000])
def test_rows_do_not_depend_on_the_chunk_size(folder, monkeypatch, rows):
    n = 200
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({
        "user_id": [f"u{i}" for i in rng.integers(0, 9, n)],
        "title_id": [f"t{i}" for i in rng.integers(0, 4, n)],
        "time": rng.integers(0, 2**40, n), "seconds_viewed": rng.random(n),
        "device": ['a "quoted"\nline, and', "b"] * (n // 2),
    })  # fmt: skip
    frame.write_csv("log.csv")
    frame.write_parquet("log.parquet", row_group_size=64)
    whole = read()[3]
    monkeypatch.setattr(text, "BLOCK_BYTES", rows * 20)
    monkeypatch.setattr(files, "SLICE_ROWS", rows)
    for pattern in ("log.csv", "log.parquet"):
        log = read(interactions=pattern)[3]
        assert whole.keys() == log.keys()
        assert all(np.array_equal(whole[n], log[n]) for n in whole)
    assert whole["row"].tolist() == list(range(1, n + 1))
    assert whole["device"][0] == 'a "quoted"\nline, and'


def test_interactions_may_be_a_folder_or_a_glob(folder):
    (folder / "logs" / "deep").mkdir(parents=True)
    (folder / "logs" / "_SUCCESS.csv").write_text("")
    (folder / "logs" / "b.csv").write_text(LOG)
    (folder / "logs" / "deep" / "a.csv").write_text(LOG)
    assert read(interactions="logs")[3]["row"].tolist() == [1, 2, 3, 1, 2, 3]
    assert [c.file for c in source(interactions="logs").interactions()] == ["logs/b.csv", "logs/deep/a.csv"]
    assert read(interactions="logs/*/*.csv")[3]["row"].tolist() == [1, 2, 3]


def test_csv_with_byte_order_mark_crlf_blank_lines_and_spaces(folder):
    write(log="\ufeff" + LOG.replace("\n", "\r\n").replace("u2,", " u2 , ") + "\r\n\r\n")
    s, _, _, log = read()
    assert log["user"].tolist() == [b"u1", b"u2", b"u1"] and log["title"].tolist() == [0, 1, -1]
    assert not s.drops.counts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u1,t1,1700000000000,much,tv", ", column 'seconds_viewed': 'much'; allowed: numbers"),
        (b"u1,t1,1700000000000,,tv", ", column 'seconds_viewed': empty; allowed: numbers"),
        (b",t1,1700000000000,1,tv", ", column 'user_id': empty; allowed: whole numbers or strings"),
        (b"u1,,1700000000000,1,tv", ", column 'title_id': empty; allowed: whole numbers or strings"),
        (b"u1,t1", ", column 'time': empty; allowed: whole numbers, timestamps, dates or ISO 8601 strings"),
        (
            b"u1,t1,1700000000000,1,tv,more",
            ": more fields than the header, an open quote, or not UTF-8",
        ),
        (b'u1,"t1,1700000000000,1,tv', ": more fields than the header, an open quote, or not UTF-8"),
        (b"u1,\xff,1700000000000,1,tv", ": more fields than the header, an open quote, or not UTF-8"),
    ],
)
@pytest.mark.parametrize("after", [0, 400])
def test_only_the_rows_that_cannot_be_parsed_are_dropped(folder, monkeypatch, line, reason, after):
    good = LOG.encode().splitlines(keepends=True)[1]
    write(log=LOG.encode() + line + b"\n" + good * after)
    monkeypatch.setattr(text, "BLOCK_BYTES", 2000)
    s, _, _, log = read()
    assert log["row"].tolist() == [1, 2, 3, *range(5, 5 + after)]
    assert s.drops.counts == {"row that cannot be parsed": 1}
    assert s.drops.examples == {"row that cannot be parsed": "log.csv, row 4" + reason}


def test_a_row_with_an_invalid_context_number_is_dropped(folder):
    write(log=LOG.replace("device", "volume").replace("tv", "3").replace("web", "loud"))
    s, _, _, log = read((Feature("volume", "number", "context", 8),))
    np.testing.assert_array_equal(log["volume"], [3, np.nan])
    assert s.drops.examples == {
        "row that cannot be parsed": "log.csv, row 3, column 'volume': 'loud'; allowed: numbers"
    }


# ---------------------------------------------------------------- invalid tables


def test_errors_for_missing_and_mixed_files(folder):
    assert_rejected(
        "source.titles is empty; allowed: a text or Parquet file, a folder of such files or a glob", titles=""
    )
    assert_rejected(
        f"source.interactions='no/*.csv' matches no file {ALLOWED} (current folder: {folder})",
        interactions="no/*.csv",
    )
    (folder / "bare").mkdir()
    assert_rejected(f"source.users='bare' matches no file {ALLOWED} (current folder: {folder})", users="bare")
    (folder / "log.xlsx").write_text(LOG)
    assert_rejected(f"source.interactions: log.xlsx is not a file {ALLOWED}", interactions="log.xlsx")
    pl.DataFrame({"a": [1]}).write_parquet("log.parquet")
    assert_rejected(
        "source.interactions='log.[cp]*' mixes text and Parquet: log.csv, log.parquet",
        interactions="log.[cp]*",
    )


def test_errors_for_empty_files(folder):
    write(log="")
    assert_rejected("log.csv is empty: the first line must name the columns")
    write(log=LOG.splitlines()[0] + "\n\n")
    assert_rejected("log.csv has columns but no rows")
    pl.DataFrame({"user_id": []}).write_parquet("log.parquet")
    assert_rejected("log.parquet has columns but no rows", interactions="log.parquet")


def test_error_for_a_file_that_is_not_parquet(folder):
    (folder / "log.parquet").write_text(LOG)
    with pytest.raises(InputError, match=r"^log.parquet is not a Parquet file: [^\n]+$"):
        source(interactions="log.parquet")


def test_errors_for_missing_columns(folder):
    write(log=LOG.replace("time", "when"))
    assert_rejected(
        "log.csv: no column 'time' (source.columns.time); "
        "columns: user_id, title_id, when, seconds_viewed, device"
    )
    write(log=LOG.replace("device", "page"))
    assert_rejected(
        "log.csv: no column 'device' (feature 'device', where='context'); "
        "columns: user_id, title_id, time, seconds_viewed, page"
    )
    write(log=LOG, titles=TITLES.replace("runtime_minutes", "length"))
    assert_rejected(
        "titles.csv: no column 'runtime_minutes' (source.columns.runtime); "
        "columns: title_id, length, year, genres"
    )
    write(titles=TITLES, users=USERS.replace("user_id", "id"))
    assert_rejected("users.csv: no column 'user_id' (source.columns.user_key); columns: id, segment, age")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [True], "(source.columns.user): Boolean values; allowed: whole numbers or strings"),
        ("seconds_viewed", ["5"], "(source.columns.seconds): String values; allowed: numbers"),
        ("time", [b"5"], "(source.columns.time): Binary values; " + TIMES),
        ("seconds_viewed", [[5.0]], "(source.columns.seconds): List(Float64) values; allowed: numbers"),
        ("device", [["t"]], "(feature 'device', where='context'): List(String) values; " + SINGLE),
    ],
)  # fmt: skip
def test_error_for_a_typed_column_of_a_wrong_type(folder, column, values, message):
    row = {"user_id": ["u"], "title_id": ["t1"], "time": [0], "seconds_viewed": [1.0], "device": ["tv"]}
    pl.DataFrame(row | {column: values}).write_parquet("log.parquet")
    assert_rejected(f"log.parquet, column {column!r} {message}", interactions="log.parquet")


def test_error_for_a_text_column_without_a_valid_value(folder):
    write(log=LOG.replace(",60,", ",long,").replace(",1.5,", ",short,").replace(",0,", ",none,"))
    assert_rejected(
        "log.csv, row 1, column 'seconds_viewed' (source.columns.seconds): 'long', "
        "and all other values in the first rows are invalid; allowed: numbers"
    )
    write(log=LOG, titles=TITLES.replace("1999", "old"))
    assert_rejected(
        "titles.csv, row 1, column 'year' (feature 'year', where='title'): 'old', "
        "and all other values in the first rows are invalid; allowed: numbers"
    )


def test_error_for_files_with_different_column_types(folder):
    (folder / "p").mkdir()
    row = {"user_id": [1], "title_id": ["t1"], "time": [0], "seconds_viewed": [1.0], "device": ["tv"]}
    pl.DataFrame(row).write_parquet("p/a.parquet")
    pl.DataFrame(row | {"user_id": ["1"]}).write_parquet("p/b.parquet")
    assert_rejected(
        "p/b.parquet, column 'user_id' (source.columns.user): strings, but whole numbers in p/a.parquet; "
        "allowed: one type",
        interactions="p",
    )


def test_error_for_a_title_that_occurs_twice(folder):
    (folder / "t").mkdir()
    (folder / "t" / "a.csv").write_text(TITLES)
    (folder / "t" / "b.csv").write_text("title_id,runtime_minutes,year,genres\nt9,1,,\nt2,90,,\n")
    assert_rejected(
        "t/b.csv, row 2, column 'title_id': 't2' is already in t/a.csv, row 2; allowed: each title once",
        titles="t",
    )


def test_errors_for_bad_rows_of_titles_and_users(folder):
    write(titles=TITLES + "t4,-5,,\n")
    assert_rejected("titles.csv, row 3, column 'runtime_minutes': -5; " + RUNTIMES)
    write(titles=TITLES + "t4,inf,,\n")
    assert_rejected("titles.csv, row 3, column 'runtime_minutes': inf; " + RUNTIMES)
    write(titles=TITLES + "t4,1e300,,\n")
    assert_rejected("titles.csv, row 3, column 'runtime_minutes': 1e+300; " + RUNTIMES)
    write(titles=TITLES + "t4,long,,\n")
    assert_rejected("titles.csv, row 3, column 'runtime_minutes': 'long'; allowed: numbers")
    write(titles=TITLES + ",5,,\n")
    assert_rejected("titles.csv, row 3, column 'title_id': empty; allowed: whole numbers or strings")
    write(titles=TITLES, users=USERS + "u4,gold,old\n")
    assert_rejected("users.csv, row 3, column 'age': 'old'; allowed: numbers")
    write(users=USERS)
    row = {"user_id": [1], "title_id": ["t1"], "time": [0], "seconds_viewed": [1.0], "device": ["tv"]}
    pl.DataFrame(row).write_parquet("log.parquet")
    assert_rejected(
        "users.csv, row 1, column 'user_id': 'u1'; allowed: whole numbers, as in log.parquet",
        interactions="log.parquet",
    )


def test_error_for_text_that_is_not_csv(folder, monkeypatch):
    monkeypatch.setattr(text, "MAX_MALFORMED", 5)
    write(log=LOG.encode() + b"u1,\xfft,1,1,tv\n" * 9)
    assert_rejected(
        "log.csv: more than 5 of rows 1 to 9 have an open quote or are not UTF-8; "
        "allowed: text in the format of the table"
    )


def test_errors_for_features_without_a_table_and_for_list_features(folder):
    assert_rejected(
        "feature 'segment', where='user': source.users is empty; allowed: a users table, or no such feature",
        users="",
    )
    for where in ("user", "context"):
        assert_rejected(
            f"feature 'x', where='{where}': kind='categories'; allowed: category, number",
            features=(Feature("x", "categories", where, 8, 3),),
        )


def test_no_users_are_yielded_without_a_users_table(folder):
    assert read(FEATURES[:3], users="")[2] == []


# ---------------------------------------------------------------- open_source


def test_the_simulator_imports_neither_polars_nor_tfds():
    code = (
        "import sys; from jaxrec import config, sources; from jaxrec.data.events import cleaning;"
        "sources.open_source(config.Simulator(users=10, test_only_users=0, titles=20, slate=5), ());"
        "print([m for m in ('polars', 'tensorflow_datasets', 'jax') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_open_source_returns_the_reader_of_each_config(folder):
    assert type(source()).__name__ == "TablesSource"
    assert type(open_source(Simulator(), ())).__name__ == "SimulatorSource"
