"""Statistics against closed forms and values worked by hand; verdicts."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrec.evaluation import statistics
from jaxrec.evaluation.statistics import NOT_SIGNIFICANT, REVERSED, SHOWN


def test_paired_tests_by_hand():
    result = statistics.tests(np.array([1.0, 2.0, 3.0, 0.0, -1.0]))
    assert (result.n, result.mean, result.zeros) == (5, 1.0, 1)
    assert result.sd == pytest.approx(math.sqrt(2.5))  # squares 0, 1, 4, 1, 4 over 4
    assert result.t == pytest.approx(math.sqrt(2)) and result.t_p == pytest.approx(0.230, abs=5e-4)
    # The ranks of |d| = 1, 1, 2, 3 are 1.5, 1.5, 3, 4: their sum is 1.5 below zero and 8.5 above.
    assert result.wilcoxon == 1.5
    assert result.wilcoxon_p > 0.1


def test_paired_tests_equal_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    result = statistics.tests(a - b + 0.1)
    assert (result.t, result.t_p) == pytest.approx(tuple(stats.ttest_rel(a + 0.1, b)))
    assert (result.wilcoxon, result.wilcoxon_p) == pytest.approx(tuple(stats.wilcoxon(a + 0.1, b)))


@pytest.mark.parametrize(
    "d, t, t_p, rank_p",
    [([0.0, 0.0, 0.0], 0.0, 1.0, 1.0), ([0.5] * 3, math.inf, 0.0, 0.25), ([-0.5] * 3, -math.inf, 0.0, 0.25)],
)
def test_differences_without_spread(d, t, t_p, rank_p):
    result = statistics.paired(np.array(d))
    assert (result.tests.t, result.tests.t_p, result.tests.wilcoxon_p) == (t, t_p, rank_p)
    assert result.interval == (d[0], d[0]) and math.isnan(result.effect) and result.smallest == 0


def test_bootstrap_is_near_normal_interval_and_reproducible():
    d = np.random.default_rng(1).normal(0.3, 2.0, 5_000)
    low, high = statistics.bootstrap(d)
    half = 1.96 * d.std() / math.sqrt(len(d))
    assert (low, high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.05 * half)
    assert statistics.bootstrap(d) == (low, high) != statistics.bootstrap(d, seed=1)


def test_bootstrap_equals_scipy():
    """Compare with scipy on the same draws: both resample in blocks of one size."""
    d = np.random.default_rng(5).normal(size=200)
    rng = np.random.default_rng(0)
    result = stats.bootstrap((d,), np.mean, n_resamples=2_000, method="percentile", rng=rng)
    assert statistics.bootstrap(d) == pytest.approx(tuple(result.confidence_interval), abs=1e-12)


def test_bootstrap_does_not_depend_on_draws_in_memory(monkeypatch):
    d = np.random.default_rng(2).normal(size=300)
    whole = statistics.bootstrap(d)
    monkeypatch.setattr(statistics, "_DRAWS", 7 * 300)
    assert statistics.bootstrap(d) == whole


def test_smallest_detectable_difference():
    many = statistics.smallest_difference(2.0, 20_000)
    assert many == pytest.approx((1.959964 + 0.841621) * 2.0 / math.sqrt(20_000), rel=1e-3)
    # Three pairs, by simulation: four in five of 200,000 t-tests detect the difference.
    few = statistics.smallest_difference(1.0, 3)
    d = np.random.default_rng(3).normal(few, 1.0, (200_000, 3))
    t = d.mean(1) / (d.std(1, ddof=1) / math.sqrt(3))
    assert (abs(t) > 4.302653).mean() == pytest.approx(0.8, abs=0.005)
    assert math.isnan(statistics.smallest_difference(1.0, 1))


def test_paired_effect_interval_and_smallest_difference():
    d = np.random.default_rng(4).normal(0.1, 1.0, 2_000)
    result = statistics.paired(d)
    assert result.effect == pytest.approx(d.mean() / d.std(ddof=1))
    assert result.interval[0] < d.mean() < result.interval[1]
    assert result.smallest == pytest.approx(2.8016 * d.std(ddof=1) / math.sqrt(2_000), rel=2e-3)


def test_statistics_over_a_few_seeds():
    result = statistics.over_seeds(np.array([0.01, 0.02, 0.03]))
    assert (result.n, result.mean, result.sd) == (3, pytest.approx(0.02), pytest.approx(0.01))
    assert result.t == pytest.approx(2 * math.sqrt(3)) and result.p == pytest.approx(0.0742, abs=1e-4)
    assert result.interval == pytest.approx(
        (0.02 - 0.024841, 0.02 + 0.024841), abs=1e-6
    )  # 4.302653 / 100 / 3^.5
    one = statistics.over_seeds(np.array([0.02]))
    assert (one.n, one.mean) == (1, 0.02) and all(math.isnan(x) for x in (one.sd, one.p, one.smallest))


UP, FLAT = np.array([0.1, 0.2, 0.1, 0.2] * 25), np.array([0.1, -0.1] * 50)
SEEDS_UP, SEEDS_FLAT = np.array([0.02, 0.021, 0.019]), np.array([0.02, -0.02, 0.01])


@pytest.mark.parametrize(
    "users, seeds, expected",
    [
        (UP, SEEDS_UP, SHOWN),
        (-UP, -SEEDS_UP, REVERSED),
        (UP, SEEDS_FLAT, NOT_SIGNIFICANT),
        (FLAT, SEEDS_UP, NOT_SIGNIFICANT),
        (UP, -SEEDS_UP, NOT_SIGNIFICANT),
        (UP, SEEDS_UP[:1], NOT_SIGNIFICANT),  # one seed is no evidence for a method
    ],
)
def test_verdict_needs_users_and_seeds(users, seeds, expected):
    verdict = statistics.verdict(statistics.tests(users), statistics.over_seeds(seeds))
    assert verdict == expected


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        ([SHOWN, SHOWN], SHOWN),
        ([SHOWN, NOT_SIGNIFICANT], NOT_SIGNIFICANT),
        ([SHOWN, REVERSED], REVERSED),
        ([NOT_SIGNIFICANT, REVERSED], REVERSED),
    ],
)
def test_combined_verdicts(verdicts, expected):
    assert statistics.combine_verdicts(verdicts) == expected
