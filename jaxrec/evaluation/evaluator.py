"""Evaluation of checkpoints: the model, the baselines and the oracle."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from absl import logging

from jaxrec.checkpoints.checkpointer import Checkpointer, with_shardings
from jaxrec.config.schema import Config
from jaxrec.config.serialization import from_json
from jaxrec.config.validation import check_sharding
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LISTS
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.left_out import LeftOutTitles, Seen, left_out_titles
from jaxrec.data.storage.dataset import Arrays, Dataset, Rows
from jaxrec.evaluation import baselines, gate_analysis, metrics, popularity
from jaxrec.evaluation.correction import fit_correction, read_correction, write_correction
from jaxrec.evaluation.results import (
    EvaluationResult,
    baseline_lists,
    by_hard,
    catalogue_result,
    full_metrics,
    model_lists,
)
from jaxrec.evaluation.scorers import CatalogueRanker, CatalogueRanks, ListScorer, ListScores, OrderRanks
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import device_count, replicate, state_shardings
from jaxrec.runtime.multihost import is_first_process
from jaxrec.tasks import build
from jaxrec.tasks.base import Task
from jaxrec.tasks.metric_sums import mean_metrics

CHECKPOINTS = "checkpoints"  # folder of checkpoints in a workdir


class Validator:
    """Evaluation of parameters on the validation queries during training.

    `metric` on the list `watched` selects the best checkpoint: NDCG@1 of the enabled list or, for next-item
    models, NDCG@10 over the catalogue without the titles of the stored history. evaluate.seen does not
    change that: the rows suffice for it, and the values of all runs are comparable.

    Args:
        task: The task.
        table: Title features on the devices.
        rows: The validation rows.
    """

    def __init__(self, task: Task, table: TitleTable, rows: Rows) -> None:
        protocols = task.protocols()
        self.watched, self.metric = protocols.best
        self._rows, self._queries = rows, rows.all()
        self._scorer: ListScorer | CatalogueRanker
        if protocols.lists:
            self._scorer = ListScorer(task, table, with_loss=True, next_k=1)
        else:
            self._scorer = CatalogueRanker(task, table, seen="stored", temperature=protocols.temperature)

    def __call__(self, params: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Return mean metrics such as `loss`, and the ranking metrics of each list."""
        result = self._scorer(params, self._rows)
        if isinstance(result, ListScores):
            return mean_metrics(result.sums), model_lists(result.scores, self._queries, 1, LISTS)
        return mean_metrics(result.sums), {CATALOGUE: full_metrics(result.by_order["model"].ranks)}


@dataclass
class LoadedCheckpoint:
    """Contents of a checkpoint, ready for scoring."""

    config: Config
    task: Task
    arrays: Arrays
    params: Any  # `TrainState.eval_params`
    step: int
    meta: dict[str, Any]
    correction: Correction | None  # None: not fitted yet


def load_checkpoint(workdir: str | AnyPath, which: str) -> LoadedCheckpoint:
    """Load a checkpoint without its dataset.

    Args:
        workdir: folder of the run.
        which: "best" or "last".

    Raises:
        InputError: there is no such checkpoint, or the item table cannot be split over these devices.
    """
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta(which)
        config = from_json(meta["config"])
        config.model.attention_impl = "auto"  # the stored value suits the training machine
        check_sharding(config, device_count())
        task = restore_task(config, meta)
        abstract = task.abstract_params
        params = checkpoints.restore_params(which, with_shardings(abstract, state_shardings(abstract)))
        arrays = Arrays(**checkpoints.restore_arrays(which))
        step = checkpoints.step(which)
        correction = read_correction(as_path(workdir), step)
        return LoadedCheckpoint(config, task, arrays, params, step, meta, correction)


def restore_task(config: Config, meta: dict[str, Any]) -> Task:
    """Return the task of a checkpoint, from its config and its metadata."""
    return build.build_task(
        config,
        Layout.from_json(meta["layout"]),
        meta["threshold"],
        meta["steps_per_epoch"],
        meta["total_steps"],
    )


def evaluate(
    workdir: str | AnyPath, *, which: str | None = None, data: str | AnyPath | None = None,
    split: str = "test", lists: tuple[str, ...] = (), next_k: tuple[int, ...] | None = None,
    heads: bool = False, seen: Seen | None = None, retrieve: int = 0,
) -> EvaluationResult:  # fmt: skip
    """Evaluate a checkpoint and the baselines on a split.

    Args:
        workdir: folder of the run.
        which: "best" or "last" checkpoint. None: the value of the config; "last" if there is no best.
        data: folder of the dataset. None: the dataset of the training.
        split: name of the split.
        lists: candidate lists to score; CATALOGUE ranks all titles. Empty: the frozen lists or, for a
            next-item model, which has none, CATALOGUE.
        next_k: numbers of next titles K to evaluate. None: the value of the config.
        heads: True to evaluate also every other head that can rank, which separates the effect of the
            objective from the effect of the head.
        seen: titles left out of CATALOGUE: "all" that the user played before, those of the "stored" history,
            or none ("kept"). None: the value of the config.
        retrieve: number of titles of a two-stage ranking, in addition to the exact ranking: the retrieval
            head selects the titles, the ranking head orders them. 0: no two-stage ranking.

    Raises:
        InputError: the layout of the dataset is not the layout of the checkpoint; a frozen list for a
            next-item model; K larger than the dataset stores; `retrieve` without a retrieval head.
    """
    started = time.perf_counter()
    workdir = as_path(workdir)
    if which is None:
        with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
            which = from_json(checkpoints.restore_meta("last")["config"]).evaluate.checkpoint
            which = which if checkpoints.best_step() is not None else "last"
    loaded = load_checkpoint(workdir, which)
    dataset = Dataset(data or loaded.meta["dataset_directory"])
    if dataset.layout != loaded.task.layout:
        raise InputError(
            f"dataset {dataset.directory}: its layout differs from the layout of the checkpoint; "
            "prepare the dataset with the config of the checkpoint"
        )
    split_rows = dataset.rows(split)
    rows = split_rows.all()
    table = replicate(loaded.arrays.title_table())
    task = loaded.task
    protocols = task.protocols()
    lists = lists or protocols.lists or (CATALOGUE,)
    frozen = tuple(name for name in lists if name != CATALOGUE)
    if frozen and not protocols.lists:
        raise InputError(f"lists={','.join(frozen)}; allowed for a next-item model: {CATALOGUE}")
    result: dict[str, Any] = {"name": loaded.config.name, "split": split, "which": which}

    ranked = None
    if CATALOGUE in lists:
        _check_catalogue(task, retrieve)
        if loaded.correction is None:
            loaded.correction = _fit_correction(workdir, loaded, dataset, table)
        left_out = left_out_titles(dataset, split, rows, seen or loaded.config.evaluate.seen)
        ranked = _rank_catalogue(loaded, dataset, table, split, left_out, retrieve)
        result[CATALOGUE] = catalogue_result(ranked, rows, loaded.arrays, left_out, retrieve)
        result[CATALOGUE]["correction"] = loaded.correction.to_json()
    ks = next_k or loaded.config.evaluate.next_k
    scores, other_scores = np.empty((len(rows), 0)), dict[str, np.ndarray]()
    if protocols.lists:
        scores, other_scores = _evaluate_lists(
            loaded, dataset, table, split_rows, rows, frozen, ks, heads, result
        )
    else:
        ks = (1,)
    result |= {
        "dataset": dataset.fingerprint,
        "step": loaded.step,
        "seed": loaded.config.train.seed,
        "seconds": time.perf_counter() - started,
    }
    return EvaluationResult(result, rows, scores, dataset.user_keys(split), frozen, ks, other_scores, ranked)


def _check_catalogue(task: Task, retrieve: int) -> None:
    """Check that a model can rank all titles.

    Raises:
        InputError: `retrieve` is positive and there is no retrieval head, or each candidate has its own
            sequence, so that every title would be encoded with every history.
    """
    if retrieve and not task.config.model.retrieval_dim:
        raise InputError(
            f"retrieve={retrieve} needs a retrieval head, but model.retrieval_dim=0; allowed: retrieve=0"
        )
    if not task.catalogue_heads:
        raise InputError(
            "lists=catalogue: model.target_in_sequence=true scores a candidate with its whole history; "
            f"allowed: lists={','.join(LISTS)}"
        )


def _fit_correction(
    workdir: AnyPath, loaded: LoadedCheckpoint, dataset: Dataset, table: TitleTable
) -> Correction:
    """Fit the correction on the dataset of the training and keep it in the workdir.

    If that dataset is not there, the scores are not corrected and nothing is kept.
    """
    if dataset.fingerprint != loaded.meta["dataset"]:
        directory = loaded.meta["dataset_directory"]
        try:
            dataset = Dataset(directory)
        except InputError as error:
            logging.warning("the catalogue is ranked by uncorrected scores: %s", error)
            return Correction(loaded.task.catalogue_heads[0])
    correction = fit_correction(loaded.task, loaded.params, table, dataset).correction
    if is_first_process():
        write_correction(workdir, loaded.step, correction)
    return correction


def _rank_catalogue(
    loaded: LoadedCheckpoint, dataset: Dataset, table: TitleTable, split: str, left_out: LeftOutTitles,
    retrieve: int,
) -> CatalogueRanks:  # fmt: skip
    """Rank all titles by the corrected and the plain scores, and by popularity."""
    task = loaded.task
    assert loaded.correction is not None, "fitted before"
    orders = {"model": loaded.correction}
    if loaded.correction.log_q_V is not None:
        orders["model_uncorrected"] = Correction(task.catalogue_heads[0])
    num_shown, rows = min(metrics.SHOWN, len(loaded.arrays.id_of_rank)), dataset.rows(split)
    if left_out.seen == "all":
        rows = rows.with_words(partial(left_out.bits, titles=task.layout.titles))
    ranker = CatalogueRanker(task, table, orders, left_out.seen, num_shown, retrieve=retrieve)
    ranked = ranker(loaded.params, rows)
    target = rows.all()["target"][:, 0]
    popular = {"popularity": popularity.popularity_ranks(target, loaded.arrays, left_out, num_shown)}
    stored, daily = dataset.seen_titles(split), dataset.daily_plays()
    if stored is not None and daily is not None:
        popular["popularity_7_days"] = popularity.recent_popularity_ranks(
            target, stored.query_time, daily, loaded.arrays, left_out, num_shown
        )
    by_order = ranked.by_order | {name: OrderRanks(*ranks) for name, ranks in popular.items()}
    return ranked._replace(by_order=by_order)


def _evaluate_lists(
    loaded: LoadedCheckpoint,
    dataset: Dataset,
    table: TitleTable,
    split_rows: Rows,
    rows: np.ndarray,
    lists: tuple[str, ...],
    ks: tuple[int, ...],
    heads: bool,
    result: dict[str, Any],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Score the frozen lists and add their metrics to `result`.

    Args:
        loaded: the checkpoint.
        dataset: the dataset, whose training rows item-to-item counts.
        table: title features on the devices.
        split_rows: the rows of the split, on disk.
        rows: the same rows, in memory.
        lists: names of the frozen lists to evaluate.
        ks: numbers of next titles K to evaluate.
        heads: True to evaluate also every other head that can rank.
        result: dictionary of JSON values, changed in place.

    Returns:
        Scores [Q, lists, K, 1 + negatives] by the head that ranks, and by each other head.

    Raises:
        InputError: K is larger than the dataset stores.
    """
    if max(ks) > dataset.layout.next_k:
        raise InputError(
            f"next_k={max(ks)} must be at most {dataset.layout.next_k}, the next titles in the dataset"
        )
    other_heads = loaded.task.ranking_heads[1:] if heads else ()
    scorer = ListScorer(loaded.task, table, False, max(ks), other_heads)
    scores, gate, _, by_head = scorer(loaded.params, split_rows)
    other_scores = {head: by_head[head] for head in other_heads}
    shown = loaded.config.sampling.history_keeps_abandoned
    item_to_item = baselines.item_to_item(dataset.rows("train"), loaded.arrays, shown)
    rules = baselines.RULES | {"item_to_item": item_to_item}
    for k in ks:
        result[f"lists{metrics.suffix(k)}"] = model_lists(scores, rows, k, lists)
        result[f"baselines{metrics.suffix(k)}"] = baseline_lists(rows, loaded.arrays, k, lists, shown, rules)
    if gate.shape[1] > 1:
        result["gate"] = gate_analysis.gate_report(gate, rows, shown)
    if "enabled" in lists:
        result["by_hard"] = by_hard(scores, rows)
    if other_scores:
        result["other_heads"] = {
            head: {f"lists{metrics.suffix(k)}": model_lists(head_scores, rows, k, lists) for k in ks}
            for head, head_scores in other_scores.items()
        }
    return scores, other_scores
