"""Titles that a retrieval head selects: a dataset written from another one, and a run that trains on it."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxrec.analysis.rewritten import retrieved_titles
from jaxrec.config.schema import Mix
from jaxrec.config.serialization import digest
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD, SPLITS
from jaxrec.data.runners import run as data_run
from jaxrec.data.runners.local import prepare
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.audit import verify_dataset
from jaxrec.data.storage.dataset import Dataset, read_manifest
from jaxrec.evaluation.evaluator import Evaluator
from jaxrec.sources import open_source
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training import trainer
from tests.bad_inputs.command import run_command
from tests.stop import Stop

TOP, DRAWN = 60, 5


@pytest.fixture(scope="module")
def config(small_config):
    """Return a config of few users with a retrieval head and two next titles."""
    config = copy.deepcopy(small_config)
    config.source.users, config.source.test_only_users, config.source.titles = 200, 40, 200
    config.source.plays_per_user = 24.0  # so that a user has several rows
    config.features = tuple(f for f in config.features if f.where != "context")
    config.model.features = ("title_id", "completion")
    config.data.num_targets, config.sampling.next_k, config.evaluate.next_k = 2, 1, (1,)
    config.model.retrieval_dim, config.objective.retrieval = 6, 0.5
    config.train.duration = "4 steps"
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Return the folder with the dataset `D`, the run `W`, and `D2`, the dataset with retrieved titles."""
    folder = tmp_path_factory.mktemp("retrieve")
    prepare(open_source(config.source, config.features), config, str(folder / "D"))
    trainer.train(config, Dataset(folder / "D"), folder / "W", Stop())
    retrieved_titles.write_retrieved(folder / "W", folder / "D", folder / "D2", TOP, DRAWN)
    return folder


def _played(rows):
    """Return user -> titles of the user's training rows, by a loop."""
    played = {}
    for row in rows:
        played.setdefault(int(row["user"]), set()).update(map(int, [*row["target"], *row["history_title"]]))
    return played


def test_training_rows_hold_the_best_titles_that_the_user_never_played(run):
    loaded, old, new = load_checkpoint(run / "W", "best"), Dataset(run / "D"), Dataset(run / "D2")
    rows, served = old.rows("train").all(), new.rows("train").all()
    assert served["pool_served"].shape[1] == DRAWN
    for name in rows.dtype.names:
        np.testing.assert_array_equal(rows[name], served[name], err_msg=name)
    alone = replace(old.layout, num_targets=1, pools=(0, 0, 0, 0), negatives=0)
    task = replace(loaded.task, layout=alone)
    queries = np.zeros(40, alone.row_dtype())
    for name in alone.row_dtype().names:
        queries[name] = rows[name][:40, :1] if name.startswith("target") else rows[name][:40]
    batch = HostBatch(as_words(queries), np.ones(40, bool))
    table = loaded.task.title_table(loaded.arrays)
    scores = np.asarray(
        task.score_all_titles(loaded.params, batch, table, (RETRIEVAL_HEAD,)).by_head[RETRIEVAL_HEAD]
    )
    played, drawn_all, shown = _played(rows), set(), 0
    for row, score, drawn in zip(rows[:40], scores, served["pool_served"][:40], strict=True):
        left = [t for t in range(FIRST_TITLE, len(score)) if t not in played[int(row["user"])]]
        best = sorted(left, key=lambda t: -score[t])[:TOP]
        if score[row["target"][0]] <= score[best[-1]]:  # it is not retrieved
            assert not drawn.any()
            continue
        assert len(set(drawn)) == DRAWN and {*map(int, drawn)} <= {*best}
        drawn_all |= {best.index(int(t)) for t in drawn}
        shown += 1
    assert 3 < shown < 37
    assert len(drawn_all) > TOP // 2  # the draw is not always of the first ones
    counted = read_manifest(run / "D2" / "manifest.json")["retrieved"]["rows"]
    assert counted["train"] == (served["pool_served"][:, 0] > 0).sum() > 0


def test_held_out_rows_list_titles_outside_their_history(run):
    new = Dataset(run / "D2")
    assert new.layout.has_served and new.layout.lists[-1] == "served"
    for split in SPLITS[1:]:
        rows = new.rows(split).all()
        listed = rows["list_served"][:, :, :DRAWN]
        present = rows["target"] > 0
        full, empty = (listed >= FIRST_TITLE).all(axis=2), (listed == 0).all(axis=2)
        assert (full | empty).all() and empty[~present].all() and 0 < full[:, 0].mean() < 1
        assert (full[:, 1] != full[:, 0]).any()  # each next title by its own rank
        for row in rows:
            own = {*map(int, row["list_served"].ravel())} - {0}
            assert not own & {*map(int, row["target"]), *map(int, row["history_title"])}
        assert np.isnan(rows["oracle_served"]).all() and np.isnan(rows["truth_served"]).all()


def test_the_dataset_passes_its_audit_and_is_written_once(run, config):
    verify_dataset(Dataset(run / "D2"))
    again = retrieved_titles.write_retrieved(run / "W", run / "D", run / "D2", TOP, DRAWN)
    assert not again.written
    other = retrieved_titles.write_retrieved(run / "W", run / "D", run / "D3", TOP, DRAWN)
    assert other.written and other.manifest["fingerprint"] == again.manifest["fingerprint"]
    with pytest.raises(InputError, match=r"D2: exists, and is not .*; remove it"):
        retrieved_titles.write_retrieved(run / "W", run / "D", run / "D2", TOP + 1, DRAWN)
    ensure_dataset(config, run / "D2")  # the config is that of the dataset before
    changed = replace(config, data=replace(config.data, hard=8))
    with pytest.raises(InputError, match="was prepared with other source"):
        ensure_dataset(changed, run / "D2")


def test_a_run_goes_on_with_retrieved_titles(run, config):
    second = copy.deepcopy(config)
    second.start.workdir = str(run / "W")
    second.data.directory, second.sampling.mix = str(run / "D2"), Mix(0.0, 0.0, 0.0, 0.0, 1.0)
    with pytest.raises(InputError, match=r"needs 20 served titles a row, and the dataset's rows hold 5"):
        trainer.train(second, Dataset(run / "D2"), run / "W2", Stop())
    second.sampling.negatives = DRAWN
    trainer.train(second, Dataset(run / "D2"), run / "W2", Stop())
    result = Evaluator(run / "W2").run(lists=("catalogue",), retrieve=TOP).result["catalogue"]
    assert result["retrieved"] == TOP and 0 <= result["two_stage"]["hr@10"] <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--top=0",), r"--top=0; allowed: 1 to the 200 titles of the dataset"),
        (("--top=201",), r"--top=201; allowed: 1 to the 200 titles"),
        (("--top=10", "--titles=11"), r"--titles=11; allowed: 1 to --top=10"),
        (("--titles=0",), r"--titles=0; allowed: 1 to --top=50"),
    ],
)
def test_numbers_out_of_range_are_one_line(run, flags, message, tmp_path):
    made = (f"--checkpoint={run / 'W'}", f"--data={run / 'D'}", "--out=none")
    result = run_command("retrieve", *made, *flags, folder=tmp_path)
    assert result.status == 2 and not result.has_traceback and not (tmp_path / "none").exists()
    assert len(result.error_lines) == 1 and re.search(message, result.error_lines[0])


def test_a_run_without_a_retrieval_head_is_refused(tiny_run, run):
    with pytest.raises(InputError, match=r"has no retrieval head: model.retrieval_dim=0; allowed"):
        retrieved_titles.write_retrieved(tiny_run / "run", run / "D", run / "none", TOP, DRAWN)


def test_retrieved_titles_are_not_retrieved_again(run):
    with pytest.raises(InputError, match="has retrieved titles already; allowed: the dataset"):
        retrieved_titles.write_retrieved(run / "W", run / "D2", run / "none", TOP, DRAWN)


@pytest.mark.parametrize("own, before", [("filled", "retrieved"), ("retrieved", "filled")])
def test_a_dataset_that_was_rewritten_twice_is_that_of_its_config(run, config, monkeypatch, own, before):
    """Whichever was written last, one of the entries has the digest of the prepared dataset."""
    twice = {"digest": "c", own: {"digest": "b"}, before: {"digest": digest(config)}}
    monkeypatch.setattr(data_run, "read_manifest", lambda path: twice)
    ensure_dataset(config, run / "D2")
    twice[before] = {"digest": "a"}
    with pytest.raises(InputError, match="was prepared with other source"):
        ensure_dataset(config, run / "D2")


def test_another_catalogue_is_refused(run, tiny_directory):
    with pytest.raises(InputError, match="layout differs from that of the training"):
        retrieved_titles.write_retrieved(run / "W", tiny_directory, run / "none", TOP, DRAWN)
