"""Maximal marginal relevance, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models import diversity

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


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_device_chooses_as_the_host(weight):
    """With an empty list too."""
    ids, scores = (np.append(x, np.full((1, 4), end), axis=0) for x, end in ((IDS, 0), (SCORES, -np.inf)))
    host = diversity.rerank(ids, scores, VECTORS, 4, weight)
    device = jax.jit(lambda *arrays: diversity.choose(*arrays, 4, weight))(ids, scores, VECTORS)
    np.testing.assert_array_equal(host, device)
    assert host[2].tolist() == [0, 1, 2, 3]


def test_a_target_moves_with_the_order_and_ties_count_against_it():
    """Titles 2 to 5 in the order 2, 5, 3, 4, as above; title 6 is no candidate of two times two."""
    vectors = jnp.asarray(np.append(VECTORS, [[0.0, 1.0]], axis=0), jnp.float32)
    scores = jnp.array([[-jnp.inf, -jnp.inf, 4.0, 3.0, 2.0, 1.0, 0.5]] * 5)
    target, rank = jnp.array([2, 3, 4, 5, 6]), jnp.array([1, 2, 3, 4, 5])

    def ranked(scores, rank, weight):
        return diversity.rank_diversely(*jax.lax.top_k(scores, 4), rank, target, vectors, 2, weight)

    ranks, shown = ranked(scores, rank, 0.5)
    same, _ = ranked(jnp.full_like(scores, 1.0).at[:, :2].set(-jnp.inf), jnp.full(5, 5), 0.0)
    assert ranks.tolist() == [1, 3, 4, 2, 5]
    assert shown.tolist() == [[2, 5]] * 5
    assert same.tolist() == [5] * 5


def test_distance_within_lists():
    """Titles 2 and 3 are alike; cosines of 2, 4 and 5: .71, .71 and 0."""
    lists = jnp.array([[2, 3, 0], [2, 5, 0], [2, 4, 5], [2, 0, 0]])
    distance = diversity.intra_list_distance(lists, jnp.asarray(VECTORS, jnp.float32))
    assert distance[:3].tolist() == pytest.approx([0, 1, 1 - 2**0.5 / 3], abs=1e-6)
    assert np.isnan(distance[3])
