"""Measurements of an evaluation that its report shows: intervals, breakdowns and example users."""

from typing import Any

from jaxrec.core.ids import CATALOGUE
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation import metrics
from jaxrec.evaluation.correction import read_correction, uncorrected
from jaxrec.evaluation.details.example_users import (
    Ranking,
    describe_examples,
    example_queries,
    names_of_titles,
)
from jaxrec.evaluation.details.frozen_lists import ListEvaluation, Queries
from jaxrec.evaluation.details.measurements import measure
from jaxrec.evaluation.scorers import CatalogueRanker, CatalogueRanks


def measure_for_report(
    workdir: AnyPath, queries: Queries, report_users: int | None, scored: ListEvaluation,
    ranked: CatalogueRanks | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the measurements for the report.

    Args:
        workdir: folder of the run.
        queries: the queries and the checkpoint.
        report_users: number of example users; None: the value of the config.
        scored: results on the frozen lists.
        ranked: ranks among all titles; None unless requested.
    """
    loaded, ranks = queries.loaded, dict(scored.ranks)
    if ranked is not None:
        ranks[CATALOGUE] = {name: order.ranks for name, order in ranked.by_order.items()}
    measured = measure(loaded, queries.dataset, queries.rows, ranks)
    if scored.calibration:
        measured["calibration"] = scored.calibration
    count = loaded.config.evaluate.report_users if report_users is None else report_users
    return measured | {"examples": _examples(workdir, queries, ranked, count)}


def _examples(
    workdir: AnyPath, queries: Queries, ranked: CatalogueRanks | None, count: int
) -> dict[str, Any] | None:
    """Return `count` example users; None if there are none or no head can rank all titles."""
    loaded = queries.loaded
    if not count or not len(queries.rows) or not loaded.task.catalogue_heads:
        return None
    chosen = example_queries(queries.rows["user"], count)
    rows = queries.rows[chosen]
    if ranked is not None:
        model = ranked.by_order["model"]
        ranking = Ranking(model.top[chosen], model.ranks[chosen], "as recommended")
    else:
        correction = read_correction(workdir, loaded.step, loaded.task)
        orders = {"model": correction or uncorrected(loaded.task)}
        top = min(metrics.SHOWN, len(loaded.arrays.id_of_rank))
        few = CatalogueRanker(loaded.task, queries.table, orders, "stored", top)
        model = few(loaded.params, SelectedRows(rows)).by_order["model"]
        ranking = Ranking(model.top, model.ranks, "as recommended" if correction else "by plain scores")
    names = names_of_titles(loaded.config.source, loaded.arrays)
    has_completion = bool(queries.dataset.manifest.get("has_completion", False))
    return describe_examples(rows, ranking, names, has_completion)
