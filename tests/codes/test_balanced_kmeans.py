"""Balanced k-means: sizes, procedures and ties, by hand and on random vectors."""

import numpy as np
import pytest

from jaxrec.codes.balanced_kmeans import PROCEDURES, assign_by_regret, balanced_kmeans, squared_distances

pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
from hypothesis import given, settings
from hypothesis import strategies as st


def line(*x):
    return np.asarray(x, float)[:, None]


def test_squared_distances_are_those_of_the_vectors():
    np.testing.assert_allclose(squared_distances(line(0, 3), line(1, 5)), [[1, 25], [4, 4]])


def test_who_loses_most_by_the_second_choice_goes_first():
    # All want column 0, which takes two. The regrets are 1, 8 and 3.
    cost = np.array([[1, 2, 9], [1, 9, 9], [1, 4, 9]], float)
    assert assign_by_regret(cost, np.array([2, 1, 1])).tolist() == [1, 0, 0]


def test_ties_go_to_the_lower_index_and_rows_without_room_have_no_column():
    assert assign_by_regret(np.zeros((5, 2)), np.array([2, 2])).tolist() == [0, 0, 1, 1, -1]


def test_both_procedures_by_hand():
    # Column 0 in turn takes the rows nearest to it, 0 and 1, and leaves row 2 to column 1.
    cost = np.array([[0, 1], [1, 0.5], [2, 30]], float)
    in_turn, by_regret = PROCEDURES
    assert in_turn(cost).tolist() == [0, 0, 1]
    assert by_regret(cost).tolist() == [0, 1, 0]  # floor(3 / 2) each, and row 0 or 1 is left over


def test_the_procedure_of_lower_distortion_is_kept():
    vectors = np.random.default_rng(3).normal(size=(60, 3))
    best = balanced_kmeans(vectors, 7, 0)
    expected = np.square(vectors - best.centroids[best.cluster]).sum(1).mean()
    assert best.distortion == pytest.approx(expected)
    means = np.stack([vectors[best.cluster == k].mean(0) for k in range(7)])
    np.testing.assert_allclose(best.centroids, means, atol=1e-12)
    trivial = [np.square(vectors - vectors.mean(0)).sum(1).mean()]
    assert best.distortion < 0.7 * trivial[0]


def test_separate_groups_are_the_clusters():
    vectors = np.concatenate([line(0, 0.1, 0.2), line(10, 10.1, 10.2), line(20, 20.1, 20.2)])
    cluster = balanced_kmeans(vectors, 3, 0).cluster.reshape(3, 3)
    assert (cluster == cluster[:, :1]).all()
    assert len(set(cluster[:, 0].tolist())) == 3


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from(("normal", "few", "same"))
)
def test_clusters_are_balanced_and_deterministic(n, clusters, seed, kind):
    rng = np.random.default_rng(seed)
    vectors = {
        "normal": rng.normal(size=(n, 3)),
        "few": rng.integers(0, 2, (n, 2)).astype(float),
        "same": np.ones((n, 2)),
    }[kind]
    result = balanced_kmeans(vectors, clusters, 1)
    sizes = np.bincount(result.cluster, minlength=clusters)
    assert len(sizes) == clusters and set(sizes.tolist()) <= {n // clusters, -(-n // clusters)}
    assert np.array_equal(result.cluster, balanced_kmeans(vectors, clusters, 1).cluster)
    assert np.isfinite(result.centroids).all()
