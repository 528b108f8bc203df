"""Share of a value's variance that means by user, by title and by both explain on other rows."""

from typing import NamedTuple

import numpy as np

from jaxrec.core.hashing import mix

FOLDS = 5
_PASSES = 5  # alternating fits of titles and users


class Explained(NamedTuple):
    """R^2 of predictions of a value; NaN for a value without variance.

    Attributes:
        user: By the mean of the user.
        title: By the mean of the title.
        both: By the sum of an effect of the user and one of the title.
    """

    user: float
    title: float
    both: float


class _Factor(NamedTuple):
    """Groups of N rows.

    Attributes:
        group: [N] group of each row, from 0.
        groups: Number of groups.
    """

    group: np.ndarray
    groups: int

    def of(self, rows: np.ndarray) -> "_Factor":
        return _Factor(self.group[rows], self.groups)


def explained_variance(user: np.ndarray, title: np.ndarray, value: np.ndarray) -> Explained:
    """Return R^2 = 1 - sum((value - prediction)^2) / sum((value - mean)^2) of three predictions.

    A hash of the row's index draws one of five folds, so that rows of a user are in several. Each row is
    predicted from the other four folds. Means are shrunken towards the overall mean by the ratio of the
    variance within groups to that between groups, as in a random-effects model; a group without rows in the
    other folds has the overall mean. The effects of "both" are fitted in turn, titles first.

    Args:
        user: [N] users.
        title: [N] titles.
        value: [N] values.
    """
    factors = [_Factor(*_numbered(column)) for column in (user, title)]
    fold = mix(np.arange(len(value))) % np.uint64(FOLDS)
    errors, total = np.zeros(3), 0.0
    for i in range(FOLDS):
        fit = fold != i
        if not fit.any():
            continue
        fitted, tested = value[fit].astype(np.float64), value[~fit].astype(np.float64)
        mean = fitted.mean()
        of_fit = [factor.of(fit) for factor in factors]
        of_tested = [factor.group[~fit] for factor in factors]
        residual = tested - mean
        total += float((residual**2).sum())
        for j, columns in enumerate(((0,), (1,), (1, 0))):
            effects = _fit([of_fit[c] for c in columns], fitted - mean)
            predicted = sum(effect[of_tested[c]] for c, effect in zip(columns, effects, strict=True))
            errors[j] += ((residual - predicted) ** 2).sum()
    if not total > 0:
        return Explained(np.nan, np.nan, np.nan)
    return Explained(*(1 - errors / total).tolist())


def _numbered(column: np.ndarray) -> tuple[np.ndarray, int]:
    values, group = np.unique(column, return_inverse=True)
    return group, len(values)


def _fit(factors: list[_Factor], value: np.ndarray) -> list[np.ndarray]:
    """Return an effect [groups] for each factor, whose sum predicts centred values [N]."""
    effects = [np.zeros(factor.groups) for factor in factors]
    for _ in range(_PASSES if len(factors) > 1 else 1):
        for i, factor in enumerate(factors):
            others = [e[f.group] for j, (e, f) in enumerate(zip(effects, factors, strict=True)) if j != i]
            effects[i] = _shrunken_means(factor, value - sum(others))
    return effects


def _shrunken_means(factor: _Factor, value: np.ndarray) -> np.ndarray:
    """Return the means of the groups of centred values, shrunken towards 0; 0 for a group without rows.

    The variances within and between groups are estimated by the method of moments.
    """
    sizes = np.bincount(factor.group, minlength=factor.groups)
    sums = np.bincount(factor.group, value, factor.groups)
    means = sums / np.maximum(sizes, 1)
    rows, groups = len(value), int((sizes > 0).sum())
    if groups in (1, rows):  # a variance is not estimable
        return np.zeros(factor.groups)
    within = ((value - means[factor.group]) ** 2).sum() / (rows - groups)
    spread = (sizes * (means - value.mean()) ** 2).sum() - (groups - 1) * within
    between = spread / (rows - (sizes.astype(np.float64) ** 2).sum() / rows)
    if between <= 0:
        return np.zeros(factor.groups)
    return sums / np.maximum(sizes + within / between, 1e-12)
