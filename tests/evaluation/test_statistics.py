"""Statistics held to hand-worked values and closed forms; verdicts on made-up differences."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrec.evaluation import statistics
from jaxrec.evaluation.statistics import NOT_SIGNIFICANT, REVERSED, SHOWN


def test_the_tests_worked_by_hand():
    found = statistics.tests(np.array([1.0, 2.0, 3.0, 0.0, -1.0]))
    assert (found.n, found.mean, found.zeros) == (5, 1.0, 1)
    assert found.sd == pytest.approx(math.sqrt(2.5))  # squares 0, 1, 4, 1, 4 over 4
    assert found.t == pytest.approx(math.sqrt(2)) and found.t_p == pytest.approx(0.230, abs=5e-4)
    # Of |d| = 1, 1, 2, 3 the ranks are 1.5, 1.5, 3, 4: below zero 1.5, above 8.5.
    assert found.wilcoxon == 1.5
    assert found.wilcoxon_p > 0.1


def test_the_tests_are_scipys():
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    found = statistics.tests(a - b + 0.1)
    assert (found.t, found.t_p) == pytest.approx(tuple(stats.ttest_rel(a + 0.1, b)))
    assert (found.wilcoxon, found.wilcoxon_p) == pytest.approx(tuple(stats.wilcoxon(a + 0.1, b)))


@pytest.mark.parametrize(
    "d, t, t_p, rank_p",
    [([0.0, 0.0, 0.0], 0.0, 1.0, 1.0), ([0.5] * 3, math.inf, 0.0, 0.25), ([-0.5] * 3, -math.inf, 0.0, 0.25)],
)
def test_differences_without_spread(d, t, t_p, rank_p):
    found = statistics.paired(np.array(d))
    assert (found.tests.t, found.tests.t_p, found.tests.wilcoxon_p) == (t, t_p, rank_p)
    assert found.interval == (d[0], d[0]) and math.isnan(found.effect) and found.smallest == 0


def test_the_bootstrap_is_near_the_normal_interval_and_the_same_each_time():
    d = np.random.default_rng(1).normal(0.3, 2.0, 5_000)
    low, high = statistics.bootstrap(d)
    half = 1.96 * d.std() / math.sqrt(len(d))
    assert (low, high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.05 * half)
    assert statistics.bootstrap(d) == (low, high) != statistics.bootstrap(d, seed=1)


def test_the_bootstrap_is_scipys():
    """Of the same draws: the size of a block of resamples is the same in both."""
    d = np.random.default_rng(5).normal(size=200)
    rng = np.random.default_rng(0)
    found = stats.bootstrap((d,), np.mean, n_resamples=2_000, method="percentile", rng=rng)
    assert statistics.bootstrap(d) == pytest.approx(tuple(found.confidence_interval), abs=1e-12)


def test_the_bootstrap_does_not_depend_on_how_much_is_held_at_a_time(monkeypatch):
    d = np.random.default_rng(2).normal(size=300)
    whole = statistics.bootstrap(d)
    monkeypatch.setattr(statistics, "_DRAWS", 7 * 300)
    assert statistics.bootstrap(d) == whole


def test_the_smallest_difference():
    many = statistics.smallest_difference(2.0, 20_000)
    assert many == pytest.approx((1.959964 + 0.841621) * 2.0 / math.sqrt(20_000), rel=1e-3)
    # Three pairs, by trial: four in five of a million t-tests find it.
    few = statistics.smallest_difference(1.0, 3)
    d = np.random.default_rng(3).normal(few, 1.0, (200_000, 3))
    t = d.mean(1) / (d.std(1, ddof=1) / math.sqrt(3))
    assert (abs(t) > 4.302653).mean() == pytest.approx(0.8, abs=0.005)
    assert math.isnan(statistics.smallest_difference(1.0, 1))


def test_a_difference_of_the_smallest_size_has_an_effect_and_an_interval_of_its_own():
    d = np.random.default_rng(4).normal(0.1, 1.0, 2_000)
    found = statistics.paired(d)
    assert found.effect == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.interval[0] < d.mean() < found.interval[1]
    assert found.smallest == pytest.approx(2.8016 * d.std(ddof=1) / math.sqrt(2_000), rel=2e-3)


def test_a_few_seeds():
    found = statistics.over_seeds(np.array([0.01, 0.02, 0.03]))
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.02), pytest.approx(0.01))
    assert found.t == pytest.approx(2 * math.sqrt(3)) and found.p == pytest.approx(0.0742, abs=1e-4)
    assert found.interval == pytest.approx(
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
        (UP, SEEDS_UP[:1], NOT_SIGNIFICANT),  # one seed cannot say it of the method
    ],
)
def test_a_verdict_needs_users_and_seeds(users, seeds, expected):
    found = statistics.verdict(statistics.tests(users), statistics.over_seeds(seeds))
    assert found == expected


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([SHOWN, SHOWN], SHOWN),
        ([SHOWN, NOT_SIGNIFICANT], NOT_SIGNIFICANT),
        ([SHOWN, REVERSED], REVERSED),
        ([NOT_SIGNIFICANT, REVERSED], REVERSED),
    ],
)
def test_a_claim_of_several_parts(parts, expected):
    assert statistics.combine_verdicts(parts) == expected
