"""The index of titles: exact scores and filters around it, its file, its recall."""

import numpy as np
import pytest

from benchmarks.title_index import VectorTask, catalogue, user_rows
from jaxrec.core.errors import InputError
from jaxrec.models.outputs import Correction
from jaxrec.serving import indexed_scorer, title_index
from jaxrec.serving.catalogue import CatalogueScorer, Exclusions
from jaxrec.serving.indexed_scorer import IndexedScorer, IndexOptions, open_scorer
from jaxrec.serving.title_index import TitleIndex

V, U, D, K = 900, 12, 6, 10
needs_usearch = pytest.mark.skipif(not title_index.is_installed(), reason="usearch is not installed")


class BruteForce:
    """Index of all titles whose rank is a multiple of `every`, the best first."""

    build_seconds = None

    def __init__(self, vectors, every=1):
        self.vectors, self.every = vectors, every

    def search(self, vectors, number):
        scores = (vectors @ self.vectors.T).astype(np.float64)
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
    assert report["recall@100"] == 1 and report["measured_requests"] == report["requests"] == U - 1
    assert report["exact_requests"] == 0


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


def test_recall_is_the_fraction_of_the_exact_titles(inputs):
    task, params, arrays, correction = inputs
    rng = np.random.default_rng(2)
    params = tuple(x + rng.normal(0, 0.1, x.shape).astype(np.float32) for x in params)
    scorer = IndexedScorer(task, params, arrays, correction, lambda vectors: BruteForce(vectors, 2))
    recall, requests = scorer.measure_recall(user_rows(U))
    assert requests == U and recall == pytest.approx(0.5, abs=0.1)


def test_a_long_list_is_ranked_exactly(inputs, exclusions):
    scorer = IndexedScorer(*inputs, BruteForce)
    exact = CatalogueScorer(*inputs).top(user_rows(U), V, exclusions)
    assert_equal(scorer.top(user_rows(U), V, exclusions), exact)
    assert scorer.report()["index"]["requests"] == 0


def test_the_kind_of_index(inputs, monkeypatch):
    task, params, arrays, correction = inputs
    assert type(open_scorer(*inputs, IndexOptions())) is CatalogueScorer
    monkeypatch.setattr(indexed_scorer, "TitleIndex", lambda vectors, folder: BruteForce(vectors))
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


def test_without_usearch_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(title_index, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'jaxrec\[ann\]'"):
        TitleIndex(np.zeros((3, 2), np.float32))


@needs_usearch
def test_the_index_has_the_titles_of_the_largest_products():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((3_000, 8)) * rng.lognormal(0, 0.5, (3_000, 1))).astype(np.float32)
    queries = rng.standard_normal((40, 8)).astype(np.float32)
    queries[0, 0] = np.nan
    index = TitleIndex(vectors)
    index.expansion_search = 2_000
    expected = np.argsort(-(np.nan_to_num(queries) @ vectors.T), axis=1)[:, :100]
    ranks = index.search(queries, 100)
    # Of few titles with vectors of different lengths, some are not reached from the others.
    assert (ranks[:, :, None] == expected[:, None]).any(axis=2).mean() > 0.95
    assert index.search(queries[:0], 5).shape == (0, 5) and index.search(queries[1:2], 5).shape == (1, 5)


@needs_usearch
def test_the_file_belongs_to_its_vectors(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    first = TitleIndex(vectors, tmp_path)
    (file,) = tmp_path.iterdir()
    again = TitleIndex(vectors, tmp_path)
    assert first.build_seconds is not None and again.build_seconds is None
    np.testing.assert_array_equal(first.search(vectors[:5], 20), again.search(vectors[:5], 20))
    changed = vectors.copy()
    changed[7, 0] += 1e-3
    assert TitleIndex(changed, tmp_path).build_seconds is not None
    (replaced,) = tmp_path.iterdir()
    assert replaced != file


@needs_usearch
def test_the_index_in_a_bucket(bucket):
    from jaxrec.core.paths import as_path

    vectors = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    folder = as_path(f"{bucket}/run")
    assert TitleIndex(vectors, folder).build_seconds is not None
    assert TitleIndex(vectors, folder).build_seconds is None
