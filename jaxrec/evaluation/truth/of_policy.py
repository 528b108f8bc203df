"""Evaluation of a policy at the queries whose truth is stored: the list "truth".

The queries are the first `data.truth_queries` test queries by hash, of a dataset of the simulated service.
The value at validation queries, where their truth is stored, is there to choose settings by.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, SPLITS, TRUTH
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.data.storage.evaluation_arrays import TruthArrays
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.details.grouped_means import overall
from jaxrec.evaluation.scorers import QueryRunner
from jaxrec.evaluation.truth.policy_value import (
    Frontier,
    PolicyValues,
    efficiency,
    normalise,
    policy_values,
    tilt_values,
)
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.tasks.base import Task

_PAIRS = 2**22  # (query, title) pairs that an accelerator scores per step
_CHOICE = 1.0e9  # temperature at which the tilt is the true choice


class TruthEvaluation(NamedTuple):
    """Evaluation of a policy under the truth.

    Attributes:
        columns: Column, such as "truth/value" -> values [Q] of the queries.
        result: JSON values, as a part of a result.
    """

    columns: dict[str, np.ndarray]
    result: dict[str, Any]


def stored_truth(dataset: Dataset, split: str) -> TruthArrays:
    """Return the truth at queries of a held-out split of a dataset.

    Raises:
        InputError: The dataset stores no truth of the split.
    """
    truth = dataset.truth(split)
    if truth is None or not len(truth.rows):
        if split != SPLITS[-1]:
            raise InputError(
                f"lists={TRUTH}: split={split}: dataset {dataset.directory} stores no truth of it; allowed: "
                f"{SPLITS[-1]}, or a dataset with data.{split}_truth_queries above 0"
            )
        raise InputError(
            f"lists={TRUTH}: dataset {dataset.directory} stores no truth; allowed: a dataset of the "
            "simulated service with signals or data.targets='every', and data.truth_queries above 0"
        )
    return truth


def evaluate_policy(queries: Queries, truth: TruthArrays, split: str) -> TruthEvaluation:
    """Return the values of a policy at the queries whose truth is stored.

    Args:
        queries: The queries of `truth`, and a checkpoint whose protocols have a policy.
        truth: Truth of the queries.
        split: Split of the queries.
    """
    rows = queries.rows
    values = PolicyRunner(queries.loaded.task, queries.table)(queries.loaded.params, rows, truth)
    chosen = _joined([*tilt_values(truth.choice, truth.reward, _CHOICE)])
    frontier, columns = Frontier(truth.choice, truth.reward), values.columns()
    means = {name: float(x.mean()) for name, x in columns.items()}
    choice_value, best = float(chosen.value.mean()), frontier.value_at(means["kl"])
    validation = _validation_values(queries) if split == SPLITS[-1] else {}
    half = float(overall(rows["user"]).of(values.value).half[0])
    interval = [means["value"] - half, means["value"] + half] if np.isfinite(half) else None
    columns = {f"{TRUTH}/{name}": x for name, x in columns.items()}
    return TruthEvaluation(columns, {TRUTH: {
        "model": means | {
            "efficiency": efficiency(means["value"], means["kl"], choice_value, frontier),
            "interval": interval,
        },
        "choice": {name: float(x.mean()) for name, x in chosen.columns().items()},
        "frontier": {"value": best, "kl": means["kl"]},
        "queries": len(rows),
        "users": len(np.unique(rows["user"])),
    } | validation})  # fmt: skip


def _validation_values(queries: Queries) -> dict[str, Any]:
    """Return the means of a policy at validation queries as the value of "validation"; {} without a truth."""
    truth = queries.dataset.truth(SPLITS[1])
    if truth is None or not len(truth.rows):
        return {}
    rows = queries.dataset.rows(SPLITS[1]).all()[truth.rows]
    values = PolicyRunner(queries.loaded.task, queries.table)(queries.loaded.params, rows, truth)
    means = {name: float(x.mean()) for name, x in values.columns().items()}
    return {"validation": means | {"queries": len(rows)}}


class PolicyRunner(QueryRunner):
    """Runner of a task's policy over queries, whose log probabilities stay in memory for one batch."""

    def __init__(self, task: Task, table: TitleTable) -> None:
        queries = max(_PAIRS // task.layout.num_titles, 1)
        super().__init__(task, table, _policy_step(task), queries, lambda params: params)

    def __call__(self, params: Any, rows: np.ndarray, truth: TruthArrays) -> PolicyValues:
        """Return the values of the policy at rows, in order."""
        values: list[PolicyValues] = []
        done = 0
        for logits, _ in self._run(as_global_arrays(params), SelectedRows(rows)):
            block = slice(done, done + len(logits))
            choice, reward = truth.choice[block], truth.reward[block]
            logits = np.asarray(jax.device_get(logits))[: len(choice), FIRST_TITLE:]
            values.append(policy_values(normalise(logits, choice), choice, reward))
            done += len(choice)
        return _joined(values)


def _policy_step(task: Task) -> Callable:
    """Return a step `(params, batch, table) -> logits [B, V]` of the queries of all devices, in order."""

    def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        return jax.lax.all_gather(task.policy_logits(params, host, table), AXIS, tiled=True)

    return step


def _joined(parts: list[PolicyValues]) -> PolicyValues:
    """Return the values of consecutive groups of queries."""
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
