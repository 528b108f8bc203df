"""Area under the ROC curve (AUC) of single features, which reveals columns that copy a label."""

import numpy as np

from jaxrec.core.hashing import mix
from jaxrec.evaluation.labels.estimators import auc

LEAK = 0.95  # AUC from which a single feature probably holds what happened after the request
_PRIOR = 10.0  # rows at the overall rate that are added to each category


def fitting_half(user: np.ndarray) -> np.ndarray:
    """Return a mask [N] of one half of the users, by a hash of the user's index."""
    return mix(user, 1) % np.uint64(2) == 0


def category_auc(ids: np.ndarray, positive: np.ndarray, fit: np.ndarray) -> float:
    """Return the AUC of the rate of each category, which is fitted on other users.

    The rate is (positives + 10 r) / (rows + 10), where r is the overall rate. The score of a list is the mean
    rate of its categories.

    Args:
        ids: [N, columns] ids of categories; further columns of a list are 0 where it is shorter.
        positive: [N] bool.
        fit: [N] bool: rows that the rates are fitted on. The AUC is that of the others.
    """
    if not fit.any():
        return np.nan
    used = np.ones(ids.shape, bool) if ids.shape[1] == 1 else ids > 0
    size = int(ids.max(initial=0)) + 1
    row, _ = np.nonzero(used & fit[:, None])
    fitted = ids[used & fit[:, None]]
    overall = positive[fit].mean()
    rate = np.bincount(fitted, positive[row], size) + _PRIOR * overall
    rate /= np.bincount(fitted, minlength=size) + _PRIOR
    positive = positive[~fit]
    if ids.shape[1] == 1:  # counts by category instead of a sort of the rows
        one = ids[~fit, 0]
        count, hits = np.bincount(one, minlength=size), np.bincount(one, positive, size)
        return auc(rate, hits, count - hits)
    present = used[~fit]
    sums, number = np.where(present, rate[ids[~fit]], 0.0).sum(axis=1), present.sum(axis=1)
    return auc(np.where(number > 0, sums / np.maximum(number, 1), overall), positive, ~positive)


def number_auc(value: np.ndarray, positive: np.ndarray) -> float:
    """Return the AUC of a number in the better of its two directions.

    Args:
        value: [N] numbers.
        positive: [N] bool.
    """
    area = auc(value, positive, ~positive)
    return max(area, 1 - area)
