"""Signals of sources: columns of a log, tables of their own, the feedback of KuaiRand."""

import numpy as np
import polars as pl
import pytest
from test_kuairand import SAMPLE, needs_sample, write_log

from configs import kuairand_signals
from jaxrec.config.schema import Columns, FileFormat, KuaiRand, Signal, Simulator, Tables
from jaxrec.core.errors import InputError
from jaxrec.data.signals.cleaning import SignalTally, clean_signals
from jaxrec.data.storage.source_files import describe, differences
from jaxrec.sources import files, open_source

LOG = """user_id,title_id,time,seconds_viewed,liked,thumb,read,query
u1,t1,1700000000000,60,1,-1,1.5,
u2,t2,1700000001000,60,0,0,0,drama
u2,t9,1700000002000,60,,,,
u3,t1,1700000003000,60,True,1,nan,0
u4,,1700000004000,60,false,0.0,2,comedy
u4,t1,,60,0.0,,3,
u5,t1,1700000005000,60,yes,up,,
"""
OWN = """person,title_id,time,value
u2,t2,1700000009000,4
u1,t1,1700000008000,bad
u9,t9,1700000007000,0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "titles.csv").write_text("title_id,runtime_minutes\nt1,90\nt2,90\n")
    (tmp_path / "own.csv").write_text(OWN)
    return tmp_path


def opened(*signals, **fields):
    return open_source(Tables("log.csv", "titles.csv", **fields), (), "", signals)


def events(source, signals):
    """Return the events by signal, as tuples of user, title, time less the first, value, and text."""
    out = {signal.name: [] for signal in signals}
    for chunk in source.signals():
        texts = [b""] * len(chunk.user) if chunk.text is None else chunk.text.tolist()
        columns = (
            c.tolist() for c in (chunk.kind, chunk.user, chunk.title, chunk.time, chunk.value, chunk.row)
        )
        for kind, user, title, time, value, row, text in zip(*columns, texts, strict=True):
            user = user.decode() if isinstance(user, bytes) else user
            out[signals[kind].name].append((user, title, time - 1700000000000, value, row, text.decode()))
    return out


def test_a_column_is_an_event_where_it_is_neither_zero_nor_empty(folder):
    """Titles t1 and t2 are rows 0 and 1, t9 is not in the catalogue; rows without a time or title are bad."""
    signals = (
        Signal("like", column="liked"),
        Signal("shown", column="*"),
        Signal("reading", "seconds", column="read", unit=60.0),
        Signal("search", "text", "user", column="query"),
    )
    source = opened(*signals)
    assert events(source, signals) == {
        "like": [("u1", 0, 0, 1, 1, ""), ("u3", 0, 3000, 1, 4, ""), ("u5", 0, 5000, 1, 7, "")],
        "shown": [
            ("u1", 0, 0, 1, 1, ""), ("u2", 1, 1000, 1, 2, ""), ("u2", -1, 2000, 1, 3, ""),
            ("u3", 0, 3000, 1, 4, ""), ("u5", 0, 5000, 1, 7, ""),
        ],
        "reading": [("u1", 0, 0, 90, 1, "")],
        "search": [
            ("u2", -1, 1000, 0, 2, "drama"), ("u3", -1, 3000, 0, 4, "0"), ("u4", -1, 4000, 0, 5, "comedy"),
        ],
    }  # fmt: skip
    [chunk] = source.signals()
    assert chunk.unknown == "t9" and chunk.names == {
        "user": "user_id", "title": "title_id", "time": "time", "like": "liked", "reading": "read",
        "search": "query",
    }  # fmt: skip
    unreadable = {signals[k].name: d for k, d in chunk.unreadable.items()}
    assert {name: d.counts for name, d in unreadable.items()} == {
        "shown": {"row that cannot be parsed": 2}, "reading": {"row that cannot be parsed": 2},
    }  # fmt: skip
    [example] = unreadable["reading"].examples.values()
    assert example.startswith("log.csv, row 5, column 'title_id': empty; allowed: ")


def test_an_event_with_a_value_that_is_no_number_names_its_own_column(folder):
    signals = (Signal("like", column="liked"), Signal("thumb", "sign", column="thumb"))
    [chunk] = opened(*signals).signals()
    [(kind, drops)] = chunk.unreadable.items()
    assert signals[kind].name == "thumb" and [*drops.counts.values()] == [1]
    assert [*drops.examples.values()] == ["log.csv, row 7, column 'thumb': 'up'; allowed: numbers"]
    assert events(opened(*signals), signals)["thumb"] == [("u1", 0, 0, -1, 1, ""), ("u3", 0, 3000, 1, 4, "")]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_of_its_own_has_an_event_a_row(folder, monkeypatch, form):
    """Zero is a value there; a user that no play has is an event too."""
    monkeypatch.setattr(files, "SLICE_ROWS", 2)
    frame = pl.read_csv("own.csv")
    frame = frame.with_columns(pl.col("value").cast(pl.Float64, strict=False), stars=pl.lit(3.5))
    if form == "parquet":
        frame.write_parquet("own.parquet")
    signals = (
        Signal("rating", "number", table=f"own.{form}"),
        Signal("visit", about="user", table=f"own.{form}"),
        Signal("like", column="liked"),
    )
    source = opened(*signals, columns=Columns(user="user_id|person"))
    assert events(source, signals) | {"like": []} == {
        "rating": [("u2", 1, 9000, 4, 1, ""), ("u9", -1, 7000, 0, 3, "")],
        "visit": [("u2", -1, 9000, 1, 1, ""), ("u1", -1, 8000, 1, 2, ""), ("u9", -1, 7000, 1, 3, "")],
        "like": [],
    }
    whole = [chunk for part in source.signal_parts() for chunk in source.signals(part)]
    assert len(source.signal_parts()) == {"csv": 3, "parquet": 5}[form]
    assert [c.row.tolist() for c in whole] == [c.row.tolist() for c in source.signals()]
    assert sorted(source.files()) == ["log.csv", f"own.{form}", "titles.csv"]
    unreadable = [d for c in whole for d in c.unreadable.values()]
    assert sum(n for d in unreadable for n in d.counts.values()) == 1  # of the rating without a number


def test_a_file_that_is_read_as_several_tables_is_listed_once(folder):
    """A file listed twice would look new when the files are compared with a dataset's."""
    source = open_source(
        Tables("log.csv", "log.csv", columns=Columns(runtime="seconds_viewed")), (), "",
        (Signal("like", column="liked"), Signal("row", table="log.csv")),
    )  # fmt: skip
    assert source.files() == ["log.csv"]
    assert differences(describe(source.files()), source.files()) == []


def test_missing_values_of_parquet_are_no_events(folder):
    columns = {"user_id": ["u1"] * 4, "title_id": ["t1"] * 4, "time": range(1700000000000, 1700000000004)}
    columns |= {
        "seconds_viewed": [1.0] * 4,
        "like": [True, False, None, True],
        "score": [float("nan"), None, 0.0, 2.5],
        "word": ["", None, "0", "a"],
    }
    pl.DataFrame(columns).write_parquet("log.parquet")
    signals = (
        Signal("like", column="like"), Signal("scored", column="score"), Signal("wrote", column="word"),
        Signal("score", "number", column="score"), Signal("word", "text", column="word"),
    )  # fmt: skip
    source = open_source(Tables("log.parquet", "titles.csv"), (), "", signals)
    assert {name: [e[2] for e in rows] for name, rows in events(source, signals).items()} == {
        "like": [0, 3], "scored": [3], "wrote": [3], "score": [3], "word": [2, 3],
    }  # fmt: skip
    [chunk] = source.signals()
    assert chunk.unreadable == {}


def test_the_value_and_format_of_a_table_of_its_own_are_those_of_the_source(folder):
    (folder / "own.txt").write_text("u1;t1;1700000000000;7\n")
    form = FileFormat(";", header=("user_id", "title_id", "time", "stars"))
    signals = (Signal("rating", "number", table="own.txt"),)
    source = opened(*signals, columns=Columns(value="stars"), signals_format=form)
    assert events(source, signals)["rating"] == [("u1", 0, 0, 7, 1, "")]


@pytest.mark.parametrize(
    "signal, message",
    [
        (
            Signal("a", column="no"),
            "log.csv: no column 'no' (signals[0].column); columns: user_id, title_id, time, seconds_viewed, "
            "liked, thumb, read, query",
        ),
        (Signal("a", table="no.csv"), "signals[0].table='no.csv' matches no file "),
        (
            Signal("a", "number", table="log.csv"),
            "log.csv: no column 'value' (source.columns.value); columns: user_id, title_id, time, ",
        ),
        (Signal("a", table="titles.csv"), "titles.csv: no column 'user_id' (source.columns.user); columns: "),
        (
            Signal("a", "text", table="whole.parquet"),
            "whole.parquet, column 'value' (source.columns.value): Int64 values; allowed: strings",
        ),
        (
            Signal("a", table="no_time.csv"),
            "no_time.csv: no column 'time' (source.columns.time); columns: user_id, title_id",
        ),
    ],
)
def test_a_signal_without_its_column_is_one_line(folder, signal, message):
    columns = {"user_id": ["u1"], "title_id": ["t1"], "time": [1], "value": [1]}
    pl.DataFrame(columns).write_parquet("whole.parquet")
    (folder / "no_time.csv").write_text("user_id,title_id\nu1,t1\n")
    with pytest.raises(InputError) as error:
        opened(signal)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_users_of_a_table_have_the_type_of_the_log(folder):
    pl.DataFrame(
        {
            "user_id": [1, 2],
            "title_id": ["t1", "t2"],
            "time": [1700000000000] * 2,
            "seconds_viewed": [9.0] * 2,
        }
    ).write_parquet("log.parquet")
    (folder / "own.csv").write_text("user_id,title_id,time\n2,t1,1700000000000\n")
    signals = (Signal("visit", table="own.csv"),)
    source = open_source(Tables("log.parquet", "titles.csv"), (), "", signals)
    assert events(source, signals)["visit"] == [(2, 0, 0, 1, 1, "")]
    (folder / "own.csv").write_text("user_id,title_id,time\nguest,t1,1700000000000\n")
    source = open_source(Tables("log.parquet", "titles.csv"), (), "", signals)
    with pytest.raises(InputError, match=r"^own.csv, row 1, column 'user_id': 'guest'; allowed: whole"):
        list(source.signals())


def test_other_sources_have_no_signals(folder):
    simulator = open_source(Simulator(users=5, test_only_users=0, titles=20, slate=5), ())
    for source in (simulator, opened()):
        assert source.signal_parts() == () and list(source.signals()) == []


def test_the_feedback_of_kuairand_is_read_from_its_logs(tmp_path):
    write_log(tmp_path)
    signals = (Signal("click", column="is_click"), Signal("shown", about="user", column="*"))
    source = open_source(KuaiRand(str(tmp_path)), (), "", signals)
    first = 1650812741436
    assert events(source, signals) == {
        "click": [(5, 0, first - 1700000000000, 1, 1, ""), (6, 2, first + 1 - 1700000000000, 1, 2, "")],
        "shown": [(u, -1, first + i - 1700000000000, 1, i + 1, "") for i, u in enumerate((5, 6, 6))],
    }


@needs_sample
def test_the_rates_of_the_sample_are_those_of_its_description():
    config = kuairand_signals.get_config()
    source = open_source(KuaiRand(str(SAMPLE)), (), "", config.signals)
    tally, records = SignalTally(), []
    for chunk in source.signals():
        records.append(clean_signals(chunk, config.signals, config.data, tally))
    rows = 228_329
    rates = {s.name: tally.events[i] / rows for i, s in enumerate(config.signals)}
    expected = {
        "click": 0.442, "long_view": 0.311, "like": 0.0171, "profile_enter": 0.0185, "comment": 0.0025,
        "follow": 0.0013, "forward": 0.00085, "hate": 0.00083,
    }  # fmt: skip
    assert {
        name: float(f"{rates[name]:.{len(str(rate)) - 2}f}") for name, rate in expected.items()
    } == expected
    stay = np.concatenate(records)
    stay = stay["value"][stay["kind"] == [s.name for s in config.signals].index("comment_stay")]
    assert len(stay) == 9_966 and 1 < np.median(stay) < 60  # seconds
