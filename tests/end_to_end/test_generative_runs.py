"""Generative models end to end: title vectors, codes, training, evaluation, recommendations."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import jaxrec.serving
from jaxrec.analysis.tokenising import tokenise
from jaxrec.codes.folder import RECORD, read_codes
from jaxrec.config.loading import load_config
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.serving import export
from jaxrec.serving.filters import Filters
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.generative.catalogue import with_codes
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training import trainer

ROOT = Path(__file__).resolve().parents[2]


def config_of(name, data):
    config = load_config(str(ROOT / f"configs/onerec.py:{name}"))
    config.data.directory, config.evaluate.report_users = str(data), 0
    config.train.duration = "1 epoch"
    return config


@pytest.fixture(scope="module")
def data(once):
    def make(folder):
        ensure_dataset(config_of("tiny", folder / "data"), folder / "data")

    return Dataset(once("generative", make) / "data")


def train(config, data, workdir):
    trainer.train(config, data, workdir, SimpleNamespace(requested=None))
    return workdir


@pytest.fixture(scope="module")
def coded(data, tmp_path_factory):
    """Return a config whose codes are of the vectors of a trained title policy."""
    title = train(config_of("title_tiny", data.directory), data, tmp_path_factory.mktemp("title"))
    config, folder = config_of("tiny", data.directory), tmp_path_factory.mktemp("codes")
    config.start.workdir = str(title)
    tokenise(config, data, folder)
    config.start.workdir, config.codes.path = "", str(folder)
    return config


@pytest.fixture(scope="module")
def run(coded, data, tmp_path_factory):
    return train(coded, data, tmp_path_factory.mktemp("generative"))


def test_codes_are_balanced_and_of_the_titles_of_the_dataset(coded, data):
    stored = read_codes(coded.codes.path)
    assert (stored.title_key == data.arrays.title_key).all()
    tokens = stored.codes.tokens
    assert tokens.shape == (60, 3) and len(np.unique(tokens, axis=0)) == 60
    assert all(np.bincount(level).max() == 8 for level in tokens[:, :2].T)
    record = json.loads((Path(coded.codes.path) / RECORD).read_text())
    assert (record["vectors"], record["largest_cluster"]) == ("model", [8, 8])
    assert record["distortion"][0] > record["distortion"][1] > 0


def test_codes_are_a_function_of_the_config(data, tmp_path):
    config = config_of("tiny", data.directory)
    for vectors in ("metadata", "random"):
        config.codes.vectors = vectors
        prints = [tokenise(config, data, tmp_path / f"{vectors}{i}")["fingerprint"] for i in (1, 2)]
        assert prints[0] == prints[1]
        config.train.seed, prints = 1, prints[:1]
        assert tokenise(config, data, tmp_path / vectors)["fingerprint"] != prints[0]
        config.train.seed = 0


def test_codes_lie_in_the_checkpoint_and_the_policy_is_evaluated(coded, run):
    loaded = load_checkpoint(run, "last")
    tokens = loaded.arrays.title_codes
    assert (tokens[2:] == read_codes(coded.codes.path).codes.tokens).all() and not tokens[:2].any()
    assert loaded.meta["codes"] == read_codes(coded.codes.path).fingerprint
    evaluation = evaluate(run, EvaluationOptions(lists=("catalogue", "truth"), report_users=0), which="last")
    assert 0 < evaluation.result["catalogue"]["model"]["hr@10"] < 1
    assert evaluation.result["truth"]["model"]["entropy"] > 1.0


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender.load(run, "last")


@pytest.fixture(scope="module")
def histories(recommender):
    return {
        "user_id": np.array([1, 1, 2]),
        "title_id": recommender.titles[[3, 7, 20]],
        "time": 1_600_000_000_000 + np.arange(3) * 1000,
        "seconds_viewed": np.full(3, 4000.0),
    }


def test_recommendations_are_titles_of_the_beams(recommender, histories):
    made = recommender.recommend(histories, k=5)
    titles, scores = made["title"], made["score"]
    assert len(titles) == 10 and len(set(titles[:5].tolist())) == 5
    assert (np.diff(scores[:5]) <= 0).all() and (scores < 0).all()


def test_an_export_searches_the_same_beams(recommender, histories, tmp_path):
    export.write(recommender, tmp_path / "export", ("cpu",), 8)
    served = jaxrec.serving.load(tmp_path / "export")
    titles = recommender.titles
    few = Filters(deny=titles[:9].tolist(), allow=titles[:30].tolist())
    for filters in (None, few):
        lists = [r.recommend(histories, 8, filters) for r in (recommender, served)]
        assert lists[0]["title"].tolist() == lists[1]["title"].tolist()
        np.testing.assert_allclose(lists[1]["score"], lists[0]["score"], atol=1e-5)
    assert set(lists[1]["title"].tolist()) <= {*titles[9:30].tolist()}
    scores = [r.score(histories, titles)["score"].reshape(2, 60) for r in (recommender, served)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
    np.testing.assert_allclose(np.exp(scores[0]).sum(1), 1.0, atol=1e-5)  # of all titles, not of beams alone
    best = recommender.recommend(histories, 1, Filters(watched=False, abandoned=False))
    assert best["title"].tolist() == titles[scores[0].argmax(1)].tolist()


def test_filters_make_a_sub_trie_so_that_every_beam_counts(recommender, histories):
    titles = recommender.titles
    made = recommender.recommend(histories, k=8)["title"].reshape(2, 8)  # as many titles as beams
    assert not set(made[0].tolist()) & {titles[3], titles[7]} and titles[20] not in made[1]
    best = made[0].tolist()
    denied = recommender.recommend(histories, k=8, filters=Filters(deny=best))["title"].reshape(2, 8)
    assert not set(denied.reshape(-1).tolist()) & set(best) and len(set(denied[0].tolist())) == 8
    few = titles[40:46].tolist()
    allowed = recommender.recommend(histories, k=8, filters=Filters(allow=few))
    assert sorted(allowed["title"].tolist()) == sorted(few * 2)
    scores = np.asarray(allowed["score"]).reshape(2, 6)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, atol=1e-5)  # of the allowed titles alone


def test_codes_of_another_catalogue_and_other_codes_are_refused(coded, data, run, tmp_path):
    config = copy.deepcopy(coded)
    arrays = data.arrays
    other = dataclasses.replace(arrays, title_key=arrays.title_key[::-1])
    with pytest.raises(InputError, match=r"the codes of another catalogue, of 60 titles; allowed"):
        with_codes(other, config)
    config.codes.size = 9
    with pytest.raises(InputError, match=r"holds 2 levels of 8 tokens; allowed: codes.levels=2 and codes"):
        with_codes(arrays, config)
    config = copy.deepcopy(coded)
    config.codes.vectors, config.codes.path = "random", str(tmp_path)
    tokenise(config, data, tmp_path)
    with pytest.raises(InputError, match=r"holds a run on codes .*; allowed: the same codes"):
        train(config, data, run)
    tokens = np.load(tmp_path / "tokens.npy")
    np.save(tmp_path / "tokens.npy", tokens[::-1])
    with pytest.raises(InputError, match=r"the arrays are not those of codes.json"):
        with_codes(arrays, config)
