"""Codes as a feature of titles, end to end: a next-item model and a ranker that read them."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxrec.serving
from benchmarks import cold_titles
from jaxrec.analysis.tokenising import read_earlier, tokenise
from jaxrec.codes.folder import read_codes, write_codes
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Codes, Feature
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import write_result
from jaxrec.serving import export
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.generative.catalogue import with_codes
from jaxrec.tasks.loading import build_task, load_checkpoint
from jaxrec.training import trainer

ROOT = Path(__file__).resolve().parents[2]


def plain_config(data):
    config = load_config(str(ROOT / "configs/onerec.py:title_tiny"))
    config.data.directory, config.evaluate.report_users = str(data), 0
    config.train.duration = "1 epoch"
    return config


def with_feature(config, vectors="random"):
    """Return a config whose model reads codes too."""
    config = copy.deepcopy(config)
    config.features += (Feature("codes", "codes", "title", width=8),)
    config.model.features += ("codes",) if config.model.features else ()
    config.codes = Codes(levels=2, size=16, vectors=vectors)
    check(config)
    return config


@pytest.fixture(scope="module")
def data(once):
    def make(folder):
        ensure_dataset(plain_config(folder / "data"), folder / "data")

    return Dataset(once("generative", make) / "data")


@pytest.fixture(scope="module")
def coded(data, tmp_path_factory):
    config, folder = with_feature(plain_config(data.directory)), tmp_path_factory.mktemp("codes")
    tokenise(config, data, folder)
    config.codes.path = str(folder)
    return config


def train(config, data, workdir):
    trainer.train(config, data, workdir, SimpleNamespace(requested=None))
    return workdir


@pytest.fixture(scope="module")
def run(coded, data, tmp_path_factory):
    return train(coded, data, tmp_path_factory.mktemp("run"))


def test_codes_do_not_change_the_dataset(coded, data):
    assert digest(coded) == digest(plain_config(data.directory))
    other = copy.deepcopy(coded)
    other.codes.levels = 3
    assert digest(other) == digest(coded)


def test_titles_of_one_path_differ_by_their_ids_alone(coded, run):
    loaded = load_checkpoint(run, "last")
    assert (loaded.arrays.title_codes[2:] == read_codes(coded.codes.path).codes.tokens).all()
    table = loaded.task.title_table(loaded.arrays)
    assert table.trie is None and table.categories.shape[1] == loaded.arrays.title_categories.shape[1] + 2
    params = jax.tree.map(np.array, loaded.params)
    prefixes = params["title"]["vectors"]["columns"]["codes"]["prefixes"]
    assert prefixes.shape == (1 + 16 + 256, 8) and np.abs(prefixes[1:17]).max() > 0
    params["title"]["vectors"]["title_id"]["embedding"][:] = 0  # what is left is of the codes
    vectors = np.asarray(loaded.task.embed_titles(params, table))[2:]
    path = table.categories[2:, -1]
    for i, j in ((0, np.flatnonzero(path == path[0])[-1]), (0, np.flatnonzero(path != path[0])[0])):
        assert np.allclose(vectors[i], vectors[j]) == (path[i] == path[j])


def test_a_model_that_reads_codes_is_evaluated_served_and_exported(run, tmp_path):
    evaluation = evaluate(run, EvaluationOptions(lists=("catalogue",), report_users=0), which="last")
    assert 0 < evaluation.result["catalogue"]["model"]["hr@10"] < 1
    write_result(run, evaluation, each=True)
    queries = cold_titles.queries_of(run)
    assert queries.ndcg.mean() == pytest.approx(evaluation.result["catalogue"]["model"]["ndcg@10"])
    assert queries.plays.max() == load_checkpoint(run, "last").arrays.title_plays[2:].max()
    recommender = Recommender.load(run, "last")
    histories = {
        "user_id": np.array([1, 1, 2]), "title_id": recommender.titles[[3, 7, 20]],
        "time": 1_600_000_000_000 + np.arange(3) * 1000, "seconds_viewed": np.full(3, 4000.0),
    }  # fmt: skip
    export.write(recommender, tmp_path / "export", ("cpu",), 10)
    served = jaxrec.serving.load(tmp_path / "export")
    lists = [r.recommend(histories, 10) for r in (recommender, served)]
    assert len(lists[0]["title"]) == 20
    np.testing.assert_allclose(lists[1]["score"], lists[0]["score"], atol=1e-4)
    assert lists[0]["title"].tolist() == lists[1]["title"].tolist()


def test_codes_of_another_catalogue_are_refused(coded, data, run, tmp_path):
    arrays = data.arrays
    other = replace(arrays, title_key=arrays.title_key[::-1])
    with pytest.raises(InputError, match=r"the codes of another catalogue, of 60 titles; allowed"):
        with_codes(other, coded)
    config = copy.deepcopy(coded)
    config.train.seed, config.codes.path = 1, str(tmp_path)
    tokenise(config, data, tmp_path)
    config.train.seed = 0
    with pytest.raises(InputError, match=r"holds a run on codes .*; allowed: the same codes"):
        train(config, data, run)


def test_a_ranker_reads_codes(tiny_directory, tiny_config, tmp_path):
    dataset, config = Dataset(tiny_directory), with_feature(tiny_config)
    tokenise(config, dataset, tmp_path)
    config.codes.path = str(tmp_path)
    task = build_task(config, dataset.layout, 0.5, 1, 1, categories=dataset.manifest["categories"])
    plain = build_task(tiny_config, dataset.layout, 0.5, 1, 1, categories=dataset.manifest["categories"])
    arrays = with_codes(dataset.arrays, config)
    params = jax.jit(task.init_params)(jax.random.key(0), task.title_table(arrays))
    vectors = task.embed_titles(params, task.title_table(arrays))
    without = np.full_like(arrays.title_codes, -1)
    changed = task.embed_titles(params, task.title_table(replace(arrays, title_codes=without)))
    width = plain.abstract_params["title"]["title_id"]["embedding"].shape[1]
    assert width and params["title"]["columns"]["codes"]["prefixes"].shape == (1 + 16 + 256, 8)
    assert (np.abs(np.asarray(vectors) - np.asarray(changed)).max(axis=0) > 0).sum() == 8


def test_new_titles_are_coded_by_clusters_that_are_not_full(data, tmp_path):
    """Codes of the first 50 titles, by their genres, are extended to all 60."""
    config = with_feature(plain_config(data.directory), "metadata")
    tokenise(config, data, tmp_path / "all")
    stored = read_codes(tmp_path / "all")
    first = stored.codes._replace(tokens=stored.codes.tokens[:50])
    write_codes(tmp_path / "first", stored.title_key[:50], first, {"vectors": "metadata"})
    with pytest.raises(InputError, match=r"the codes of another catalogue, of 50 titles"):
        with_codes(data.arrays, replace_path(config, tmp_path / "first"))
    earlier = read_earlier(config, str(tmp_path / "first"))
    record = tokenise(config, data, tmp_path / "extended", earlier)
    extended = read_codes(tmp_path / "extended")
    assert record["extends"] == earlier.fingerprint and (extended.title_key == data.arrays.title_key).all()
    np.testing.assert_array_equal(extended.codes.tokens[:50], first.tokens)
    np.testing.assert_array_equal(extended.codes.centroids, first.centroids)
    assert len(np.unique(extended.codes.tokens, axis=0)) == 60
    assert all(count <= 4 for count in record["largest_cluster"])  # ceil(60 / 16)
    assert with_codes(data.arrays, replace_path(config, tmp_path / "extended")).title_codes.shape == (62, 3)
    config.codes.vectors = "random"
    with pytest.raises(InputError, match=r"extends: the centroids have \d+ columns, vectors of titles 0"):
        tokenise(config, data, tmp_path / "x", earlier)
    config.codes.size = 8
    with pytest.raises(InputError, match=r"extends=.*first: holds 2 levels of 16 tokens; allowed: codes.lev"):
        read_earlier(config, str(tmp_path / "first"))
    assert not (tmp_path / "x").exists()


def replace_path(config, folder):
    """Return a config with another folder of codes."""
    config = copy.deepcopy(config)
    config.codes.path = str(folder)
    return config
