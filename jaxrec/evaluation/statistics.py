"""Whether a paired difference is one: over users for these checkpoints, over seeds for the method.

Everything takes differences d [n], one a user or one a seed, of what is claimed better minus the other.
The level is 5%, two-sided, and is not corrected for how many claims are looked at.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

LEVEL, POWER = 0.05, 0.8
SHOWN, REVERSED, NOT_SIGNIFICANT = VERDICTS = "shown", "reversed", "not significant"
_DRAWS = 1 << 22  # of the bootstrap held in memory at a time


class TestResults(NamedTuple):
    """Two paired tests of a mean (or median) difference of zero. NaN where there is nothing to test."""

    n: int
    mean: float
    sd: float  # of the differences, with n - 1
    t: float  # Student's paired t
    t_p: float
    wilcoxon: float  # the smaller of the two signed-rank sums
    wilcoxon_p: float
    zeros: int  # differences that the signed-rank test dropped (Wilcoxon 1945)


class Paired(NamedTuple):
    tests: TestResults
    interval: tuple[float, float]  # 95%, percentile bootstrap of the mean (Efron & Tibshirani 1993)
    effect: float  # Cohen's d_z (1988): mean / sd
    smallest: float  # the difference that so many would have shown with 80% power


class Seeds(NamedTuple):
    """A few means, one a seed. Of one seed all but `mean` is NaN: it cannot say."""

    n: int
    mean: float
    sd: float
    interval: tuple[float, float]  # 95%, of t
    t: float
    p: float
    smallest: float


def tests(differences: np.ndarray) -> TestResults:
    """The paired t-test and the Wilcoxon signed-rank test of d [n]."""
    d = np.asarray(differences, np.float64)
    mean = float(d.mean()) if len(d) else math.nan
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    t, t_p = _student(d)
    kept = d[d != 0]
    # Zeros aside: "wilcox" drops them, and none left is no evidence rather than an error.
    rank, rank_p = stats.wilcoxon(kept, zero_method="wilcox") if len(kept) else (0.0, 1.0)
    return TestResults(len(d), mean, sd, t, t_p, float(rank), float(rank_p), len(d) - len(kept))


def _student(d: np.ndarray) -> tuple[float, float]:
    """Return Student's t of differences d [n] and its p; equal differences are certain, or none if zero."""
    if len(d) < 2:
        return math.nan, math.nan
    if np.ptp(d) == 0:  # of which scipy says NaN
        return (math.copysign(math.inf, d[0]), 0.0) if d[0] else (0.0, 1.0)
    found = stats.ttest_1samp(d, 0.0)
    return float(found.statistic), float(found.pvalue)


def smallest_difference(sd: float, n: int) -> float:
    """The mean difference that a two-sided t-test of n pairs at 5% finds four times in five.

    That is sd / sqrt(n) times the noncentrality of Student's t at which its power is 80%; for many
    pairs (1.960 + 0.842) sd / sqrt(n).
    """
    if n < 2:
        return math.nan
    edge = stats.t.ppf(1 - LEVEL / 2, n - 1)

    def short(centre: float) -> float:  # the chance of finding it with the wrong sign is next to nothing
        return float(stats.nct.sf(edge, n - 1, centre)) - POWER

    return optimize.brentq(short, 1, 2 * edge) * sd / math.sqrt(n)


def bootstrap(differences: np.ndarray, resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean of d [n]; the same seed, the same interval."""
    # scipy.stats.bootstrap gives the same interval, but refuses a single difference, and for 20,000 takes 1.4
    # times the time and twice the memory (scipy 1.18, 2,000 resamples), since its indices are int64.
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
    """Everything that is said of d [n], one a user."""
    found = tests(differences)
    effect = found.mean / found.sd if found.sd > 0 else math.nan
    interval = bootstrap(differences, seed=seed)
    return Paired(found, interval, effect, smallest_difference(found.sd, found.n))


def over_seeds(differences: np.ndarray) -> Seeds:
    """What is said of d [n], one a seed: Student's t over so few; of one seed, nothing but its mean."""
    d = np.asarray(differences, np.float64)
    n, mean = len(d), float(d.mean()) if len(d) else math.nan
    if n < 2:
        return Seeds(n, mean, math.nan, (math.nan, math.nan), math.nan, math.nan, math.nan)
    sd = float(d.std(ddof=1))
    t, p = _student(d)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Seeds(n, mean, sd, (mean - half, mean + half), t, p, smallest_difference(sd, n))


# ---------------------------------------------------------------- verdicts


def _side(mean: float, p: float) -> int:
    """1 or -1 where significantly above or below zero, else 0."""
    return int(np.sign(mean)) if p < LEVEL else 0


def verdict(users: TestResults, seeds: Seeds) -> str:
    """One of VERDICTS: *shown* where the paired t-tests over users and over seeds both find a difference
    above zero, *reversed* where both find one below, else *not significant*. One seed never shows."""
    sides = (_side(users.mean, users.t_p), _side(seeds.mean, seeds.p))
    return {(1, 1): SHOWN, (-1, -1): REVERSED}.get(sides, NOT_SIGNIFICANT)


def combine_verdicts(verdicts: Iterable[str]) -> str:
    """The verdict of a claim made of several: shown where each is, reversed where one is."""
    found = set(verdicts)
    if REVERSED in found:
        return REVERSED
    return SHOWN if found == {SHOWN} else NOT_SIGNIFICANT
