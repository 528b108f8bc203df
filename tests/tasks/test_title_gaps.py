"""Ids without a title are never candidates: a model with 30 unused rows behaves as one without them.

The unused rows hold large numbers, which would win every ranking and dominate every sum.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from daily_logs import daily_config, make_log, write_tables

from jaxrec.config.schema import Expert, Gate, Model, NextItem
from jaxrec.config.validation import check
from jaxrec.core.batch import HostBatch
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.scorers import CatalogueRanker
from jaxrec.losses.full_softmax import softmax
from jaxrec.models.layers import rng
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.serving import export, load
from jaxrec.serving.recommender import Recommender
from jaxrec.sources import open_source
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.tasks.loading import LoadedCheckpoint, task_of_dataset
from jaxrec.tasks.ranking import RankingTask

CAPACITY, GARBAGE, B = 92, 50.0, 32
LOSSES = {
    "softmax": NextItem(),
    "uniform": NextItem("sampled_softmax", negatives=9, logq_correction=True),
    "in_batch": NextItem("sampled_softmax", 9, "in_batch", logq_correction=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    write_tables(folder, make_log(6))
    return folder


def config_of(folder, task, capacity):
    config = daily_config(folder, task, capacity=capacity)
    model = Model(width=8, dropout=0.0, gate=Gate(hidden=(4,)), head_hidden=(8,), retrieval_dim=4)
    if task == "next_item":
        model = replace(model, head="dot", retrieval_dim=0, experts=(Expert(8, 1, 2, 1.0, 0.0, "sasrec"),))
    else:
        model.experts = (Expert(4, 1, 2, 1.0, 0.0),)
        config.objective.retrieval, config.objective.retrieval_negatives = 0.5, 7
    config.model, config.sampling.id_dropout, config.sampling.negatives = model, 0.0, 10
    config.evaluate.next_k = (1,)
    check(config)
    return config


@pytest.fixture(scope="module")
def datasets(folder):
    """Datasets of both tasks without and with unused ids."""
    made = {}
    for task in ("ranking", "next_item"):
        for capacity in (1, CAPACITY):
            config, path = config_of(folder, task, capacity), folder / f"{task}-{capacity}"
            prepare(open_source(config.source, config.features, "", config.signals), config, str(path))
            made[task, capacity] = Dataset(path)
    assert made["ranking", CAPACITY].layout.num_titles == CAPACITY
    assert made["ranking", 1].layout.num_titles == 62
    return made


def padded(params, rows):
    """Return parameters whose tables of titles have `rows` rows, the last of them garbage."""

    def leaf(path, x):
        names = [str(key.key) for key in path]
        if names[-2:] != ["title_id", "embedding"]:
            return x
        return jnp.concatenate([x, jnp.full((rows - len(x), x.shape[1]), GARBAGE)])

    return jax.tree_util.tree_map_with_path(leaf, params)


def without_rows(tree, rows):
    """Return a tree whose arrays of `CAPACITY` rows have the first `rows`, and check that the rest is 0."""

    def leaf(x):
        if x.shape[:1] != (CAPACITY,):
            return x
        np.testing.assert_array_equal(x[rows:], 0)
        return x[:rows]

    return jax.tree.map(leaf, tree)


def run_of(folder, datasets, task, capacity, **fields):
    """Return a task on a dataset, its title table and parameters; those of unused ids are garbage."""
    dataset, config = datasets[task, capacity], config_of(folder, task, capacity)
    for name, value in fields.items():
        setattr(config, name, value)
    built = task_of_dataset(config, dataset, 4, 8)
    plain = task_of_dataset(config, datasets[task, 1], 4, 8)
    params = jax.jit(plain.init_params)(jax.random.key(0), empty_table(plain.layout, plain.config))
    if capacity > 1:
        params = padded(params, capacity)
    return built, dataset, jax.tree.map(jnp.asarray, dataset.arrays.title_table()), params


def loss_and_gradients(run):
    task, dataset, table, params = run
    rows = dataset.rows("train").all()[:B]
    host = HostBatch(as_words(rows), np.ones(len(rows), bool))
    key = rng.row_keys(0, 3, jnp.arange(len(rows)))

    def loss(params, host, table):
        context = task.device_context(task.init_task_state(), jnp.int32(3), host, table)
        state, step = task.init_task_state(), jnp.int32(3)
        return task.loss(params, host, table, state, step, key, None, context)[0]

    one_device = jax.vmap(jax.value_and_grad(loss), (None, 0, None), axis_name=AXIS)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], host)
    value, gradients = jax.jit(one_device)(params, batch, table)
    return jax.tree.map(lambda x: np.asarray(x)[0], (value, gradients))


CASES = [("ranking", {}), *(("next_item", {"next_item": x}) for x in LOSSES.values())]


@pytest.mark.parametrize(("task", "fields"), CASES, ids=["ranking", *LOSSES])
def test_unused_rows_are_in_no_loss_and_get_no_gradient(folder, datasets, task, fields, monkeypatch):
    monkeypatch.setattr(RankingTask, "rotation", RankingTask.epoch)  # in a chain pools rotate otherwise
    plain, gaps = (
        loss_and_gradients(run_of(folder, datasets, task, capacity, **fields)) for capacity in (1, CAPACITY)
    )
    np.testing.assert_allclose(gaps[0], plain[0], rtol=1e-5)
    kept = without_rows(gaps[1], 62)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), kept, plain[1])


def test_a_softmax_with_left_out_titles_has_the_same_candidates():
    draw = np.random.default_rng(0)
    h, titles = draw.normal(size=(2, 3, 4)), draw.normal(size=(9, 4))
    target = np.array([[2, 0, 4], [5, 2, 4]])
    left_out = np.array([[[3], [0], [2]], [[0], [4], [5]]])
    candidates = np.arange(12) < 9
    candidates[:FIRST_TITLE] = False
    more = np.concatenate([titles, np.full((3, 4), GARBAGE)])
    plain, gaps = (
        jax.value_and_grad(lambda h, t, c=c: softmax(h, t, target, 0.7, 10**6, left_out, c).sum(), (0, 1))(
            jnp.asarray(h), jnp.asarray(t)
        )
        for t, c in ((titles, None), (more, candidates))
    )
    np.testing.assert_allclose(gaps[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(gaps[1][0], plain[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gaps[1][1][:9], plain[1][1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gaps[1][1][9:], 0)


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_unused_rows_are_in_no_ranking_of_the_catalogue(folder, datasets, task):
    results = []
    for capacity in (1, CAPACITY):
        built, dataset, _, params = run_of(folder, datasets, task, capacity)
        orders = {"model": Correction(built.catalogue_heads[0])}
        staged = {"retrieve": 20} if task == "ranking" else {}
        ranker = CatalogueRanker(
            built, replicate(dataset.arrays.title_table()), orders, "kept", 10, 1.0, diversity=0.3, **staged
        )
        ranked = ranker(replicate(params), dataset.rows("test"))
        results.append((ranked, dataset))
    (plain, _), (gaps, _) = results
    names = ("model", "model_mmr", *([RETRIEVAL_HEAD] if task == "ranking" else []))
    for name in names:
        np.testing.assert_array_equal(gaps.by_order[name].ranks, plain.by_order[name].ranks)
        np.testing.assert_array_equal(gaps.by_order[name].top, plain.by_order[name].top)
    if task == "ranking":  # a target that was not retrieved has the number of ids as its rank
        retrieved = plain.staged < 62
        assert retrieved.any()
        np.testing.assert_array_equal(gaps.staged[retrieved], plain.staged[retrieved])
        np.testing.assert_array_equal(gaps.kept, plain.kept)
    np.testing.assert_allclose(gaps.sums["loss"][0], plain.sums["loss"][0], rtol=1e-5)
    shown = [
        metrics.shown(x.by_order["model"].top, d.arrays.title_plays, np.array([2]), len(d.arrays.id_of_rank))
        for x, d in results
    ]
    assert shown[0] == shown[1]


def recommender_of(folder, datasets, task, capacity, arrays=None):
    built, dataset, _, params = run_of(folder, datasets, task, capacity)
    meta = {"categories": dataset.manifest["categories"], "dataset": dataset.fingerprint}
    arrays = arrays or dataset.arrays
    loaded = LoadedCheckpoint(built.config, built, arrays, replicate(params), 1, meta)
    log_q_V = np.zeros(built.layout.num_titles, np.float32)
    return Recommender(loaded, Correction(built.catalogue_heads[0], 1.0, log_q_V))


def histories():
    lines = [line.split(",") for line in make_log(6)]
    names = ("user_id", "title_id", "time", "seconds_viewed", "device", "length")
    columns = dict(zip(names, map(np.array, zip(*lines, strict=True)), strict=True))
    numbers = ("time", "seconds_viewed", "length")
    return columns | {n: columns[n].astype(np.int64 if n == "time" else float) for n in numbers}


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_unused_rows_are_in_no_recommendation_and_no_export(folder, datasets, task, tmp_path):
    plain, gaps = (recommender_of(folder, datasets, task, c) for c in (1, CAPACITY))
    log = histories()
    expected, made = plain.recommend(log, 15), gaps.recommend(log, 15)
    assert made["title"].tolist() == expected["title"].tolist()
    spread = np.ptp(expected["score"])  # a score may be 0 by chance
    np.testing.assert_allclose(made["score"], expected["score"], rtol=1e-4, atol=1e-5 * spread)
    similar = plain.similar(["t3"], 5)["similar"].tolist()
    assert gaps.similar(["t3"], 5)["similar"].tolist() == similar
    export.write(gaps, tmp_path / "x", ("cpu",), 15)
    exported = load(tmp_path / "x")
    assert exported.recommend(log, 15)["title"].tolist() == expected["title"].tolist()
    assert exported.similar(["t3"], 5)["similar"].tolist() == similar
    with pytest.raises(Exception, match="allowed: 1 to 60, the number of titles"):
        gaps.recommend(log, 61)


def test_a_title_that_vanished_is_not_recommended_and_not_read(folder, datasets):
    arrays = datasets["next_item", CAPACITY].arrays
    favourite = recommender_of(folder, datasets, "next_item", CAPACITY).recommend(histories(), 1)["title"][0]
    gone = FIRST_TITLE + int(np.flatnonzero(arrays.title_key == favourite)[0])
    kept = arrays.id_of_rank[arrays.id_of_rank != gone]
    rank_of_id = np.full(CAPACITY, CAPACITY, np.int32)
    rank_of_id[kept] = np.arange(len(kept))
    without = replace(arrays, rank_of_id=rank_of_id, id_of_rank=kept)
    recommender = recommender_of(folder, datasets, "next_item", CAPACITY, without)
    log = histories()
    made = recommender.recommend(log, 59)
    assert favourite not in made["title"] and made.counts["plays_of_unknown_titles"] > 0
    known = log["title_id"] != favourite
    again = recommender.recommend({name: x[known] for name, x in log.items()}, 59)
    lists = [sorted(zip(x["user"], x["rank"], x["title"], strict=True)) for x in (made, again)]
    assert lists[0] == lists[1]


def test_a_title_launched_since_the_training_follows_unused_ids(folder, datasets):
    built, dataset, _, params = run_of(folder, datasets, "next_item", CAPACITY)
    meta = {"categories": dataset.manifest["categories"], "dataset": dataset.fingerprint}
    loaded = LoadedCheckpoint(built.config, built, dataset.arrays, replicate(params), 1, meta)
    log_q_V = np.zeros(CAPACITY, np.float32)
    titles = {"title_id": ["t5", "new"], "runtime_minutes": [40, 30], "genre": ["crime", "space"],
              "budget": [7.5, 4.0]}  # fmt: skip
    recommender = Recommender(loaded, Correction("next_item", 1.0, log_q_V), titles)
    made = recommender.recommend(histories(), 61, None)
    assert "new" in made["title"] and set(made["title"]) <= {*dataset.arrays.title_key.tolist(), "new"}
    assert np.isfinite(made["score"]).all()
