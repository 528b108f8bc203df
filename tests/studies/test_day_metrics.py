"""Evaluation of a model on the day after: titles launched since its training, ranks, ages and plays."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_rolling import STUDY

from jaxrec.config.loading import load_file
from jaxrec.core.batch import HostBatch
from jaxrec.data.runners import local
from jaxrec.data.storage.dataset import Dataset, as_words
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.sources import open_source
from jaxrec.studies.rolling.day_metrics import evaluate_day, launch_days
from jaxrec.studies.rolling.plan import Plan, RollingRow, RollingStudy
from jaxrec.tasks.loading import LoadedCheckpoint, load_checkpoint, task_of_dataset
from jaxrec.training import trainer


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Return the config of day 0, its dataset and that of day 1, which has new titles."""
    study = load_file(STUDY, RollingStudy)
    study.base.source = replace(study.base.source, users=200, test_only_users=100, titles=120, launches=0.9)
    study.base.data.train_share, study.base.data.validation_share = 0.6, 0.3
    study.rows, study.days = (RollingRow("stale", "stale"),), 1
    plan = Plan(study, (), 1, tmp_path_factory.mktemp("days"))
    for directory, config in plan.datasets.items():
        local.prepare(open_source(config.source, config.features), config, directory)
    datasets = [Dataset(directory) for directory in plan.datasets]
    return plan.runs[0].config, *datasets


def checkpoint(config, dataset):
    """Return a checkpoint of a config with random parameters."""
    task = task_of_dataset(config, dataset, 1, 1)
    params = jax.jit(task.init_params)(jax.random.key(0), task.title_table(dataset.arrays))
    meta = {"categories": dataset.manifest["categories"]}
    return LoadedCheckpoint(config, task, dataset.arrays, params, 0, meta)


def ranks_of(task, params, table, dataset):
    """Return the ranks of the targets among titles with a rank that the user has not played before."""
    rows = dataset.rows("test").all()
    host = HostBatch(as_words(rows), np.ones(len(rows), bool))
    [scores] = task.score_all_titles(params, host, table, task.catalogue_heads[:1]).by_head.values()
    seen = dataset.seen_titles("test")
    out = []
    for row, score, count in zip(rows, np.asarray(scores), seen.num_titles, strict=True):
        first = seen.start[row["user"]]
        rivals = dataset.arrays.rank_of_id < len(dataset.arrays.rank_of_id)
        rivals[seen.title[first : first + count]] = False
        target = row["target"][0]
        rivals[target] = False
        out.append(1 + (score[rivals] >= score[target]).sum())
    return np.array(out)


def test_new_titles_are_ranked_by_rows_like_those_of_known_titles(days):
    config, before, after = days
    loaded = checkpoint(config, before)
    known, new = len(before.arrays.title_key), len(after.arrays.title_key) - len(before.arrays.title_key)
    assert new >= 1 and after.arrays.title_key[:known].tolist() == before.arrays.title_key.tolist()
    result = evaluate_day(loaded, after, "mean", "test")
    # The row of a new title is the mean of the known rows; all else stays.
    params = copy.deepcopy(jax.device_get(loaded.params))
    ids = params["title"]["vectors"]["title_id"]["embedding"]
    ids[2 + known : 2 + known + new] = ids[2 : 2 + known].mean(axis=0)
    task = replace(loaded.task, layout=after.layout)
    ranks = ranks_of(task, params, task.title_table(after.arrays), after)
    np.testing.assert_allclose(result.ndcg, np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0), atol=1e-6)
    assert result.ndcg.any() and result.popular.any()
    rows = after.rows("test").all()
    day = 20_098  # 2025-01-10
    assert (result.age == day - launch_days(after)[rows["target"][:, 0]]).all() and result.age.min() >= 0
    assert set(result.user) <= set(range(300))
    target = rows["target"][:, 0]
    assert (result.title == after.arrays.title_key[target - 2]).all()
    assert ((result.known == 0) == (before.arrays.title_plays[target] == 0)).all() and (
        result.known == 0
    ).any()
    again = evaluate_day(loaded, after, "metadata", "test")
    assert not np.array_equal(again.ndcg, result.ndcg)


def test_a_masked_model_ranks_new_titles_by_the_unknown_row_and_plays_of_its_training(days):
    config, before, after = days
    config = copy.deepcopy(config)
    config.model.cold_masking_new, config.model.entity = 0.5, "mixed"
    config.model.launch_day = "launch_day"
    loaded = checkpoint(config, before)
    # Another row or gate changes no rank of a model as it is initialized.
    loaded = replace(loaded, params=jax.tree.map(lambda x: 5 * x, loaded.params))
    known = len(before.arrays.title_key)
    # A day adds few plays to the titles, which change no rank; with thousands they would.
    after = copy.copy(after)
    after.arrays = replace(after.arrays, title_plays=after.arrays.title_plays + 5_000)
    result = evaluate_day(loaded, after, "metadata", "test")
    params = copy.deepcopy(jax.device_get(loaded.params))
    ids = params["title"]["vectors"]["title_id"]["embedding"]
    ids[2 + known :] = ids[1]
    task = replace(loaded.task, layout=after.layout)
    table = task.title_table(after.arrays)
    maturity = np.log1p(np.zeros_like(table.maturity))
    maturity[: 2 + known, 1] = np.log1p(before.arrays.title_plays[: 2 + known])
    maturity[2:, 0] = np.log1p(np.maximum(20_098 - launch_days(after)[2:], 0))
    has_title = np.arange(len(maturity)) < 2 + len(after.arrays.title_key)
    ranks = ranks_of(task, params, table._replace(maturity=maturity * has_title[:, None]), after)
    np.testing.assert_allclose(result.ndcg, np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0), atol=1e-6)


def test_evaluate_ranks_the_day_after_as_the_study_does(days, tmp_path):
    """Compare `evaluate --data` with the study on a checkpoint and a day: the NDCG@10 is the same."""
    config, before, after = days
    config = copy.deepcopy(config)
    config.train.duration = "30 steps"
    trainer.train(config, before, tmp_path, SimpleNamespace(requested=None))
    result = evaluate(tmp_path, data=after.directory)
    of_study = evaluate_day(load_checkpoint(tmp_path, "last"), after, "metadata", "test")
    of_catalogue = result.result["catalogue"]
    assert of_catalogue["model"]["ndcg@10"] == pytest.approx(of_study.ndcg.mean(), abs=1e-9)
    assert of_catalogue["popularity_7_days"]["ndcg@10"] == pytest.approx(of_study.popular.mean(), abs=1e-9)
    ranks = result.ranked.by_order["model"].ranks
    np.testing.assert_array_equal(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0), of_study.ndcg)
    new = after.rows("test").all()["target"][:, 0] >= 2 + len(before.arrays.title_key)
    assert new.any() and of_study.ndcg.any() and not result.result["protocol"]["own_dataset"]
    # The rows of new titles are those that `start.rows` names.
    other = evaluate_day(load_checkpoint(tmp_path, "last"), after, "mean", "test")
    assert not np.array_equal(other.ndcg, of_study.ndcg)
