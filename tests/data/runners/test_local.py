"""Preparation on one machine, of the tiny simulated service."""

import copy
import filecmp
import json
import subprocess
import sys

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.hashing import finalise, mix
from jaxrec.core.ids import SPLITS
from jaxrec.data.events import partitions
from jaxrec.data.runners.local import prepare
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage import dataset
from jaxrec.data.storage import writer as writer_module
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source


def prepared(config, directory, **data):
    config = copy.deepcopy(config)
    for name, value in data.items():
        setattr(config.data, name, value)
    prepare(open_source(config.source, config.features), config, str(directory))
    return Dataset(directory)


@pytest.mark.parametrize("partitions, workers", [(1, 1), (5, 3), (400, 2)])  # 400: most are empty
def test_bytes_do_not_depend_on_cores_and_partitions(
    tiny_config, tiny_directory, tmp_path, partitions, workers
):
    prepared(tiny_config, tmp_path / "again", partitions=partitions, workers=workers)
    names = sorted(p.name for p in tiny_directory.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "again").iterdir())
    same, different, _ = filecmp.cmpfiles(tiny_directory, tmp_path / "again", names, shallow=False)
    assert different == [] and len(same) == len(names)


def test_another_seed_makes_another_dataset(tiny_config, tiny, tmp_path):
    other = prepared(tiny_config, tmp_path / "other", seed=1)
    assert other.fingerprint != tiny.fingerprint
    assert set(other.user_keys("validation").tolist()) != set(tiny.user_keys("validation").tolist())


def test_no_user_is_in_two_splits_and_test_only_users_are_in_test(tiny_config, tiny):
    validation, test = (set(tiny.user_keys(s).tolist()) for s in SPLITS[1:])
    assert not validation & test
    regular = tiny_config.source.users
    only = {u for u in test if u >= regular}
    assert only and all(u < regular for u in validation)
    held_out = len(validation) + len(test - only)
    assert tiny.manifest["splits"]["train"]["users"] + held_out <= regular


@pytest.mark.parametrize("split", ["last", "time"])
def test_requests_split_within_a_user(tiny_config, tiny, tmp_path, split):
    """The splits of the users table do not matter here."""
    data = {"split": split, "validation_share": 0.5}
    times = np.concatenate([c.time for c in open_source(tiny_config.source, ()).interactions()])
    if split == "time":
        days = np.quantile(times, [0.5, 0.75]).astype("datetime64[ms]").astype("datetime64[D]")
        data |= {"validation_from": str(days[0]), "test_from": str(days[1])}
    one = prepared(tiny_config, tmp_path / "one", partitions=1, **data)
    assert one.fingerprint == prepared(tiny_config, tmp_path / "two", partitions=9, **data).fingerprint
    validation, test = (set(one.user_keys(s).tolist()) for s in SPLITS[1:])
    assert validation & test and one.manifest["plays"] != tiny.manifest["plays"]
    rows = one.rows("test").all()
    assert np.isfinite(rows["oracle_enabled"]).all() and len(set(rows["user"].tolist())) == len(test)
    if split == "last":
        assert len(rows) == len(test) and validation < test
        assert 0.35 < len(validation) / len(test) < 0.6


def test_the_manifest_counts_the_rows_of_the_files(tiny):
    for split in SPLITS:
        rows = tiny.rows(split).all()
        assert len(rows) == tiny.manifest["splits"][split]["examples"] > 0
        assert rows["user"].max() < tiny.manifest["splits"][split]["users"]
    train = tiny.rows("train").all()
    threshold = train["target_completion"][:, 0].astype(np.float64).mean()
    assert tiny.manifest["completion_threshold"] == pytest.approx(threshold, rel=1e-6)
    assert tiny.manifest["hard_fill_rate"] == pytest.approx((train["pool_hard_filled"] != 0).mean())


def test_popularity_ranks_and_trending_are_from_training_users(tiny):
    plays = tiny.arrays.title_plays
    assert (np.diff(plays[2:]) <= 0).all()  # the first numbering is by popularity
    assert tiny.arrays.rank_of_id[2:].tolist() == list(range(len(plays) - 2))
    trending = tiny.manifest["trending"]
    assert plays[2 : 2 + trending].sum() >= plays.sum() / 2 > plays[2 : 1 + trending].sum()


def test_frozen_lists_contain_no_title_of_the_history_except_hard_negatives(tiny):
    rows = tiny.rows("test").all()
    for name in ("enabled", "disabled"):
        lists = rows[f"list_{name}"][:, 0]
        played = (lists[:, :, None] == rows["history_title"][:, None, :]).any(axis=2)
        if name == "enabled":
            played &= np.arange(lists.shape[1]) >= rows["num_hard"][:, :1]
        assert not played.any()
        assert not (lists == rows["target"][:, :1]).any()
    assert rows["num_hard"].max() == 6


def test_the_oracle_is_known_and_beats_ranking_by_p_alone(tiny):
    rows = tiny.rows("test").all()
    for name in ("enabled", "disabled"):
        first = {}
        for kind in ("oracle", "truth"):
            scores = rows[f"{kind}_{name}"]
            assert np.isfinite(scores).all() and (scores >= 0).all()
            first[kind] = (scores[:, :1] > scores[:, 1:]).all(axis=1).mean()
        assert first["oracle"] > first["truth"]
    assert ((rows["mood"] > 0) & (rows["mood"] < 1)).all()


def test_invalid_input_leaves_no_file(tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.data.latest = "1990-01-02"  # every event is later
    with pytest.raises(InputError, match=r"data\.max_invalid_fraction"):
        prepare(open_source(config.source, config.features), config, str(tmp_path / "bad"))
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_an_example_is_refused(tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.source.users, config.source.test_only_users = 2, 0  # three splits
    with pytest.raises(InputError, match=r"^source: no .* is left; allowed: at least one"):
        prepare(open_source(config.source, config.features), config, str(tmp_path / "bad"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_is_not_overwritten(tiny_config, tiny_directory):
    before = json.loads((tiny_directory / "manifest.json").read_text())
    with pytest.raises(InputError, match="exists"):
        prepare(open_source(tiny_config.source, tiny_config.features), tiny_config, str(tiny_directory))
    assert json.loads((tiny_directory / "manifest.json").read_text()) == before


def test_preparing_the_simulator_needs_neither_jax_nor_polars_nor_tfds():
    code = (
        "import sys, jaxrec.data.runners.local, jaxrec.sources.simulator.source;"
        "print([m for m in ('jax', 'polars', 'tensorflow_datasets', 'tensorflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_large_sources_make_more_partitions_than_configured(
    tiny_config, tiny_directory, tmp_path, monkeypatch
):
    monkeypatch.setattr(partitions, "_MAX_EVENTS", 700)
    stages = {}

    def progress(stage, done, total):
        stages[stage] = total

    directory = tmp_path / "more"
    prepare(open_source(tiny_config.source, tiny_config.features), tiny_config, str(directory), progress)
    events = json.loads((directory / "manifest.json").read_text())["rows"]["read"]
    assert stages["building rows"] >= events / 700 > tiny_config.data.partitions
    assert filecmp.cmp(directory / "manifest.json", tiny_directory / "manifest.json", shallow=False)


@pytest.mark.parametrize("cuts", [(), (1, 5), (512, 1024), (511, 513, 1700)])
def test_row_sums_and_blocks_do_not_depend_on_chunks_of_rows(tmp_path, cuts):
    """Row hashes computed with Python's integers equal the writer's fingerprint.

    The hash of a row is of the sum of its words times odd numbers.
    """
    rng = np.random.default_rng(0)
    rows = np.frombuffer(rng.bytes(4 * 3 * 2000), np.dtype([("a", "<u4"), ("b", "<i4", (2,))]))
    (tmp_path / "out").mkdir()
    writer = writer_module._SplitWriter(tmp_path / "out", "train", rows.dtype)
    for chunk in np.split(rows, cuts):
        writer.add(chunk)
    writer.close()
    words, expected = rows.view("<u4").reshape(2000, 3).tolist(), 0
    for i in range(2):
        odd = [int(mix(i, w)) | 1 for w in range(3)]
        sums = [sum(a * b for a, b in zip(row, odd, strict=True)) % 2**64 for row in words]
        expected = expected << 64 | sum(finalise(np.array(sums, np.uint64)).tolist()) % 2**64
    assert writer.fingerprint.value() == expected
    np.testing.assert_array_equal(dataset.Rows(tmp_path / "out", "train", 2000, rows.dtype).all(), rows)


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.seed", 7), ("data.negatives", 10), ("source.mood", 0.5), ("features", None)],
)
def test_a_dataset_of_other_settings_is_refused(tiny_config, tiny_directory, key, value):
    """Settings that decide the rows must be those of the dataset; settings that do not may differ."""
    config = copy.deepcopy(tiny_config)
    config.data.workers, config.data.partitions, config.train.seed = 3, 5, 9
    ensure_dataset(config, tiny_directory)
    part, _, name = key.rpartition(".")
    value = config.features[:4] if value is None else value
    setattr(getattr(config, part) if part else config, name, value)
    with pytest.raises(InputError) as error:
        ensure_dataset(config, tiny_directory)
    assert str(error.value) == (
        f"dataset {tiny_directory}: was prepared with other source, features, signals, labels or data "
        "settings; allowed: the same settings, or another data.directory"
    )
