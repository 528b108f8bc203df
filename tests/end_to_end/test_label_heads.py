"""Heads of labels from the log to the result: on exposures, offline, and blended with the head of plays."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.config.schema import (
    Blend,
    BlendTerm,
    Expert,
    Head,
    Label,
    Objective,
    Signal,
)
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LABEL_BASELINES, LABELS
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import Evaluator
from jaxrec.evaluation.labels import rates
from jaxrec.reporting.result_table import format_table
from jaxrec.sources import open_source
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training import trainer

THUMB = Label("thumb", "happened", "thumb")
PLAYED = Label("played", "happened", hours=0.02)


@pytest.fixture(scope="module")
def base(tiny_config):
    """Return the tiny config with few users, one expert and few features."""
    config = copy.deepcopy(tiny_config)
    config.source.users, config.source.test_only_users, config.source.titles = 60, 20, 80
    config.features = tuple(f for f in config.features if f.where != "context")
    config.model.features = ("title_id", "completion")
    config.model.experts = (Expert(4, num_layers=1, num_heads=2, mlp_ratio=1.0, dropout=0.1),)
    config.evaluate.report, config.evaluate.report_users = False, 0
    config.train.duration, config.evaluate.next_k = "4 steps", (1,)
    return config


def run(config, folder):
    """Prepare and train in this process; return the workdir."""
    dataset = folder / "data"
    prepare(open_source(config.source, config.features, signals=config.signals), config, str(dataset))
    trainer.train(config, Dataset(dataset), folder / "run", SimpleNamespace(requested=None))
    return folder / "run"


@pytest.fixture(scope="module")
def exposures(base, tmp_path_factory):
    """Return the workdir of a run on exposures, with a head on the pair and one on the state."""
    config = copy.deepcopy(base)
    config.signals = (Signal("impression"), Signal("thumb", "sign"))
    config.labels, config.data.examples, config.data.num_targets = (THUMB, PLAYED), "impressions", 1
    heads = (Head("played", "played"), Head("thumb", "thumb", on="state"))
    config.objective = Objective(ctr=0.0, ranking=0.0, regression=0.0, heads=heads)
    return run(config, tmp_path_factory.mktemp("exposures"))


def test_exposures_train_and_are_measured_by_their_labels(exposures):
    done = Evaluator(exposures).run(write=True, per_user=True, gradients=True)
    assert {*done.result[LABELS]} == {"played", "thumb"} and done.result["protocol"]["lists"] == []
    played = done.result[LABELS]["played"]
    assert played["queries"] == len(done.rows) and 0 < played["mean"] < 0.2  # one of 21 titles shown
    known = done.rows["label_known"][:, 0] >> 1 & 1 == 1
    np.testing.assert_array_equal(done.labels["played"].label[known], done.rows["label"][known, 0, 1])
    text = format_table(done.result)
    assert "played            AUC" in text and "NDCG" not in text
    # the baselines read the labels that the model is measured by, and are printed below its metrics
    loaded, layout = load_checkpoint(exposures, "best"), Dataset(exposures.parent / "data").layout
    for head in loaded.config.objective.heads:
        label, is_known = rates.labels_of(head, done.rows, loaded.config, layout)
        np.testing.assert_array_equal(label[:, 0], done.labels[head.name].label)
        np.testing.assert_array_equal(is_known[:, 0], done.labels[head.name].known)
    baselines = done.result[LABEL_BASELINES]
    assert [*baselines] == ["title_rate", "user_rate", "both"]
    assert all([*heads] == ["played", "thumb"] for heads in baselines.values())
    assert text.count("both rates  AUC") == 2
    assert not {"lists", CATALOGUE} & {*done.result}
    of_heads = done.result["gradients"]
    assert of_heads["heads"] == ["played", "thumb"] and of_heads["batches"] > 1
    assert 0 < abs(of_heads["cosine"][0][1]) < 1 and "1 played" in text.partition("Gradients")[2]


def test_the_best_checkpoint_of_exposures_has_the_best_mean_auc(exposures):
    lines = (exposures / "metrics.jsonl").read_text()
    assert '"labels/auc"' in lines and '"labels/played/auc"' in lines
    loaded = load_checkpoint(exposures, "best")
    assert loaded.task.protocols().best == (LABELS, "auc") and loaded.meta["label_shares"]["played"] > 0.9
    with pytest.raises(InputError, match="lists=catalogue; allowed: none, for the model of 'tiny' ranks no"):
        Evaluator(exposures).run(lists=(CATALOGUE,))


@pytest.fixture(scope="module")
def requests(base, tmp_path_factory):
    """Return the workdir of a run on requests with a head of plays and one of finished titles."""
    config = copy.deepcopy(base)
    config.labels = (Label("finished", "at_least", at=0.9, of_drawn="unknown"),)
    config.objective = Objective(ranking=0.0, regression=0.0, heads=(Head("finished", "finished"),))
    config.evaluate.blends = (Blend("top", (BlendTerm("ctr"), BlendTerm("finished", 0.5))),)
    return run(config, tmp_path_factory.mktemp("requests"))


def test_a_blend_orders_lists_and_the_catalogue(requests):
    by_name, by_terms, plain = (
        Evaluator(requests).run(lists=("enabled", CATALOGUE), blend=blend)
        for blend in ("top", "ctr=1,finished=0.5", "")
    )
    assert by_name.result["protocol"]["name"].endswith("-blend-top")
    assert by_name.result["protocol"]["blend"] == "top" and "blend" not in plain.result["protocol"]
    np.testing.assert_allclose(by_name.scores, by_terms.scores, rtol=1e-6)
    assert not np.allclose(by_name.scores, plain.scores)
    assert by_name.result[CATALOGUE]["correction"]["head"] == "top"
    assert plain.result[CATALOGUE]["correction"]["head"] == "ctr"
    assert (requests / "correction.npz").exists() and [*requests.glob("correction-top-*.npz")]
    # the labels are measured whatever orders the titles
    assert by_name.result[LABELS] == plain.result[LABELS]


@pytest.mark.parametrize(("blend", "text"), [
    ("tpo", "--blend=tpo: evaluate.ranking_head='tpo' must be auto, or a head with a weight or a blend: ctr"),
    ("ctr=x", "--blend=ctr=x: 'x' is no number; allowed: a name, or heads with weights such as ctr=1"),
    ("thumb=1", "--blend=thumb=1: evaluate.blends[1].terms[0].head='thumb' must be one of ctr, finished"),
])  # fmt: skip
def test_a_wrong_blend_is_one_line(requests, blend, text):
    with pytest.raises(InputError) as caught:
        Evaluator(requests).run(blend=blend)
    assert text in str(caught.value) and "\n" not in str(caught.value)
