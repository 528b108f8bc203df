"""Predictions of the heads of labels for the queries of a split, without lists or rankings.

Rows of exposures have no lists, the model of an offline run must not rank titles, and a model of sequences
may have no loss of titles: labels are what all are measured by.
"""

from typing import Any

import numpy as np

from jaxrec.core.batch import TitleTable
from jaxrec.data.storage.dataset import Rows
from jaxrec.evaluation.labels.of_states import StatePredictions, StateScorer
from jaxrec.evaluation.labels.predictions import (
    AUC,
    REGRESSION_LOSS,
    HeadPredictions,
    head_estimators,
    head_predictions,
)
from jaxrec.evaluation.scorers import ListScorer, ListScores
from jaxrec.tasks.base import Task

CORRELATION = "correlation"


def label_scorer(task: Task, table: TitleTable, with_loss: bool) -> ListScorer | StateScorer:
    """Return a scorer of the heads that predict a label, which are on states if the rows are sequences.

    Args:
        task: The task.
        table: Title features on the devices.
        with_loss: True to compute the sums of the validation loss.
    """
    if task.layout.rows == "next_item":
        return StateScorer(task, table)
    return ListScorer(task, table, with_loss, next_k=1, other_heads=task.label_heads)


def predictions(task: Task, scores: ListScores | StatePredictions) -> dict[str, HeadPredictions]:
    """Return the predictions of each head from the result of `label_scorer`."""
    if isinstance(scores, StatePredictions):
        return scores.labels
    return {
        head: head_predictions(task.head_loss(head), scores.by_head[head], scores.outcomes[head])
        for head in task.label_heads
    }


def predict_labels(task: Task, params: Any, table: TitleTable, rows: Rows) -> dict[str, HeadPredictions]:
    """Return the predictions of each head for all rows.

    Args:
        task: The task.
        params: Parameters, on the devices.
        table: Title features on the devices.
        rows: Rows of a split.
    """
    return predictions(task, label_scorer(task, table, with_loss=False)(params, rows))


def mean_metrics_of_labels(heads: dict[str, HeadPredictions], user: np.ndarray) -> dict[str, float]:
    """Return the metric of each head and their mean, which chooses the best checkpoint.

    Args:
        heads: Predictions by head.
        user: [Q] user of each query.

    Returns:
        "<head>/auc", or "<head>/correlation" of a head of "mse", where it is defined; and "auc", the mean of
        the AUCs, or of the correlations if no head has an AUC. It is NaN without any.
    """
    everybody, index = np.unique(user, return_inverse=True)
    count, values = len(everybody), dict[str, float]()
    for name, head in heads.items():
        prediction, label, at = head.prediction[head.known], head.label[head.known], index[head.known]
        prediction = np.nan_to_num(prediction)
        metric = CORRELATION if head.loss == REGRESSION_LOSS else AUC
        estimators = head_estimators(head.loss, prediction, label, at, count)
        values[f"{name}/{metric}"] = float(estimators[metric](np.ones((1, count)))[0])
    defined = {name: value for name, value in values.items() if not np.isnan(value)}
    areas = [value for name, value in defined.items() if name.endswith(AUC)] or [*defined.values()]
    return defined | {AUC: float(np.mean(areas)) if areas else float("nan")}
