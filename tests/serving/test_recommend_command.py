"""The command `recommend` as a user types it: files, printed table, messages."""

import json
from pathlib import Path

import polars as pl
import pytest
from commands import run

ROOT = Path(__file__).resolve().parents[2]


def type_in(*arguments, cwd):
    return run("-m", "jaxrec.recommend", *arguments, cwd=cwd)


def test_a_file_of_histories_becomes_a_file_of_recommendations(tiny_run, tiny, tmp_path):
    keys = tiny.arrays.title_key
    plays = {
        "user_id": ["ann", "ann", "bob", "bob"],
        "title_id": [*keys[:3].tolist(), 5],
        "time": ["2025-01-01T20:00", "2025-01-02", "2025-01-02T19:00", "2025-01-03"],
        "seconds_viewed": [5000, 40, 2400, 60],
    }
    pl.DataFrame(plays).write_csv(tmp_path / "h.csv")
    command = ("--checkpoint", tiny_run / "run", "--histories", "h.csv", "--k", 5, "--out", "r.parquet")
    done = type_in(*command, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result, written = json.loads(done.stdout), pl.read_parquet(tmp_path / "r.parquet")
    assert written.columns == ["user", "rank", "title", "score", "completion", "reason", "empty_history"]
    assert written["user"].to_list() == ["ann"] * 5 + ["bob"] * 5
    assert written["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    assert result["users"] == 2 and result["plays_of_unknown_titles"] == 1 and len(result["first"]) == 10
    assert not list(tmp_path.glob(".r.parquet*"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--k=5",), "--checkpoint"),
        (("--checkpoint=W", "--histories=h.csv", "--available=a.csv"), "--available=a.csv: needs --now"),
        (("--checkpoint=W", "--histories=h.csv", "--out=r.json"),
         "--out=r.json: allowed: a file name that ends with .csv or .parquet"),
        (("--checkpoint=W", "--histories=h.csv", "--page", "--diversity=0.5"), "--diversity=0.5; allowed"),
    ],
    ids=["checkpoint", "available", "out", "diversity"],
)  # fmt: skip
def test_wrong_input_is_one_line(arguments, message, tmp_path):
    done = type_in(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
