"""Predictions of labels and rewards by the heads of a task, and their metrics with intervals."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.evaluation.details.calibration import calibration_bins
from jaxrec.evaluation.labels import estimators
from jaxrec.evaluation.labels.bootstrap import REPLICATES, resample
from jaxrec.evaluation.labels.estimators import Estimator

AUC, GAUC = "auc", "gauc"
ORDERS = (AUC, GAUC)  # metrics of the order of predictions, which two runs are compared by
PREDICTION, LABEL, KNOWN = "prediction/", "label/", "known/"  # columns of the table of queries, by head
OBSERVED = "observed/"  # columns of the table of queries, by label
REGRESSION_LOSS = "mse"  # loss of heads that predict a value; the predictions of the others are an order


class HeadPredictions(NamedTuple):
    """Predictions of a head for the first target of each of Q queries.

    Attributes:
        loss: "bce": the predictions are logits; "mse": values; "hinge" or "softmax": scores.
        prediction: [Q] float32.
        label: [Q] float32 labels; 0 where unknown.
        known: [Q] bool, True where the label is known.
    """

    loss: str
    prediction: np.ndarray
    label: np.ndarray
    known: np.ndarray


def head_predictions(
    loss: str, scores: np.ndarray, outcome: tuple[np.ndarray, np.ndarray]
) -> HeadPredictions:
    """Return the predictions of a head from its scores of the frozen lists.

    Args:
        loss: Loss of the head.
        scores: [Q, lists, K, 1 + negatives], the target first.
        outcome: Labels [Q] of the first targets, and the mask [Q] of known labels.
    """
    label, known = outcome
    known = known.astype(bool)
    label = np.where(known, label, 0.0).astype(np.float32)
    return HeadPredictions(loss, scores[:, 0, 0, 0].astype(np.float32), label, known)


def as_positive(label: np.ndarray) -> np.ndarray:
    """Return labels as shares of a positive in [0, 1]: a count above 1 is 1, a negative sign is 0."""
    return np.clip(label, 0.0, 1.0)


def order_estimators(
    prediction: np.ndarray, label: np.ndarray, user: np.ndarray, users: int
) -> dict[str, Estimator]:
    """Return AUC and GAUC of the predictions of N known labels.

    Args:
        prediction: [N].
        label: [N] labels.
        user: [N] user of each, below `users`.
        users: Number of users.
    """
    positive = as_positive(label)
    return {
        AUC: estimators.Auc(prediction, positive, user),
        GAUC: estimators.grouped_auc(prediction, positive, user, users),
    }


def label_metrics(
    heads: Mapping[str, HeadPredictions], user: np.ndarray, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Return the metrics of each head, with 95% intervals by bootstrap over users.

    Heads of loss "bce" have `auc`, `gauc` (the mean within users), `log_loss` in nats, `calibration_error`
    and `calibration`, ten bins as `calibration_bins` returns them; heads of "hinge" and "softmax" have `auc`
    and `gauc`; heads of "mse" have `mse`, `r2` and `correlation`.

    Args:
        heads: Predictions by head.
        user: [Q] user of each query.
        replicates: Number of resamples.

    Returns:
        Head -> `loss`, `queries` and `users` with a known label, `mean` of the labels, and the metrics: each
        a `value` and its `interval`.
    """
    everybody, index = np.unique(user, return_inverse=True)
    out = {}
    for name, head in heads.items():
        at, label, prediction = index[head.known], head.label[head.known], head.prediction[head.known]
        broken = bool(np.isnan(prediction).any())
        chosen = head_estimators(head.loss, np.nan_to_num(prediction), label, at, len(everybody))
        if broken:
            chosen = dict.fromkeys(chosen, _undefined)
        out[name] = {
            "loss": head.loss,
            "queries": len(at),
            "users": len(np.unique(at)),
            "mean": float(label.mean(dtype=np.float64)) if len(at) else None,
        } | {
            metric: {"value": resampled.value, "interval": resampled.interval}
            for metric, resampled in resample(chosen, len(everybody), len(at), replicates).items()
        }
        if head.loss == "bce" and len(at) and not broken:
            predicted = estimators.probability(prediction)
            out[name]["calibration"] = calibration_bins(predicted, as_positive(label), at)
    return out


def _undefined(counts: np.ndarray) -> np.ndarray:
    """Return NaN for each sample: a metric of predictions that are no numbers."""
    return np.full(len(counts), np.nan)


def head_estimators(
    loss: str, prediction: np.ndarray, label: np.ndarray, user: np.ndarray, users: int
) -> dict[str, Estimator]:
    """Return the estimators of a head by name; arguments are those of `order_estimators`."""
    if loss == REGRESSION_LOSS:
        moments = estimators.Regression(prediction, label, user, users)
        return {
            "mse": moments.mean_squared_error, "r2": moments.r_squared, "correlation": moments.correlation
        }  # fmt: skip
    out = order_estimators(prediction, label, user, users)
    if loss == "bce":
        positive = as_positive(label)
        out["log_loss"] = estimators.log_loss(prediction, positive, user, users)
        out["calibration_error"] = estimators.CalibrationError(
            estimators.probability(prediction), positive, user, users
        )
    return out
