"""Evaluation of checkpoints: the model, the baselines and the oracle."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.rules.declared.availability import check_ranks_titles
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, DRAWN_LISTS, LABEL_BASELINES, LABELS, LISTS, SERVED, SPLITS, TRUTH
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.loading.left_out import Seen
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.data.storage.evaluation_arrays import TruthArrays
from jaxrec.evaluation.delays.of_delay import check_delays, evaluate_delays
from jaxrec.evaluation.details.frozen_lists import ListEvaluation, Queries, evaluate_lists
from jaxrec.evaluation.details.full_catalogue import CatalogueOptions, evaluate_catalogue
from jaxrec.evaluation.details.gradients import HeadGradients
from jaxrec.evaluation.details.of_report import measure_for_report
from jaxrec.evaluation.labels.observed import observed_labels, observed_metrics
from jaxrec.evaluation.labels.of_heads import predict_labels
from jaxrec.evaluation.labels.of_states import CATEGORIES, StateScorer, category_metrics
from jaxrec.evaluation.labels.predictions import label_metrics
from jaxrec.evaluation.labels.rates import baseline_metrics
from jaxrec.evaluation.results import EvaluationResult, lists_of_queries, write_result
from jaxrec.evaluation.scorers import CatalogueRanks
from jaxrec.evaluation.sessions.of_session import check_session, evaluate_sessions
from jaxrec.evaluation.truth.of_policy import TruthEvaluation, evaluate_policy, stored_truth
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.growth.later_catalogue import open_later_dataset
from jaxrec.tasks.inputs.session import reads_session
from jaxrec.tasks.loading import LoadedCheckpoint, default_checkpoint, load_checkpoint


class EvaluationOptions(NamedTuple):
    """Settings of an evaluation.

    Args:
        split: name of the split.
        lists: candidate lists to score; CATALOGUE ranks all titles. Empty: the frozen lists or, for a
            next-item model, which has none, CATALOGUE. TRUTH measures the model as a policy, and all lists
            are then evaluated at the queries whose truth is stored.
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
        session: sessions to evaluate by position, out of `sessions.of_session.SESSIONS`.
        delay_hours: hours from the computation of the scores to the request, of a model of sequences; empty:
            those of the config.
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
    session: tuple[str, ...] = ()
    delay_hours: tuple[float, ...] = ()


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
        data: folder of the dataset, which may continue that of the training. None: that of the training.

    Raises:
        InputError: the layout, the titles or the categories of the dataset are neither those of the
            checkpoint nor grown from them; the run is offline and predicts no labels; there is no such
            blend; a list that the model does not rank; K larger than the dataset stores; `retrieve` without a
            retrieval head; `diversity` outside 0 to 1 or without CATALOGUE; `gradients` of a single head;
            `session` of a model that reads none; `delay_hours` below 0 or of a model that ranks lists.
    """
    started = time.perf_counter()
    workdir = as_path(workdir)
    which = which or default_checkpoint(workdir)
    loaded = load_checkpoint(workdir, which, options.blend)
    check_session(options.session, reads_session(loaded.config))
    loaded, dataset = open_later_dataset(loaded, data)
    protocols, rows = loaded.task.protocols(), dataset.rows(options.split).all()
    usual = _usual_lists(loaded, dataset, options.split, rows)
    lists = _checked_lists(options, loaded, usual, rows)
    table = replicate(loaded.task.title_table(loaded.arrays))
    queries, truth = _queries(loaded, dataset, table, options.split, rows, TRUTH in lists)
    frozen = tuple(name for name in lists if name in LISTS)
    result: dict[str, Any] = {"name": loaded.config.name, "split": options.split, "which": which}
    result |= _gradients(queries, options)
    of_changed_rows, delayed_ranks = _of_changed_rows(queries, options)
    result |= of_changed_rows
    ranked, of_all_titles = _rank_all_titles(workdir, queries, options) if CATALOGUE in lists else (None, {})
    of_truth = TruthEvaluation({}, {}) if truth is None else evaluate_policy(queries, truth, options.split)
    ks = (options.next_k or loaded.config.evaluate.next_k) if protocols.lists else (1,)
    scored = _score_lists(queries, lists, ks, options)
    seen = options.seen or loaded.config.evaluate.seen
    observed = observed_labels(loaded.config, queries.rows, dataset.layout)
    result |= of_all_titles | of_truth.result | scored.result
    result |= {
        **_label_baselines(queries, options.split, scored, observed),
        "protocol": _protocol(options, lists, usual, seen, queries),
        "dataset": dataset.queries,
        "step": loaded.step,
        "seed": loaded.config.train.seed,
        "seconds": time.perf_counter() - started,
    }
    measured = measure_for_report(workdir, queries, options.report_users, scored, ranked)
    return EvaluationResult(
        result, queries.rows, scored.scores, dataset.user_keys(options.split), frozen, ks, scored.other_heads,
        ranked, measured, loaded.config.evaluate.report, scored.labels, observed,
        of_truth.columns | delayed_ranks,
        queries.row_index,
    )  # fmt: skip


def _of_changed_rows(
    queries: Queries, options: EvaluationOptions
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the results by session and by delay as a part of the result, and columns [Q] by delay."""
    result: dict[str, Any] = {}
    ranks: dict[str, np.ndarray] = {}
    if options.session:
        result["session"] = evaluate_sessions(queries, options.session)
    hours = options.delay_hours or queries.loaded.config.evaluate.delay_hours
    if hours:
        result["delay"], ranks = evaluate_delays(queries, hours, options.split, options.seen)
    return result, ranks


def _score_lists(
    queries: Queries, lists: tuple[str, ...], ks: tuple[int, ...], options: EvaluationOptions
) -> ListEvaluation:
    """Score the frozen lists, or predict labels: of a model without lists, and of heads on states."""
    task, params = queries.loaded.task, queries.loaded.params
    if task.protocols().lists:
        return evaluate_lists(queries, tuple(name for name in lists if name in LISTS), ks, options.heads)
    scored, user = ListEvaluation(np.empty((len(queries.rows), 0)), {}, {}, {}, {}, {}), queries.rows["user"]
    if task.layout.rows == "next_item" and (task.label_heads or task.category_heads):
        states = StateScorer(task, queries.table)(params, queries.on_disk)
        result: dict[str, Any] = {}
        if states.labels:
            result[LABELS] = label_metrics(states.labels, user)
        if states.categories:
            result[CATEGORIES] = category_metrics(states.categories, user)
        return scored._replace(result=result, labels=states.labels)
    if lists:
        return scored
    labels = predict_labels(task, params, queries.table, queries.on_disk)
    return scored._replace(result={LABELS: label_metrics(labels, user)}, labels=labels)


def _queries(
    loaded: LoadedCheckpoint,
    dataset: Dataset,
    table: TitleTable,
    split: str,
    rows: np.ndarray,
    with_truth: bool,
) -> tuple[Queries, TruthArrays | None]:
    """Return the queries of a split, and None; with the truth those whose truth is stored, and it."""
    if not with_truth:
        return Queries(loaded, dataset, table, dataset.rows(split), rows), None
    truth = stored_truth(dataset, split)
    rows = rows[truth.rows]
    return Queries(loaded, dataset, table, SelectedRows(rows), rows, truth.rows), truth


def _rank_all_titles(
    workdir: AnyPath, queries: Queries, options: EvaluationOptions
) -> tuple[CatalogueRanks, dict[str, Any]]:
    """Return the rankings of all titles, and their metrics as a part of the result."""
    of_catalogue = CatalogueOptions(options.split, options.seen, options.retrieve, options.diversity)
    ranked, result = evaluate_catalogue(workdir, queries, of_catalogue)
    return ranked, {CATALOGUE: result}


def _label_baselines(
    queries: Queries, split: str, scored: ListEvaluation, observed: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the metrics of the baselines of the heads of labels, as a part of the result; {} without any.

    Early labels that the model reads are baselines too.
    """
    config, user = queries.loaded.config, queries.rows["user"]
    of_baselines = baseline_metrics(config, queries.dataset, split, scored.labels, user)
    of_baselines |= observed_metrics(observed, scored.labels, user)
    return {LABEL_BASELINES: of_baselines} if of_baselines else {}


def _usual_lists(loaded: LoadedCheckpoint, dataset: Dataset, split: str, rows: np.ndarray) -> tuple[str, ...]:
    """Return the lists that the training reports; none for a model that is measured by labels alone."""
    protocols = loaded.task.protocols()
    if protocols.best[0] == LABELS:
        return ()
    with_truth = protocols.usual_truth and split == SPLITS[-1] and dataset.truth() is not None
    ranked = lists_of_queries(protocols.lists, rows) or (CATALOGUE,)
    return (*ranked, *((TRUTH,) if with_truth else ()))


def _checked_lists(
    options: EvaluationOptions, loaded: LoadedCheckpoint, usual: tuple[str, ...], rows: np.ndarray
) -> tuple[str, ...]:
    """Return the candidate lists to score; none for a model that is measured by labels alone.

    Args:
        options: options of the evaluation.
        loaded: the checkpoint.
        usual: the lists that the training reports.
        rows: the held-out rows. Without a slate in them there is no served list.

    Raises:
        InputError: The model does not rank these lists, or `diversity` or `delay_hours` does not fit them.
    """
    protocols = loaded.task.protocols()
    check_delays(options.delay_hours, rows.dtype)
    if protocols.best[0] == LABELS:
        for name, values in (("lists", options.lists), ("delay_hours", options.delay_hours)):
            if values:
                raise InputError(
                    f"{name}={','.join(map(str, values))}; allowed: none, for the model of "
                    f"{loaded.config.name!r} ranks no titles: it is measured by the labels that its heads "
                    "predict"
                )
        return ()
    check_ranks_titles(loaded.config)
    lists = options.lists or usual
    frozen = tuple(name for name in lists if name in LISTS)
    if frozen and not protocols.lists:
        allowed = f"allowed for a next-item model: {CATALOGUE}, {TRUTH}"
        raise InputError(f"lists={','.join(frozen)}; {allowed}")
    if TRUTH in lists and not protocols.is_policy:
        allowed = f"allowed: {', '.join((*protocols.lists, CATALOGUE))}"
        raise InputError(f"lists={TRUTH}: the scores of a ranking model are no probabilities; {allowed}")
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


def _protocol(
    options: EvaluationOptions, lists: tuple[str, ...], usual: tuple[str, ...], seen: str, queries: Queries
) -> dict[str, Any]:
    """Return what was ranked and how; `name` is empty for the protocol that the training reports."""
    config, dataset = queries.loaded.config, queries.dataset
    parts = [] if set(lists) == set(usual) else list(lists)
    if CATALOGUE in lists:
        parts += [seen] * (seen != config.evaluate.seen)
        parts += [f"retrieve{options.retrieve}"] * bool(options.retrieve)
        parts += [f"mmr{options.diversity:g}"] * bool(options.diversity)
    parts += ["session"] * bool(options.session)
    parts += ["delay"] * bool(options.delay_hours)
    parts += [f"blend-{config.evaluate.ranking_head}"] * bool(options.blend)
    own = dataset.fingerprint == queries.loaded.meta["dataset"]
    parts += [f"on-{dataset.fingerprint[:8]}"] * (not own)
    return {
        "name": "-".join(parts),
        "lists": list(lists),
        "seen": seen if CATALOGUE in lists else None,
        "own_dataset": own,
    } | ({"blend": options.blend} if options.blend else {})


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
