"""The command `embed` as a user types it: vectors of users, of a day before, and of titles."""

import json

import numpy as np
import polars as pl
import pytest
from commands import run

PLAYS = {
    "user_id": ["ann", "ann", "bob", "bob", "cyd"],
    "time": ["2025-01-01T20:00", "2025-01-03T20:00", "2025-01-02T19:00", "2025-01-03", "2025-01-03T12:00"],
    "seconds_viewed": [5000, 4000, 2400, 60, 3000],
}


def embed(*arguments, cwd):
    return run("-m", "jaxrec.embed", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def written(tiny_run, tiny, tmp_path_factory):
    """Return the folder of the vectors of users, of users a day before, and of titles."""
    folder = tmp_path_factory.mktemp("vectors")
    plays = PLAYS | {"title_id": tiny.arrays.title_key[:5].tolist()}
    pl.DataFrame(plays).write_csv(folder / "h.csv")
    checkpoint = ("--checkpoint", tiny_run / "run", "--json")
    of_users = (*checkpoint, "--of=users", "--histories=h.csv")
    results = {}
    for name, command in {
        "users": of_users,
        "before": (*of_users, "--now=2025-01-03"),
        "titles": (*checkpoint, "--of=titles"),
    }.items():
        done = embed(*command, "--out", f"{name}.parquet", cwd=folder)
        assert done.returncode == 0, done.stderr[-3000:]
        results[name] = json.loads(done.stdout)
    assert not list(folder.glob(".*.parquet*"))
    return folder, results


def read(folder, name):
    frame = pl.read_parquet(folder / f"{name}.parquet")
    return frame, np.stack(frame["vector"].to_list())


def test_the_vectors_are_those_of_the_recommender(written, recommender_of_checkpoint, tiny):
    folder, results = written
    frame, vectors = read(folder, "users")
    assert frame.columns == ["user", "empty_history", "vector"] and frame["user"].to_list() == [
        "ann",
        "bob",
        "cyd",
    ]
    expected = recommender_of_checkpoint.embed(users=str(folder / "h.csv"))
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert results["users"]["rows"] == 3 and results["users"]["width"] == expected.shape[1]
    frame, vectors = read(folder, "titles")
    assert set(frame["title"]) == set(tiny.arrays.title_key[tiny.arrays.id_of_rank - 2].tolist())
    expected = recommender_of_checkpoint.embed(titles=frame["title"].to_list())
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert frame["title"][0] == tiny.arrays.title_key[tiny.arrays.id_of_rank[0] - 2]  # the most popular first


def test_the_vectors_of_a_time_read_no_play_from_then_on(written, recommender_of_checkpoint):
    folder, results = written
    frame, vectors = read(folder, "before")
    assert frame["empty_history"].to_list() == [False, False, True]  # cyd's only play is later
    assert results["before"]["empty_histories"] == 1
    plays = pl.read_csv(folder / "h.csv").filter(pl.col("time") < "2025-01-03")
    expected = recommender_of_checkpoint.embed(users=plays, now="2025-01-03")
    np.testing.assert_allclose(vectors[:2], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(vectors[0] - read(folder, "users")[1][0]).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--of=both",), "--of=both; allowed: users, titles"),
        (("--of=users",), "--of=users: needs --histories, a table of plays"),
        (("--of=titles", "--histories=h.csv"), "--histories=h.csv; allowed only with --of=users"),
        (("--of=titles", "--now=2025-01-03"), "--now=2025-01-03; allowed only with --of=users"),
        (("--of=titles", "--out=e.csv"), "--out=e.csv: allowed: a file name that ends with .parquet"),
    ],
)
def test_flags_of_embed_that_do_not_fit_are_one_line(arguments, message, tmp_path):
    done = embed("--checkpoint=W", "--out=e.parquet", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.strip().endswith(message), done.stderr
    assert not [*tmp_path.iterdir()]
