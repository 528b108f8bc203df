"""Early labels of targets as predictions of later ones: what a model of delayed feedback has to exceed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.row_format import Layout, label_is_known
from jaxrec.evaluation.labels.bootstrap import REPLICATES, Resampled, resample
from jaxrec.evaluation.labels.estimators import Auc
from jaxrec.evaluation.labels.predictions import (
    AUC,
    REGRESSION_LOSS,
    HeadPredictions,
    as_positive,
)

BASELINE = "observed "  # start of the name of a baseline that is an early label
GAIN = "gain"  # AUC of the model minus that of the early label


class Gain(NamedTuple):
    """AUC of an early label as the prediction of a later one, and what a model adds to it.

    Attributes:
        observed: AUC of the early label.
        gain: AUC of the model minus that of the early label, on the same resamples.
    """

    observed: Resampled
    gain: Resampled


def observed_labels(config: Config, rows: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """Return label -> values [Q] float32 at the first target, for the labels that the model reads.

    Args:
        config: Config of the run; only offline runs read labels.
        rows: [Q] rows of a split.
        layout: Layout of the rows.

    Returns:
        Values are 0 where unknown, as for the model.
    """
    out = {}
    for name in (feature.name for feature in config.observed_labels):
        i = layout.labels.index(name)
        known = label_is_known(rows["label_known"][:, 0], i)
        out[name] = np.where(known, rows["label"][:, 0, i], 0).astype(np.float32)
    return out


def gain_over(
    head: HeadPredictions, observed: np.ndarray, user: np.ndarray, replicates: int = REPLICATES
) -> Gain:
    """Return the AUC of an early label, and that of a head minus it, by bootstrap over users.

    Args:
        head: Predictions of the later label.
        observed: [Q] values of the early label.
        user: [Q] user of each query.
        replicates: Number of resamples.
    """
    everybody, index = np.unique(user, return_inverse=True)
    label, at = as_positive(head.label[head.known]), index[head.known]
    scores = {"model": np.nan_to_num(head.prediction), "observed": observed}
    estimators = {name: Auc(score[head.known], label, at) for name, score in scores.items()}
    model, early = resample(estimators, len(everybody), len(at), replicates).values()
    return Gain(early, Resampled(model.value - early.value, model.replicates - early.replicates))


def mean_gain(gains: Sequence[Gain]) -> Gain:
    """Return the mean over runs on the same users, resample by resample."""
    return Gain(
        *(
            Resampled(
                float(np.mean([part.value for part in parts])),
                np.mean([part.replicates for part in parts], axis=0),
            )
            for parts in zip(*gains, strict=True)
        )
    )


def gain_to_json(gain: Gain) -> dict[str, dict[str, Any]]:
    """Return `auc` of the early label and the `gain`, each a `value` and its `interval`."""
    named = {AUC: gain.observed, GAIN: gain.gain}
    return {name: {"value": part.value, "interval": part.interval} for name, part in named.items()}


def observed_metrics(
    observed: Mapping[str, np.ndarray], heads: Mapping[str, HeadPredictions], user: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return baseline -> head -> `gain_to_json`, for each early label and each head that has an AUC.

    Args:
        observed: From `observed_labels`.
        heads: Predictions by head.
        user: [Q] user of each query.
    """
    ordering = {name: head for name, head in heads.items() if head.loss != REGRESSION_LOSS}
    return {
        BASELINE + label: {
            name: gain_to_json(gain_over(head, values, user)) for name, head in ordering.items()
        }
        for label, values in observed.items()
        if ordering
    }
