"""Ranks and metrics against tables worked by hand."""

import numpy as np
import pytest

from jaxrec.evaluation import metrics

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([3.0, 1.0, 2.0], 1),
        ([1.5, 1.0, 2.0], 2),
        ([0.0, 1.0, 2.0], 3),
        ([1.0, 1.0, 0.0], 2),  # a tie counts against
        ([0.0, 0.0, 0.0], 3),
        ([3.0, NAN, 2.0], 2),  # NaN counts against the target, in the target or in a negative
        ([NAN, 1.0, 2.0], 3),
        ([np.inf, 1.0, 2.0], 1),
    ],
)
def test_rank(scores, wanted):
    assert metrics.rank(np.array(scores)) == wanted


def test_absent_negatives_are_ignored():
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


def test_catalogue_metrics():
    rank = np.array([1, 2, 11, 101])
    values = {name: float(f(rank).mean()) for name, f in metrics.FULL.items()}
    assert [values[f"hr@{k}"] for k in metrics.CUTOFFS] == [0.25, 0.5, 0.5, 0.75, 0.75]
    assert values["ndcg@10"] == pytest.approx((1 + 0.63093) / 4, abs=1e-5)
    assert values["mrr@20"] == pytest.approx((1 + 1 / 2 + 1 / 11) / 4)


def test_coverage_novelty_and_popularity_lift():
    plays = np.array([0, 0, 8, 4, 4, 0])  # four titles, from id 2 on
    top = np.array([[2, 3], [2, 5], [2, 0]])  # 0: no title
    values = metrics.shown(top, plays, np.array([3, 3, 5]))
    assert values["coverage@10"] == 3 / 4
    assert values["novelty@10"] == pytest.approx((3 * 1 + 2 + 4) / 5)  # of 16 plays: 1, 1, 1, 2, 4 bits
    assert values["popularity_lift@10"] == pytest.approx((8 + 8 + 8 + 4 + 0) / 5 / (8 / 3))
    assert metrics.shown(top, plays, np.array([5, 5, 5]))["popularity_lift@10"] is None  # nobody played it
