"""Calibration: predicted probabilities of a click, and predicted completions, against what happened."""

from typing import Any

import numpy as np

from jaxrec.core.ids import LISTS, SERVED
from jaxrec.evaluation.baselines import candidates, listed
from jaxrec.evaluation.details.grouped_means import GroupedMeans

SAMPLE_QUERIES = 8_192  # queries whose candidates are compared: the first, which are a random sample of users
_BINS = 10


def bin_of(predicted: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the bin [N] of each prediction, and the number of bins: ten of about equal size.

    Equal predictions share a bin, so there may be fewer bins. The bins are in the order of the predictions.
    """
    predicted = predicted.astype(np.float64)
    if not len(predicted):
        return np.zeros(0, np.int64), 0
    edges = np.unique(np.quantile(predicted, np.arange(1, _BINS) / _BINS))
    bins, group = np.unique(np.searchsorted(edges, predicted, side="right"), return_inverse=True)
    return group, len(bins)


def calibration_bins(predicted: np.ndarray, observed: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    """Compare predictions with observations in bins of about equal size.

    Args:
        predicted: [N] predictions in [0, 1].
        observed: [N] values in [0, 1].
        user: [N] user of each value.

    Returns:
        A dictionary of JSON values: for each bin, in ascending order, the means `predicted` and `observed`,
        the half of a 95% interval `half` of the latter, and `count`; `error` is the mean of |predicted -
        observed| over the bins, weighted by `count`.
    """
    predicted = predicted.astype(np.float64)
    means = GroupedMeans(user, *bin_of(predicted))
    mean_predicted, (mean_observed, half) = means.of(predicted).mean, means.of(observed.astype(np.float64))
    gap = np.abs(mean_predicted - mean_observed)
    return {
        "predicted": mean_predicted.tolist(),
        "observed": mean_observed.tolist(),
        "half": half.tolist(),
        "count": means.queries.tolist(),
        "error": float((gap * means.queries).sum() / means.queries.sum()),
    }


def calibration(by_head: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Return the calibration of the click head on each list, and of the completion head.

    A click is the target among the candidates of a list. The completion is that of the first target.

    Args:
        by_head: Head -> scores [N, lists, K, 1 + negatives], the target first: logits of "ctr", values in
            (0, 1) of "completion".
        rows: The N rows of the scores.

    Returns:
        `click`: list -> bins; `completion`: bins. Each is there if its head is, and there are rows.
    """
    out: dict[str, Any] = {}
    if not len(rows):
        return out
    if "ctr" in by_head:
        out["click"] = {}
        for l, name in enumerate(LISTS[: by_head["ctr"].shape[1]]):
            logits = by_head["ctr"][:, l, 0].astype(np.float64)
            present = np.ones(logits.shape, bool)
            if name == SERVED:
                present = (candidates(rows, name)[:, 0] > 0) & listed(rows, name)[:, :1]
            if not present.any():
                continue
            clicked = np.zeros(logits.shape)
            clicked[:, 0] = 1.0
            user = np.broadcast_to(rows["user"][:, None], logits.shape)
            probability = 1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0)))
            out["click"][name] = calibration_bins(probability[present], clicked[present], user[present])
    if "completion" in by_head:
        completion = rows["target_completion"][:, 0]
        known = ~np.isnan(completion)
        if known.any():
            predicted = by_head["completion"][:, 0, 0, 0]
            out["completion"] = calibration_bins(predicted[known], completion[known], rows["user"][known])
    return out
