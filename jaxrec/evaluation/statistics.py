"""Significance tests of paired differences, over users and over seeds.

Tests over users compare checkpoints; tests over seeds compare methods. All functions take
differences d [n], one per user or one per seed: the value of the system that is claimed to be better, minus
the value of the other. The level is 5%, two-sided, without correction for the number of claims tested.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy  # which loads its parts where they are first used

LEVEL, POWER = 0.05, 0.8
SHOWN, REVERSED, NOT_SIGNIFICANT = VERDICTS = "shown", "reversed", "not significant"
_DRAWS = 1 << 22  # bootstrap draws in memory at a time


class TestResults(NamedTuple):
    """Two paired tests of a zero mean (or median) difference; NaN without data.

    Attributes:
        n: Number of differences.
        mean: Mean difference.
        sd: Standard deviation of the differences, with n - 1.
        t: Student's paired t.
        t_p: Two-sided p-value of t.
        wilcoxon: The smaller of the two signed-rank sums.
        wilcoxon_p: Two-sided p-value of the signed-rank test.
        zeros: Number of zero differences, which the signed-rank test drops (Wilcoxon 1945).
    """

    n: int
    mean: float
    sd: float
    t: float
    t_p: float
    wilcoxon: float
    wilcoxon_p: float
    zeros: int


class Paired(NamedTuple):
    """Comparison of two systems over users, from paired differences.

    Attributes:
        tests: Both tests.
        interval: 95% percentile bootstrap interval of the mean (Efron & Tibshirani 1993).
        effect: Cohen's d_z (1988): mean / sd.
        smallest: Mean difference that n pairs detect with 80% power.
    """

    tests: TestResults
    interval: tuple[float, float]
    effect: float
    smallest: float

    def to_json(self) -> dict[str, Any]:
        """Return a flat dictionary of the tests and the other fields."""
        return self.tests._asdict() | {"interval": self.interval, "effect": self.effect,
                                       "smallest": self.smallest}  # fmt: skip


class Seeds(NamedTuple):
    """Statistics of a few means, one per seed; NaN but `n` and `mean` for one seed.

    Attributes:
        n: Number of seeds.
        mean: Mean over seeds.
        sd: Standard deviation, with n - 1.
        interval: 95% interval of Student's t.
        t: Student's t of a zero mean.
        p: Two-sided p-value of t.
        smallest: Mean difference that n seeds detect with 80% power.
    """

    n: int
    mean: float
    sd: float
    interval: tuple[float, float]
    t: float
    p: float
    smallest: float


def tests(differences: np.ndarray) -> TestResults:
    """Return the paired t-test and the Wilcoxon signed-rank test of differences.

    Args:
        differences: d [n].
    """
    d = np.asarray(differences, np.float64)
    mean = float(d.mean()) if len(d) else math.nan
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    t, t_p = _student(d)
    nonzero = d[d != 0]
    # "wilcox" drops zeros too. Differences that are all zero are no evidence (p = 1) rather than an error.
    rank, rank_p = scipy.stats.wilcoxon(nonzero, zero_method="wilcox") if len(nonzero) else (0.0, 1.0)
    return TestResults(len(d), mean, sd, t, t_p, float(rank), float(rank_p), len(d) - len(nonzero))


def _student(d: np.ndarray) -> tuple[float, float]:
    """Return Student's t of d [n] and its p-value.

    Without spread, a nonzero difference has p = 0 and a zero difference has p = 1. NaN for fewer than two.
    """
    if len(d) < 2:
        return math.nan, math.nan
    if np.ptp(d) == 0:  # scipy returns NaN
        return (math.copysign(math.inf, d[0]), 0.0) if d[0] else (0.0, 1.0)
    test = scipy.stats.ttest_1samp(d, 0.0)
    return float(test.statistic), float(test.pvalue)


def smallest_difference(sd: float, n: int) -> float:
    """Return the mean difference that a paired t-test detects with 80% power.

    The test is two-sided, at 5%. The difference is sd / sqrt(n) times the noncentrality of Student's t at
    which the power is 80%; for many pairs it is (1.960 + 0.842) sd / sqrt(n). NaN for fewer than two pairs.

    Args:
        sd: standard deviation of the differences, with n - 1.
        n: number of pairs.
    """
    if n < 2:
        return math.nan
    critical = scipy.stats.t.ppf(1 - LEVEL / 2, n - 1)

    def excess_power(noncentrality: float) -> float:  # the chance of the wrong sign is negligible
        return float(scipy.stats.nct.sf(critical, n - 1, noncentrality)) - POWER

    return scipy.optimize.brentq(excess_power, 1, 2 * critical) * sd / math.sqrt(n)


def bootstrap(differences: np.ndarray, resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean of d [n].

    Args:
        differences: d [n].
        resamples: number of bootstrap resamples.
        seed: the same seed gives the same interval.

    Returns:
        Low and high end; NaN for no differences.
    """
    # scipy.stats.bootstrap gives the same interval, but rejects a single difference. For 20,000 differences
    # scipy takes 1.4 times the time and twice the memory (scipy 1.18, 2,000 resamples), since its indices
    # are int64.
    d, rng = np.asarray(differences, np.float64), np.random.default_rng(seed)
    if not len(d):
        return math.nan, math.nan
    at_once = max(_DRAWS // len(d), 1)
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = np.concatenate(
        [d[rng.integers(0, len(d), (size, len(d)), np.int32)].mean(axis=1) for size in sizes]
    )
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def paired(differences: np.ndarray, seed: int = 0) -> Paired:
    """Return all statistics of differences, one per user.

    Args:
        differences: d [n].
        seed: Seed of the bootstrap.
    """
    results = tests(differences)
    effect = results.mean / results.sd if results.sd > 0 else math.nan
    interval = bootstrap(differences, seed=seed)
    return Paired(results, interval, effect, smallest_difference(results.sd, results.n))


def resampled(difference: float, replicates: np.ndarray, interval: tuple[float, float], n: int) -> Paired:
    """Return the statistics of a difference that is no mean over users, such as a difference of AUC.

    The standard deviation of the resamples is the standard error; times sqrt(n) it takes the place of the
    standard deviation over users. There is no signed-rank test and no effect size: both are NaN.

    Args:
        difference: Value of all users.
        replicates: [R] values of bootstrap resamples of the users; NaN where it is not defined.
        interval: 95% interval of the difference.
        n: Number of users.
    """
    defined = replicates[~np.isnan(replicates)]
    sd = float(defined.std(ddof=1)) * math.sqrt(n) if len(defined) > 1 else math.nan
    if sd == 0:
        t, p = (math.copysign(math.inf, difference), 0.0) if difference else (0.0, 1.0)
    else:
        t = difference / (sd / math.sqrt(n))
        p = float(2 * scipy.stats.t.sf(abs(t), max(n - 1, 1)))
    results = TestResults(n, difference, sd, t, p, math.nan, math.nan, 0)
    return Paired(results, interval, math.nan, smallest_difference(sd, n))


def over_seeds(differences: np.ndarray) -> Seeds:
    """Return the statistics of differences, one per seed; one seed has a mean only.

    The interval and the test use Student's t, since seeds are few.

    Args:
        differences: d [n].
    """
    d = np.asarray(differences, np.float64)
    n, mean = len(d), float(d.mean()) if len(d) else math.nan
    if n < 2:
        return Seeds(n, mean, math.nan, (math.nan, math.nan), math.nan, math.nan, math.nan)
    sd = float(d.std(ddof=1))
    t, p = _student(d)
    half = float(scipy.stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Seeds(n, mean, sd, (mean - half, mean + half), t, p, smallest_difference(sd, n))


# ---------------------------------------------------------------- verdicts


def _side(mean: float, p: float) -> int:
    """Return 1 or -1 for a mean significantly above or below zero, else 0."""
    return int(np.sign(mean)) if p < LEVEL else 0


def verdict(users: TestResults, seeds: Seeds) -> str:
    """Return one of VERDICTS from the paired t-tests over users and over seeds.

    *shown*: both tests are significant above zero. *reversed*: both are significant below zero. Otherwise
    *not significant*; a single seed is never significant. The level is 5%, two-sided.
    """
    sides = (_side(users.mean, users.t_p), _side(seeds.mean, seeds.p))
    return {(1, 1): SHOWN, (-1, -1): REVERSED}.get(sides, NOT_SIGNIFICANT)


def one_sided_interval(test: TestResults | Seeds) -> tuple[float, float]:
    """Return the lower and the upper end of the one-sided 95% intervals of a mean, by Student's t.

    Each end is that of an interval which is open on the other side. NaN for fewer than two values.
    """
    if test.n < 2:
        return math.nan, math.nan
    half = float(scipy.stats.t.ppf(1 - LEVEL, test.n - 1)) * test.sd / math.sqrt(test.n)
    return test.mean - half, test.mean + half


def non_inferiority(users: tuple[float, float], seeds: tuple[float, float], margin: float) -> str:
    """Return one of VERDICTS on the statement that a mean is not lower than zero by `margin` or more.

    *shown*: the lower ends over users and over seeds are above -margin. *reversed*: both upper ends are below
    -margin. Otherwise *not significant*; a single seed is never significant. The level is 5%, one-sided.

    Args:
        users: `one_sided_interval` over users.
        seeds: `one_sided_interval` over seeds.
        margin: Largest acceptable loss, above 0.
    """
    if all(low > -margin for low, _ in (users, seeds)):
        return SHOWN
    return REVERSED if all(high < -margin for _, high in (users, seeds)) else NOT_SIGNIFICANT


def combine_verdicts(verdicts: Iterable[str]) -> str:
    """Return a compound verdict: shown if all are, reversed if any is reversed.

    Args:
        verdicts: results of `verdict`, at least one.
    """
    distinct = set(verdicts)
    if REVERSED in distinct:
        return REVERSED
    return SHOWN if distinct == {SHOWN} else NOT_SIGNIFICANT
