"""Best titles by blocks: equal to brute force, ties and exclusions included."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.storage.dataset import Arrays
from jaxrec.models.outputs import Correction
from jaxrec.serving.catalogue import CatalogueScorer, Exclusions

V, U = 50, 7


class FakeTask:
    """Task whose scores are a table [U, V] with many ties and some NaN; a row holds its index."""

    shards_titles = False
    config = SimpleNamespace(model=SimpleNamespace(target_in_sequence=False))

    def __init__(self, scores):
        self.scores = jnp.asarray(scores)

    def title_table(self, arrays):
        return arrays.title_table()

    def encode_queries(self, params, host, table):
        return self.scores[host.words[:, 0]]

    def score_titles(self, params, encoded, table, head, id_N):
        return encoded[:, id_N]

    def predict_completion(self, params, encoded, table, id_BxC):
        return None


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (U, V + 2)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    id_of_rank = rng.permutation(np.arange(2, V + 2)).astype(np.int32)
    rank_of_id = np.full(V + 2, V + 2, np.int32)
    rank_of_id[id_of_rank] = np.arange(V)
    arrays = Arrays(
        np.arange(V), np.ones(V), np.zeros(V + 2, int), rank_of_id, id_of_rank,
        np.zeros((V + 2, 0), np.int32), np.zeros((V + 2, 0), np.float32),
    )  # fmt: skip
    log_q = rng.integers(0, 2, V + 2).astype(np.float32)
    pairs = np.unique(rng.integers(0, U * V, 60))
    eligible = rng.random((2, V)) < 0.7
    exclusions = Exclusions(pairs // V, pairs % V, np.arange(U, dtype=np.int32) % 2, eligible)
    rows = np.zeros(U, [("row", "<u4")])
    rows["row"] = np.arange(U)
    return FakeTask(scores), arrays, Correction("", 2.0, log_q), exclusions, rows


def brute_force(task, arrays, correction, exclusions, k):
    final = 2.0 * np.asarray(task.scores) + correction.log_q_V
    out = np.zeros((U, k), int)
    for u in range(U):
        left_out = set(exclusions.rank[exclusions.user == u].tolist())
        ranks = [
            r for r in range(V)
            if exclusions.eligible_GxV[exclusions.group[u], r] and r not in left_out
            and not np.isnan(final[u, arrays.id_of_rank[r]])
        ]  # fmt: skip
        best = sorted(ranks, key=lambda r: (-final[u, arrays.id_of_rank[r]], r))[:k]
        out[u, : len(best)] = arrays.id_of_rank[best]
    return out


@pytest.mark.parametrize("k, pairs", [(1, 8 * 7), (6, 8 * 12), (6, 10**6), (V, 8 * 7)])
def test_the_best_titles_are_those_of_brute_force(catalogue, k, pairs):
    task, arrays, correction, exclusions, rows = catalogue
    scorer = CatalogueScorer(task, {}, arrays, correction, pairs=pairs)
    top = scorer.top(rows, k, exclusions)
    np.testing.assert_array_equal(top.id, brute_force(task, arrays, correction, exclusions, k))
    assert (top.score[:, 1:] <= top.score[:, :-1]).all()
    assert (top.score[top.id == 0] == -np.inf).all() and np.isnan(top.completion).all()


def test_the_order_of_popularity_serves_the_requests_that_ask_for_it(catalogue):
    task, arrays, correction, exclusions, rows = catalogue
    scorer = CatalogueScorer(task, {}, arrays, correction, pairs=64)
    none = exclusions._replace(user=exclusions.user[:0], rank=exclusions.rank[:0])
    top = scorer.top(rows, 5, none, np.arange(U) == 3)
    assert top.id[3].tolist() == arrays.id_of_rank[np.flatnonzero(exclusions.eligible_GxV[1])[:5]].tolist()
    np.testing.assert_array_equal(top.id[2], scorer.top(rows, 5, none).id[2])


def test_exclusions_of_some_users(catalogue):
    exclusions = catalogue[3]
    part = exclusions.select(np.array([1, 4]))
    for number, user in enumerate((1, 4)):
        assert part.rank[part.user == number].tolist() == exclusions.rank[exclusions.user == user].tolist()
    assert part.group.tolist() == [1, 0]


def test_scores_of_some_titles(catalogue):
    task, arrays, correction, _, rows = catalogue
    scores = CatalogueScorer(task, {}, arrays, correction).scores(rows, np.array([5, 2, 30]))
    expected = 2.0 * np.asarray(task.scores) + correction.log_q_V
    np.testing.assert_array_equal(scores, expected[:, [5, 2, 30]])
