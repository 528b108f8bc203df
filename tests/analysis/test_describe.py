"""Description of a small log: rates, labels by split, rewards, and a column that copies tomorrow's label."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jaxrec.analysis import description
from jaxrec.analysis.description import describe
from jaxrec.config.schema import Feature, Label, Reward, Signal, Tables, Task, Term
from jaxrec.config.validation import check
from jaxrec.core import rewards
from jaxrec.data.runners import local
from jaxrec.data.storage.dataset import Dataset
from jaxrec.reporting.description_report import format_description
from jaxrec.sources import open_source

ROOT = Path(__file__).resolve().parents[2]
USERS, PLAYS, TITLES, DAY = 100, 20, 120, 86_400_000
LABELS = (
    Label("thumb", "happened", "thumb", hours=2),
    Label("vote", "last", "vote", hours=2),
    Label("watched", "completion", hours=2),
    Label("late", "happened", "thumb", hours=100),
    Label("again", "continues"),
)
REWARDS = (
    Reward("of_title", (Term("watched", 2.0),), base=1.0),
    Reward("of_thumb", (Term("thumb"),), base=0.0, low=0.0),
)


def write_log(folder):
    """Write a log of a play a day, with thumbs an hour after plays and votes at the time of plays."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), PLAYS)
    title = np.concatenate([rng.permutation(TITLES)[:PLAYS] for _ in range(USERS)])
    time = 1_700_000_000_000 + np.tile(np.arange(PLAYS), USERS) * DAY
    thumb = (rng.random(USERS * PLAYS) < 0.3).astype(int)
    log = pl.DataFrame(
        {
            "user_id": user,
            "title_id": title,
            "time": time,
            "seconds_viewed": 60.0 * (20 + title % 7 * 10),  # of 100 minutes
            "vote": np.where(rng.random(len(user)) < 0.5, rng.choice([-1, 1], len(user)), 0),
            "tomorrow": np.where(thumb, "up", "none"),  # copies what happens an hour later
            "distance": 3.0 - thumb,  # the same as a number, in the other direction
            "device": rng.choice(["tv", "phone"], len(user)),
        }
    )
    log.write_parquet(folder / "log.parquet")
    events = log.filter(pl.Series(thumb == 1)).select("user_id", "title_id", pl.col("time") + DAY // 24)
    events.write_parquet(folder / "thumbs.parquet")
    titles = pl.DataFrame({"title_id": np.arange(TITLES), "runtime_minutes": 100.0})
    titles.write_parquet(folder / "titles.parquet")


def config_of(tiny_config, folder):
    config = copy.deepcopy(tiny_config)
    config.source = Tables(str(folder / "log.parquet"), str(folder / "titles.parquet"))
    config.data.num_targets = 1
    config.evaluate.next_k = (1,)
    config.signals = (
        Signal("thumb", table=str(folder / "thumbs.parquet")),
        Signal("vote", "sign", column="vote"),
    )
    config.labels, config.rewards = LABELS, REWARDS
    config.features = (
        Feature("title_id", "category", "title", 8),
        Feature("tomorrow", "category", "context", 4),
        Feature("distance", "number", "context", 4),
        Feature("device", "category", "context", 4),
        Feature("completion", "number", "interaction", 4),
    )
    check(config)
    return config


def prepare(config, folder):
    local.prepare(open_source(config.source, config.features, "", config.signals), config, str(folder))


@pytest.fixture(scope="module")
def log(once):
    return once("described-log", write_log)


@pytest.fixture
def config(tiny_config, log):
    return config_of(tiny_config, log)


@pytest.fixture(scope="module")
def dataset(once, tiny_config, log):
    return Dataset(once("described", lambda folder: prepare(config_of(tiny_config, log), folder)))


@pytest.fixture
def result(config, dataset):
    return json.loads(json.dumps(describe(config, dataset)))


def targets(log, keys):
    """Return the plays of users after their first, with whether there is a thumb an hour later."""
    plays = pl.read_parquet(log / "log.parquet").filter(pl.col("user_id").is_in(keys.tolist()))
    plays = plays.filter(pl.col("time") > 1_700_000_000_000)
    return plays.with_columns(thumb=(pl.col("tomorrow") == "up").cast(pl.Float64))


def users_of(dataset):
    held_out = {split: dataset.user_keys(split) for split in ("validation", "test")}
    train = np.setdiff1d(np.arange(USERS), np.concatenate(list(held_out.values())))
    return {"train": train} | held_out


def test_signals_have_their_rate_per_row(result, log):
    thumbs, plays = pl.read_parquet(log / "thumbs.parquet"), pl.read_parquet(log / "log.parquet")
    votes = int((plays["vote"] != 0).sum())
    assert [(s["name"], s["read"], s["kept"], s["rate"]) for s in result["signals"]] == [
        ("thumb", thumbs.height, thumbs.height, thumbs.height / 2_000),
        ("vote", votes, votes, votes / 2_000),
    ]
    assert f"thumb   event  title          {thumbs.height}" in format_description(result)


def test_labels_have_mean_and_known_share_of_each_split(result, log, dataset):
    labels = {label["name"]: label for label in result["labels"]}
    assert [label["available_after_hours"] for label in labels.values()] == [2, 2, 2, 100, 0]
    for split, keys in users_of(dataset).items():
        plays, last = targets(log, keys), 1_700_000_000_000 + (PLAYS - 1) * DAY
        ends = plays["time"].max() + 1
        assert ends == last + 1  # of the log, whose last play is known at once and no label of hours
        known = plays.filter(pl.col("time") < last)
        long_known = plays.filter(pl.col("time") + 100 / 24 * DAY < ends)
        votes = known.filter(pl.col("vote") != 0)
        expected = {
            "thumb": (known["thumb"].mean(), known.height),
            "vote": (votes["vote"].mean(), votes.height),
            "watched": (known["seconds_viewed"].mean() / 6_000, known.height),
            "late": (long_known["thumb"].mean(), long_known.height),
            "again": (0, plays.height),
        }
        for name, (mean, count) in expected.items():
            entry = labels[name]["splits"][split]
            assert entry["entries"] == plays.height == len(keys) * (PLAYS - 1)
            assert entry["known"] == pytest.approx(count / plays.height)
            assert entry["mean"] == pytest.approx(mean, abs=1e-4)
    text = format_description(result)
    assert "at the request" in text and "100 h" in text


def test_a_reward_of_the_title_alone_is_explained_by_titles(result, config, log, dataset):
    of_title, of_thumb = result["rewards"]
    plays = targets(log, users_of(dataset)["train"])
    values = 1 + 2 * plays.filter(pl.col("time") < plays["time"].max())["seconds_viewed"].to_numpy() / 6_000
    assert of_title["version"] == rewards.version(config.rewards[0])
    assert of_title["mean"] == pytest.approx(values.mean()) and of_title["std"] == pytest.approx(values.std())
    assert of_title["known"] == pytest.approx((PLAYS - 2) / (PLAYS - 1))
    assert of_title["r2"]["title"] > 0.999 and of_title["r2"]["both"] > 0.999
    assert abs(of_title["r2"]["user"]) < 0.01
    assert all(abs(share) < 0.05 for share in of_thumb["r2"].values())


def test_a_column_that_copies_a_later_label_is_flagged(result):
    features = {feature["name"]: feature for feature in result["features"]}
    assert list(result["binary_labels"]) == ["thumb", "vote", "late"]  # two values: not watched, not again
    for name in ("tomorrow", "distance"):
        assert features[name]["auc"]["thumb"] == 1 and features[name]["leaks"] == ["thumb", "late"]
    for name in ("device", "title_id"):
        assert 0.3 < features[name]["auc"]["thumb"] < 0.7 and not features[name]["leaks"]
    assert 0.3 < features["tomorrow"]["auc"]["vote"] < 0.7
    assert "auc" not in features["completion"] and features["completion"]["available"] == "history"
    text = format_description(result)
    assert "1.000 leak?" in text
    assert "leak? feature 'tomorrow' (context) has the AUC 1.000 for label 'thumb'" in text
    assert "feature 'device'" not in text


def test_positive_targets_are_those_with_the_larger_value(result, log, dataset):
    plays = targets(log, users_of(dataset)["train"])
    plays = plays.filter(pl.col("time") < plays["time"].max())
    votes = result["binary_labels"]["vote"]
    assert votes["positive"] == plays.filter(pl.col("vote") == 1).height
    assert votes["known"] == plays.filter(pl.col("vote") != 0).height


def test_tasks_are_normalised_by_their_known_share(config, dataset, monkeypatch):
    config.objective.ranking = 0
    tasks = describe(config, dataset)["tasks"]
    assert [(t["name"], t["weight"], t["known"]) for t in tasks] == [("ctr", 1, 1), ("completion", 0.2, 1)]
    monkeypatch.setitem(dataset.manifest, "has_completion", False)
    assert describe(config, dataset)["tasks"][1] == {
        "name": "completion", "weight": 0.2, "known": 0.0, "normaliser": None,
    }  # fmt: skip


def test_targets_in_memory_are_bounded(config, dataset, monkeypatch):
    whole = describe(config, dataset)
    assert whole["targets"] == whole["labels"][0]["splits"]["train"]["entries"] > 1_024
    monkeypatch.setattr(description, "SAMPLE_TARGETS", 512)
    monkeypatch.setattr("jaxrec.data.storage.row_blocks._BLOCKS", 1)
    first = describe(config, dataset)
    assert first["targets"] == 512 and first["users"] == -(-512 // (PLAYS - 1))
    assert first["labels"] == whole["labels"]
    assert f"512 training targets of {first['users']} users" in format_description(first)


def test_sequences_are_described_too(config, dataset, tmp_path):
    config.task = Task("next_item")
    config.features = config.features[:1]
    prepare(config, tmp_path / "sequences")
    result = describe(config, Dataset(tmp_path / "sequences"))
    labels = {label["name"]: label["splits"] for label in result["labels"]}
    assert labels["thumb"]["train"]["entries"] == result["targets"]
    first = Dataset(tmp_path / "sequences").layout.max_history + 1
    assert result["targets"] == len(users_of(dataset)["train"]) * min(2 * first, PLAYS)
    assert labels["thumb"]["test"]["entries"] == len(users_of(dataset)["test"]) * (PLAYS - 1)
    assert result["rewards"][0]["r2"]["title"] > 0.999
    assert result["tasks"] == [
        {"name": "next title, softmax", "weight": 1.0, "known": 1.0, "normaliser": 1.0}
    ]
    assert list(result["features"][0]["auc"]) == ["thumb", "vote", "late"]


# What `python -m jaxrec.describe` prints, and then whether it loaded jax.
_COMMAND = """
import atexit, runpy, sys
atexit.register(lambda: print("jax" in sys.modules, file=sys.stderr))
runpy.run_module("jaxrec.describe", run_name="__main__", alter_sys=True)
"""


def test_a_config_without_declarations_is_described_without_jax(tiny_directory):
    words = ["--config", "configs/tiny.py", "--data", str(tiny_directory)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "False"), done.stderr
    for line in ("no signals are declared", "no labels are declared", "no rewards are declared"):
        assert line in done.stdout
    assert "completion     0.2" in done.stdout and "AUC" not in done.stdout
