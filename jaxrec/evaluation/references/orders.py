"""Orders of all titles beside that of a model: by text, by the source of a page, and by the truth.

- lexical: the match of the request's text with the names, as in `data.text.named_titles`.
- matches: titles that share an n-gram with the text first.
- source: the co-occurrence of titles with the title that the request names.
- oracle: the true probability of each title as the next play, at the queries whose truth is stored.

Popularity breaks ties, and is the order where a request has no text or names no title. The titles that are
left out of the rankings of the model are left out here.
"""

from collections.abc import Callable, Mapping

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.storage.dataset import Arrays, Dataset
from jaxrec.data.text.named_titles import named_titles
from jaxrec.evaluation import baselines, metrics
from jaxrec.evaluation.results import EvaluationResult
from jaxrec.tasks.loading import LoadedCheckpoint

METRICS = ("ndcg@1", "ndcg@10", "mrr@100", "hr@1", "hr@10")
_VALUES = 2**22  # scores of queries and titles at a time
Scores = Callable[[np.ndarray], np.ndarray]  # from indices [N] of queries to scores [N, titles] by rank


def catalogue_orders(
    evaluation: EvaluationResult, dataset: Dataset, loaded: LoadedCheckpoint
) -> dict[str, np.ndarray]:
    """Return the ranks [Q] float64 of the targets by order, from 1; NaN for a query without a stored truth.

    Empty where all titles were not ranked.
    """
    if evaluation.ranked is None:
        return {}
    rows, result = evaluation.rows, evaluation.result
    seen = result["protocol"]["seen"]
    left_out = left_out_titles(dataset, result["split"], rows, seen, evaluation.row_index)
    out = {name: order.ranks.astype(np.float64) for name, order in evaluation.ranked.by_order.items()}
    every = np.arange(len(rows))
    for name, scores in _references(rows, dataset, loaded).items():
        out[name] = target_ranks(scores, every, rows["target"][:, 0], loaded.arrays, left_out)
    truth = dataset.truth(result["split"])
    if truth is not None and len(truth.rows):
        index = every if evaluation.row_index is None else evaluation.row_index
        _, query, at = np.intersect1d(index, truth.rows, assume_unique=True, return_indices=True)
        place = np.zeros(len(rows), np.int64)
        place[query] = at
        column = loaded.arrays.id_of_rank - FIRST_TITLE
        arguments = rows["target"][:, 0], loaded.arrays, left_out
        out["oracle"] = np.full(len(rows), np.nan)
        out["oracle"][query] = target_ranks(lambda q: truth.choice[place[q]][:, column], query, *arguments)
    return out


def _references(rows: np.ndarray, dataset: Dataset, loaded: LoadedCheckpoint) -> dict[str, Scores]:
    """Return the scores of the orders that the features of the rows allow."""
    layout, arrays = loaded.task.layout, loaded.arrays
    kinds = {where: {f.kind for f in layout.of(where)} for where in ("title", "context")}
    out: dict[str, Scores] = {}
    if "text" in kinds["title"] & kinds["context"]:
        names = named_titles(layout, arrays.title_categories[arrays.id_of_rank])
        out["lexical"] = lambda q: names.matches(rows["context_categories"][q])
        out["matches"] = lambda q: (names.matches(rows["context_categories"][q]) > 0).astype(np.float64)
    if "title" in kinds["context"]:
        source = next(f.name for f in layout.of("context") if f.kind == "title")
        column = layout.category_column("context", source)
        shown = loaded.config.sampling.history_keeps_abandoned
        cosine = baselines.co_occurrence(dataset.rows("train"), arrays, shown)
        titles = len(cosine) - 1

        def by_source(query: np.ndarray) -> np.ndarray:
            """Return the cosines with the source; 0 without a source, and for titles that are not counted."""
            id_Q = rows["context_categories"][query, column]
            rank_Q = np.where(id_Q >= FIRST_TITLE, np.minimum(arrays.rank_of_id[id_Q], titles), titles)
            return cosine[rank_Q][:, np.minimum(np.arange(len(arrays.id_of_rank)), titles)]

        out["source"] = by_source
    return out


def target_ranks(
    scores: Scores, query: np.ndarray, target: np.ndarray, arrays: Arrays, left_out: LeftOutTitles
) -> np.ndarray:
    """Return the ranks [N] of the targets of queries, from 1.

    Args:
        scores: Scores of all titles, by popularity rank.
        query: [N] indices of queries.
        target: [Q] ids of all queries.
        arrays: Statistics of titles.
        left_out: Titles that do not compete with the target.
    """
    titles = len(arrays.id_of_rank)
    out, step = np.empty(len(query), np.int64), max(1, _VALUES // titles)
    for first in range(0, len(query), step):
        part = query[first : first + step]
        score, own = scores(part), arrays.rank_of_id[target[part]].astype(np.int64)
        if (own >= titles).any():
            raise ValueError("a target has no popularity rank: it is no candidate of the catalogue")
        of_target = score[np.arange(len(part)), own][:, None]
        is_before = (score > of_target) | ((score == of_target) & (np.arange(titles) < own[:, None]))
        row, title = left_out.pairs(part)
        rank = arrays.rank_of_id[title]
        kept = rank < titles
        is_before[row[kept], rank[kept]] = False
        out[first : first + step] = 1 + is_before.sum(axis=1)
    return out


def means_by_slice(
    group: np.ndarray, slices: int, orders: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float | None]]]:
    """Return order -> metric -> its mean in each slice, over the queries whose rank is known.

    Args:
        group: [Q] slice of each query, -1 for none.
        slices: Number of slices.
        orders: Order -> ranks [Q], NaN where unknown.
    """
    out: dict[str, dict[str, list[float | None]]] = {}
    for name, ranks in orders.items():
        known = (group >= 0) & ~np.isnan(ranks)
        count = np.bincount(group[known], minlength=slices)
        out[name] = {}
        for metric in METRICS:
            total = np.bincount(group[known], metrics.FULL[metric](ranks[known]), slices)
            out[name][metric] = [float(t / n) if n else None for t, n in zip(total, count, strict=True)]
    return out
