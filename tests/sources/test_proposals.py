"""Tests of proposals for raw files: formats, roles, units and features, each with its reason."""

import gzip

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import FileFormat
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.sources.proposals.formats import detect_format
from jaxrec.sources.proposals.names import rank_of_role, split_unit
from jaxrec.sources.proposals.propose import propose
from jaxrec.sources.proposals.units import watch_units


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.csv", b"u,t,at\nx,y,1\n", {}),
        ("a.csv", b'u,t,at\nx,"a,b;c;d;e",1\ny,"c,d",2\n', {}),
        ("a.csv", b"u;t;at\nx;y;1,5\n", {"separator": ";"}),
        ("a.tsv", b"u\tt\tat\nx\ty\t1\n", {}),
        ("a.txt", b"u\tt\tat\nx\ty\t1\n", {"separator": "\t"}),
        (
            "m.dat",
            b"1::A Film (1995)::Drama|Crime|Play\n2::A Show (1996)::Drama|Crime|War\n",
            {"separator": "::", "header": ("c1", "c2", "c3")},
        ),
        ("a.txt", b"u t at\nx y 1\n", {"separator": " "}),
        ("r.dat", b"1::2::5::978300760\n", {"separator": "::", "header": ("c1", "c2", "c3", "c4")}),
        ("u.data", b"196\t242\t3\t881250949\n", {"separator": "\t", "header": ("c1", "c2", "c3", "c4")}),
        ("a.csv", b"ann,film,2020-01-02\n", {"header": ("c1", "c2", "c3")}),
        ("a.inter", b"user_id:token\titem_id:token\n1\t2\n", {}),
        ("a.csv.gz", gzip.compress(b"u|t\nx|y\n", mtime=0), {"separator": "|"}),
        ("a.csv", "u,t\nbøb,x\n".encode("latin-1"), {"encoding": "latin-1"}),
        ("a.csv", "u,t\nbøb,x\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("a.csv", "u,t\nbob,x\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("a.csv", "u,t\nbøb,x\n".encode("utf-8-sig"), {"encoding": "utf-8-sig"}),
        ("a.tsv", b'u\tt\nx\t"open\ny\tz\n', {"quote": ""}),
    ],
)
def test_a_format_is_detected(folder, name, data, form):
    (folder / name).write_bytes(data)
    detected = detect_format(name)
    assert detected.form == FileFormat(**form)
    assert set(detected.reasons) == set(form)


def test_a_file_without_a_separator_is_an_error(folder):
    (folder / "a.csv").write_text("one\ntwo words here\nthree, or more\n")
    with pytest.raises(InputError, match=r"^a.csv: no separator splits its first lines into equally many"):
        detect_format("a.csv")


# ---------------------------------------------------------------- names and units


def test_names_and_units_in_names():
    assert split_unit("play_time_ms") == ("play_time", "ms")
    assert split_unit("secondsViewed") == ("viewed", "s")
    assert split_unit("Runtime (Minutes)") == ("runtime", "min")
    assert split_unit("s") == ("s", "")
    assert rank_of_role("userId", "user") == rank_of_role("USER_ID", "user") == 0
    assert rank_of_role("movieId", "title") < rank_of_role("title", "title")
    assert rank_of_role("date", "time") > rank_of_role("time_ms", "time")
    assert rank_of_role("profile_stay_time", "seconds") is None


FILMS = np.array([90.0, 100, 110, 95, 120])  # minutes
SEEN = np.array([0.02, 0.5, 0.9, 1.0, 0.97])  # of the runtime


@pytest.mark.parametrize(
    ("watch", "runtime", "names", "units"),
    [
        (SEEN * FILMS * 60, FILMS, ("", ""), ("s", "min")),
        (SEEN * FILMS * 60_000, FILMS, ("", ""), ("ms", "min")),
        (SEEN * FILMS, FILMS, ("", ""), ("min", "min")),
        (SEEN * FILMS * 60, FILMS * 60, ("", ""), ("s", "s")),
        (SEEN * FILMS * 60_000, FILMS * 60_000, ("", ""), ("ms", "ms")),
        (SEEN * FILMS * 60, FILMS / 60, ("", "h"), ("s", "h")),
        (SEEN * 71.0, np.full(5, 71.0), ("s", ""), ("s", "s")),  # short videos: 71 s, not 71 min
        (SEEN * FILMS * 60, FILMS, ("s", "min"), ("s", "min")),
        (SEEN * FILMS * 60_000, FILMS, ("s", "min"), ("ms", "min")),  # the name is wrong
        (SEEN, FILMS, ("", ""), ("fraction", "min")),
        (SEEN * 100, FILMS, ("percent", ""), ("percent", "min")),
        (SEEN * 100, FILMS, ("fraction", ""), ("percent", "min")),
        (SEEN, None, ("", ""), ("fraction", "")),
        (SEEN * 60, None, ("s", ""), None),
    ],
)
def test_units_of_watch_times(watch, runtime, names, units):
    result = watch_units(watch, runtime, *names)
    assert (result and (result.watch, result.runtime)) == units
    if names == ("s", "min") and units == ("ms", "min"):
        assert result.reason.startswith("the names state s and min, but the values contradict them; ")


# ---------------------------------------------------------------- whole proposals


def plays(time, **columns):
    """Return 40 plays of 8 users and 10 titles."""
    user, title = np.arange(40) % 8, np.arange(40) % 10
    return {"user_id": user, "video_id": title, "time": time, **columns}


def write(name, columns):
    pl.DataFrame(columns).write_csv(name)
    return name


@pytest.mark.parametrize(
    ("factor", "unit", "decimals"),
    [(1, "s", False), (10**3, "ms", False), (10**6, "us", False), (10**9, "ns", False), (1.0, "s", True)],
)
def test_units_of_times(factor, unit, decimals):
    seconds = 1_600_000_000 + np.arange(40)
    log = write("log.csv", plays(seconds * factor + (0.5 if decimals else 0)))
    config, reasons, _, _ = propose(log)
    assert (config.source.columns.time_unit, config.source.columns.time_decimals) == (unit, decimals)
    assert reasons["source.columns.time_unit"].endswith(f"is 2020-09-13 in {unit} since 1970")


def test_iso_times_and_typed_columns():
    log = write("log.csv", plays(["2020-09-13T12:26:40Z"] * 40))
    assert propose(log)[1]["source.columns.time_unit"] == "100% of the values are ISO 8601"
    frame = pl.DataFrame(plays(["2020-09-13"] * 40)).with_columns(pl.col("time").str.to_date())
    frame.write_parquet("log.parquet")
    assert propose("log.parquet")[1]["source.columns.time_unit"] == "the values are timestamps"


def test_a_day_as_a_number_is_no_time():
    """KuaiRand's `date` is 20220425, which would be August 1970 in seconds."""
    log = write("log.csv", plays([1_650_812_741_436] * 40, date=[20220425] * 40))
    assert propose(log).config.source.columns.time == "time"
    log = write("log.csv", {n: c for n, c in plays([20220425] * 40).items()})
    with pytest.raises(
        InputError, match=r"^log.csv: no column holds times \(columns: user_id, video_id, time\)"
    ):
        propose(log)


def test_a_file_without_a_header_is_read_by_contents():
    rows = "".join(f"{i % 8 + 1}::{i % 10 + 1}::{i % 5 + 1}::{978300760 + i}\n" for i in range(40))
    with open("ratings.dat", "w") as file:
        file.write(rows)
    config, reasons, _, _ = propose("ratings.dat")
    c = config.source.columns
    assert (c.user, c.title, c.time, c.time_unit, c.seconds) == ("c1", "c2", "c4", "s", "")
    assert reasons["source.columns.user"].startswith(
        "no name fits; the first column left whose values repeat"
    )
    assert config.task.name == "next_item" and config.source.interactions_format.separator == "::"
    check(config)


def test_watch_times_need_runtimes():
    log = write("log.csv", plays([1_600_000_000] * 40, seconds_viewed=np.arange(40)))
    config, reasons, _, _ = propose(log)
    assert config.source.columns.seconds == ""
    assert reasons["source.columns.seconds"].startswith(
        "'seconds_viewed' is not read: completion needs runtimes"
    )
    check(config)


def test_runtimes_of_the_log_are_used_where_no_table_has_them():
    duration = np.repeat([60_000, 90_000], 20)
    log = write(
        "log.csv", plays([1_600_000_000] * 40, play_time_ms=duration * np.tile(SEEN, 8), duration_ms=duration)
    )
    config, _, _, _ = propose(log)
    c = config.source.columns
    assert (c.seconds, c.seconds_unit, c.log_runtime, c.runtime_unit) == (
        "play_time_ms",
        "ms",
        "duration_ms",
        "ms",
    )
    check(config)
    titles = {"id": np.arange(10), "runtime_minutes": [1.0, 1.5, None, *[1.5] * 7]}
    config, _, _, _ = propose(log, write("titles.csv", titles))
    c = config.source.columns
    assert (c.title_key, c.runtime, c.seconds_unit, c.runtime_unit) == ("id", "runtime_minutes", "ms", "min")
    assert c.log_runtime == ""  # in ms, while the table's runtimes are minutes


def test_features_of_all_tables():
    log = write(
        "log.csv",
        plays([1_600_000_000] * 40, seconds_viewed=np.tile(SEEN * FILMS * 60, 8), device=["tv", "web"] * 20,
              is_like=[0, 1] * 20),
    )  # fmt: skip
    titles = write(
        "titles.csv",
        {
            "video_id": np.arange(10), "runtime": np.tile(FILMS, 2), "name": [f"film {i}" for i in range(10)],
            "genres": ["Drama|Crime", "Drama"] * 5, "year": 1990 + np.arange(10) / 4, "kind": ["a", "b"] * 5,
            "same": [1] * 10, "rare": [None] * 8 + ["x", "y"],
        },
    )  # fmt: skip
    users = write("users.csv", {"user_id": np.arange(8), "country": ["DE", "FR"] * 4, "age": np.arange(8)})
    config, _, tables, left_out = propose(log, titles, users)
    check(config)
    features = {f.name: (f.kind, f.where, f.most) for f in config.features}
    assert features == {
        "title_id": ("category", "title", 0),
        "genres": ("categories", "title", 3),
        "runtime": ("category", "title", 0),  # five distinct whole numbers
        "year": ("number", "title", 0),
        "kind": ("category", "title", 0),
        "country": ("category", "user", 0),
        "device": ("category", "context", 0),
        "completion": ("number", "interaction", 0),
        "sessions": ("number", "interaction", 0),
        "age": ("number", "interaction", 0),
    }
    assert config.source.columns.list_separator == "|"
    assert left_out == {
        "name": "10 distinct texts in 10 rows",
        "same": "all values are equal",
        "rare": "80% of the values are missing",
        "age": "another feature has this name; rename the column to use it",
        "is_like": "may be an outcome of the play; declare it if it is known before the title is played",
    }
    assert tables["titles"]["columns"][7] == {
        "name": "rare", "kind": "text", "missing": 8, "distinct": 3, "examples": ["x", "y"],
    }  # fmt: skip


def test_a_table_of_other_titles_is_an_error():
    log = write("log.csv", plays([1_600_000_000] * 40))
    titles = write("titles.csv", {"video_id": np.arange(10) + 7, "kind": ["a"] * 10})
    with pytest.raises(InputError) as e:
        propose(log, titles)
    assert str(e.value) == (
        "titles.csv: no column of distinct values holds half of the titles of the log (columns: video_id, "
        "kind); allowed: one row for each title, with the ids of the log"
    )
