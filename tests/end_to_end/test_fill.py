"""Delayed labels: an offline model of early labels fills a dataset, which another run trains on."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxrec.analysis.description import describe
from jaxrec.analysis.rewritten import filling
from jaxrec.config.schema import Expert, Feature, Head, Label, Objective, Reward, Term
from jaxrec.core import rewards
from jaxrec.core.errors import InputError
from jaxrec.core.ids import LABEL_BASELINES, LABELS, SPLITS
from jaxrec.core.row_format import label_is_known
from jaxrec.data.runners.local import prepare
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.audit import verify_dataset
from jaxrec.data.storage.dataset import Dataset, read_manifest
from jaxrec.evaluation.evaluator import Evaluator
from jaxrec.reporting.result_table import format_table
from jaxrec.sources import open_source
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training import trainer
from tests.bad_inputs.command import run_command
from tests.stop import Stop

LATE = Label("finished", "at_least", hours=720, at=0.9, of_drawn="unknown")
EARLY = Label("completion_1d", "completion", hours=24)
READ = Feature("completion_1d", "number", "label", 4, available="after")


@pytest.fixture(scope="module")
def online(tiny_config):
    """Return a config of few users whose head learns a label of 30 days."""
    config = copy.deepcopy(tiny_config)
    config.source.users, config.source.test_only_users, config.source.titles = 60, 20, 80
    config.features = tuple(f for f in config.features if f.where != "context")
    config.model.features = ("title_id", "completion")
    config.model.experts = (Expert(4, num_layers=1, num_heads=2, mlp_ratio=1.0, dropout=0.1),)
    config.labels, config.data.targets, config.data.num_targets = (LATE, EARLY), "every", 2
    config.rewards = (Reward("value", (Term("finished"),), unknown="filled"),)
    heads = (Head("finished", "finished"), Head("value", "reward:value", loss="mse"))
    config.objective = Objective(ranking=0.0, regression=0.0, heads=heads)
    config.evaluate.report, config.evaluate.report_users, config.evaluate.next_k = False, 0, (1,)
    config.train.duration = "4 steps"
    return config


@pytest.fixture(scope="module")
def offline(online):
    """Return the offline config on the same dataset."""
    config = copy.deepcopy(online)
    config.name, config.offline, config.rewards = "offline", True, ()
    config.features = (*config.features, READ)
    config.model.features = (*config.model.features, READ.name)
    config.objective = Objective(ctr=0.0, ranking=0.0, regression=0.0, heads=(Head("late", "finished"),))
    return config


@pytest.fixture(scope="module")
def folder(online, offline, tmp_path_factory):
    """Return a folder with the dataset `data`, the offline run `off`, and the filled dataset `filled`."""
    folder = tmp_path_factory.mktemp("delayed")
    prepare(open_source(online.source, online.features), online, str(folder / "data"))
    trainer.train(offline, Dataset(folder / "data"), folder / "off", Stop())
    assert filling.fill(folder / "off", folder / "data", folder / "filled").written
    return folder


def test_predictions_stand_where_a_label_is_unknown_and_are_marked(folder):
    before, after = Dataset(folder / "data"), Dataset(folder / "filled")
    assert after.layout == replace(before.layout, filled=True) and after.layout.labels[0] == "finished"
    for split in SPLITS:
        old, new = before.rows(split).all(), after.rows(split).all()
        for name in {*old.dtype.names} - {"label"}:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)
        late, early = (label_is_known(old["label_known"], i) for i in range(2))
        filled = new["label_filled"] == 1
        np.testing.assert_array_equal(filled, (old["target"] > 0) & ~late & early)
        assert filled[:, 0].sum() > 0 and filled[:, 1].sum() > 0 and not filled.all()
        np.testing.assert_array_equal(new["label"][~filled], old["label"][~filled])
        np.testing.assert_array_equal(new["label"][..., 1], old["label"][..., 1])
        values = new["label"][..., 0][filled]
        assert ((values > 0) & (values < 1)).all() and len(np.unique(values)) > 10
        assert after.manifest["filled"]["labels"]["finished"][split] == filled.sum()
    verify_dataset(after)


def test_a_prediction_is_that_of_evaluate(folder):
    """`evaluate` predicts the first targets of the test rows, whether their label is known or not."""
    evaluated = Evaluator(folder / "off").run()
    rows = Dataset(folder / "filled").rows("test").all()
    filled = rows["label_filled"][:, 0] == 1
    expected = 1 / (1 + np.exp(-evaluated.labels["late"].prediction[filled].astype(np.float64)))
    np.testing.assert_allclose(rows["label"][filled, 0, 0], expected, rtol=2e-5)


def test_the_second_target_is_predicted_from_its_own_row(folder):
    """Its row with both targets exchanged has the prediction at the first."""
    dataset, loaded = Dataset(folder / "data"), load_checkpoint(folder / "off", "best")
    rows, filler = dataset.rows("train").all(), filling.Filler(loaded, dataset.layout)
    exchanged = rows.copy()
    for name in ("target", "target_completion", "label", "label_known"):
        exchanged[name] = rows[name][:, ::-1]
    filled, other = filler("train", rows), filler("train", exchanged)
    np.testing.assert_array_equal(filled["label_filled"], other["label_filled"][:, ::-1])
    np.testing.assert_allclose(filled["label"], other["label"][:, ::-1], rtol=1e-5)
    hidden = rows.copy()
    hidden["label_known"][::2] &= 1  # without the early label, which the model reads
    unread = filler("train", hidden)
    assert filled["label_filled"][::2].any() and not unread["label_filled"][::2].any()
    np.testing.assert_array_equal(unread["label_filled"][1::2], filled["label_filled"][1::2])
    both = (filled["label_filled"] == 1).all(axis=1)
    first, second = filled["label"][both, :, 0].T
    assert both.sum() > 4 and (first != second).mean() > 0.5


def test_a_model_reads_early_labels_and_is_measured_beside_them(folder):
    done = Evaluator(folder / "off").run(write=True, per_user=True)
    baseline = done.result[LABEL_BASELINES]["observed completion_1d"]["late"]
    assert baseline["gain"]["value"] == pytest.approx(
        done.result[LABELS]["late"]["auc"]["value"] - baseline["auc"]["value"]
    )
    assert "observed completion_1d AUC" in format_table(done.result)
    loaded = load_checkpoint(folder / "off", "last")
    kernel = loaded.params["observed"]["completion_1d"]["kernel"]
    assert kernel.shape == (2, 4) and float(abs(kernel).min()) > 0


def test_the_same_content_is_left_and_other_content_refused(folder, tmp_path):
    stamp = (folder / "filled" / "manifest.json").stat().st_mtime_ns
    result = filling.fill(folder / "off", folder / "data", folder / "filled")
    assert not result.written and (folder / "filled" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(
        InputError, match=r"data: exists, and is not .* with the predictions of .*off; remove it"
    ):
        filling.fill(folder / "off", folder / "data", folder / "data")
    with pytest.raises(
        InputError, match="filled: is filled already; allowed: the dataset that it was made from"
    ):
        filling.fill(folder / "off", folder / "filled", tmp_path / "again")
    # what a killed process left is removed, and the bytes are those of the first time
    partial = tmp_path / ".again.partial"
    partial.mkdir()
    (partial / "train-00000.rows").write_bytes(b"half")
    manifest, written = filling.fill(folder / "off", folder / "data", tmp_path / "again")
    assert written and manifest["fingerprint"] == Dataset(folder / "filled").fingerprint
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith("partial")] == []
    assert manifest["digest"] != read_manifest(folder / "data" / "manifest.json")["digest"]


def test_a_description_has_the_auc_of_early_labels_and_counts_predictions(folder, offline, online):
    of_offline = describe(offline, Dataset(folder / "data"))["features"][-1]
    assert (of_offline["where"], of_offline["available"], of_offline["leaks"]) == ("label", "after", [])
    assert 0.7 < of_offline["auc"]["finished"] < 1
    known = [describe(online, Dataset(folder / name))["rewards"][0]["known"] for name in ("data", "filled")]
    shares = Dataset(folder / "filled").label_shares
    assert 0.3 < known[0] < known[1] <= 1 and shares["finished"] < shares["filled:finished"]


def changed_dataset(folder, to, **edits):
    """Return a copy of the dataset with another manifest."""
    shutil.copytree(folder / "data", to)
    manifest = json.loads((to / "manifest.json").read_text()) | {"fingerprint": "0" * 32} | edits
    del manifest["checksum"]
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_another_model_is_refused_in_one_line(folder, tiny_run, tmp_path, monkeypatch):
    arguments = (f"--data={folder / 'data'}", f"--out={tmp_path / 'out'}")
    result = run_command("fill", f"--checkpoint={tiny_run / 'run'}", *arguments, folder=tmp_path)
    assert result.status == 2 and not result.has_traceback
    assert result.error_lines == [
        "error: the run 'tiny' has offline=False: its model may rank titles; allowed: a run with "
        "offline=True, whose model predicts labels"
    ]
    declared = read_manifest(folder / "data" / "manifest.json")["declared_labels"]
    other = changed_dataset(
        folder, tmp_path / "other", digest="d", declared_labels=[declared[0] | {"hours": 9.0}, declared[1]]
    )
    with pytest.raises(
        InputError, match=r"other: its labels \(finished, completion_1d\) are declared otherwise"
    ):
        filling.fill(folder / "off", other, tmp_path / "out")
    categories = read_manifest(folder / "data" / "manifest.json")["categories"]
    renamed = changed_dataset(
        folder, tmp_path / "renamed", categories=categories | {"form": ["series", "short"]}
    )
    with pytest.raises(
        InputError, match=r"renamed .*: feature form has other categories than in the training"
    ):
        filling.fill(folder / "off", renamed, tmp_path / "out")
    loaded = load_checkpoint(folder / "off", "last")
    loaded.config.objective.heads = (Head("late", "finished", loss="hinge"),)
    with pytest.raises(InputError, match="the run 'offline' has no head that predicts the value of a label"):
        filling.check_model(loaded, Dataset(folder / "data"))
    loaded.config.objective.heads = (Head("late", "finished"), Head("too", "finished", loss="mse"))
    with pytest.raises(InputError, match="the run 'offline' has several heads of 'finished'; allowed: one"):
        filling.check_model(loaded, Dataset(folder / "data"))
    assert not (tmp_path / "out").exists()


def test_a_run_on_the_filled_dataset_learns_from_predictions(folder, online, tmp_path):
    """Predictions are labels of training rows, and never of rows that are evaluated."""
    ensure_dataset(online, folder / "filled")  # the config of the dataset before predictions
    runs = {}
    for name in ("data", "filled"):
        trainer.train(online, Dataset(folder / name), tmp_path / name, Stop())
        runs[name] = load_checkpoint(tmp_path / name, "last")
    shares = runs["filled"].meta["label_shares"]
    known, both = shares["finished"], shares["filled:finished"]
    assert runs["data"].meta["label_shares"]["finished"] == known < both <= 1
    lines = [json.loads(line) for line in (tmp_path / "filled" / "metrics.jsonl").read_text().splitlines()]
    assert {line["reward/value"] for line in lines} == {rewards.version(online.rewards[0])}
    of_heads = {name: {h.name: h.share for h in run.task.head_specs} for name, run in runs.items()}
    assert of_heads["data"]["finished"] == of_heads["data"]["value"] == known
    assert of_heads["filled"]["finished"] == of_heads["filled"]["value"] == both
    kernels = [run.params["matcher_finished"] for run in runs.values()]
    assert kernels[0].keys() == kernels[1].keys()
    # one model, on both datasets: predictions count as known in no metric
    on_filled, on_data = (
        Evaluator(tmp_path / "filled").run(data=folder / name) for name in ("filled", "data")
    )
    for head in ("finished", "value"):
        assert on_filled.result[LABELS][head] == on_data.result[LABELS][head]
    assert on_data.result["dataset"] != on_filled.result["dataset"]
    online = copy.deepcopy(online)
    online.rewards = (replace(online.rewards[0], unknown="observed"),)
    with pytest.raises(
        InputError, match=r"of='reward:value' has unknown='observed', but the dataset is filled"
    ):
        trainer.train(online, Dataset(folder / "filled"), tmp_path / "observed", Stop())
