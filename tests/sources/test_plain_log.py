"""Tests of a plain log (user, title and time), and the messages of invalid logs."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Config, Data, Evaluate, Expert, Feature, Model, Tables
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source

COLUMNS = Columns(
    user="user|user_id|userId", title="item|item_id|movieId", time="time|timestamp", time_unit="s",
    seconds="", runtime="",
)  # fmt: skip
ALLOWED = ".csv, .tsv, .inter, .user, .item, .txt, .dat, .data (also .gz and .zst) or .parquet, .parq, .pq"
PLAIN = Tables(columns=COLUMNS)
TITLE = Feature("title_id", "category", "title", 8)
ROWS = ["ann,10,1000000000", "bob,9,1000000001", "ann,9,1000000500", "bob,,1000000002", "bob,10,1000000500"]


def write(rows=ROWS, header="userId,movieId,timestamp", name="ratings.csv"):
    """Write a CSV log."""
    with open(name, "w") as f:
        f.write("\n".join([header, *rows]) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write()
    return tmp_path


def source(plain=PLAIN, features=(TITLE,), path="ratings.csv"):
    """Open the log."""
    return open_source(plain, features, path)


def assert_rejected(message, **fields):
    """Assert that reading the log raises an InputError with this message."""
    with pytest.raises(InputError) as e:
        s = source(**fields)
        s.titles()
        list(s.interactions())
    assert str(e.value) == message


def test_a_log_of_three_columns_is_read(folder):
    s = source()
    assert not s.has_completion and list(s.users()) == []
    titles, (log,) = s.titles(), s.interactions()
    assert titles.key.tolist() == ["10", "9"]  # text is sorted by bytes
    assert np.isnan(titles.runtime).all() and titles.features == {}
    assert log.user.tolist() == [b"ann", b"bob", b"ann", b"bob"]
    assert log.title.tolist() == [0, 1, 1, 0]
    assert log.time.tolist() == [1000000000000, 1000000001000, 1000000500000, 1000000500000]
    assert np.isnan(log.seconds).all() and len(log.seconds) == 4
    assert log.names == {"user": "userId", "title": "movieId", "time": "timestamp", "seconds": ""}
    assert s.drops.counts == {"row that cannot be parsed": 1}
    assert s.drops.examples["row that cannot be parsed"] == (
        "ratings.csv, row 4, column 'movieId': empty; allowed: whole numbers or strings"
    )


def test_the_catalogue_does_not_depend_on_the_order_of_rows(folder):
    write(ROWS[::-1])
    assert source().titles().key.tolist() == ["10", "9"]
    pl.DataFrame({"user": [1, 2, 1], "item": [10, 9, 9], "time": [5, 6, 7]}).write_parquet("log.parquet")
    titles = source(path="log.parquet").titles()
    assert titles.key.tolist() == [9, 10]  # numbers are sorted by value


def test_the_first_existing_column_name_is_used(folder):
    write(["7,ann,b,1000000000"], "user_id,user,item,time")
    (log,) = source().interactions()
    assert log.user.tolist() == [b"ann"] and log.names["user"] == "user"


def test_a_titles_table_may_lack_runtimes(folder):
    with open("titles.csv", "w") as f:
        f.write("title_id,year\n9,1999\n10,2000\n11,2001\n")
    s = source(replace(PLAIN, titles="titles.csv"), (TITLE, Feature("year", "number", "title", 4)))
    assert s.titles().key.tolist() == ["9", "10", "11"] and np.isnan(s.titles().runtime).all()
    assert s.titles().features["year"].tolist() == [1999, 2000, 2001]
    (log,) = s.interactions()
    assert log.title.tolist() == [1, 0, 0, 1] and not s.has_completion


def test_errors_for_invalid_logs(folder):
    no_file = f"no file {ALLOWED} (current folder: {folder})"
    assert_rejected(f"data.path='gone.csv' matches {no_file}", path="gone.csv")
    write(header="who,movieId,timestamp")
    assert_rejected(
        "ratings.csv: no column 'user' or 'user_id' or 'userId' (source.columns.user); "
        "columns: who, movieId, timestamp"
    )
    write(header="userId,movieId,when")
    assert_rejected(
        "ratings.csv: no column 'time' or 'timestamp' (source.columns.time); columns: userId, movieId, when"
    )
    write(["ann,10,noon", "bob,9,midnight"])
    assert_rejected(
        "ratings.csv, row 1, column 'timestamp' (source.columns.time): 'noon', and all other values in the "
        "first rows are invalid; allowed: whole numbers, timestamps, dates or ISO 8601 strings"
    )
    write([])
    assert_rejected("ratings.csv has columns but no rows")
    write()
    assert_rejected(
        "feature 'year', where='title': source.titles is empty; "
        "allowed: a titles table, or no such feature except title_id",
        features=(TITLE, Feature("year", "number", "title", 4)),
    )


def test_files_of_one_log_must_share_column_names(folder):
    write(name="a.csv")
    write(name="b.csv", header="user,movieId,timestamp")
    assert_rejected(
        "b.csv: no column 'userId' (source.columns.user); columns: user, movieId, timestamp", path="[ab].csv"
    )


def make_config(**data):
    """Return a checked config of sequences over the log."""
    data = {"examples": "sequences", "next_k": 1, "history": 20, "path": "ratings.csv", "split": "last",
            "validation_share": 1.0} | data  # fmt: skip
    model = Model(experts=(Expert(max_len=20, encoder="sasrec"),), head="dot")
    config = Config(
        source=PLAIN, features=(TITLE,), data=Data(**data), model=model, evaluate=Evaluate(next_k=(1,))
    )
    check(config)
    return config


def prepare_dataset(directory, **data):
    """Prepare and open the dataset of the log."""
    config = make_config(**data)
    prepare(open_source(config.source, config.features, config.data.path), config, str(directory))
    return Dataset(directory)


def log_rows(users=30, titles=12):
    """Return rows of user u playing title (u + i) % titles, three plays per second."""
    return [
        f"u{u},t{(u + i) % titles},{1_000_000_000 + i // 3}" for u in range(users) for i in range(6 + u % 5)
    ]


def test_a_plain_log_is_prepared_as_sequences_in_any_order_of_rows(folder):
    write(log_rows())
    one = prepare_dataset("one")
    write(np.random.default_rng(0).permutation(log_rows()).tolist())
    two = prepare_dataset("two", partitions=3)
    assert one.fingerprint == two.fingerprint
    assert one.manifest["has_completion"] is False and one.manifest["completion_threshold"] is None
    assert "hard_fill_rate" not in one.manifest
    assert one.layout.rows == "next_item" and one.layout.num_targets == 1 and sum(one.layout.pools) == 0
    assert sorted(one.arrays.title_key.tolist()) == sorted(f"t{i}" for i in range(12))
    assert {s: v["examples"] for s, v in one.manifest["splits"].items()} == {
        "train": 30, "validation": 30, "test": 30,
    }  # fmt: skip
    assert sorted(one.user_keys("test").tolist()) == sorted(f"u{u}".encode() for u in range(30))
    # A part of the plays of one second may be held out; the counts are those of the training rows.
    trained = np.bincount(one.rows("train").all()["title"].flat, minlength=14)
    assert one.arrays.title_plays[2:].tolist() == trained[2:].tolist()
    test = one.rows("test").all()
    assert set(test["target_completion"][:, 0].tolist()) == {1.0}
    first = dict(zip(one.user_keys("test").tolist(), test["target_time"].tolist(), strict=True))
    assert first[b"u0"] == 1_000_000_001 and first[b"u4"] == 1_000_000_003


def test_error_for_too_many_rows_that_cannot_be_parsed(folder):
    write([*log_rows(2), "u1,,5"])
    with pytest.raises(InputError) as e:
        prepare_dataset("bad")
    assert str(e.value) == (
        "1 of 14 rows (7.1%) would be left out, more than data.max_invalid_fraction=0.05; most of them: "
        "row that cannot be parsed, 1 rows, the first at ratings.csv, row 14, column 'movieId': empty; "
        "allowed: whole numbers or strings"
    )
