"""Evaluation of scores that were computed hours before the request: `evaluate --delay-hours`.

A service that computes recommendations in advance has not seen the last hours of a user. For a delay of h
hours the model reads the plays up to h hours before the request, and the time of the request is h hours
earlier. The target, the titles left out and the queries are the same for all delays, so differences are
paired.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import DELAYED, PAD
from jaxrec.data.loading.left_out import Seen, left_out_titles
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation import metrics
from jaxrec.evaluation.correction import uncorrected
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.details.grouped_means import GroupedMeans
from jaxrec.evaluation.scorers import CatalogueRanker

METRICS = ("hr@10", "ndcg@10", "mrr@100")  # of `metrics.FULL`
COLUMN = "delay/"  # start of the columns of ranks, by query
_PREFIX = "history_"
_HOUR = 3600


def check_delays(hours: Sequence[float], rows: np.dtype) -> None:
    """Raise InputError for hours below 0 or given twice, or for rows whose plays have no times."""
    text = ",".join(f"{h:g}" for h in hours)
    if any(not 0 <= h < np.inf for h in hours) or len(set(hours)) < len(hours):
        raise InputError(f"delay_hours={text}; allowed: finite numbers of at least 0, each once")
    if hours and f"{_PREFIX}time" not in (rows.names or ()):
        raise InputError(
            f"delay_hours={text}; allowed: none, for the rows of a ranking model hold ages of plays as of "
            "the request; rows of sequences hold times"
        )


def delayed(rows: np.ndarray, hours: float) -> np.ndarray:
    """Return a copy of query rows as they were `hours` before the request.

    Plays after that time are cut, and the plays before move to the right. Of tokens, the first one with an
    event after that time and all later ones are cut, so that no outcome after it is left.

    Args:
        rows: [Q] rows of sequences, of `Layout.query_dtype`.
        hours: Hours, at least 0.
    """
    out, until = rows.copy(), rows["target_time"].astype(np.int64) - round(hours * _HOUR)
    title = rows[f"{_PREFIX}title"]
    is_cut = (title != PAD) & (rows[f"{_PREFIX}time"] > until[:, None])
    if f"{_PREFIX}end" in (rows.dtype.names or ()):
        is_cut |= (title != PAD) & (rows[f"{_PREFIX}end"] > until[:, None])
        is_cut = np.maximum.accumulate(is_cut, axis=1)
    index = np.arange(title.shape[1]) - is_cut.sum(1)[:, None]  # plays are in the order of time
    for name in rows.dtype.names or ():
        if name.startswith(_PREFIX):
            at = index.reshape(*index.shape, *[1] * (rows[name].ndim - 2))
            moved = np.take_along_axis(rows[name], np.maximum(at, 0), axis=1)
            out[name] = np.where(at >= 0, moved, 0)
    out["target_time"] = np.maximum(until, 0)
    return out


def delayed_ranks(
    queries: Queries, hours: Sequence[float], split: str, seen: Seen | None
) -> tuple[dict[float, np.ndarray], np.ndarray]:
    """Return the rank [Q] of the target among all titles with each delay, and a mask of the counted queries.

    Only queries with a play before the longest delay count.

    Args:
        queries: Queries of a run on sequences.
        hours: Delays.
        split: Name of the split.
        seen: Titles left out, as of the request; None: the value of the config.
    """
    task, rows = queries.loaded.task, queries.rows
    seen = seen or queries.loaded.config.evaluate.seen
    left_out = left_out_titles(queries.dataset, split, rows, seen, queries.row_index)
    orders = {"model": uncorrected(task)}  # as always of tasks on sequences
    # The titles of the stored history are those of the request too, so they are given as bits.
    ranker = CatalogueRanker(task, queries.table, orders, "kept" if seen == "kept" else "all")
    ranks = {}
    for h in hours:
        of_delay: Any = SelectedRows(delayed(rows, h))
        if seen != "kept":
            of_delay = of_delay.with_words(partial(left_out.bits, titles=task.layout.num_titles))
        ranks[h] = ranker(queries.loaded.params, of_delay).by_order["model"].ranks
    longest = delayed(rows, max(hours))
    return ranks, (longest[f"{_PREFIX}title"] != PAD).any(1)


def evaluate_delays(
    queries: Queries, hours: Sequence[float], split: str, seen: Seen | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metrics of scores with each delay, and columns of ranks.

    Args:
        queries: Queries of a run on sequences.
        hours: Delays; differences are from the first.
        split: Name of the split.
        seen: As for `delayed_ranks`.

    Returns:
        JSON values: "metrics" delay -> metric -> [mean, half of the 95% interval over users], "differences"
        the same of each other delay less the first, "queries", "users" and "left_out"; and the columns
        "delay/<hours>" -> ranks [Q] uint32, 0 for a query that does not count, and of `value_columns`.
    """
    ranks, is_counted = delayed_ranks(queries, hours, split, seen)
    means = GroupedMeans(queries.rows["user"], np.where(is_counted, 0, -1), 1)
    values = {h: {m: metrics.FULL[m](rank) for m in METRICS} for h, rank in ranks.items()}

    def summary(of: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
        return {m: [None if np.isnan(v[0]) else float(v[0]) for v in means.of(x)] for m, x in of.items()}

    first = hours[0]
    result: dict[str, Any] = {
        "metrics": {f"{h:g}": summary(of) for h, of in values.items()},
        "differences": {
            f"{h:g} - {first:g}": summary({m: of[m] - values[first][m] for m in METRICS})
            for h, of in values.items()
            if h != first
        },
        "queries": int(means.queries[0]),
        "users": int(means.users[0]),
        "left_out": int((~is_counted).sum()),
    }
    columns = {f"{COLUMN}{h:g}": np.where(is_counted, rank, 0).astype(np.uint32) for h, rank in ranks.items()}
    return result, columns | value_columns(values, first, is_counted)


def value_columns(
    values: Mapping[float, Mapping[str, np.ndarray]], first: float, is_counted: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of each delay, "delay_48/ndcg@10", and of its difference, "delay_48-0/ndcg@10".

    A difference is that of a delay less the first one. The values of two models are compared query by query,
    and their differences too: a difference in differences. NaN is a query that does not count.

    Args:
        values: Delay -> metric -> values [Q].
        first: First delay.
        is_counted: [Q] bool.
    """
    columns = {}
    for h, of_metrics in values.items():
        for metric, value in of_metrics.items():
            columns[f"{DELAYED}{h:g}/{metric}"] = np.where(is_counted, value, np.nan)
            if h != first:
                lost = value - values[first][metric]
                columns[f"{DELAYED}{h:g}-{first:g}/{metric}"] = np.where(is_counted, lost, np.nan)
    return columns
