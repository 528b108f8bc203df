"""AUC of single features: values by hand, with ties, and by counting pairs."""

import numpy as np
import pytest

from jaxrec.analysis.feature_auc import auc, category_auc, fitting_half, number_auc


def pairs(score, positive):
    """Return the share of pairs in which the positive row has the higher score, ties half."""
    difference = score[positive][:, None] - score[~positive][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_an_auc_by_hand():
    # One positive at 1, two at 2; one negative at 0, one at 1: of six pairs five are right and one is a tie.
    assert auc(np.array([0, 1, 2]), np.array([0, 1, 2]), np.array([1, 1, 0])) == pytest.approx(5.5 / 6)
    assert auc(np.array([3.0, 3.0]), np.array([4, 1]), np.array([2, 5])) == 0.5
    assert auc(np.array([2, 1]), np.array([0, 3]), np.array([4, 0])) == 0
    assert np.isnan(auc(np.array([1, 2]), np.array([1, 2]), np.array([0, 0])))


def test_an_auc_is_a_share_of_pairs():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 9, 400), rng.random(400) < 0.3
    assert auc(score, positive, ~positive) == pytest.approx(pairs(score, positive))
    assert number_auc(-score * 1.0, positive) == number_auc(score * 1.0, positive) >= 0.5


def test_categories_are_scored_by_their_rate_among_other_users():
    ids = np.array([1, 1, 2, 2, 2, 1, 2, 3])[:, None]
    positive = np.array([1, 0, 0, 0, 1, 1, 0, 1], bool)
    fit = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    # Overall rate 1/4: category 1 has (1 + 2.5)/12, category 2 (0 + 2.5)/12, and category 3, unseen, 1/4.
    rate = np.array([2.5, 3.5, 2.5, 3.0]) / 12
    assert category_auc(ids, positive, fit) == pairs(rate[[2, 1, 2, 3]], positive[4:]) == 2.5 / 3
    # Categories of a single row each reveal nothing, although their own rates would order all rows.
    assert category_auc(np.arange(8)[:, None], positive, fit) == 0.5
    assert np.isnan(category_auc(ids, positive, np.zeros(8, bool)))
    assert np.isnan(category_auc(ids, positive, np.ones(8, bool)))


def test_a_list_has_the_mean_rate_of_its_categories():
    ids = np.array([[1, 0], [2, 0], [1, 2], [0, 0], [1, 0], [2, 0]])
    positive = np.array([1, 0, 1, 0, 1, 0], bool)
    fit = np.array([1, 1, 0, 0, 0, 0], bool)
    # Category 1 has (1 + 5)/11 and category 2 5/11. Of both and of none the score is the mean, 1/2.
    # Rows 2 and 4 are positive, with the scores 1/2 and 6/11; rows 3 and 5 are not, with 1/2 and 5/11.
    assert category_auc(ids, positive, fit) == (0.5 + 1 + 1 + 1) / 4


def test_halves_are_of_users_and_do_not_depend_on_their_order():
    user = np.repeat(np.arange(1_000), 3)
    fit = fitting_half(user)
    assert (fit.reshape(-1, 3) == fit[::3, None]).all() and 450 < fit[::3].sum() < 550
    assert (fitting_half(user[::-1]) == fit[::-1]).all()
