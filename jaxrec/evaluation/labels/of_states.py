"""Predictions of heads on the states of sequences for the queries of a split: labels, and categories.

A state does not read the next title: a label is predicted before the title is known.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.data.storage.dataset import Rows
from jaxrec.evaluation.labels.bootstrap import REPLICATES, resample
from jaxrec.evaluation.labels.estimators import Ratio
from jaxrec.evaluation.labels.predictions import HeadPredictions
from jaxrec.evaluation.scorers import QueryRunner, add_batches, in_order
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.tasks.base import Task
from jaxrec.tasks.outputs import Sums

CATEGORIES = "categories"  # key of the results of heads of categories


class CategoryPredictions(NamedTuple):
    """Predictions of a head of categories for Q queries.

    Attributes:
        log_p: [Q, O] log probability of each category, in nats.
        category: [Q, M] categories of the next title, 0 for none.
        known: [Q] bool, True where the next title has a known category.
    """

    log_p: np.ndarray
    category: np.ndarray
    known: np.ndarray


class StatePredictions(NamedTuple):
    """Predictions of all heads on states for Q queries.

    Attributes:
        labels: Head of a label or a reward -> predictions.
        categories: Head of categories -> predictions.
        sums: Metric -> (sum, count) of the validation loss.
    """

    labels: dict[str, HeadPredictions]
    categories: dict[str, CategoryPredictions]
    sums: dict[str, tuple[np.ndarray, np.ndarray]]


class StateScorer(QueryRunner):
    """Scorer of the heads on the states of queries.

    Args:
        task: A task with `label_heads` or `category_heads`, on sequences.
        table: Title features on the devices.
    """

    def __init__(self, task: Task, table: TitleTable) -> None:
        def step(params: Any, host: HostBatch, table: TitleTable) -> tuple[Any, Sums]:
            scores = task.score_states(params, host, table)
            local = scores.labels, scores.categories
            return jax.lax.all_gather(local, AXIS, tiled=True), jax.lax.psum(scores.sums, AXIS)

        queries = max(task.config.evaluate.batch_size // jax.device_count(), 1)
        super().__init__(task, table, step, queries, lambda params: params)

    def __call__(self, params: Any, rows: Rows) -> StatePredictions:
        """Return the predictions for all rows, in order."""
        outputs, sums, row_indices = [], [], []
        for (batch_outputs, batch_sums), row_index in self._run(as_global_arrays(params), rows):
            outputs.append(jax.device_get(batch_outputs))
            sums.append(jax.device_get(batch_sums))
            row_indices.append(row_index)
        labels, categories = jax.tree.map(lambda *x: in_order(x, row_indices, rows.rows), *outputs)
        return StatePredictions(
            {name: self._of_label(name, *values) for name, values in labels.items()},
            {name: CategoryPredictions(*values) for name, values in categories.items()},
            add_batches(sums),
        )

    def _of_label(
        self, name: str, prediction: np.ndarray, label: np.ndarray, known: np.ndarray
    ) -> HeadPredictions:
        known = known.astype(bool)
        label = np.where(known, label, 0.0).astype(np.float32)
        return HeadPredictions(self._task.head_loss(name), prediction.astype(np.float32), label, known)


def category_metrics(
    heads: Mapping[str, CategoryPredictions], user: np.ndarray, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Return the metrics of each head of categories, with 95% intervals by bootstrap over users.

    Args:
        heads: Predictions by head.
        user: [Q] user of each query.
        replicates: Number of resamples.

    Returns:
        Head -> `queries` and `users` with a known category, and the metrics, each a `value` and its
        `interval`: `accuracy`, the share of queries whose likeliest category is one of the title's;
        `log_loss` in nats, of a title with several categories the mean over them; and `most_frequent`, the
        accuracy of the category that most titles of the queries have.
    """
    everybody, index = np.unique(user, return_inverse=True)
    out = {}
    for name, head in heads.items():
        at, log_p, category = index[head.known], head.log_p[head.known], head.category[head.known]
        listed = category > 0
        has = np.zeros(log_p.shape, bool)
        np.put_along_axis(has, category, True, axis=1)
        has[:, 0] = False
        of_title = np.where(listed, np.take_along_axis(log_p, category, axis=1), 0.0).sum(1)
        values = {
            "accuracy": np.take_along_axis(has, log_p.argmax(1)[:, None], axis=1)[:, 0],
            "log_loss": -of_title / np.maximum(listed.sum(1), 1),
            "most_frequent": has[:, has.sum(0).argmax()],
        }
        count = np.bincount(at, minlength=len(everybody))
        means = {metric: Ratio(np.bincount(at, x, len(everybody)), count) for metric, x in values.items()}
        out[name] = {"queries": len(at), "users": len(np.unique(at))} | {
            metric: {"value": resampled.value, "interval": resampled.interval}
            for metric, resampled in resample(means, len(everybody), len(at), replicates).items()
        }
    return out
