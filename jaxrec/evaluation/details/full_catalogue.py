"""Evaluation on rankings of all titles: the model, its corrections, and popularity."""

from functools import partial
from typing import Any, NamedTuple

from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_LISTS
from jaxrec.core.paths import AnyPath
from jaxrec.data.loading.left_out import LeftOutTitles, Seen, left_out_titles
from jaxrec.evaluation import metrics, popularity
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.results import catalogue_result
from jaxrec.evaluation.scorers import CatalogueOrder, CatalogueRanker, CatalogueRanks
from jaxrec.evaluation.truth.shown_titles import COLUMN, mean_choice
from jaxrec.models.outputs import Correction


class CatalogueOptions(NamedTuple):
    """Fields of `evaluator.EvaluationOptions` that rankings of all titles read."""

    split: str
    seen: Seen | None
    retrieve: int
    diversity: float


def evaluate_catalogue(
    workdir: AnyPath, queries: Queries, options: CatalogueOptions
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
    left_out = left_out_titles(queries.dataset, options.split, queries.rows, seen, queries.row_index)
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
    truth = queries.dataset.truth(options.split)
    if truth is not None and len(truth.rows):
        for name, order in ranked.by_order.items():
            result[name][COLUMN] = mean_choice(order.top, truth, queries.row_index)
    return ranked, result | {"correction": correction.to_json()}


def _popular_orders(
    queries: Queries, split: str, left_out: LeftOutTitles, num_shown: int
) -> dict[str, CatalogueOrder]:
    """Rank all titles by popularity and, if the dataset has play times, by popularity of the last 7 days."""
    arrays, target = queries.loaded.arrays, queries.rows["target"][:, 0]
    orders = {"popularity": popularity.popularity_ranks(target, arrays, left_out, num_shown)}
    stored, daily = queries.dataset.seen_titles(split), queries.dataset.daily_plays()
    if stored is not None and daily is not None:
        query_time = stored.query_time if queries.row_index is None else stored.query_time[queries.row_index]
        orders["popularity_7_days"] = popularity.recent_popularity_ranks(
            target, query_time, daily, arrays, left_out, num_shown
        )
    return {name: CatalogueOrder(*ranks) for name, ranks in orders.items()}
