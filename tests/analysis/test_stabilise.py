"""`python -m jaxrec.stabilise`: workdirs with the same metrics and the vectors of an earlier run."""

import copy
import shutil

import numpy as np
import pytest

from jaxrec.analysis.derived.stabilising import stabilise, training_queries
from jaxrec.config.schema import Expert, Feature
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training.trainer import train

STEPS = "12 steps"


def next_item(tiny_config):
    """The tiny config with the task next_item."""
    config = copy.deepcopy(tiny_config)
    config.task.name, config.data.num_targets, config.model.head = "next_item", 1, "dot"
    config.features = (Feature("title_id", "category", "title", 12),)
    config.model.features, config.evaluate.next_k = ("title_id",), (1,)
    config.model.experts = (Expert(8, 1, 2, 1.0, 0.0, "sasrec"),)
    return config


@pytest.fixture(scope="session")
def runs(small_config, tiny_config, tiny_directory, once):
    """A folder with runs of two seeds: "next_item-0", "dot-0" (with a retrieval head) and so on."""

    def make(folder):
        sequences = next_item(tiny_config)
        ensure_dataset(sequences, folder / "data")
        ranking = copy.deepcopy(small_config)
        ranking.model.retrieval_dim, ranking.objective.retrieval = 6, 0.5
        for name, config, data in (
            ("next_item", sequences, folder / "data"), ("dot", ranking, tiny_directory),
        ):  # fmt: skip
            config.train.duration, config.optimizer.learning_rate = STEPS, 0.02
            for seed in (0, 1):
                config.train.seed = seed
                train(config, Dataset(data), folder / f"{name}-{seed}", PreemptionHandler())

    return once("stabilised", make)


@pytest.fixture(scope="session")
def stabilised(runs, once):
    """The results of a chain of two stabilisations for each kind of model, and their workdirs."""
    results = {}

    def make(folder):
        folder.mkdir()
        for name in ("next_item", "dot"):
            zero, one = folder / f"{name}-0", folder / f"{name}-1"
            results[name] = [
                stabilise(runs / f"{name}-0", runs / f"{name}-0", zero),
                stabilise(runs / f"{name}-1", zero, one),
            ]
        np.save(folder / "results.npy", np.array(results, object), allow_pickle=True)

    folder = once("stabilised-out", make)
    return folder, results or np.load(folder / "results.npy", allow_pickle=True).item()


@pytest.mark.parametrize("name", ["next_item", "dot"])
def test_scores_are_kept(stabilised, name):
    _, results = stabilised
    for result in results[name]:
        for of_head in result["heads"].values():
            assert 0 < of_head["score_error"] < 1e-5
    assert {*results["dot"][0]["heads"]} == {"ctr", "retrieval_head"}


@pytest.mark.parametrize("name", ["next_item", "dot"])
def test_a_run_like_itself_is_its_own_reference(stabilised, name):
    _, results = stabilised
    for of_head in results[name][0]["heads"].values():
        assert of_head["cosine"]["stabilised"] == pytest.approx(1.0, abs=1e-6)
        assert of_head["cosine"]["raw"] == pytest.approx(1.0, abs=1e-6)
        assert of_head["probe"]["stabilised"] == pytest.approx(of_head["probe"]["reference"], abs=1e-3)


@pytest.mark.parametrize("name", ["next_item", "dot"])
def test_common_titles_come_nearer_than_by_a_rotation(stabilised, name):
    cosine = stabilised[1][name][1]["heads"]["next_item" if name == "next_item" else "ctr"]["cosine"]
    assert abs(cosine["raw"]) < 0.4 < cosine["stabilised"]
    assert cosine["stabilised"] > cosine["procrustes"] - 0.02


def test_a_stabilised_run_is_evaluated_and_recommends_as_before(runs, stabilised):
    folder, _ = stabilised
    for name in ("next_item-1", "dot-1"):
        before = evaluate(runs / name, which="best").result
        after = evaluate(folder / name).result
        key = "catalogue" if name.startswith("next") else "lists"
        for order, values in before[key].items() if key == "lists" else [("model", before[key]["model"])]:
            for metric, value in values.items():
                assert after[key][order][metric] == pytest.approx(value, abs=2e-3), (name, order, metric)


def test_published_vectors_are_the_stabilised_ones(runs, stabilised):
    folder, results = stabilised
    for name in ("next_item", "dot"):
        zero, one = (Recommender.load(folder / f"{name}-{i}", index="exact") for i in (0, 1))
        x, y = zero.embed(titles=zero.titles), one.embed(titles=one.titles)
        cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        head = "next_item" if name == "next_item" else "ctr"
        assert cosine.mean() == pytest.approx(
            results[name][1]["heads"][head]["cosine"]["stabilised"], abs=1e-3
        )


def test_a_stabilised_run_can_be_stabilised_again(runs, stabilised, tmp_path):
    folder, _ = stabilised
    result = stabilise(folder / "dot-1", folder / "dot-0", tmp_path / "again")
    assert result["heads"]["ctr"]["score_error"] < 1e-5
    cosine = result["heads"]["ctr"]["cosine"]
    assert cosine["stabilised"] == pytest.approx(cosine["raw"], abs=1e-4)


def test_training_rows_as_queries_hold_the_history_before_the_last_play(runs):
    loaded = load_checkpoint(runs / "next_item-0", "best")
    dataset = Dataset(loaded.meta["dataset_directory"])
    queries, rows = training_queries(dataset, 20), dataset.rows("train").all()[:20]
    assert len(queries) == 20
    assert (queries["target"][:, 0] == rows["title"][:, -1]).all()
    assert (queries["history_title"][:, -1] == rows["title"][:, -2]).all()
    assert (queries["target_time"] >= queries["history_time"][:, -1]).all()


def test_what_cannot_be_stabilised_is_refused(runs, tiny_run, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="the score of 'tiny' is no dot product; allowed: a next-item model"):
        stabilise(tiny_run / "run", runs / "dot-0", out)
    with pytest.raises(InputError, match="has no dot product named 'ctr'"):
        stabilise(runs / "dot-0", runs / "next_item-0", out)
    out.mkdir()
    (out / "file").touch()
    with pytest.raises(InputError, match="allowed: a new or an empty folder"):
        stabilise(runs / "dot-0", runs / "dot-0", out)
    assert [*tmp_path.iterdir()] == [out] and len([*out.iterdir()]) == 1


def test_a_training_starts_from_a_stabilised_run_and_does_not_resume_it(runs, stabilised, tmp_path):
    folder, _ = stabilised
    loaded = load_checkpoint(folder / "next_item-1", "last")
    config = loaded.config
    config.start.workdir, config.train.duration = str(folder / "next_item-1"), "1 steps"
    config.start.freeze, config.start.which = ("output_maps/*",), "last"
    dataset = Dataset(loaded.meta["dataset_directory"])
    train(config, dataset, tmp_path / "next", PreemptionHandler())
    after = load_checkpoint(tmp_path / "next", "last")
    np.testing.assert_array_equal(after.params["output_maps"]["user"], loaded.params["output_maps"]["user"])
    config.start.optimizer = "kept"
    with pytest.raises(InputError, match="holds no moments of its parameters"):
        train(config, dataset, tmp_path / "kept", PreemptionHandler())
    shutil.copytree(folder / "next_item-1", tmp_path / "resumed")
    original = load_checkpoint(folder / "next_item-1", "last").config
    original.train.duration = "20 steps"
    with pytest.raises(InputError, match="in the checkpoint, but"):
        train(original, dataset, tmp_path / "resumed", PreemptionHandler(), extend=True)
