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
from jaxrec.data.columns.category_codes import FIRST_VALUE
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import Evaluator
from jaxrec.evaluation.labels import rates
from jaxrec.reporting.result_table import format_table
from jaxrec.serving.recommender import Recommender
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
    terms = (BlendTerm("ctr"), BlendTerm("finished", 0.5))
    config.evaluate.blends = (Blend("top", terms), Blend("page", terms, where="segment=0"))
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
    ("thumb=1", "--blend=thumb=1: evaluate.blends[2].terms[0].head='thumb' must be one of ctr, finished"),
])  # fmt: skip
def test_a_wrong_blend_is_one_line(requests, blend, text):
    with pytest.raises(InputError) as caught:
        Evaluator(requests).run(blend=blend)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_blend_of_a_page_orders_the_queries_of_its_value(requests):
    """Queries of users of segment 0 have the scores of the blend, and others those of the default head."""
    page, top, plain = (
        Evaluator(requests).run(lists=("enabled", CATALOGUE), blend=blend) for blend in ("page", "top", "")
    )
    layout = Dataset(requests.parent / "data").layout
    values = load_checkpoint(requests, "last").categories["segment"]
    column = layout.category_column("user", "segment")
    is_served = page.rows["user_categories"][:, column] == FIRST_VALUE + values.index(0)
    assert 0 < is_served.sum() < len(is_served)
    np.testing.assert_array_equal(page.scores[is_served], top.scores[is_served])
    np.testing.assert_array_equal(page.scores[~is_served], plain.scores[~is_served])
    assert (top.scores != plain.scores).any(axis=(1, 2, 3)).all()
    assert page.result[CATALOGUE]["correction"]["head"] == "page"
    assert [*requests.glob("correction-page-*.npz")]


def test_recommendations_of_a_page_are_those_of_its_value(requests, base):
    """Two requests of one history, from users of segment 0 and of another."""
    source = open_source(base.source, base.features)
    chunk, keys = next(source.interactions()), source.titles().key
    one = chunk.user == chunk.user[0]
    plays = {
        "user_id": np.repeat(["in", "out"], one.sum()), "title_id": np.tile(keys[chunk.title[one]], 2),
        "time": np.tile(chunk.time[one], 2), "seconds_viewed": np.tile(chunk.seconds[one], 2),
    }  # fmt: skip
    values = load_checkpoint(requests, "last").categories["segment"]
    users = {"user_id": ["in", "out"], "segment": [0, values[-1]], "segment2": [0, 0]}
    served = [
        Recommender.load(requests, blend=blend).score(plays, keys[:20], users=users)
        for blend in ("page", "top", "")
    ]
    assert served[0]["user"].tolist() == ["in"] * 20 + ["out"] * 20
    page, top, plain = (columns["score"].reshape(2, 20) for columns in served)
    np.testing.assert_allclose(page, [top[0], plain[1]], rtol=1e-5)
    assert not np.isclose(top, plain).any()


def test_a_page_of_an_unknown_value_is_one_line(requests, base):
    config = copy.deepcopy(load_checkpoint(requests, "last").config)
    config.evaluate.blends[1].where = "segment=99"
    dataset = Dataset(requests.parent / "data")
    with pytest.raises(
        InputError, match=r"evaluate.blends\[1\].where='segment=99': segment has no value '99'; a"
    ):
        trainer.train(config, dataset, requests.parent / "other", SimpleNamespace(requested=None))
    assert not (requests.parent / "other").exists()
