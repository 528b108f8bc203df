"""Bootstrap over users: values of estimators on resamples, and percentile intervals."""

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from jaxrec.evaluation.labels.estimators import Estimator
from jaxrec.evaluation.statistics import LEVEL

REPLICATES = 1_000
_VALUES = 2**22  # counts of queries in memory at a time, 32 MiB of float64
K = TypeVar("K", bound=Hashable)


class Resampled(NamedTuple):
    """Value of an estimator, and its values on the resamples.

    Attributes:
        value: Value of all queries; NaN where it is not defined.
        replicates: [R] values of the resamples.
    """

    value: float
    replicates: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """95% percentile interval over the resamples where the estimator is defined; NaN without one."""
        defined = self.replicates[~np.isnan(self.replicates)]
        if not len(defined):
            return math.nan, math.nan
        low, high = np.quantile(defined, [LEVEL / 2, 1 - LEVEL / 2])
        return float(low), float(high)


def counts_of_users(users: int, at_once: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each user is drawn in each resample, [at most `at_once`, users] float64.

    A resample draws as many users as there are, with replacement. The counts depend on the seed and the
    number of users alone, so two runs on the same users are compared on the same resamples.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        drawn = rng.integers(0, users, (size, users))
        drawn += np.arange(size)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)


def resample(
    estimators: Mapping[K, Estimator], users: int, queries: int, replicates: int = REPLICATES, seed: int = 0
) -> dict[K, Resampled]:
    """Return the value of each estimator and its values on bootstrap resamples of the users.

    Args:
        estimators: Estimators by name, of the same users.
        users: Number of users.
        queries: Number of queries of an estimator, which bounds the resamples in memory at a time.
        replicates: Number of resamples.
        seed: Seed of the resamples.
    """
    if not users:
        return {name: Resampled(math.nan, np.full(replicates, np.nan)) for name in estimators}
    at_once = max(_VALUES // max(users, queries), 1)
    parts: dict[K, list[np.ndarray]] = {name: [] for name in estimators}
    for counts in counts_of_users(users, at_once, replicates, seed):
        for name, estimator in estimators.items():
            parts[name].append(estimator(counts))
    everybody = np.ones((1, users))
    return {
        name: Resampled(float(estimator(everybody)[0]), np.concatenate(parts[name]))
        for name, estimator in estimators.items()
    }
