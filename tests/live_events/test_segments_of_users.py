"""Segments: rules, mini-batch k-means, and one query of each training user."""

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.live_events.segments.kmeans import fit_centroids, nearest
from jaxrec.live_events.segments.rules import Rule, by_features, parse_rule
from jaxrec.live_events.segments.training_users import as_queries, training_queries


@pytest.mark.parametrize("text", ["feature:country,tenure", "kmeans:64", "one", "user"])
def test_a_rule_is_read_and_written(text):
    assert str(parse_rule(text)) == text


@pytest.mark.parametrize(
    "text", ["", "feature", "feature:", "feature:a,,b", "kmeans", "kmeans:0", "kmeans:-1", "kmeans:1e3",
             "kmeans:65537", "one:", "users", "user:3"],
)  # fmt: skip
def test_another_rule_is_refused(text):
    with pytest.raises(InputError, match=f"--segments={text}; allowed: feature:NAME,NAME, kmeans:K"):
        parse_rule(text)


@pytest.fixture(scope="module")
def blobs():
    """Vectors around eight corners of a cube, far from the origin."""
    rng = np.random.default_rng(0)
    corners = np.array([[a, b, c] for a in (0, 99) for b in (0, 99) for c in (0, 99)], np.float32) + 1000
    of_blob = rng.integers(0, 8, 5000)
    return (corners[of_blob] + rng.normal(size=(5000, 3))).astype(np.float32), of_blob


def test_clusters_are_separate_blobs(blobs):
    vectors, of_blob = blobs
    centroids = fit_centroids(vectors, 8)
    cluster = nearest(vectors, centroids)
    assert len(set(zip(cluster.tolist(), of_blob.tolist(), strict=True))) == 8
    for k in range(8):  # of all epochs: the mean of a cluster that does not change
        np.testing.assert_allclose(centroids[k], vectors[cluster == k].mean(axis=0), atol=1e-2)


def test_equal_vectors_have_equal_centroids_and_another_seed_other_ones(blobs):
    vectors, _ = blobs
    np.testing.assert_array_equal(fit_centroids(vectors, 20), fit_centroids(vectors, 20))
    assert (fit_centroids(vectors, 20, seed=1) != fit_centroids(vectors, 20)).any()


def test_the_nearest_centroid_is_that_of_all_distances(blobs, monkeypatch):
    vectors, centroids = blobs[0], blobs[0][:50]
    expected = np.linalg.norm(vectors[:, None].astype(float) - centroids[None], axis=2).argmin(axis=1)
    monkeypatch.setattr("jaxrec.live_events.segments.kmeans._PAIRS", 1000)
    small = vectors - vectors.mean(axis=0)
    assert (nearest(small, small[:50]) == expected).mean() > 0.999


def test_more_clusters_than_vectors_are_refused(blobs):
    with pytest.raises(ValueError, match="11 clusters of 10 vectors"):
        fit_centroids(blobs[0][:10], 11)


def test_each_training_user_has_the_query_of_the_last_row(tiny, monkeypatch):
    monkeypatch.setattr("jaxrec.live_events.segments.training_users._BLOCKS", 1)
    rows = tiny.rows("train").all()
    queries = training_queries(tiny)
    last = {row["user"].item(): row for row in rows}
    assert queries["user"].tolist() == sorted(last) and tiny.rows("train").blocks > 1
    for query in queries:
        row = last[query["user"].item()]
        assert query["position"] == row["position"]
        for name in ("history_title", "history_age", "user_categories", "context_categories"):
            assert (query[name] == row[name]).all()
    assert not queries["target"].any()
    assert training_queries(tiny, 5)["user"].tolist() == queries["user"][:5].tolist()


def test_the_query_of_a_sequence_has_its_last_plays():
    layout = Layout(50, 4, 1, (0, 0, 0, 0), 0, (), "next_item")
    rows = np.zeros(1, layout.row_dtype())
    rows["title"], rows["time"] = np.arange(10, 20), np.arange(10, 20) * 7
    (query,) = as_queries(rows, layout)
    assert query["history_title"].tolist() == [16, 17, 18, 19]
    assert query["history_time"].tolist() == [112, 119, 126, 133] and query["target_time"] == 133


def test_segments_by_features_are_those_of_the_users(tiny, training):
    test = tiny.rows("test").all()
    rule = Rule("feature", ("segment",))
    categories = tiny.manifest["categories"]
    (of_training, of_test), names = by_features(rule, (training, test), tiny.layout, categories)
    column = tiny.layout.category_column("user", "segment")
    for rows, segment in ((training, of_training), (test, of_test)):
        values = np.array([*map(str, categories["segment"])])[rows["user_categories"][:, column] - 2]
        assert (np.array(names)[segment] == values).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (("country",), "'country' is no feature of users"),
        (("segment", "segment"), "a feature is there twice"),
    ],
)
def test_another_feature_is_refused(tiny, training, features, message):
    with pytest.raises(InputError, match=message):
        by_features(Rule("feature", features), (training,), tiny.layout, tiny.manifest["categories"])
