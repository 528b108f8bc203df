"""Tests of the KuaiRand source on a small log and on a real sample.

Tests of the sample are skipped where it is missing. The sample is the folder in JAXREC_KUAIRAND, or
../shared/data/kuairand_pure_sample next to the checkout.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from configs import kuairand
from jaxrec.config.schema import Data, Feature, KuaiRand
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Drops, Lists
from jaxrec.data.events.cleaning import RUNTIME, CleanChunk, check_dropped, clean, completion, drop_copies
from jaxrec.sources.kuairand import KuaiRandSource

SAMPLE = Path(
    os.environ["JAXREC_KUAIRAND"]
    if "JAXREC_KUAIRAND" in os.environ
    else Path(__file__).parents[2] / "../shared/data/kuairand_pure_sample"
)
ALLOWED = ".csv, .tsv, .inter, .user, .item, .txt, .dat, .data (also .gz and .zst) or .parquet, .parq, .pq"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no KuaiRand sample at {SAMPLE}")


# ---------------------------------------------------------------- small log


def write_log(folder, video_3_ms="0"):
    """Write three plays of two users and three videos in the KuaiRand layout."""
    (folder / "log_standard_4_22_pure.csv").write_text(
        "user_id,video_id,date,hourmin,time_ms,is_click,play_time_ms,duration_ms,tab\n"
        "5,1,20220425,2359,1650812741436,1,30000,60000,1\n"
        f"6,3,20220425,0,1650812741437,1,250,{video_3_ms},4\n"
        "6,2,20220425,900,1650812741438,0,1,45000,4\n"
    )
    (folder / "log_random_pure.csv").write_text("not read\n")
    (folder / "video_features_basic_pure.csv").write_text(
        'video_id,author_id,video_duration,tag\n1,9,60000.0,"3,14"\n2,9,,\n3,8,0.0,7\n'
    )
    (folder / "user_features_pure.csv").write_text("user_id,user_active_degree\n5,full_active\n6,\n")
    return KuaiRand(str(folder))


def test_all_tables_of_the_layout_are_read(tmp_path):
    features = (
        Feature("title_id", "category", "title", 8), Feature("tag", "categories", "title", 8, 3),
        Feature("user_active_degree", "category", "user", 8),
        Feature("hour", "category", "context", 8), Feature("tab", "category", "context", 8),
    )  # fmt: skip
    source = KuaiRandSource(write_log(tmp_path), features)
    titles = source.titles()
    assert titles.key.tolist() == [1, 2, 3]
    assert titles.runtime.tolist() == [1.0, 0.75, 0.0]  # minutes: from the features, from the log, missing
    tags = titles.features["tag"]
    assert (
        isinstance(tags, Lists)
        and tags.values.tolist() == ["3", "14", "7"]
        and tags.offsets.tolist() == [0, 2, 2, 3]
    )
    (users,) = source.users()
    assert users.key.tolist() == [5, 6] and users.features["user_active_degree"].tolist() == [
        "full_active",
        "",
    ]
    (log,) = source.interactions()
    assert log.user.tolist() == [5, 6, 6] and log.title.tolist() == [0, 2, 1]
    assert log.time.tolist() == [1650812741436, 1650812741437, 1650812741438]
    assert log.seconds.tolist() == [30.0, 0.25, 0.001]
    assert log.context["hour"].tolist() == [23, 0, 9] and log.context["tab"].tolist() == ["1", "4", "4"]
    drops = Drops()
    assert clean(log, titles, Data(), drops, True).viewed.tolist() == [30_000, 1]
    where = tmp_path / "log_standard_4_22_pure.csv"
    assert drops.examples == {RUNTIME: f"{where}, row 2, column 'video_id': title 3 has runtime 0"}


def test_titles_can_be_read_twice(tmp_path):
    source = KuaiRandSource(write_log(tmp_path, video_3_ms="90000"), ())
    assert source.titles().runtime.tolist() == source.titles().runtime.tolist() == [1.0, 0.75, 1.5]


def test_error_for_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as e:
        KuaiRandSource(KuaiRand("nowhere"), ())
    assert str(e.value) == f"source.directory='nowhere' is not a folder (current folder: {tmp_path})"


def test_error_for_a_folder_without_logs(tmp_path):
    with pytest.raises(InputError) as e:
        KuaiRandSource(KuaiRand(str(tmp_path)), ())
    assert str(e.value) == (
        f"source.logs='{tmp_path}/log_standard_*.csv' matches no file {ALLOWED} "
        f"(current folder: {Path.cwd()})"
    )


def test_error_for_a_folder_of_another_layout(tmp_path):
    write_log(tmp_path)
    (tmp_path / "video_features_basic_pure.csv").write_text("video_id,duration\n1,2\n")
    with pytest.raises(InputError) as e:
        KuaiRandSource(KuaiRand(str(tmp_path)), ())
    assert str(e.value) == (
        f"{tmp_path}/video_features_basic_pure.csv: no column 'video_duration' (KuaiRand); "
        "columns: video_id, duration"
    )


# ---------------------------------------------------------------- the sample, compared with its README


@pytest.fixture(scope="module")
def sample():
    """Return (source, titles, cleaned chunk, drops) under configs/kuairand.py."""
    config = kuairand.get_config()
    config.source.directory = str(SAMPLE)
    check(config)
    source = KuaiRandSource(config.source, config.features)
    titles = source.titles()
    drops = Drops()
    chunks = [clean(log, titles, config.data, drops, True) for log in source.interactions()]
    check_dropped(drops, 228_329, config.data)
    columns = {
        n: np.concatenate([getattr(p, n) for p in chunks]) for n in ("user_hash", "title", "time", "viewed")
    }
    context = {n: np.concatenate([p.context[n] for p in chunks]) for n in ("hour", "tab")}
    chunk = CleanChunk(**columns, context=context)
    return source, titles, chunk, drops


@needs_sample
def test_row_counts_of_the_sample(sample):
    source, titles, chunk, drops = sample
    assert not source.drops.counts
    assert drops.counts == {RUNTIME: 3_568}
    assert len(chunk.title) == 228_329 - 3_568
    assert len(titles.key) == 7_583
    assert sum(len(users.key) for users in source.users()) == 27_285
    assert np.diff(titles.features["tag"].offsets).tolist().count(0) == 96
    assert sorted(np.unique(chunk.context["hour"])) == list(range(24))
    assert len(np.unique(chunk.context["tab"])) == 15


@needs_sample
def test_completions_of_the_sample(sample):
    _, titles, chunk, _ = sample
    pair, at = np.unique(
        chunk.user_hash ^ (chunk.title.astype(np.uint64) << np.uint64(40)), return_inverse=True
    )
    assert len(pair) == 217_356
    viewed = np.bincount(at, chunk.viewed)
    first = np.unique(at, return_index=True)[1]
    fraction = completion(viewed, titles.runtime[chunk.title[first]])
    assert int((fraction < 0.05).sum()) == 84_797  # 39%
    user = chunk.user_hash[first]
    assert len(np.unique(user[fraction >= 0.05])) == 23_332
    assert len(np.unique(user[fraction < 0.05])) == 20_580
    assert int((chunk.viewed > titles.runtime[chunk.title] * 60_000).sum()) == 34_254 - count_zero_durations()


def count_zero_durations():
    """Return the number of watched rows with duration 0.

    The README counts these rows as longer than the video.
    """
    log = pl.read_csv(SAMPLE / "log_standard_4_22_to_5_08_pure.csv")
    return log.filter((pl.col("duration_ms") == 0) & (pl.col("play_time_ms") > 0)).height


@needs_sample
def test_duplicate_rows_of_the_sample_are_dropped(sample):
    *_, chunk, _ = sample
    ties = chunk.context["hour"], chunk.context["tab"]
    kept = drop_copies(chunk.user_hash, chunk.title, chunk.time, chunk.viewed, *ties)
    log = pl.read_csv(SAMPLE / "log_standard_4_22_to_5_08_pure.csv").filter(pl.col("duration_ms") > 0)
    assert len(chunk.title) - len(kept) == log.height - log.n_unique(["user_id", "video_id", "time_ms"])


@needs_sample
def test_durations_in_the_logs_and_the_features_agree():
    log = pl.read_csv(SAMPLE / "log_standard_4_22_to_5_08_pure.csv")
    videos = pl.read_csv(SAMPLE / "video_features_basic_pure.csv", infer_schema_length=None)
    both = log.join(videos, on="video_id", how="left")
    assert both.filter(pl.col("duration_ms") == pl.col("video_duration")).height == 224_761
    assert both.filter((pl.col("duration_ms") == 0) & pl.col("video_duration").is_null()).height == 3_568
