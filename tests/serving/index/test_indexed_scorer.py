"""Titles by an index: exact scores, ties and filters, calibration, and the choice of the scorer."""

import numpy as np
import pytest

from benchmarks.title_index import VectorTask, catalogue, user_rows
from jaxrec.core.errors import InputError
from jaxrec.models.outputs import Correction
from jaxrec.serving.catalogue import CatalogueScorer
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.index import indexed_scorer
from jaxrec.serving.index.indexed_scorer import IndexedScorer, IndexOptions, open_scorer, recall
from jaxrec.serving.index.title_index import Calibration

V, U, D, K = 900, 12, 6, 10


class BruteForce:
    """Index of all titles whose rank is a multiple of `every`, the best first.

    A search that keeps fewer than `needs` candidates returns the worst titles.
    """

    build_seconds, is_new = 1.0, True

    def __init__(self, vectors, every=1, needs=0):
        self.vectors, self.every, self.needs = vectors, every, needs
        self.calibration, self.stored = Calibration(), []

    def calibrate(self, calibration):
        self.calibration = calibration
        self.stored.append(calibration)

    def search(self, vectors, number, expansion=0):
        scores = (vectors @ self.vectors.T).astype(np.float64)
        if (expansion or self.calibration.expansion_search) < self.needs:
            scores = -scores
        scores[:, np.arange(len(self.vectors)) % self.every != 0] = -np.inf
        ranks = np.argsort(-scores, axis=1, kind="stable")[:, :number]
        return np.where(np.take_along_axis(scores, ranks, axis=1) > -np.inf, ranks, len(self.vectors))


@pytest.fixture(scope="module")
def inputs():
    """Small whole numbers, so that scores are exact and many are equal."""
    rng = np.random.default_rng(0)
    params = tuple(rng.integers(-2, 3, (n, D)).astype(np.float32) for n in (U, V + 2))
    log_q = rng.integers(0, 3, V + 2).astype(np.float32)
    return VectorTask(), params, catalogue(V), Correction("dot", 2.0, log_q)


@pytest.fixture(scope="module")
def exclusions():
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, U * V, 300))
    return Exclusions(pairs // V, pairs % V, np.arange(U, dtype=np.int32) % 2, rng.random((2, V)) < 0.8)


def assert_equal(top, exact):
    for column, expected in zip(top, exact, strict=True):
        np.testing.assert_array_equal(column, expected)


def test_with_all_candidates_the_titles_are_the_exact_ones(inputs, exclusions):
    """Ties, titles left out, the correction, and requests by popularity included."""
    scorer, popular = IndexedScorer(*inputs, BruteForce), np.arange(U) == 3
    assert scorer.index.vectors.shape == (V, D + 1)  # one component is the log density
    exact = CatalogueScorer(*inputs).top(user_rows(U), K, exclusions, popular)
    assert_equal(scorer.top(user_rows(U), K, exclusions, popular), exact)
    assert (exact.score[:, 1:] == exact.score[:, :-1]).any()
    report = scorer.report()["index"]
    assert report["recall@100"] > 0.98 and report["measured_requests"] == report["requests"] == U - 1
    assert report["exact_requests"] == 0 and CatalogueScorer(*inputs).report() == {}


def test_filters_are_honoured(inputs, exclusions):
    """No title that is left out for a user, or not eligible for the user's group, is returned."""
    scorer = IndexedScorer(*inputs, lambda vectors: BruteForce(vectors, 3))
    rank = scorer.top(user_rows(U), K, exclusions).id - 2
    assert (rank >= 0).all() and exclusions.eligible_GxV[exclusions.group[:, None], rank].all()
    left_out = set(zip(exclusions.user.tolist(), exclusions.rank.tolist(), strict=True))
    assert not left_out & {(user, r) for user in range(U) for r in rank[user].tolist()}
    assert scorer.report()["index"]["exact_requests"] == 0 and (rank % 3 == 0).all()


def test_requests_whose_candidates_run_out_are_ranked_exactly(inputs, exclusions):
    """One group may see few titles, of which the index has none."""
    eligible = exclusions.eligible_GxV.copy()
    eligible[1] = np.arange(V) % 100 == 1
    narrow = exclusions._replace(eligible_GxV=eligible)
    scorer = IndexedScorer(*inputs, lambda vectors: BruteForce(vectors, 10))
    top, exact = (s.top(user_rows(U), 5, narrow) for s in (scorer, CatalogueScorer(*inputs)))
    assert_equal([column[1::2] for column in top], [column[1::2] for column in exact])
    assert scorer.report()["index"]["exact_requests"] == U // 2
    assert ((top.id[::2] - 2) % 10 == 0).all()  # candidates of the index alone


def test_recall_by_hand():
    exact = np.array([[5, 6, 7], [8, 9, 0]])
    assert recall(exact, np.array([[7, 1, 5], [0, 2, 9]])) == 3 / 5
    assert recall(np.zeros((2, 3), int), np.zeros((2, 3), int)) == 0


def untied(inputs):
    task, params, arrays, correction = inputs
    rng = np.random.default_rng(2)
    return task, tuple(x + rng.normal(0, 0.1, x.shape).astype(np.float32) for x in params), arrays, correction


def test_calibration_takes_the_fewest_candidates_that_reach_the_recall(inputs):
    scorer = IndexedScorer(*untied(inputs), lambda vectors: BruteForce(vectors, needs=500))
    assert scorer.calibrate(user_rows(U)) == Calibration(512, 1.0, U, True)
    assert scorer.calibrate(user_rows(U)) == Calibration(512, 1.0, U, True)
    assert len(scorer.index.stored) == 1  # stored once


def test_a_recall_that_is_not_reached_is_reported(inputs, exclusions, caplog, monkeypatch):
    """Half of the titles are absent: recall is one half. "auto" then ranks exactly."""
    half = lambda vectors: BruteForce(vectors, 2)  # noqa: E731
    scorer = IndexedScorer(*untied(inputs), half)
    top = scorer.top(user_rows(U), K, exclusions)
    report = scorer.report()["index"]
    assert report["recall@100"] == pytest.approx(0.5, abs=0.1) and report["expansion_search"] == 512
    assert report["requests"] == U and (top.id % 2 == 0).all()
    assert "with 512 candidates, below 0.98; --index=exact scores all titles" in caplog.text
    monkeypatch.setattr(indexed_scorer, "_TITLES_PER_CANDIDATE", 1)
    auto = IndexedScorer(*untied(inputs), half, True)
    exact = CatalogueScorer(*untied(inputs)).top(user_rows(U), K, exclusions)
    assert_equal(auto.top(user_rows(U), K, exclusions), exact)
    assert auto.report()["index"]["requests"] == 0


@pytest.mark.parametrize("titles_per_candidate, requests", [(1, U), (2, 0)])
def test_auto_uses_the_index_if_few_candidates_suffice(
    inputs, exclusions, titles_per_candidate, requests, monkeypatch
):
    """512 candidates of 900 titles reach the recall: at most 900 or 450 may be searched."""
    monkeypatch.setattr(indexed_scorer, "_TITLES_PER_CANDIDATE", titles_per_candidate)
    scorer = IndexedScorer(*untied(inputs), lambda vectors: BruteForce(vectors, needs=500), True)
    exact = CatalogueScorer(*untied(inputs)).top(user_rows(U), K, exclusions)
    np.testing.assert_array_equal(scorer.top(user_rows(U), K, exclusions).id, exact.id)
    assert scorer.report()["index"]["requests"] == requests


def test_a_long_list_is_ranked_exactly(inputs, exclusions):
    scorer = IndexedScorer(*inputs, BruteForce)
    exact = CatalogueScorer(*inputs).top(user_rows(U), V, exclusions)
    assert_equal(scorer.top(user_rows(U), V, exclusions), exact)
    assert scorer.report()["index"]["requests"] == 0


def test_the_kind_of_index(inputs, monkeypatch):
    task, params, arrays, correction = inputs
    assert type(open_scorer(*inputs, IndexOptions())) is CatalogueScorer
    monkeypatch.setattr(indexed_scorer, "open_or_build", lambda vectors, folder, step: BruteForce(vectors))
    assert type(open_scorer(*inputs, IndexOptions("ann"))) is IndexedScorer
    monkeypatch.setattr(indexed_scorer, "EXACT_TITLES", V - 1)
    assert type(open_scorer(*inputs, IndexOptions("exact"))) is CatalogueScorer
    monkeypatch.setattr(indexed_scorer, "is_installed", lambda: True)
    assert type(open_scorer(*inputs, IndexOptions())) is IndexedScorer
    monkeypatch.setattr(indexed_scorer, "is_installed", lambda: False)
    assert type(open_scorer(*inputs, IndexOptions())) is CatalogueScorer
    with pytest.raises(InputError, match="index=fast; allowed: auto, exact, ann"):
        open_scorer(*inputs, IndexOptions("fast"))
    with pytest.raises(InputError, match="index=ann: the score of the head 'mlp' is not an inner product"):
        open_scorer(task, params, arrays, correction._replace(head="mlp"), IndexOptions("ann"))
