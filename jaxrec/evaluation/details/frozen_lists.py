"""Evaluation on the frozen candidate lists: the model, the baselines and the oracle."""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.registry import HEADS, resolve
from jaxrec.data.storage.dataset import Dataset, Rows
from jaxrec.evaluation import baselines, gate_analysis, metrics
from jaxrec.evaluation.correction import candidate_shifts
from jaxrec.evaluation.details.calibration import SAMPLE_QUERIES, calibration
from jaxrec.evaluation.labels.predictions import HeadPredictions, head_predictions, label_metrics
from jaxrec.evaluation.results import baseline_ranks, by_hard, list_metrics, model_lists, model_ranks
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.tasks.loading import LoadedCheckpoint


class Queries(NamedTuple):
    """Queries of a split, and the checkpoint that is evaluated on these queries."""

    loaded: LoadedCheckpoint
    dataset: Dataset
    table: TitleTable  # on the devices
    on_disk: Rows
    rows: np.ndarray  # the same rows, in memory
    row_index: np.ndarray | None = None  # their indices in the split; None: all of it


class ListEvaluation(NamedTuple):
    """Results on the frozen lists.

    Attributes:
        scores: [Q, lists, K, 1 + negatives] by the head that ranks.
        other_heads: Head -> scores of each other head that can rank, if requested.
        result: JSON values.
        ranks: List -> order -> ranks of the next titles (K=1), [Q]; of a served list [N], where it is.
        calibration: JSON values, as `details.calibration` returns them.
        labels: Predictions of the heads that predict a label.
    """

    scores: np.ndarray
    other_heads: dict[str, np.ndarray]
    result: dict[str, Any]
    ranks: dict[str, dict[str, np.ndarray]]
    calibration: dict[str, Any]
    labels: dict[str, HeadPredictions]


def evaluate_lists(
    queries: Queries, lists: tuple[str, ...], ks: tuple[int, ...], heads: bool
) -> ListEvaluation:
    """Score the frozen lists and compute their metrics.

    Args:
        queries: the queries; item-to-item counts the training rows of their dataset.
        lists: names of the frozen lists to evaluate.
        ks: numbers of next titles K to evaluate.
        heads: True to evaluate also every other head that can rank.

    Raises:
        InputError: K is larger than the dataset stores.
    """
    loaded, dataset, rows = queries.loaded, queries.dataset, queries.rows
    if max(ks) > dataset.layout.num_targets:
        raise InputError(
            f"next_k={max(ks)} must be at most {dataset.layout.num_targets}, the next titles in the dataset"
        )
    other_heads, measured = loaded.task.ranking_heads[1:] if heads else (), loaded.task.measured_heads
    sample = queries.on_disk.head(SAMPLE_QUERIES)
    calibrated = loaded.task.calibrated_heads
    # One program for a small split; for a large one, further heads on all queries would double the time.
    more = calibrated if sample.rows == queries.on_disk.rows else ()
    label_heads = loaded.task.label_heads
    scorer = ListScorer(
        loaded.task, queries.table, False, max(ks),
        tuple(dict.fromkeys((*other_heads, *measured, *label_heads, *more))),
    )  # fmt: skip
    scores, gate, _, by_head, outcomes = scorer(loaded.params, queries.on_disk)
    result, ranks = _list_results(queries, scores, lists, ks)
    shown = loaded.config.sampling.history_keeps_abandoned
    if gate.shape[1] > 1:
        result["gate"] = gate_analysis.gate_report(gate, rows, shown)
    if "enabled" in lists:
        result["by_hard"] = by_hard(scores, rows)
    if measured:  # of the first target of each query
        completion = rows["target_completion"][:, 0]
        result["heads"] = {
            head: resolve(HEADS[head].metrics)(by_head[head][:, 0, 0, 0], completion) for head in measured
        }
    if other_heads:
        result["other_heads"] = {
            head: {f"lists{metrics.suffix(k)}": model_lists(by_head[head], rows, k, lists) for k in ks}
            for head in other_heads
        }
    compared = by_head
    if calibrated and not more:
        compared = ListScorer(loaded.task, queries.table, False, 1, calibrated)(loaded.params, sample).by_head
    bins = calibration({head: compared[head] for head in calibrated}, rows[: sample.rows])
    labels = {
        head: head_predictions(loaded.task.head_loss(head), by_head[head], outcomes[head])
        for head in label_heads
    }
    if labels:
        result["labels"] = label_metrics(labels, rows["user"])
    by_other = {head: by_head[head] for head in other_heads}
    return ListEvaluation(scores, by_other, result, ranks, bins, labels)


def _list_results(
    queries: Queries, scores: np.ndarray, lists: tuple[str, ...], ks: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Return the metrics of the model and of the baselines, and the ranks by list and order (K=1).

    Args:
        queries: the queries.
        scores: [Q, lists, K, 1 + negatives] of the model.
        lists: names of the frozen lists.
        ks: numbers of next titles K.
    """
    loaded, dataset, rows = queries.loaded, queries.dataset, queries.rows
    shown = loaded.config.sampling.history_keeps_abandoned
    item_to_item = baselines.item_to_item(dataset.rows("train"), loaded.arrays, shown)
    rules = baselines.RULES | {"item_to_item": item_to_item}
    result: dict[str, Any] = {}
    by_order = {"model": model_ranks(scores, rows, lists)}
    shifted = scores + candidate_shifts(loaded.task, dataset, rows, scores.shape)
    for k in ks:
        result[f"lists{metrics.suffix(k)}"] = model_lists(scores, rows, k, lists)
        result[f"corrected{metrics.suffix(k)}"] = model_lists(shifted, rows, k, lists)
        ranks = baseline_ranks(rows, loaded.arrays, k, lists, shown, rules)
        result[f"baselines{metrics.suffix(k)}"] = {
            rule: {name: list_metrics(rank, rows, k, name) for name, rank in by_list.items()}
            for rule, by_list in ranks.items()
        }
        if k == 1:
            by_order |= {"corrected": model_ranks(shifted, rows, lists), **ranks}
    return result, {name: {order: by_list[name] for order, by_list in by_order.items()} for name in lists}
