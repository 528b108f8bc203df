"""Ranks and metrics against tables worked by hand."""

import numpy as np
import pytest

from jaxrec import metrics

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([3.0, 1.0, 2.0], 1),
        ([1.5, 1.0, 2.0], 2),
        ([0.0, 1.0, 2.0], 3),
        ([1.0, 1.0, 0.0], 2),  # a tie counts against
        ([0.0, 0.0, 0.0], 3),
        ([3.0, NAN, 2.0], 2),  # so does a NaN, on either side
        ([NAN, 1.0, 2.0], 3),
        ([np.inf, 1.0, 2.0], 1),
    ],
)
def test_rank(scores, wanted):
    assert metrics.rank(np.array(scores)) == wanted


def test_absent_negatives_are_not_there():
    scores, present = np.array([[1.0, 2.0, NAN, 0.5]]), np.array([[True, False, True]])
    assert metrics.rank(scores, present).tolist() == [2]


def test_values_by_rank():
    rank = np.arange(1, 8)
    np.testing.assert_allclose(metrics.ndcg(rank, 5), [1, 0.63093, 0.5, 0.43068, 0.38685, 0, 0], atol=1e-5)
    np.testing.assert_allclose(metrics.mrr(rank, 5), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0, 0])
    assert metrics.recall(rank, 5).tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert metrics.METRICS["ndcg@1"](rank).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_chance_over_21():
    rank = np.arange(1, 22)
    got = {name: round(float(f(rank).mean()), 3) for name, f in metrics.METRICS.items()}
    assert got == {"ndcg@1": 0.048, "ndcg@5": 0.140, "recall@5": 0.238, "mrr@5": 0.109}


def test_per_user_means():
    user, means, counts = metrics.per_user(np.array([7, 3, 7, 7]), np.array([1.0, 0.5, 0.0, 0.5]))
    assert (user.tolist(), means.tolist(), counts.tolist()) == ([3, 7], [0.5, 0.5], [1, 3])
