"""Preparation's benchmark: its tables, and a pandas peer whose rows are ours."""

import numpy as np
import polars as pl
import pytest

from benchmarks import prepare
from jaxrec.core.errors import InputError


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables") / "small"
    prepare.write_tables(folder, 1500)
    return folder


@pytest.fixture(scope="module")
def dataset(tables):
    return prepare.ours(tables, tables.parent / "prepared")


def test_the_tables_hold_what_they_should(tables, dataset):
    log = pl.read_parquet(tables / "interactions/*.parquet")
    assert 1000 < log.height < 2500
    assert log["user_id"].n_unique() == round(1500 / prepare.EVENTS_A_USER)
    assert dataset.manifest["rows"]["read"] == log.height
    plays = np.sort(log["title_id"].value_counts()["count"].to_numpy())[::-1]
    assert plays[:50].sum() > 0.15 * log.height  # one title in a hundred
    assert 0 < dataset.manifest["hard_fill_rate"] < 1


def test_tables_are_a_function_of_their_seed(tables, tmp_path):
    prepare.write_tables(tmp_path / "same", 1500)
    prepare.write_tables(tmp_path / "other", 1500, seed=1)
    name = "interactions/00000.parquet"
    assert pl.read_parquet(tmp_path / "same" / name).equals(pl.read_parquet(tables / name))
    assert not pl.read_parquet(tmp_path / "other" / name).equals(pl.read_parquet(tables / name))


def test_the_peers_rows_are_ours_in_every_field(tables, dataset):
    pytest.importorskip("pandas", reason="the peer is pandas, which is not installed")
    rows = prepare.peer(tables, keyed=True)
    assert prepare.differing(dataset, rows) == []
    rows["test"]["history_age"] = rows["test"]["history_age"] + np.float16(1)
    del rows["train"]["target"]
    assert prepare.differing(dataset, rows) == ["train.target", "test.history_age"]


def test_its_generators_draws_are_of_the_same_pools(tables, dataset):
    """What is timed draws otherwise, from the same pools: all that is not drawn is equal."""
    pytest.importorskip("pandas", reason="the peer is pandas, which is not installed")
    rows = prepare.peer(tables)
    drawn = {name.partition(".")[2] for name in prepare.differing(dataset, rows)}
    assert drawn == {
        "pool_hard",
        "pool_trending",
        "pool_tailing",
        "pool_random",
        "list_enabled",
        "list_disabled",
    }
    trending = dataset.manifest["trending"] + 2
    assert rows["train"]["pool_trending"].max() < trending <= rows["train"]["pool_tailing"].min()


def test_a_process_of_its_own_says_its_peak(tables, tmp_path):
    found = prepare._alone(tables, tmp_path / "out")
    assert found["events"] > 1000 and found["seconds"] > 0
    assert 2**25 < found["peak_bytes"] < 2**32


@pytest.mark.parametrize("text", ["many", "12", "1e999", "nan", "-5e6"])
def test_a_wrong_size_is_refused(text):
    with pytest.raises(InputError, match=f"--events={text}; allowed"):
        prepare._size(text, "events")
