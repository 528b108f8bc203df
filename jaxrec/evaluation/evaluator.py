"""A checkpoint's scores: the model beside the rules and, where it is known, the oracle."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer, with_shardings
from jaxrec.config.schema import Config
from jaxrec.config.serialization import from_json
from jaxrec.config.validation import check_dealing
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

CHECKPOINTS = "checkpoints"  # the folder of a workdir that holds them


class Validator:
    """Judges parameters on the validation queries while they are trained.

    `metric` of the list `watched` says which checkpoint is the best: NDCG@1 of the enabled list or, of
    sequences, NDCG@10 of the catalogue, titles of the history left out.
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
        """Return figures, `loss` among them, and the metrics of each list."""
        if self._scorer is not None:
            scored = self._scorer(params, self._rows)
            return mean_metrics(scored.sums), model_lists(scored.scores, self._queries, 1, LISTS)
        ranked = self._ranker(params, self._rows)
        return mean_metrics(ranked.sums), {CATALOGUE: full_metrics(ranked.ranks)}


@dataclass
class LoadedCheckpoint:
    """What a checkpoint holds, ready to score."""

    config: Config
    task: Task
    arrays: Arrays
    params: Any  # those that are evaluated: `TrainState.eval_params`
    step: int
    meta: dict[str, Any]


def load_checkpoint(workdir: str | AnyPath, which: str) -> LoadedCheckpoint:
    """From a checkpoint alone. Raises InputError where there is none."""
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta(which)
        config = from_json(meta["config"])
        config.model.attention_impl = "auto"  # the form is of the machine that trained, not of the model
        check_dealing(config, device_count())
        task = restore_task(config, meta)
        abstract = task.abstract_params
        params = checkpoints.restore_params(which, with_shardings(abstract, state_shardings(abstract)))
        arrays = Arrays(**checkpoints.restore_arrays(which))
        return LoadedCheckpoint(config, task, arrays, params, checkpoints.step(which), meta)


def restore_task(config: Config, meta: dict[str, Any]) -> Task:
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
    """Scores a checkpoint on a split's frozen lists, beside the baselines. With `heads`, also by each other
    head that can rank: the objective is then not mistaken for the head. Among `lists`, CATALOGUE ranks all
    titles, those of the history "filtered" or "kept", as `seen` says, and, with `retrieve`, in two stages
    beside: so many titles by the retrieval head, in the order of the head that ranks. Without any it is
    the frozen lists or, for a model of sequences, which has none, the catalogue.

    Raises InputError where the dataset is not the one the checkpoint was trained on, or one laid out alike,
    and where there is nothing to retrieve by.
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
            f"dataset {dataset.directory}: its layout is not the checkpoint's; prepare it with its config"
        )
    found = dataset.rows(split)
    rows = found.all()
    table = replicate(loaded.arrays.title_table())
    task = loaded.task
    protocols = task.protocols()
    lists = lists or protocols.lists or (CATALOGUE,)
    frozen = tuple(name for name in lists if name != CATALOGUE)
    if frozen and not protocols.lists:
        raise InputError(f"lists={','.join(frozen)}; allowed of a model of sequences: {CATALOGUE}")
    result: dict[str, Any] = {"name": loaded.config.name, "split": split, "which": which}

    ranked = None
    if CATALOGUE in lists:
        filtered = seen == "filtered"
        most = min(metrics.SHOWN, len(loaded.arrays.id_of_rank))
        if retrieve and not loaded.config.model.retrieval_dim:
            raise InputError(
                f"retrieve={retrieve}; allowed of a model that has a head for it: model.retrieval_dim=0"
            )
        ranker = CatalogueRanker(task, table, filtered, most, retrieve=retrieve)
        ranked = ranker(loaded.params, found)
        ranks, top = baselines.popularity_ranks(rows, loaded.arrays, filtered, most)
        popular = ranked._replace(ranks=ranks, top=top)
        of_all = {"model": ranked, "popularity": popular}
        result[CATALOGUE] = whole_catalogue(of_all, rows, loaded.arrays, filtered)
        if retrieve:
            result[CATALOGUE] |= {
                "retrieval_head": full_metrics(ranked.retrieved),
                "two_stage": full_metrics(ranked.staged),
                "retrieved": retrieve,
                "kept": float(ranked.kept.mean()),
            }
    ks = next_k or loaded.config.evaluate.next_k
    scores, others = np.empty((len(rows), 0)), dict[str, np.ndarray]()
    if protocols.lists:
        scores, others = _evaluate_lists(loaded, dataset, table, found, rows, frozen, ks, heads, result)
    else:
        ks = (1,)
    result |= {
        "dataset": dataset.fingerprint,
        "step": loaded.step,
        "seed": loaded.config.train.seed,
        "seconds": time.perf_counter() - started,
    }
    return EvaluationResult(result, rows, scores, dataset.user_keys(split), frozen, ks, others, ranked)


def _evaluate_lists(
    loaded: LoadedCheckpoint,
    dataset: Dataset,
    table: TitleTable,
    found: Rows,
    rows: np.ndarray,
    lists: tuple[str, ...],
    ks: tuple[int, ...],
    heads: bool,
    result: dict[str, Any],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Joins what the frozen lists say to `result`; the scores, by the head that ranks and by the others."""
    if max(ks) > dataset.layout.next_k:
        raise InputError(
            f"next_k={max(ks)} must be at most {dataset.layout.next_k}, which the dataset stores"
        )
    other_heads = loaded.task.ranking_heads[1:] if heads else ()
    scorer = ListScorer(loaded.task, table, False, max(ks), other_heads)
    scores, gate, _, by_head = scorer(loaded.params, found)
    others = {head: by_head[head] for head in other_heads}
    shown = loaded.config.sampling.history_keeps_abandoned
    together = baselines.item_to_item(dataset.rows("train"), loaded.arrays, shown)
    rules = baselines.RULES | {"item_to_item": together}
    for k in ks:
        result[f"lists{metrics.suffix(k)}"] = model_lists(scores, rows, k, lists)
        result[f"baselines{metrics.suffix(k)}"] = baseline_lists(rows, loaded.arrays, k, lists, shown, rules)
    if gate.shape[1] > 1:
        result["gate"] = gate_analysis.gate_report(gate, rows, shown)
    if "enabled" in lists:
        result["by_hard"] = by_hard(scores, rows)
    if others:
        result["other_heads"] = {
            task: {f"lists{metrics.suffix(k)}": model_lists(of_task, rows, k, lists) for k in ks}
            for task, of_task in others.items()
        }
    return scores, others
