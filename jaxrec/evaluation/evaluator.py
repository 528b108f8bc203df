"""Evaluation of checkpoints: the model, the baselines and the oracle."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer, with_shardings
from jaxrec.config.schema import Config
from jaxrec.config.serialization import from_json
from jaxrec.config.validation import check_sharding
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LISTS
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Arrays, Dataset, Rows
from jaxrec.evaluation import baselines, gate_analysis, metrics
from jaxrec.evaluation.results import (
    EvaluationResult,
    baseline_lists,
    by_hard,
    full_metrics,
    model_lists,
    whole_catalogue,
)
from jaxrec.evaluation.scorers import CatalogueRanker, ListScorer
from jaxrec.runtime.mesh import device_count, replicate, state_shardings
from jaxrec.tasks import build
from jaxrec.tasks.base import Task
from jaxrec.tasks.metric_sums import mean_metrics

CHECKPOINTS = "checkpoints"  # folder of checkpoints in a workdir


class Validator:
    """Evaluation of parameters on the validation queries during training.

    `metric` on the list `watched` selects the best checkpoint: NDCG@1 of the enabled list or, for next-item
    models, NDCG@10 over the catalogue without the titles of the history.

    Args:
        task: The task.
        table: Title features on the devices.
        rows: The validation rows.
    """

    def __init__(self, task: Task, table: TitleTable, rows: Rows) -> None:
        protocols = task.protocols()
        self.watched, self.metric = protocols.best
        self._rows, self._queries = rows, rows.all()
        self._scorer = ListScorer(task, table, with_loss=True, next_k=1) if protocols.lists else None
        self._ranker = CatalogueRanker(
            task, table, filtered=True, with_loss=True, temperature=protocols.temperature
        )

    def __call__(self, params: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Return mean metrics such as `loss`, and the ranking metrics of each list."""
        if self._scorer is not None:
            scored = self._scorer(params, self._rows)
            return mean_metrics(scored.sums), model_lists(scored.scores, self._queries, 1, LISTS)
        ranked = self._ranker(params, self._rows)
        return mean_metrics(ranked.sums), {CATALOGUE: full_metrics(ranked.ranks)}


@dataclass
class LoadedCheckpoint:
    """Contents of a checkpoint, ready for scoring."""

    config: Config
    task: Task
    arrays: Arrays
    params: Any  # `TrainState.eval_params`
    step: int
    meta: dict[str, Any]


def load_checkpoint(workdir: str | AnyPath, which: str) -> LoadedCheckpoint:
    """Load a checkpoint without its dataset.

    Args:
        workdir: folder of the run.
        which: "best" or "last".

    Raises:
        InputError: there is no such checkpoint, the layout that it holds has an unknown name, or the item
            table cannot be split over these devices.
    """
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta(which)
        config = from_json(meta["config"])
        config.model.attention_impl = "auto"  # the stored value suits the training machine
        check_sharding(config, device_count())
        try:
            task = restore_task(config, meta)
        except InputError as error:
            raise InputError(f"checkpoint {checkpoints.directory}: {error}") from None
        abstract = task.abstract_params
        params = checkpoints.restore_params(which, with_shardings(abstract, state_shardings(abstract)))
        arrays = Arrays(**checkpoints.restore_arrays(which))
        return LoadedCheckpoint(config, task, arrays, params, checkpoints.step(which), meta)


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
    heads: bool = False, seen: str = "filtered", retrieve: int = 0,
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
        seen: "filtered" or "kept": leave out, or keep, the titles of the history in CATALOGUE.
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
        filtered = seen == "filtered"
        num_shown = min(metrics.SHOWN, len(loaded.arrays.id_of_rank))
        if retrieve and not loaded.config.model.retrieval_dim:
            raise InputError(
                f"retrieve={retrieve} needs a retrieval head, but model.retrieval_dim=0; allowed: retrieve=0"
            )
        ranker = CatalogueRanker(task, table, filtered, num_shown, retrieve=retrieve)
        ranked = ranker(loaded.params, split_rows)
        ranks, top = baselines.popularity_ranks(rows, loaded.arrays, filtered, num_shown)
        popular = ranked._replace(ranks=ranks, top=top)
        by_name = {"model": ranked, "popularity": popular}
        result[CATALOGUE] = whole_catalogue(by_name, rows, loaded.arrays, filtered)
        if retrieve:
            result[CATALOGUE] |= {
                "retrieval_head": full_metrics(ranked.retrieved),
                "two_stage": full_metrics(ranked.staged),
                "retrieved": retrieve,
                "kept": float(ranked.kept.mean()),
            }
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
    if max(ks) > dataset.layout.num_targets:
        raise InputError(
            f"next_k={max(ks)} must be at most {dataset.layout.num_targets}, the next titles in the dataset"
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
