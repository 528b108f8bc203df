"""Metrics of predicted labels against naive forms, for every sample of users."""

import math

import numpy as np
import pytest

from jaxrec.evaluation.details.calibration import bin_of, calibration_bins
from jaxrec.evaluation.labels import estimators
from jaxrec.evaluation.labels.bootstrap import counts_of_users, resample

USERS, SAMPLES = 9, 5


def queries(seed, size=60, ties=True, soft=False):
    """Return predictions, labels and users; user 0 has positives alone and user 1 no query."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 7, size) / 4 if ties else rng.normal(size=size)
    label = rng.integers(0, 5, size) / 4 if soft else rng.integers(0, 2, size).astype(float)
    user = np.r_[0, 0, rng.integers(2, USERS, size - 2)]
    label[:2] = 1.0
    return score.astype(np.float32), label.astype(np.float32), user


def copies(counts, *arrays):
    """Return the queries of a sample: those of each user as often as the user is drawn."""
    user = arrays[-1]
    return [np.repeat(array, counts[user].astype(int)) for array in arrays]


def samples(seed=3):
    return next(counts_of_users(USERS, SAMPLES, SAMPLES, seed))


def pairs_auc(score, label):
    """The AUC by its definition, over all pairs of queries."""
    label = label.astype(float)
    weight = label[:, None] * (1 - label)[None]
    above = np.where(score[:, None] > score[None], 1.0, np.where(score[:, None] == score[None], 0.5, 0.0))
    return (weight * above).sum() / weight.sum() if weight.sum() else math.nan


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "shares"])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_auc_of_each_sample_is_that_of_all_its_pairs(ties, soft):
    for seed in range(20):
        score, label, user = queries(seed, ties=ties, soft=soft)
        counts = samples(seed)
        expected = [pairs_auc(*copies(count, score, label, user)[:2]) for count in counts]
        assert estimators.Auc(score, label, user)(counts) == pytest.approx(expected, rel=1e-12)
        assert estimators.auc(score, label, 1 - label) == pytest.approx(pairs_auc(score, label), rel=1e-12)


def test_auc_by_hand():
    """Positives .9, .5, .5 and negatives .5, .1: 1 + 1 + (.5 + 1) * 2 of 6 pairs."""
    score, label, user = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 1, 0, 0]), np.arange(5)
    assert estimators.Auc(score, label, user)(np.ones((1, 5))).tolist() == [5 / 6]
    twice = np.array([[2.0, 1, 0, 1, 1], [1, 1, 1, 0, 0]])  # the second sample has no negative
    value, undefined = estimators.Auc(score, label, user)(twice)
    assert value == 5.5 / 6 and math.isnan(undefined)


def test_auc_in_users_is_weighted_by_queries_and_leaves_out_users_of_one_class():
    for seed in range(20):
        score, label, user = queries(seed)
        estimator = estimators.grouped_auc(score, label, user, USERS)
        by_user = {u: pairs_auc(score[user == u], label[user == u]) for u in range(USERS)}
        for count in samples(seed):
            weights = {
                u: count[u] * (user == u).sum() for u, value in by_user.items() if not math.isnan(value)
            }
            assert 0 not in weights and 1 not in weights
            expected = sum(w * by_user[u] for u, w in weights.items()) / sum(weights.values())
            assert estimator(count[None])[0] == pytest.approx(expected, rel=1e-12)
    flat = estimators.grouped_auc(np.ones(4), np.ones(4), np.zeros(4, int), 1)
    assert math.isnan(flat(np.ones((1, 1)))[0])


def test_log_loss_is_that_of_the_probability_and_does_not_overflow():
    score, label, user = queries(1, ties=False, soft=True)
    estimator = estimators.log_loss(score, label, user, USERS)
    for count in samples():
        z, y, _ = copies(count, score.astype(float), label, user)
        p = 1 / (1 + np.exp(-z))
        expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
        assert estimator(count[None])[0] == pytest.approx(expected, rel=1e-9)
    sure = estimators.log_loss(np.array([900.0, -900.0]), np.array([0.0, 0.0]), np.array([0, 1]), 2)
    assert sure(np.eye(2)).tolist() == [900.0, 0.0]


def test_calibration_error_is_the_mean_gap_of_ten_bins():
    score, label, user = queries(2, size=400, ties=False)
    predicted = estimators.probability(score)
    group, bins = bin_of(predicted)
    assert bins == 10 and np.bincount(group).tolist() == [40] * 10
    assert all(predicted[group == b].max() < predicted[group == b + 1].min() for b in range(9))
    estimator = estimators.CalibrationError(predicted, label, user, USERS)
    for count in samples():
        p, y, g, _ = copies(count, predicted, label.astype(float), group, user)
        gaps = [abs(p[g == b].mean() - y[g == b].mean()) * (g == b).sum() for b in range(10)]
        assert estimator(count[None])[0] == pytest.approx(sum(gaps) / len(p), rel=1e-9)
    error = calibration_bins(predicted, label, user)["error"]
    assert estimator(np.ones((1, USERS)))[0] == pytest.approx(error, rel=1e-9)
    assert bin_of(np.ones(5))[1] == 1 and bin_of(np.zeros(0))[1] == 0


def test_regression_metrics_are_those_of_the_samples():
    rng = np.random.default_rng(4)
    value, user = 1_000 + rng.normal(size=80), rng.integers(0, USERS, 80)
    predicted = value + rng.normal(size=80)
    moments = estimators.Regression(predicted, value, user, USERS)
    for count in samples():
        p, y, _ = copies(count, predicted, value, user)
        error = ((p - y) ** 2).mean()
        one = count[None]
        assert moments.mean_squared_error(one)[0] == pytest.approx(error, rel=1e-9)
        assert moments.r_squared(one)[0] == pytest.approx(1 - error / y.var(), rel=1e-9)
        assert moments.correlation(one)[0] == pytest.approx(np.corrcoef(p, y)[0, 1], rel=1e-9)
    flat = estimators.Regression(np.array([1.0, 2.0]), np.ones(2), np.array([0, 1]), 2)
    assert math.isnan(flat.r_squared(np.ones((1, 2)))[0])


def test_any_scores_labels_and_counts_equal_all_pairs():
    pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    query = st.tuples(st.integers(-2, 2), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 3))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(query, min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=4, max_size=4))
    def check(drawn, count):
        score, label, user = (np.array(column) for column in zip(*drawn, strict=True))
        value = estimators.Auc(score, label, user)(np.array([count], float))[0]
        copied = copies(np.array(count), score, label, user)
        assert value == pytest.approx(pairs_auc(*copied[:2]), nan_ok=True)
        of_users = [pairs_auc(score[user == u], label[user == u]) for u in range(4)]
        weights = np.array(count) * np.bincount(user, minlength=4) * ~np.isnan(of_users)
        expected = (weights @ np.nan_to_num(of_users)) / weights.sum() if weights.any() else math.nan
        grouped = estimators.grouped_auc(score, label, user, 4)(np.array([count], float))[0]
        assert grouped == pytest.approx(expected, nan_ok=True)

    check()


# ---------------------------------------------------------------- resamples


def test_resamples_draw_users_and_do_not_depend_on_the_chunks():
    whole = np.concatenate([*counts_of_users(50, 1_000, 1_000, 0)])
    parts = np.concatenate([*counts_of_users(50, 7, 1_000, 0)])
    assert np.array_equal(whole, parts) and not np.array_equal(whole[0], whole[1])
    assert (whole.sum(axis=1) == 50).all()
    # The count of a user is binomial with mean 1 and variance 49 / 50.
    assert whole.mean() == 1.0 and whole.var() == pytest.approx(0.98, abs=0.02)


def test_an_interval_covers_the_truth_and_is_as_wide_as_the_normal_one():
    """The mean of users with one query each: the percentile interval against 1.96 standard errors."""
    value = np.random.default_rng(5).normal(size=400)
    resampled = resample({"mean": estimators.Ratio(value, np.ones(400))}, 400, 400)["mean"]
    assert resampled.value == pytest.approx(value.mean()) and len(resampled.replicates) == 1_000
    low, high = resampled.interval
    assert low < value.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * value.std(ddof=1) / 20, rel=0.06)


def test_queries_of_a_user_enter_together():
    """Ten copies of each query by its user leave the interval as it is; as ten users they narrow it."""
    score, label, _ = queries(6, size=80, ties=False)
    user = np.arange(80)
    one = resample({0: estimators.Auc(score, label, user)}, 80, 80)[0]
    score10, label10 = np.tile(score, 10), np.tile(label, 10)
    copied = resample({0: estimators.Auc(score10, label10, np.tile(user, 10))}, 80, 800)[0]
    assert copied.value == one.value and copied.interval == pytest.approx(one.interval, rel=1e-12)
    apart = resample({0: estimators.Auc(score10, label10, np.arange(800))}, 800, 800)[0]
    assert np.ptp(apart.interval) < 0.5 * np.ptp(one.interval)
