"""Maximal marginal relevance, worked by hand."""

import numpy as np

from jaxrec.serving import diversity

# Four candidates: 2 and 3 are alike, 4 is half like them, 5 is unlike all.
VECTORS = diversity.unit_vectors(np.array([[0, 0], [0, 0], [1, 0], [2, 0], [1, 1], [0, 3]], float))
IDS, SCORES = (
    np.array([[2, 3, 4, 5], [3, 5, 0, 0]]),
    np.array([[4.0, 3.0, 2.0, 1.0], [7.0, 6.0, -np.inf, -np.inf]]),
)


def test_without_diversity_the_order_stays():
    assert diversity.rerank(IDS, SCORES, VECTORS, 4, 0.0).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_title_like_a_chosen_one_comes_later():
    """With 0.5: relevance 1, 2/3, 1/3, 0; cosines to title 2: 1, .71, 0, so title 5 is second at 0."""
    chosen = diversity.rerank(IDS, SCORES, VECTORS, 4, 0.5)
    # Third: title 3 has (2/3 - 1) / 2 = -.17 and title 4 has (1/3 - .71) / 2 = -.19.
    assert IDS[0][chosen[0]].tolist() == [2, 5, 3, 4]
    assert IDS[1][chosen[1]].tolist() == [3, 5, 0, 0]


def test_a_zero_vector_stays_zero():
    assert not VECTORS[:2].any() and np.allclose(np.linalg.norm(VECTORS[2:], axis=1), 1.0)
