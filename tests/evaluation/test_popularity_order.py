"""Ties and baselines follow popularity ranks, whatever the order of ids: all ids permuted, and by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.data.loading.left_out import LeftOutTitles
from jaxrec.evaluation import baselines, popularity, results, scorers
from jaxrec.models.outputs import Correction
from jaxrec.models.two_stage import top_titles, two_stage
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.outputs import TitleScores

V, Q, HISTORY, TOP = 40, 12, 6, 8


class FixedModel:
    """A model whose scores [Q, V] of both stages are given."""

    def __init__(self, retrieval, scores):
        self.retrieval, self.scores = jnp.asarray(retrieval), jnp.asarray(scores)

    def apply(self, variables, user, *inputs, method):
        if method == "retrieve":
            return self.retrieval
        return {"ranking": jnp.take_along_axis(self.scores, inputs[0], axis=1)}


class FixedTask:
    """A task with a `FixedModel`, and the methods that `_rank_step` uses."""

    layout = SimpleNamespace(num_titles=V)

    def candidates(self, table):
        return None  # all ids have a title

    def score_all_titles(self, params, host, table, heads):
        by_head = {"ranking": params["scores"], RETRIEVAL_HEAD: params["retrieval"]}
        return TitleScores({head: by_head[head] for head in heads}, params["target"], params["history"])

    def two_stages(self, params, host, table, eligible_BxV, limit, correction):
        model = FixedModel(params["retrieval"], params["scores"])
        return two_stage(model, None, None, table, correction, eligible_BxV, limit)


def rank_all(params, rank, seen):
    """Return `CatalogueRanks` from one device: exact, and in two stages of 12 titles."""
    orders = {"model": Correction("ranking"), RETRIEVAL_HEAD: Correction(RETRIEVAL_HEAD)}
    step = scorers._rank_step(FixedTask(), orders, seen, TOP, None, 12)
    table = TitleTable(np.zeros((V, 0), np.int32), np.zeros((V, 0), np.float32), rank)
    mapped = jax.jit(jax.vmap(lambda params: step(params, None, table), axis_name=AXIS))
    *outputs, _ = mapped(jax.tree.map(lambda x: x[None], params))
    ranks, top, _, staged, kept = (np.asarray(x)[0] for x in outputs)
    by_order = {name: scorers.CatalogueOrder(ranks[:, i], top[:, i]) for i, name in enumerate(orders)}
    return scorers.CatalogueRanks(by_order, staged, kept, {})


def make_params():
    """Scores with many ties, targets and histories, with ids in order of popularity."""
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 2, np.nan], np.float32)
    history = rng.integers(0, V, (Q, HISTORY), np.int32)
    history[history == 1] = 0
    return {
        "scores": values[rng.integers(0, 4, (Q, V))],
        "retrieval": values[rng.integers(0, 4, (Q, V))],
        "target": rng.integers(FIRST_TITLE, V, Q, np.int32),
        "history": history,
    }


def make_arrays(rank_of_id):
    """Arrays of a catalogue with plays that fall with the rank."""
    id_of_rank = np.argsort(rank_of_id, kind="stable")[: V - FIRST_TITLE].astype(np.int32)
    plays = np.where(rank_of_id < V, 2 * V - 2 * (rank_of_id // 2), 0)  # equal plays, different ranks
    return SimpleNamespace(rank_of_id=rank_of_id, id_of_rank=id_of_rank, title_plays=plays)


def make_new_ids(seed):
    """Permutation [V] of the ids, except padding and unknown."""
    titles = np.random.default_rng(seed).permutation(np.arange(FIRST_TITLE, V))
    return np.concatenate([np.arange(FIRST_TITLE), titles]).astype(np.int32)


def by_popularity():
    return np.concatenate([[V, V], np.arange(V - FIRST_TITLE)]).astype(np.int32)


@pytest.fixture(scope="module")
def permuted():
    """Return (params, ranks by id) before and after a permutation of ids, and the permutation."""
    params, rank, new_id = make_params(), by_popularity(), make_new_ids(1)
    old_id = np.argsort(new_id)
    after = {
        "scores": params["scores"][:, old_id],
        "retrieval": params["retrieval"][:, old_id],
        "target": new_id[params["target"]],
        "history": new_id[params["history"]],
    }
    return (params, rank), (after, rank[old_id]), new_id


def test_ranks_in_the_order_of_ids_change_nothing(permuted):
    (params, rank), *_ = permuted
    expected = rank_all(params, None, "stored")
    jax.tree.map(np.testing.assert_array_equal, rank_all(params, rank, "stored"), expected)


@pytest.mark.parametrize("seen", ["kept", "stored"])
def test_permuted_ids_give_the_same_titles_and_ranks(permuted, seen):
    (params, rank), (after, rank_after), new_id = permuted
    expected, actual = rank_all(params, rank, seen), rank_all(after, rank_after, seen)
    for name, order in expected.by_order.items():
        np.testing.assert_array_equal(actual.by_order[name].top, new_id[order.top])
        np.testing.assert_array_equal(actual.by_order[name].ranks, order.ranks)
    np.testing.assert_array_equal(actual.staged, expected.staged)
    np.testing.assert_array_equal(actual.kept, expected.kept)
    assert (expected.staged < V).any() and 0 < expected.kept.mean() < 1

    before, later = make_arrays(rank), make_arrays(rank_after)
    dtype = np.dtype([("user", "<u4"), ("target", "<i4", (1,)), ("history_title", "<i4", (HISTORY,))])
    popular, metrics = [], []
    for p, arrays, ranked in ((params, before, expected), (after, later, actual)):
        rows = np.zeros(Q, dtype)
        rows["target"], rows["history_title"] = p["target"][:, None], p["history"]
        left_out = LeftOutTitles.nothing(Q) if seen == "kept" else LeftOutTitles.of_histories(p["history"])
        ranks, top = popularity.popularity_ranks(p["target"], arrays, left_out, TOP)
        popular.append((ranks, top))
        orders = ranked.by_order | {"popularity": scorers.CatalogueOrder(ranks, top)}
        metrics.append(
            results.catalogue_result(ranked._replace(by_order=orders), rows, arrays, left_out, retrieve=12)
        )
    np.testing.assert_array_equal(popular[1][0], popular[0][0])
    np.testing.assert_array_equal(popular[1][1], new_id[popular[0][1]])
    assert metrics[0] == metrics[1]


# Titles 2 to 5 are of the first preparation, 6 and 7 are appended. Title 6 is now the most popular.
BY_HAND = np.array([8, 8, 1, 2, 4, 5, 0, 3], np.int32)  # in order of popularity: 6, 2, 3, 7, 4, 5


def test_top_titles_of_appended_ids_by_hand():
    scores = np.array(
        [[-np.inf, -np.inf, 1, 1, 1, 1, 1, 1], [-np.inf, -np.inf, 0, 3, 0, 3, 0, 3]], np.float32
    )
    best, ids = top_titles(jnp.asarray(scores), 4, jnp.asarray(BY_HAND))
    assert ids.tolist() == [[6, 2, 3, 7], [3, 7, 5, 6]]
    assert best.tolist() == [[1, 1, 1, 1], [3, 3, 3, 0]]


def test_both_stages_with_appended_ids_by_hand():
    eligible = np.arange(8)[None] >= FIRST_TITLE
    table = TitleTable(np.zeros((8, 0)), np.zeros((8, 0)), BY_HAND)
    ties = np.zeros((1, 8), np.float32)
    second = np.array([[9, 9, 0, 1, 9, 9, 1, 1]], np.float32)
    shown = two_stage(FixedModel(ties, ties), None, None, table, Correction("ranking"), eligible, 3)
    assert shown.id_BxN.tolist() == [[6, 2, 3]]
    # The first stage retrieves 6, 2, 3 and 7, so that 4 and 5 with the score 9 are not shown.
    shown = two_stage(FixedModel(ties, second), None, None, table, Correction("ranking"), eligible, 4)
    assert shown.id_BxN.tolist() == [[6, 3, 7, 2]]
    # The retrieval order is 7, 6, 3; the second stage has ties, and 6 is the most popular.
    first = np.array([[0, 0, 0, 1, 0, 0, 2, 3]], np.float32)
    shown = two_stage(FixedModel(first, ties), None, None, table, Correction("ranking"), eligible, 3)
    assert shown.id_BxN.tolist() == [[6, 3, 7]]


def test_popularity_of_appended_ids_by_hand():
    arrays = SimpleNamespace(rank_of_id=BY_HAND, id_of_rank=np.array([6, 2, 3, 7, 4, 5], np.int32))
    rows = np.zeros(2, [("target", "<i4", (1,)), ("history_title", "<i4", (2,)), ("list_a", "<i4", (1, 2))])
    rows["target"], rows["history_title"] = [[7], [4]], [[0, 6], [3, 7]]
    rows["list_a"] = [[[6, 4]], [[2, 5]]]
    target, left_out = rows["target"][:, 0], LeftOutTitles.of_histories(rows["history_title"])
    ranks, top = popularity.popularity_ranks(target, arrays, left_out, 3)
    assert ranks.tolist() == [3, 3] and top.tolist() == [[2, 3, 7], [6, 2, 4]]
    ranks, top = popularity.popularity_ranks(target, arrays, LeftOutTitles.nothing(2), 3)
    assert ranks.tolist() == [4, 5] and top.tolist() == [[6, 2, 3]] * 2
    assert baselines.popularity(rows, "a", arrays).tolist() == [[[-3, 0, -4]], [[-4, -1, -5]]]
