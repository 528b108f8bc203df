"""Statistics of a log before preparation: literal values, and equality with preparation."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Config, Data, Feature, Simulator, Tables
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_POOLS
from jaxrec.core.tables import Drops
from jaxrec.data.runners import settings, statistics
from jaxrec.data.runners.local import prepare
from jaxrec.sources import open_source

TITLE = (Feature("title_id", "category", "title", 8),)
DAY = 86_400_000


def config_of(folder, rows):
    """Write a log of (user, title, day, seconds) and titles of 100 s; return a config."""
    names = ("user_id", "title_id", "time", "seconds_viewed")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns["time"] = [1_600_000_000_000 + day * DAY for day in columns["time"]]
    pl.DataFrame(columns).write_csv(folder / "log.csv")
    titles = [f"t{i}" for i in range(5)]
    pl.DataFrame({"title_id": titles, "runtime_minutes": [100 / 60] * 4 + [0]}).write_csv(
        folder / "titles.csv"
    )
    return Config(
        source=Tables(str(folder / "log.csv"), str(folder / "titles.csv")), features=TITLE, data=Data(hard=4)
    )


def statistics_of(config):
    return statistics.log_statistics(open_source(config.source, config.features), config)


ROWS = [
    ("ann", "t0", 0, 2), ("ann", "t1", 1, 60), ("ann", "t2", 2, 95), ("ann", "t0", 3, 2),
    ("bob", "t0", 0, 100), ("bob", "t3", 1, 3), ("bob", "t1", 2, 7),
    ("bob", "t1", 2, 6),  # a copy but for the seconds
    ("bob", "t4", 3, 9),  # without a runtime
    ("cat", "t9", 0, 9),  # unknown title
    ("cat", "t0", 0, -1),
]  # fmt: skip


def test_a_log_worked_out_by_hand(tmp_path):
    result = statistics_of(config_of(tmp_path, ROWS))
    assert result.rows == 11 and result.one_in == 1
    assert result.drops.counts == {
        "title not in the catalogue": 1, "seconds negative": 1, "title without a runtime": 1,
        "copy of another row": 1,
    }  # fmt: skip
    assert result.drops.examples["seconds negative"].endswith(
        "log.csv, row 11, column 'seconds_viewed': -1 seconds"
    )
    assert result.dropped_share == 3 / 11  # copies do not count
    assert (result.users, result.titles, result.played) == (2, 5, 4)
    assert result.lengths[0.5] == 3 and result.lengths[1.0] == 3
    # Completions of the six pairs: ann .04 (two plays of 2 s), .6, .95; bob 1, .03, .07.
    expected = np.zeros(20)
    expected[[0, 12, 19, 1]] = [2 / 6, 1 / 6, 2 / 6, 1 / 6]
    np.testing.assert_allclose(result.completion, expected)
    at = {t.threshold: t for t in result.thresholds}
    assert list(at) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
    # Below .05: ann's t0 and bob's t3. Targets with a past: ann's t1 and t2, bob's t1. Ann's t0 was left
    # before t1 and t2, bob's t3 before his t1: one of four places of each pool.
    assert at[0.05] == statistics.Threshold(0.05, 2 / 6, 1.0, 3, 3 / 12)
    # Below .1 also bob's t1, which is no target then.
    assert at[0.1] == statistics.Threshold(0.1, 3 / 6, 1.0, 2, 2 / 8)
    # Below .02 nothing in the end, and bob's t3 is a target too; ann's t0 has exactly .02 after one play.
    assert at[0.02] == statistics.Threshold(0.02, 0.0, 0.0, 4, 0.0)
    assert result.to_json()["first_day"] == "2020-09-13"


def test_the_statistics_are_those_of_preparation(tmp_path):
    config = Config(
        source=Simulator(users=200, test_only_users=50, titles=300, slate=20), features=TITLE,
        data=Data(max_history=8, partitions=2),
    )  # fmt: skip
    source = open_source(config.source, config.features)
    result = statistics.log_statistics(source, config)
    prepare(source, config, str(tmp_path / "dataset"))
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert result.rows == manifest["rows"]["read"]
    assert result.drops.counts.get("copy of another row", 0) == manifest["rows"]["copies"]
    assert result.examples == sum(split["examples"] for split in manifest["splits"].values())
    assert result.users == sum(split["users"] for split in manifest["splits"].values())


def test_a_sample_keeps_complete_users(tmp_path, monkeypatch):
    rows = [(f"u{user}", f"t{title}", title, 50) for user in range(40) for title in range(4)]
    monkeypatch.setattr(statistics, "MAX_EVENTS", 100)
    result = statistics_of(config_of(tmp_path, rows))
    assert result.one_in == 2 and result.rows == 160 and 0 < result.users < 40
    assert set(result.lengths.values()) == {4}


def test_a_log_without_a_valid_row_is_an_error(tmp_path):
    with pytest.raises(InputError) as e:
        statistics_of(config_of(tmp_path, [("ann", "t9", 0, 1)]))
    assert str(e.value) == (
        f"source: none of 1 rows is a valid event: title not in the catalogue, {tmp_path}/log.csv, row 1, "
        "column 'title_id': 't9'; allowed: at least one"
    )


# ---------------------------------------------------------------- settings


def log(shares, **fields):
    """Return statistics with these fractions of abandoned titles, by threshold."""
    thresholds = [statistics.Threshold(t, share, 0.5, 10_000, 0.25) for t, share in shares.items()]
    values = {
        "rows": 1000, "drops": Drops(), "users": 100, "titles": 200, "played": 10, "first": 0, "last": 0,
        "one_in": 1, "lengths": {0.5: 5, 0.99: 20, 1.0: 150}, "thresholds": thresholds, "examples": 10_000,
    }  # fmt: skip
    return statistics.LogStatistics(**(values | fields))


T = statistics.THRESHOLDS


@pytest.mark.parametrize(
    ("shares", "threshold", "reason"),
    [
        ((0.1, 0.2, 0.39, 0.5, 0.6, 0.7, 0.8), 0.05,
         "the paper's value: 39% of the titles played were left below it"),
        ((0, 0, 0.01, 0.04, 0.06, 0.2, 0.4), 0.2,
         "6% of the titles played were left below it, 1% below the paper's 0.05"),
        ((0.3, 0.4, 0.7, 0.8, 0.9, 0.9, 0.9), 0.02,
         "40% of the titles played were left below it, 70% below the paper's 0.05"),
        ((0, 0, 0, 0, 0, 0, 0.01), 0.5, "few titles are abandoned at any threshold: 1% were left below 0.5"),
        ((0.6,) * 7, 0.01, "many titles are abandoned at any threshold: 60% were left below 0.01"),
    ],
)  # fmt: skip
def test_the_proposed_threshold(shares, threshold, reason):
    assert statistics.propose_threshold(log(dict(zip(T, shares, strict=True)))) == (threshold, reason)


def test_settings_fit_the_log(small_config):
    shares = dict.fromkeys(T, 0.3)
    config, reasons = settings.fit_settings(small_config, log(shares, one_in=2))
    assert config.train.batch_size == 64  # 16,000 training examples: 200 steps would have 80
    assert reasons["train.batch_size"].startswith("about 16,000 training examples make 250 steps an epoch")
    assert reasons["data.abandon_threshold"].endswith(
        "; 50% of the users have such a title, and 25% of the slots of the hard pools hold one"
    )
    assert "data.max_invalid_fraction" not in reasons and "data.hard" not in reasons
    dropped = Drops({"time out of range": 104}, {"time out of range": "a.csv, row 1"})
    config, reasons = settings.fit_settings(small_config, log(shares, drops=dropped))
    assert config.data.max_invalid_fraction == 0.11 and small_config.data.max_invalid_fraction == 0.05
    assert (
        reasons["data.max_invalid_fraction"] == "10.4% of the rows are invalid; 0.05 would stop preparation"
    )
    with pytest.raises(
        InputError, match=r"^60% of 1000 rows are invalid, most of them: time out of range, the"
    ):
        settings.fit_settings(
            small_config, log(shares, drops=replace(dropped, counts={"time out of range": 600}))
        )


@pytest.mark.parametrize(
    ("titles", "widths"),
    [(96, (16, 32, 20, 8)), (95, (8, 12, 8, 4)), (52, (8, 12, 8, 4)), (42, (8, 8, 6, 0))],
)
def test_pools_fit_the_titles_that_are_left(titles, widths):
    config, _ = settings.fit_settings(Config(features=TITLE), log(dict.fromkeys(T, 0.3), titles=titles))
    assert tuple(getattr(config.data, pool) for pool in DRAWN_POOLS) == widths
    check(config)


def test_a_catalogue_without_titles_left_is_an_error():
    with pytest.raises(InputError) as e:
        settings.fit_settings(Config(features=TITLE), log(dict.fromkeys(T, 0.3), titles=41))
    assert str(e.value) == (
        "source: the catalogue has 41 titles, and users played up to 20 of them; allowed: 22 more titles "
        "than that, from which negatives are drawn"
    )
