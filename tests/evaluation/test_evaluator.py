"""Scorers: batch sizes, ranks among all titles, two-stage ranking."""

import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.evaluation import scorers
from jaxrec.models import diversity
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import check_same_catalogue
from jaxrec.tasks.outputs import mean_metrics
from jaxrec.tasks.ranking import RankingTask
from jaxrec.tasks.ranking_inputs import queries
from jaxrec.training.train_state import StateInit


def test_scores_do_not_depend_on_batch_size(tiny, tiny_config, monkeypatch):
    task = RankingTask(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table = replicate(StateInit(task).init().params), replicate(tiny.arrays.title_table())
    rows, sizes = tiny.rows("test"), []
    batches = scorers.PackedEvalBatches

    def record_size(rows, size, *args):
        sizes.append(size)
        return batches(rows, size, *args)

    monkeypatch.setattr(scorers, "PackedEvalBatches", record_size)

    def score(queries):
        monkeypatch.setattr(scorers, "_CPU_QUERIES", queries)
        return scorers.ListScorer(task, table, with_loss=True, next_k=1)(params, rows)

    (many, many_gate, many_sums, *_), (few, gate, few_sums, *_) = score(1000), score(24)
    assert sizes == [tiny_config.evaluate.batch_size, 24 * jax.device_count()]
    assert rows.rows % 24  # the last batch is padded
    assert many.shape == few.shape == (rows.rows, 2, 1, 1 + tiny.layout.negatives)
    assert np.allclose(many, few, atol=1e-6) and np.allclose(many_gate, gate, atol=1e-6)
    assert gate.shape == (rows.rows, 2) and np.allclose(gate.sum(1), 1) and gate.std(0).max() > 1e-5
    assert np.isclose(mean_metrics(many_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)
    assert many_sums["loss"][1] == few_sums["loss"][1] == rows.rows

    both = scorers.ListScorer(task, table, with_loss=False, next_k=1, other_heads=("ctr",))(params, rows)
    assert np.allclose(both.scores, few, atol=1e-6) and set(both.by_head) == {"ranking", "ctr"}
    config = copy.deepcopy(tiny_config)
    config.evaluate.ranking_head = "ctr"
    by_ctr = scorers.ListScorer(replace(task, config=config), table, with_loss=False, next_k=1)(params, rows)
    assert np.allclose(both.by_head["ctr"], by_ctr.scores, atol=1e-6)
    assert abs(by_ctr.scores - few).max() > 1e-3

    plain = scorers.ListScorer(task, table, with_loss=True, next_k=1)
    monkeypatch.setattr(plain, "_batches", lambda rows: scorers.EvalBatches(rows, 48))
    in_order, in_order_gate, in_order_sums, *_ = plain(params, rows)
    assert np.allclose(in_order_gate, gate, atol=1e-6)
    assert np.allclose(in_order, few, atol=1e-6)  # packed scores are in the order of the rows
    assert np.isclose(mean_metrics(in_order_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)
    assert abs(few[1:] - few[:-1]).max() > 1e-3

    one_by_one = scorers.ListScorer(task, table, with_loss=True, next_k=1)
    monkeypatch.setattr(one_by_one, "_project_titles", lambda *args: None)
    unprojected, _, unprojected_sums, *_ = one_by_one(params, rows)
    assert task.cached_projections(params, table, 24) is not None  # the other scorers use projections
    assert task.cached_projections(params, table, 0) is None
    assert np.allclose(unprojected, few, atol=1e-6)
    assert np.isclose(mean_metrics(unprojected_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)


@pytest.fixture(scope="module")
def over_all(tiny, tiny_config):
    """Return a random model: task, parameters, table, test rows, scores [Q, V]."""
    task = RankingTask(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table, rows = StateInit(task).init().params, tiny.arrays.title_table(), tiny.rows("test")

    @jax.jit
    def score_all(words):
        history = queries(words, task.view).history
        apply = partial(task.model.apply, {"params": params})
        user = apply(history, table, tiny_config.model.gate.temperature, method="encode")
        ids = jnp.broadcast_to(jnp.arange(tiny.layout.num_titles), (len(words), tiny.layout.num_titles))
        return apply(user, ids, table, method="score")["ranking"]

    scores = np.asarray(score_all(rows.read(np.arange(rows.blocks))))[: rows.rows]
    return task, replicate(params), replicate(table), rows, scores


@pytest.mark.parametrize("seen", ["kept", "stored", "all"])
def test_ranks_among_all_titles_are_of_every_titles_score(over_all, tiny, seen):
    """Compare packed batches with a sort of the titles of each query.

    A rank may differ by the number of titles whose score equals the score of the target within rounding. The
    recommended titles have the best scores, without the titles that are left out.
    """
    task, params, table, rows, scores = over_all
    stored = rows.all()
    left_out = left_out_titles(tiny, "test", stored, seen)
    if seen == "all":
        rows = rows.with_words(partial(left_out.bits, titles=scores.shape[1]))
    ranked = scorers.CatalogueRanker(task, table, seen=seen, top=5)(params, rows).by_order["model"]
    target = stored["target"][:, 0]
    eligible = np.tile(np.arange(scores.shape[1]) >= FIRST_TITLE, (len(scores), 1))
    eligible[left_out.pairs(np.arange(len(stored)))] = False
    np.put_along_axis(eligible, target[:, None], True, axis=1)
    target_scores = np.take_along_axis(scores, target[:, None], axis=1)
    least, most = ((eligible & (scores > target_scores + d)).sum(1) for d in (1e-6, -1e-6))
    assert ranked.ranks.shape == (rows.rows,) and len(np.unique(ranked.ranks)) > 10
    assert np.all((1 + least <= ranked.ranks) & (ranked.ranks <= most))
    assert np.take_along_axis(eligible, ranked.top, axis=1).all()
    best = -np.sort(-np.where(eligible, scores, -np.inf), axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(scores, ranked.top, axis=1), best, atol=1e-6)
    assert np.array_equal(ranked.ranks == 1, ranked.top[:, 0] == target)
    num_left_out = scores.shape[1] - FIRST_TITLE - eligible.sum(1)
    if seen == "kept":
        assert (num_left_out == 0).all()
    else:
        assert (num_left_out > 0).mean() > 0.9
        long = num_left_out > task.layout.max_history
        assert long.any() if seen == "all" else not long.any()


def test_equal_titles_count_against_the_target_and_are_shown_by_popularity(over_all, monkeypatch):
    """Compare with brute force over scores of three values and NaN."""
    task, params, table, rows, scores = over_all
    drawn = np.random.default_rng(0).integers(0, 4, scores.shape[1]).astype(np.float32)
    drawn[drawn == 3] = np.nan

    monkeypatch.setattr(
        type(task.model), "apply",
        lambda model, variables, first, *more, method: (
            first.title[:, 0] if method == "encode" else jnp.broadcast_to(drawn, (len(first), len(drawn)))
        ),
    )  # fmt: skip
    monkeypatch.setattr(scorers.QueryRunner, "_batches", lambda self, rows: scorers.EvalBatches(rows, 8))
    ranked = scorers.CatalogueRanker(task, table, seen="stored", top=5)(params, rows).by_order["model"]
    for row, rank, top in zip(rows.all(), ranked.ranks, ranked.top, strict=True):
        target = row["target"][0]
        rivals = [t for t in range(FIRST_TITLE, len(drawn)) if t not in row["history_title"] and t != target]
        assert rank == 1 + sum(not drawn[t] < drawn[target] for t in rivals)
        real = [t for t in (*rivals, target) if not np.isnan(drawn[t])]
        assert list(top) == sorted(real, key=lambda t: (-drawn[t], t))[:5]


def test_the_order_by_mmr_is_that_of_the_host(over_all):
    """Scores that are equal within rounding may change a few lists."""
    task, params, table, rows, scores = over_all
    ranked = scorers.CatalogueRanker(task, table, top=5, diversity=0.6)(params, rows).by_order
    model, mmr = ranked["model"], ranked[scorers.MMR_ORDER]
    vectors = jax.jit(task.embed_titles)(jax.device_get(params), jax.device_get(table))
    unit = diversity.unit_vectors(np.asarray(vectors))
    candidates = FIRST_TITLE + np.argsort(-scores[:, FIRST_TITLE:], axis=1, kind="stable")[:, :25]
    own = np.take_along_axis(scores, candidates, axis=1)
    ids = np.take_along_axis(candidates, diversity.rerank(candidates, own, unit, 25, 0.6), axis=1)
    assert (mmr.top == ids[:, :5]).all(axis=1).mean() > 0.95
    is_target = ids == rows.all()["target"][:, :1]
    expected = np.where(is_target.any(axis=1), 1 + is_target.argmax(axis=1), model.ranks)
    assert (mmr.ranks == expected).mean() > 0.95 and (mmr.ranks != model.ranks).mean() > 0.03
    assert mmr.distance.mean() > model.distance.mean() > 0
    pairs = np.einsum("qif,qjf->qij", unit[mmr.top], unit[mmr.top])[:, *np.triu_indices(5, 1)]
    np.testing.assert_allclose(mmr.distance, 1 - pairs.mean(axis=1), atol=1e-5)


def test_two_stages_equal_exact_ranking_if_all_titles_are_retrieved(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.model.retrieval_dim, config.objective.retrieval = 6, 0.5
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table, rows = (
        replicate(StateInit(task).init().params),
        replicate(tiny.arrays.title_table()),
        tiny.rows("test"),
    )
    log_q_V = np.random.default_rng(0).normal(0, 0.01, tiny.layout.num_titles).astype(np.float32)
    orders = {"model": Correction(task.catalogue_heads[0], log_q_V=log_q_V)}  # in the order of two stages too
    all_titles, few_titles = (
        scorers.CatalogueRanker(task, table, orders, "stored", 10, retrieve=retrieve)(params, rows)
        for retrieve in (tiny.layout.num_titles, 20)
    )
    ranks = all_titles.by_order["model"].ranks
    np.testing.assert_array_equal(ranks, few_titles.by_order["model"].ranks)
    assert np.array_equal(all_titles.staged, ranks) and (all_titles.kept == 1).all()
    retrieved = few_titles.staged < tiny.layout.num_titles
    assert 0 < retrieved.mean() < 0.5 and (few_titles.staged[retrieved] <= 20).all()
    assert (few_titles.staged[retrieved] <= ranks[retrieved]).all()  # fewer rivals
    assert 0 < few_titles.kept.mean() < 0.5  # 20 of 200 titles, by an untrained head
    without = scorers.CatalogueRanker(task, table, None, "stored", 10)(params, rows)
    assert without.staged.shape == without.kept.shape == (rows.rows, 0) and [*without.by_order] == ["model"]
    user = task.model.apply(
        {"params": params}, queries(rows.read(np.arange(rows.blocks)), task.view).history, table, 1.0,
        method="encode",
    )  # fmt: skip
    head = np.asarray(task.model.apply({"params": params}, user, table, method="retrieve"))
    for row, row_scores, rank in zip(
        rows.all()[:50], head[:50], few_titles.by_order[RETRIEVAL_HEAD].ranks[:50], strict=True
    ):
        target = row["target"][0]
        left_out = {0, 1, target, *row["history_title"]}
        rivals = [v for v in range(len(row_scores)) if v not in left_out]
        assert rank == 1 + (row_scores[rivals] >= row_scores[target]).sum()


def test_a_dataset_whose_ids_mean_something_else_is_refused(tiny, tiny_config):
    """The keys of titles and the categories are compared where the fingerprint differs."""

    def other(**changes):
        fields = {"directory": "d", "fingerprint": "f", "layout": tiny.layout, "arrays": tiny.arrays,
                  "manifest": tiny.manifest}  # fmt: skip
        return SimpleNamespace(**fields | changes)

    task = RankingTask(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    categories = tiny.manifest["categories"]
    meta = {"dataset": tiny.fingerprint, "dataset_directory": "t", "categories": categories}
    loaded = SimpleNamespace(meta=meta, task=task, arrays=tiny.arrays)
    check_same_catalogue(other(), loaded)
    # As of a slice that continues the dataset of all users.
    check_same_catalogue(other(layout=replace(tiny.layout, has_gaps=True, selects_targets=True)), loaded)
    with pytest.raises(InputError, match="its layout differs"):
        check_same_catalogue(other(arrays=replace(tiny.arrays, title_key=tiny.arrays.title_key[:-1])), loaded)

    keys = tiny.arrays.title_key.copy()
    keys[[3, 5]] = keys[[5, 3]]
    exchanged = other(arrays=replace(tiny.arrays, title_key=keys))
    with pytest.raises(InputError) as error:
        check_same_catalogue(exchanged, loaded)
    assert str(error.value) == (
        f"dataset d (f): 2 of {len(keys)} title ids stand for other titles than in the training's dataset t "
        f"({tiny.fingerprint}): id 5 is {keys[3]}, there {keys[5]}; allowed: a dataset with the same titles, "
        "in the same order of popularity, and categories"
    )
    name = next(name for name, values in categories.items() if len(values) > 1)
    renamed = {**categories, name: categories[name][::-1]}
    with pytest.raises(InputError, match=f"feature {name} has other categories"):
        check_same_catalogue(other(manifest={**tiny.manifest, "categories": renamed}), loaded)
    narrow = replace(tiny.layout, max_history=4)
    with pytest.raises(InputError, match="its layout differs"):
        check_same_catalogue(other(layout=narrow), loaded)
    check_same_catalogue(other(fingerprint=tiny.fingerprint, arrays=None), loaded)
