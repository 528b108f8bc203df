"""Metrics of predicted labels as functions of the users' counts: AUC, log loss, calibration, squared error.

An estimator is called with counts [R, U], how often each of U users is part of each of R samples, and
returns one value per sample, [R]. Counts of 1 give the metric of the queries themselves, and the counts of a
bootstrap resample give the metric of that resample: all queries of a user enter or leave together.
"""

from collections.abc import Callable

import numpy as np

from jaxrec.evaluation.details.calibration import bin_of

Estimator = Callable[[np.ndarray], np.ndarray]  # counts [R, U] -> values [R]


def auc(score: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the probability that a positive row has a higher score than a negative one; ties count half.

    Args:
        score: [G] scores.
        positives: [G] number, or weight, of the positive rows with each score.
        negatives: [G] number, or weight, of the negative rows.

    Returns:
        The AUC in [0, 1]; NaN without positive or negative rows.
    """
    values, group = np.unique(score, return_inverse=True)
    above = np.bincount(group, positives, len(values))
    below = np.bincount(group, negatives, len(values))
    pairs = above.sum() * below.sum()
    if not pairs:
        return np.nan
    return float((above * (np.cumsum(below) - below / 2)).sum() / pairs)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


class Auc:
    """AUC over all pairs of a positive and a negative query; ties count half.

    A label y in [0, 1] counts y as a positive and 1 - y as a negative query. One sort serves all samples: a
    sample's AUC comes from cumulative counts in the order of the scores.

    Args:
        score: [N] predictions.
        label: [N] labels in [0, 1].
        user: [N] user of each query, below U.
    """

    def __init__(self, score: np.ndarray, label: np.ndarray, user: np.ndarray) -> None:
        order = np.argsort(score, kind="stable")
        score, label, user = score[order], label[order].astype(np.float64), user[order]
        positive, negative = label > 0, label < 1
        below = score[negative]
        self._above = user[positive], label[positive]
        self._below = user[negative], 1.0 - label[negative]
        self._first = np.searchsorted(below, score[positive], side="left")
        self._last = np.searchsorted(below, score[positive], side="right")

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        (user_P, weight_P), (user_N, weight_N) = self._above, self._below
        wins, pairs = np.zeros(len(counts)), np.zeros(len(counts))
        total = np.zeros(len(user_N) + 1)
        for r, count in enumerate(counts):  # a cumulative sum along the second axis takes four times as long
            np.cumsum(np.take(count, user_N) * weight_N, out=total[1:])
            above = np.take(count, user_P) * weight_P
            # Negatives below a positive, and half of those with its score.
            wins[r] = above @ (np.take(total, self._first) + np.take(total, self._last)) / 2
            pairs[r] = above.sum() * total[-1]
        return _divide(wins, pairs)


class Ratio:
    """Ratio of two sums over queries, such as a mean.

    Args:
        numerator: [U] sums of the users.
        denominator: [U] sums of the users, such as numbers of queries.
    """

    def __init__(self, numerator: np.ndarray, denominator: np.ndarray) -> None:
        self._sums = np.stack([numerator, denominator], axis=1).astype(np.float64)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        numerator, denominator = (counts @ self._sums).T
        return _divide(numerator, denominator)


def grouped_auc(score: np.ndarray, label: np.ndarray, user: np.ndarray, users: int) -> Ratio:
    """Return the estimator of GAUC, the mean AUC within users, weighted by their numbers of queries.

    Users of one class alone have no AUC and are left out. Zhu et al., Optimized cost per click in Taobao
    display advertising, KDD 2017, introduce it with impressions as weights; Zhou et al., Deep interest
    network, KDD 2018, Eq. 7.

    Args:
        score: [N] predictions.
        label: [N] labels in [0, 1].
        user: [N] user of each query.
        users: Number of users U.
    """
    label = label.astype(np.float64)
    order = np.lexsort((score, user))
    score, label, user = score[order], label[order], user[order]
    start_of_user = np.r_[True, user[1:] != user[:-1]][: len(user)]
    start_of_tie = start_of_user | np.r_[True, score[1:] != score[:-1]][: len(user)]
    tie = np.cumsum(start_of_tie) - 1
    ties = int(tie[-1]) + 1 if len(tie) else 0
    user_of_tie = user[start_of_tie]
    above, below = np.bincount(tie, label, ties), np.bincount(tie, 1.0 - label, ties)
    positives, negatives = (np.bincount(user, weight, users) for weight in (label, 1.0 - label))
    earlier_users = np.cumsum(negatives) - negatives
    lower = np.cumsum(below) - below / 2 - earlier_users[user_of_tie]
    area = _divide(np.bincount(user_of_tie, above * lower, users), positives * negatives)
    queries = np.where(np.isnan(area), 0, np.bincount(user, minlength=users))
    return Ratio(np.where(np.isnan(area), 0.0, area) * queries, queries)


def log_loss(logit: np.ndarray, label: np.ndarray, user: np.ndarray, users: int) -> Ratio:
    """Return the estimator of the mean negative log likelihood of labels in [0, 1], in nats.

    Args:
        logit: [N] logits of the label.
        label: [N] labels in [0, 1].
        user: [N] user of each query.
        users: Number of users U.
    """
    logit = logit.astype(np.float64)
    loss = np.logaddexp(0.0, logit) - label * logit
    return Ratio(np.bincount(user, loss, users), np.bincount(user, minlength=users))


def probability(logit: np.ndarray) -> np.ndarray:
    """Return the sigmoid [...] of logits [...], in float64."""
    return 1.0 / (1.0 + np.exp(-np.clip(logit.astype(np.float64), -60.0, 60.0)))


class CalibrationError:
    """Expected calibration error: mean |predicted - observed| over ten bins, weighted by their queries.

    The bins are those of all queries (`details.calibration.bin_of`). Chance alone makes the error positive,
    so an interval lies above 0 even where the predictions are calibrated.

    Args:
        predicted: [N] predictions in [0, 1].
        label: [N] labels in [0, 1].
        user: [N] user of each query.
        users: Number of users U.
    """

    def __init__(self, predicted: np.ndarray, label: np.ndarray, user: np.ndarray, users: int) -> None:
        group, bins = bin_of(predicted)
        cell = user * bins + group
        self._gap, self._count = (
            np.bincount(cell, weights, users * bins).reshape(users, bins)
            for weights in (predicted.astype(np.float64) - label, np.ones(len(user)))
        )

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        return _divide(np.abs(counts @ self._gap).sum(axis=1), (counts @ self._count).sum(axis=1))


class Regression:
    """Mean squared error, R^2 and correlation of predicted values, from the users' moments.

    Args:
        predicted: [N] predictions.
        value: [N] observed values.
        user: [N] user of each query.
        users: Number of users U.
    """

    def __init__(self, predicted: np.ndarray, value: np.ndarray, user: np.ndarray, users: int) -> None:
        p, y = predicted.astype(np.float64), value.astype(np.float64)
        error = (p - y) ** 2
        if len(p):  # about their means, so that no digits cancel
            p, y = p - p.mean(), y - y.mean()
        moments = (np.ones(len(p)), error, p, y, p * p, y * y, p * y)
        self._moments = np.stack([np.bincount(user, weight, users) for weight in moments], axis=1)

    def _means(self, counts: np.ndarray) -> np.ndarray:
        """Return the means [6, R] of the moments."""
        sums = (counts @ self._moments).T
        return _divide(sums[1:], np.broadcast_to(sums[0], sums[1:].shape))

    def mean_squared_error(self, counts: np.ndarray) -> np.ndarray:
        """Return the mean squared errors [R]."""
        return self._means(counts)[0]

    def r_squared(self, counts: np.ndarray) -> np.ndarray:
        """Return 1 - squared error / variance of the values, [R]; NaN for equal values."""
        error, _, y, _, yy, _ = self._means(counts)
        return 1.0 - _divide(error, np.maximum(yy - y * y, 0.0))

    def correlation(self, counts: np.ndarray) -> np.ndarray:
        """Return Pearson's correlations [R]; NaN for equal values or equal predictions."""
        _, p, y, pp, yy, py = self._means(counts)
        spread = np.sqrt(np.maximum(pp - p * p, 0.0) * np.maximum(yy - y * y, 0.0))
        return _divide(py - p * y, spread)
