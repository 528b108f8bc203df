"""The preparation benchmark: its tables, and the pandas peer with equal rows."""

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


def test_tables_have_the_intended_distribution(tables, dataset):
    log = pl.read_parquet(tables / "interactions/*.parquet")
    assert 1000 < log.height < 2500
    assert log["user_id"].n_unique() == round(1500 / prepare.EVENTS_A_USER)
    assert dataset.manifest["rows"]["read"] == log.height
    plays = np.sort(log["title_id"].value_counts()["count"].to_numpy())[::-1]
    assert plays[:50].sum() > 0.15 * log.height  # the top 1% of titles
    assert 0 < dataset.manifest["hard_fill_rate"] < 1


def test_tables_depend_on_their_seed_only(tables, tmp_path):
    prepare.write_tables(tmp_path / "same", 1500)
    prepare.write_tables(tmp_path / "other", 1500, seed=1)
    name = "interactions/00000.parquet"
    assert pl.read_parquet(tmp_path / "same" / name).equals(pl.read_parquet(tables / name))
    assert not pl.read_parquet(tmp_path / "other" / name).equals(pl.read_parquet(tables / name))


def test_the_peers_rows_equal_ours_in_all_fields(tables, dataset):
    pytest.importorskip("pandas", reason="the peer is pandas, which is not installed")
    rows = prepare.peer(tables, keyed=True)
    assert prepare.differing(dataset, rows) == []
    rows["test"]["history_age"] = rows["test"]["history_age"] + np.float16(1)
    del rows["train"]["target"]
    assert prepare.differing(dataset, rows) == ["train.target", "test.history_age"]


def test_generator_draws_come_from_the_same_pools(tables, dataset):
    """The timed variant draws differently from the same pools; other fields are equal."""
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


def test_a_separate_process_reports_its_peak_memory(tables, tmp_path):
    figures = prepare._alone(tables, tmp_path / "out")
    assert figures["events"] > 1000 and figures["seconds"] > 0
    assert 2**25 < figures["peak_bytes"] < 2**32


@pytest.mark.parametrize("text", ["many", "12", "1e999", "nan", "-5e6"])
def test_an_invalid_size_is_rejected(text):
    with pytest.raises(InputError, match=f"--events={text}; allowed"):
        prepare.parse_size(text, "events")
