"""Evaluation of checkpoints: the model, the baselines and the oracle."""

import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.config.rules.availability import check_ranks_titles
from jaxrec.config.serialization import from_run_json
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, DRAWN_LISTS, LABEL_BASELINES, LABELS, SERVED
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.loading.left_out import LeftOutTitles, Seen, left_out_titles
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics, popularity
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.details.frozen_lists import ListEvaluation, Queries, evaluate_lists
from jaxrec.evaluation.details.gradients import HeadGradients
from jaxrec.evaluation.details.of_report import measure_for_report
from jaxrec.evaluation.labels.of_heads import (
    predict_labels,
)  # fmt: skip
from jaxrec.evaluation.labels.predictions import label_metrics
from jaxrec.evaluation.labels.rates import baseline_metrics
from jaxrec.evaluation.results import (
    EvaluationResult,
    catalogue_result,
    lists_of_queries,
    write_result,
)  # fmt: skip
from jaxrec.evaluation.scorers import CatalogueOrder, CatalogueRanker, CatalogueRanks
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import (
    CHECKPOINTS,
    LoadedCheckpoint,
    check_same_catalogue,
    load_checkpoint,
    read_meta,
)  # fmt: skip


class EvaluationOptions(NamedTuple):
    """Settings of an evaluation.

    Args:
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
        diversity: weight of dissimilarity in lists that are chosen by MMR, from 0 to 1, as an additional
            row of CATALOGUE. 0: no such row.
        report_users: number of example users in the report. None: the value of the config.
        blend: head or blend that orders the titles, as for `rules.heads.order_by`. Empty: that of the config.
        gradients: True to compare the gradients of the heads on validation rows.
    """

    split: str = "test"
    lists: tuple[str, ...] = ()
    next_k: tuple[int, ...] | None = None
    heads: bool = False
    seen: Seen | None = None
    retrieve: int = 0
    diversity: float = 0.0
    report_users: int | None = None
    blend: str = ""
    gradients: bool = False


_DEFAULTS = EvaluationOptions()


def evaluate(
    workdir: str | AnyPath,
    options: EvaluationOptions = _DEFAULTS,
    *,
    which: str | None = None,
    data: str | AnyPath | None = None,
) -> EvaluationResult:
    """Evaluate a checkpoint and the baselines on a split.

    Args:
        workdir: folder of the run.
        options: split, candidate lists and heads.
        which: "best" or "last" checkpoint. None: the value of the config; "last" if there is no best.
        data: folder of the dataset. None: the dataset of the training.

    Raises:
        InputError: the layout, the titles or the categories of the dataset are not those of the
            checkpoint; the run is offline and predicts no labels; there is no such blend; a list that the
            model does not rank; K larger than the dataset stores; `retrieve` without a retrieval head;
            `diversity` outside 0 to 1 or without CATALOGUE; `gradients` of a single head.
    """
    started = time.perf_counter()
    workdir = as_path(workdir)
    which = which or _configured_checkpoint(workdir)
    loaded = load_checkpoint(workdir, which, options.blend)
    protocols = loaded.task.protocols()
    dataset = Dataset(data or loaded.meta["dataset_directory"], loaded.config.data.verify)
    check_same_catalogue(dataset, loaded)
    split_rows = dataset.rows(options.split)
    table = replicate(loaded.arrays.title_table())
    queries = Queries(loaded, dataset, table, split_rows, split_rows.all())
    lists = _checked_lists(options, loaded, queries.rows)
    frozen = tuple(name for name in lists if name != CATALOGUE)
    result: dict[str, Any] = {"name": loaded.config.name, "split": options.split, "which": which}
    result |= _gradients(queries, options)
    ranked = None
    if CATALOGUE in lists:
        ranked, result[CATALOGUE] = _evaluate_catalogue(workdir, queries, options)
    ks = (options.next_k or loaded.config.evaluate.next_k) if protocols.lists else (1,)
    scored = ListEvaluation(np.empty((len(queries.rows), 0)), {}, {}, {}, {}, {})
    if protocols.lists:
        scored = evaluate_lists(queries, frozen, ks, options.heads)
    elif not lists:
        labels = predict_labels(loaded.task, loaded.params, table, split_rows)
        of_heads = {LABELS: label_metrics(labels, queries.rows["user"])}
        scored = scored._replace(result=of_heads, labels=labels)
    seen = options.seen or loaded.config.evaluate.seen
    result |= scored.result | {
        **_label_baselines(queries, options.split, scored),
        "protocol": _protocol(options, lists, seen, queries),
        "dataset": dataset.fingerprint,
        "step": loaded.step,
        "seed": loaded.config.train.seed,
        "seconds": time.perf_counter() - started,
    }
    measured = measure_for_report(workdir, queries, options.report_users, scored, ranked)
    return EvaluationResult(
        result, queries.rows, scored.scores, dataset.user_keys(options.split), frozen, ks, scored.other_heads,
        ranked, measured, loaded.config.evaluate.report, scored.labels,
    )  # fmt: skip


def _label_baselines(queries: Queries, split: str, scored: ListEvaluation) -> dict[str, Any]:
    """Return the metrics of the baselines of the heads of labels, as a part of the result; {} without any."""
    config, user = queries.loaded.config, queries.rows["user"]
    of_baselines = baseline_metrics(config, queries.dataset, split, scored.labels, user)
    return {LABEL_BASELINES: of_baselines} if of_baselines else {}


def _checked_lists(options: EvaluationOptions, loaded: LoadedCheckpoint, rows: np.ndarray) -> tuple[str, ...]:
    """Return the candidate lists to score; none for a model that is measured by labels alone.

    Args:
        options: options of the evaluation.
        loaded: the checkpoint.
        rows: the held-out rows. Without a slate in them there is no served list.

    Raises:
        InputError: The model does not rank these lists, or `diversity` does not fit them.
    """
    protocols = loaded.task.protocols()
    if protocols.best[0] == LABELS:
        if options.lists:
            raise InputError(
                f"lists={','.join(options.lists)}; allowed: none, for the model of {loaded.config.name!r} "
                "ranks no titles: it is measured by the labels that its heads predict"
            )
        return ()
    check_ranks_titles(loaded.config)
    lists = options.lists or lists_of_queries(protocols.lists, rows) or (CATALOGUE,)
    frozen = tuple(name for name in lists if name != CATALOGUE)
    if frozen and not protocols.lists:
        raise InputError(f"lists={','.join(frozen)}; allowed for a next-item model: {CATALOGUE}")
    if SERVED in frozen and SERVED not in lists_of_queries(protocols.lists, rows):
        has_none = "no query of the dataset has a slate" if SERVED in protocols.lists else "data.served is 0"
        raise InputError(f"lists={SERVED}: {has_none}; allowed: {','.join(DRAWN_LISTS)},{CATALOGUE}")
    if options.diversity and (CATALOGUE not in lists or not 0.0 <= options.diversity <= 1.0):
        raise InputError(f"diversity={options.diversity:g}; allowed: 0 to 1, with lists={CATALOGUE}")
    return lists


def _gradients(queries: Queries, options: EvaluationOptions) -> dict[str, Any]:
    """Return the statistics of the heads' gradients as the value of "gradients"; {} unless requested."""
    if not options.gradients:
        return {}
    heads = HeadGradients(queries.loaded.task, queries.table, queries.dataset.rows("validation"))
    return {"gradients": {"split": "validation"} | heads(queries.loaded.params)}


def _configured_checkpoint(workdir: AnyPath) -> str:
    """Return "best" or "last": the value of the config, and "last" if there is no best checkpoint."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        which = from_run_json(read_meta(checkpoints, "last")["config"]).evaluate.checkpoint
        return which if checkpoints.best_step() is not None else "last"


def _protocol(
    options: EvaluationOptions, lists: tuple[str, ...], seen: str, queries: Queries
) -> dict[str, Any]:
    """Return what was ranked and how; `name` is empty for the protocol that the training reports."""
    config, dataset, stored = queries.loaded.config, queries.dataset, queries.loaded.task.protocols().lists
    usual = lists_of_queries(stored, queries.rows) or (lists and (CATALOGUE,))
    parts = [] if set(lists) == set(usual) else list(lists)
    if CATALOGUE in lists:
        parts += [seen] * (seen != config.evaluate.seen)
        parts += [f"retrieve{options.retrieve}"] * bool(options.retrieve)
        parts += [f"mmr{options.diversity:g}"] * bool(options.diversity)
    parts += [f"blend-{config.evaluate.ranking_head}"] * bool(options.blend)
    own = dataset.fingerprint == queries.loaded.meta["dataset"]
    parts += [f"on-{dataset.fingerprint[:8]}"] * (not own)
    return {
        "name": "-".join(parts),
        "lists": list(lists),
        "seen": seen if CATALOGUE in lists else None,
        "own_dataset": own,
    } | ({"blend": options.blend} if options.blend else {})


def _evaluate_catalogue(
    workdir: AnyPath, queries: Queries, options: EvaluationOptions
) -> tuple[CatalogueRanks, dict[str, Any]]:
    """Rank all titles by the corrected and the plain scores, and by popularity.

    Returns:
        The rankings, and the metrics of each.

    Raises:
        InputError: `retrieve` without a retrieval head, or each candidate has its own sequence, so that every
            title would be encoded with every history.
    """
    loaded, task = queries.loaded, queries.loaded.task
    if options.retrieve and not loaded.config.model.retrieval_dim:
        raise InputError(
            f"retrieve={options.retrieve} needs a retrieval head, but model.retrieval_dim=0; "
            "allowed: retrieve=0"
        )
    if not task.catalogue_heads:
        raise InputError(
            "lists=catalogue: model.target_in_sequence=true scores a candidate with its whole history; "
            f"allowed: lists={','.join(DRAWN_LISTS)}"
        )
    correction = load_or_fit_correction(workdir, loaded, queries.table, queries.dataset)
    orders = {"model": correction}
    if correction.log_q_V is not None:
        orders["model_uncorrected"] = Correction(task.catalogue_heads[0])
    seen = options.seen or loaded.config.evaluate.seen
    left_out = left_out_titles(queries.dataset, options.split, queries.rows, seen)
    rows = queries.on_disk
    if left_out.seen == "all":
        rows = rows.with_words(partial(left_out.bits, titles=task.layout.num_titles))
    num_shown = min(metrics.SHOWN, len(loaded.arrays.id_of_rank))
    ranker = CatalogueRanker(
        task, queries.table, orders, left_out.seen, num_shown, None, options.retrieve, options.diversity
    )
    ranked = ranker(loaded.params, rows)
    ranked = ranked._replace(
        by_order=ranked.by_order | _popular_orders(queries, options.split, left_out, num_shown)
    )
    result = catalogue_result(
        ranked, queries.rows, loaded.arrays, left_out, options.retrieve, options.diversity
    )
    return ranked, result | {"correction": correction.to_json()}


def _popular_orders(
    queries: Queries, split: str, left_out: LeftOutTitles, num_shown: int
) -> dict[str, CatalogueOrder]:
    """Rank all titles by popularity and, if the dataset has play times, by popularity of the last 7 days."""
    arrays, target = queries.loaded.arrays, queries.rows["target"][:, 0]
    orders = {"popularity": popularity.popularity_ranks(target, arrays, left_out, num_shown)}
    stored, daily = queries.dataset.seen_titles(split), queries.dataset.daily_plays()
    if stored is not None and daily is not None:
        orders["popularity_7_days"] = popularity.recent_popularity_ranks(
            target, stored.query_time, daily, arrays, left_out, num_shown
        )
    return {name: CatalogueOrder(*ranks) for name, ranks in orders.items()}


class Evaluator:
    """Evaluator of the checkpoints of a run, for Python.

    Args:
        workdir: folder of the run.
    """

    def __init__(self, workdir: str | AnyPath) -> None:
        self.workdir = as_path(workdir)

    def run(
        self, *, which: str | None = None, data: str | AnyPath | None = None, write: bool = False,
        per_user: bool = False, **options: Any,
    ) -> EvaluationResult:  # fmt: skip
        """Evaluate a checkpoint and the baselines, as `evaluate`.

        Args:
            which: "best" or "last" checkpoint. None: the value of the config.
            data: folder of the dataset. None: the dataset of the training.
            write: True to write the files of `python -m jaxrec.evaluate` to the workdir.
            per_user: with `write`, True to write also the metrics of each user.
            **options: fields of `EvaluationOptions`, such as `lists` and `split`.

        Returns:
            The result; its field `result` is the JSON object that the command prints.
        """
        evaluation = evaluate(self.workdir, EvaluationOptions(**options), which=which, data=data)
        if write:
            write_result(self.workdir, evaluation, per_user)
        return evaluation
