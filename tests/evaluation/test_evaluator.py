"""A split's scores are the same however many queries are scored at a time."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.evaluation import baselines, scorers
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.metric_sums import mean_metrics
from jaxrec.tasks.ranking import RankingTask
from jaxrec.tasks.ranking_inputs import queries
from jaxrec.training.train_state import StateInit


def test_scores_do_not_depend_on_how_many_at_a_time(tiny, tiny_config, monkeypatch):
    program = RankingTask(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table = replicate(StateInit(program).init().params), replicate(tiny.arrays.title_table())
    rows, sizes = tiny.rows("test"), []
    batches = scorers.PackedEvalBatches

    def noted(rows, size, *share):
        sizes.append(size)
        return batches(rows, size, *share)

    monkeypatch.setattr(scorers, "PackedEvalBatches", noted)

    def scored(queries):
        monkeypatch.setattr(scorers, "_CPU_QUERIES", queries)
        return scorers.ListScorer(program, table, with_loss=True, next_k=1)(params, rows)

    (many, many_gate, many_sums, _), (few, gate, few_sums, _) = scored(1000), scored(24)
    assert sizes == [tiny_config.evaluate.batch_size, 24 * jax.device_count()]
    assert rows.rows % 24  # the last batch is padded
    assert many.shape == few.shape == (rows.rows, 2, 1, 1 + tiny.layout.negatives)
    assert np.allclose(many, few, atol=1e-6) and np.allclose(many_gate, gate, atol=1e-6)
    assert gate.shape == (rows.rows, 2) and np.allclose(gate.sum(1), 1) and gate.std(0).max() > 1e-5
    assert np.isclose(mean_metrics(many_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)
    assert many_sums["loss"][1] == few_sums["loss"][1] == rows.rows

    both = scorers.ListScorer(program, table, with_loss=False, next_k=1, other_heads=("ctr",))(params, rows)
    assert np.allclose(both.scores, few, atol=1e-6) and set(both.by_head) == {"ranking", "ctr"}
    config = copy.deepcopy(tiny_config)
    config.evaluate.ranking_head = "ctr"
    by_ctr = scorers.ListScorer(replace(program, config=config), table, with_loss=False, next_k=1)(
        params, rows
    )
    assert np.allclose(both.by_head["ctr"], by_ctr.scores, atol=1e-6)
    assert abs(by_ctr.scores - few).max() > 1e-3

    plain = scorers.ListScorer(program, table, with_loss=True, next_k=1)
    monkeypatch.setattr(plain, "_batches", lambda rows: scorers.EvalBatches(rows, 48))
    alone, alone_gate, alone_sums, _ = plain(params, rows)
    assert np.allclose(alone_gate, gate, atol=1e-6)
    assert np.allclose(alone, few, atol=1e-6)  # every query has its own scores back
    assert np.isclose(mean_metrics(alone_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)
    assert abs(few[1:] - few[:-1]).max() > 1e-3

    one_by_one = scorers.ListScorer(program, table, with_loss=True, next_k=1)
    monkeypatch.setattr(one_by_one, "_project_titles", lambda *given: None)
    own, _, own_sums, _ = one_by_one(params, rows)
    assert program.cached_projections(params, table, 24) is not None  # what the others read
    assert program.cached_projections(params, table, 0) is None
    assert np.allclose(own, few, atol=1e-6)
    assert np.isclose(mean_metrics(own_sums)["loss"], mean_metrics(few_sums)["loss"], rtol=1e-6)


@pytest.fixture(scope="module")
def over_all(tiny, tiny_config):
    """A random model: its program, what it reads, the test rows, and all scores [Q, V], title by title."""
    program = RankingTask(tiny_config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table, rows = StateInit(program).init().params, tiny.arrays.title_table(), tiny.rows("test")

    @jax.jit
    def every(words):
        request = queries(words, program.view).history
        apply = partial(program.model.apply, {"params": params})
        user = apply(request, table, tiny_config.model.gate.temperature, method="encode")
        ids = jnp.broadcast_to(jnp.arange(tiny.layout.titles), (len(words), tiny.layout.titles))
        return apply(user, ids, table, method="score")["ranking"]

    scores = np.asarray(every(rows.read(np.arange(rows.blocks))))[: rows.rows]
    return program, replicate(params), replicate(table), rows, scores


@pytest.mark.parametrize("filtered", [False, True])
def test_ranks_among_all_titles_are_of_every_titles_score(over_all, filtered):
    """Packed and several at a time, against a sort of each query's titles. A rank may be off by those whose
    score is the target's within rounding; what is shown has the best scores, the seen left out."""
    program, params, table, rows, scores = over_all
    found = scorers.CatalogueRanker(program, table, filtered, top=5)(params, rows)
    stored = rows.all()
    target = stored["target"][:, 0]
    stands = np.tile(np.arange(scores.shape[1]) >= FIRST_TITLE, (len(scores), 1))
    if filtered:
        np.put_along_axis(stands, stored["history_title"], False, axis=1)
    np.put_along_axis(stands, target[:, None], True, axis=1)
    own = np.take_along_axis(scores, target[:, None], axis=1)
    least, most = ((stands & (scores > own + d)).sum(1) for d in (1e-6, -1e-6))
    assert found.ranks.shape == (rows.rows,) and len(np.unique(found.ranks)) > 10
    assert np.all((1 + least <= found.ranks) & (found.ranks <= most))
    assert np.take_along_axis(stands, found.top, axis=1).all()
    best = -np.sort(-np.where(stands, scores, -np.inf), axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(scores, found.top, axis=1), best, atol=1e-6)
    assert np.array_equal(found.ranks == 1, found.top[:, 0] == target)
    if filtered:
        assert (
            stands.sum(1) < scores.shape[1] - FIRST_TITLE
        ).mean() > 0.9  # there was something to leave out


def test_equal_titles_count_against_the_target_and_are_shown_by_popularity(over_all, monkeypatch):
    """Brute force, over scores of three values and NaN."""
    program, params, table, rows, scores = over_all
    drawn = np.random.default_rng(0).integers(0, 4, scores.shape[1]).astype(np.float32)
    drawn[drawn == 3] = np.nan

    monkeypatch.setattr(
        type(program.model), "apply",
        lambda model, variables, first, *more, method: (
            first.title[:, 0] if method == "encode" else jnp.broadcast_to(drawn, (len(first), len(drawn)))
        ),
    )  # fmt: skip
    monkeypatch.setattr(scorers._QueryRunner, "_batches", lambda self, rows: scorers.EvalBatches(rows, 8))
    found = scorers.CatalogueRanker(program, table, True, top=5)(params, rows)
    for row, rank, top in zip(rows.all(), found.ranks, found.top, strict=True):
        target = row["target"][0]
        others = [t for t in range(FIRST_TITLE, len(drawn)) if t not in row["history_title"] and t != target]
        assert rank == 1 + sum(not drawn[t] < drawn[target] for t in others)
        real = [t for t in (*others, target) if not np.isnan(drawn[t])]
        assert list(top) == sorted(real, key=lambda t: (-drawn[t], t))[:5]


@pytest.mark.parametrize("filtered", [False, True])
def test_popularity_over_all_titles_by_brute_force(tiny, filtered):
    rows, arrays = tiny.rows("test").all(), tiny.arrays
    rows["history_title"][:, 0] = rows["history_title"][:, -1]  # a sequence may hold a title twice
    ranks, top = baselines.popularity_ranks(rows, arrays, filtered, 4)
    for row, rank, shown in zip(rows, ranks, top, strict=True):
        target = row["target"][0]
        left_out = set(row["history_title"]) - {target} if filtered else set()
        order = [t for t in arrays.id_of_rank if t not in left_out]
        assert (rank, list(shown)) == (1 + order.index(target), order[:4])
    every = len(arrays.id_of_rank)  # of which whoever has seen some is not shown all
    shown = baselines.popularity_ranks(rows, arrays, filtered, every)[1]
    seen = rows["history_title"] * (rows["history_title"] != rows["target"][:, :1])
    seen[:, 0] = 0
    assert np.array_equal((shown > 0).sum(1), every - (seen > 0).sum(1) * filtered)


def test_two_stages_are_the_exact_ranking_where_all_is_retrieved(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.model.retrieval_dim, config.objective.retrieval = 6, 0.5
    program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table, rows = (
        replicate(StateInit(program).init().params),
        replicate(tiny.arrays.title_table()),
        tiny.rows("test"),
    )
    every, some = (
        scorers.CatalogueRanker(program, table, True, 10, retrieve=most)(params, rows)
        for most in (tiny.layout.titles, 20)
    )
    np.testing.assert_array_equal(every.ranks, some.ranks)
    assert np.array_equal(every.staged, every.ranks) and (every.kept == 1).all()
    found = some.staged < tiny.layout.titles
    assert 0 < found.mean() < 0.5 and (some.staged[found] <= 20).all()
    assert (some.staged[found] <= some.ranks[found]).all()  # fewer rivals
    assert 0 < some.kept.mean() < 0.5  # of 200 titles, by a head that has learnt nothing
    without = scorers.CatalogueRanker(program, table, True, 10)(params, rows)
    assert without.staged.shape == without.kept.shape == without.retrieved.shape == (rows.rows, 0)
    user = program.model.apply(
        {"params": params}, queries(rows.read(np.arange(rows.blocks)), program.view).history, table, 1.0,
        method="encode",
    )  # fmt: skip
    head = np.asarray(program.model.apply({"params": params}, user, table, method="retrieve"))
    for row, of_all, rank in zip(rows.all()[:50], head[:50], some.retrieved[:50], strict=True):
        target = row["target"][0]
        left_out = {0, 1, target, *row["history_title"]}
        rivals = [v for v in range(len(of_all)) if v not in left_out]
        assert rank == 1 + (of_all[rivals] >= of_all[target]).sum()
