"""Codes of titles: residuals, collision tokens, new titles, overflow."""

import numpy as np
import pytest

from jaxrec.codes.residual_codes import (
    Codes,
    code_new_titles,
    code_vectors,
    largest_clusters,
    random_codes,
    with_collisions,
)
from jaxrec.core.errors import InputError


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6))


def test_titles_of_one_path_differ_in_the_last_token_by_hand():
    path = np.array([[1, 0], [0, 2], [1, 0], [1, 1], [1, 0]])
    expected = [[1, 0, 0], [0, 2, 0], [1, 0, 1], [1, 1, 0], [1, 0, 2]]
    assert with_collisions(path, 3).tolist() == expected


def test_a_collision_token_that_overflows_is_one_line():
    text = "codes: 3 titles have the path 1-0, and the collision token has codes.size=2 values; give a larger"
    with pytest.raises(InputError, match=text):
        with_collisions(np.array([[1, 0], [1, 0], [1, 0]]), 2)


@pytest.mark.parametrize("n", [50, 64, 61])
def test_every_level_is_balanced_and_codes_are_unique(n):
    codes = code_vectors(vectors(n), 3, 4, 0)
    assert codes.tokens.shape == (n, 4) and codes.centroids.shape == (3, 4, 6)
    for level in codes.tokens[:, :3].T:
        assert set(np.bincount(level, minlength=4).tolist()) <= {n // 4, -(-n // 4)}
    assert largest_clusters(codes.tokens) == (-(-n // 4),) * 3
    assert len(np.unique(codes.tokens, axis=0)) == n
    assert codes.distortion[0] > codes.distortion[1] > codes.distortion[2]


def test_levels_code_what_the_levels_before_leave():
    x, codes = vectors(60), code_vectors(vectors(60), 2, 8, 0)
    left = x - codes.centroids[0][codes.tokens[:, 0]] - codes.centroids[1][codes.tokens[:, 1]]
    assert np.square(left).sum(1).mean() == pytest.approx(codes.distortion[1], rel=1e-5)


def test_similar_titles_share_first_tokens_and_random_codes_do_not():
    centre = np.repeat(vectors(4, 1) * 10, 15, axis=0)
    x = centre + vectors(60)
    group = np.repeat(np.arange(4), 15)
    same = lambda tokens: np.mean([len(set(tokens[group == g, 0].tolist())) for g in range(4)])  # noqa: E731
    assert same(code_vectors(x, 2, 8, 0).tokens) <= 3
    drawn = random_codes(60, 2, 8, 0)
    assert same(drawn.tokens) > 4
    assert largest_clusters(drawn.tokens) == (8, 8) and len(np.unique(drawn.tokens, axis=0)) == 60


def test_new_titles_go_to_the_nearest_centroid_that_is_not_full_by_hand():
    centroids = np.array([[[0.0], [10.0], [1000.0], [2000.0]]], np.float32)
    codes = Codes(with_collisions(np.array([[0], [1]]), 4), centroids, ())
    # Of 2 + 3 titles a cluster holds 2. All are nearest to the first centroid, whose one place goes to the
    # title that loses most by the second one (100 - 0); of the others the first loses most by the third one.
    tokens = code_new_titles(np.array([[1.0], [0.0], [4.0]]), codes)
    assert tokens.tolist() == [[1, 1], [0, 1], [2, 0]]


def test_new_titles_leave_all_codes_unique():
    codes = code_vectors(vectors(50), 3, 4, 0)
    new = code_new_titles(vectors(13, 5), codes)
    both = np.concatenate([codes.tokens, new])
    assert len(np.unique(both, axis=0)) == 63
    assert max(largest_clusters(both)) <= 16
