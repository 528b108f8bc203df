"""Preparation of the simulated service with signals: its truth, and bytes that no engine changes."""

import copy

import numpy as np
import pytest
from test_signal_preparation import same_files
from test_stages import Engine, run_stages

from jaxrec.config.schema import Expert, Label, Signal, Simulator
from jaxrec.config.validation import check
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.runners import local, stages
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source
from jaxrec.sources.simulator import source as source_module

SIGNALS = tuple(Signal(name, value) for name, value in Simulator.generated_signals.items())
LABELS = (
    Label("liked", "last", "thumb", hours=200),
    Label("rated", "happened", "rating", hours=200),
    Label("finished", "at_least", at=0.9),
)


def of_task(tiny_config, name):
    """Return a config of a small service with signals, whose targets are all first plays."""
    config = copy.deepcopy(tiny_config)
    config.source.users, config.source.test_only_users, config.source.titles = 50, 15, 110
    config.signals, config.labels, config.data.targets = SIGNALS, LABELS, "every"
    if name == "next_item":
        config.task.name, config.data.num_targets, config.evaluate.next_k = name, 1, (1,)
        config.features = tuple(f for f in config.features if f.where == "title")
        config.model.experts, config.model.head = (Expert(4, 1, 2, 1.0, 0.1, "sasrec"),), "dot"
    check(config)
    return config


def opened(config):
    return open_source(config.source, config.features, "", config.signals)


def prepared(config, folder):
    local.prepare(opened(config), config, str(folder))
    return Dataset(folder)


def rows_of(dataset):
    return dataset.rows("test").all().reshape(-1).view(dataset.layout.query_dtype())


def times(config, dataset, rows):
    """Return users' keys, times of the first plays of the targets, and catalogue rows of test rows."""
    title = dataset.arrays.title_key[rows["target"][:, 0] - FIRST_TITLE]
    key = dataset.user_keys("test")[rows["user"]]
    row = np.searchsorted(opened(config).titles().key, title)
    first = {}
    for chunk in opened(config).interactions():
        for user, played, time in zip(chunk.user, chunk.title, chunk.time, strict=True):
            first.setdefault((user, played), time)
    return key, np.array([first[pair] for pair in zip(key, row, strict=True)]), row


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_the_truth_of_test_queries_is_stored_by_title_id(tiny_config, tmp_path, monkeypatch, task):
    config = of_task(tiny_config, task)
    config.data.truth_queries, config.data.validation_truth_queries = 50, 20
    dataset = prepared(config, tmp_path / "one")
    stored, rows = dataset.truth(), rows_of(dataset)
    assert len(rows) > 90 and len(stored.rows) == 50 and (np.diff(stored.rows) > 0).all()
    assert (stored.choice.dtype, stored.reward.dtype) == (np.float32, np.float16)
    assert stored.choice.shape == stored.reward.shape == (50, 110)
    queries = rows[stored.rows]
    key, time, _ = times(config, dataset, queries)
    truth = opened(config).truth()
    row_of_id = np.searchsorted(opened(config).titles().key, dataset.arrays.title_key)
    np.testing.assert_array_equal(stored.choice, truth.choice(key, time)[:, row_of_id])
    np.testing.assert_allclose(stored.reward, truth.reward(key, time)[:, row_of_id], atol=1e-3)
    assert (stored.choice[np.arange(50), queries["target"][:, 0] - FIRST_TITLE] > 0).all()
    assert (rows["target_completion"][:, 0] < config.data.abandon_threshold).mean() > 0.2
    held_out = dataset.truth("validation")
    queries = dataset.rows("validation").all()[held_out.rows]
    assert held_out.choice.shape == (20, 110) and (np.diff(held_out.rows) > 0).all()
    assert (held_out.choice[np.arange(20), queries["target"][:, 0] - FIRST_TITLE] > 0).all()
    if task == "ranking":
        check_oracle(config, dataset, rows, truth)
        check_other_partitions(config, dataset, tmp_path, monkeypatch)


def check_other_partitions(config, dataset, folder, monkeypatch):
    """Check that neither partitions nor an engine changes a byte: the queries are the same."""
    monkeypatch.setattr(source_module, "BLOCK", 20)
    monkeypatch.setattr(stages, "PIECE_ROWS", 40)
    config.data.partitions = 5
    run_stages(opened(config), config, folder / "stages", Engine(0))
    assert same_files(folder / "one", folder / "stages")
    assert dataset.manifest["signals"]["rating"]["kept"] > 50 < dataset.manifest["labels"]["rated"]["entries"]


def check_oracle(config, dataset, rows, truth):
    """Check the oracle, to which all plays are known: a title abandoned before is never the next one."""
    key, time, row = times(config, dataset, rows)
    choice = truth.choice(key, time)
    np.testing.assert_allclose(rows["truth_enabled"][:, 0], choice[np.arange(len(row)), row], rtol=1e-5)
    num_hard = rows["num_hard"][:, 0]
    is_hard = np.arange(1, rows["oracle_enabled"].shape[1]) <= num_hard[:, None]
    oracle = rows["oracle_enabled"][:, 1:]
    assert num_hard.max() > 1 and (oracle[is_hard] == 0).all() and (oracle[~is_hard] > 0).all()


def test_a_config_without_signals_stores_no_truth(tiny_directory):
    assert Dataset(tiny_directory).truth() is None
    assert not list(tiny_directory.glob("truth_*"))
