"""Metrics of an evaluation as dictionaries, and their values by user and query."""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.ids import CATALOGUE, LISTS
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.storage.dataset import Arrays
from jaxrec.evaluation import baselines, metrics
from jaxrec.evaluation.scorers import CatalogueRanks


def _ranks(scores: np.ndarray, rows: np.ndarray, next_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rank of every target that is present among the next `next_k`, and whose it is, both [N]."""
    present, users = _present_targets(rows, next_k)
    return metrics.rank(scores[:, :next_k])[present], users


def _present_targets(rows: np.ndarray, next_k: int) -> tuple[np.ndarray, np.ndarray]:
    """[Q, next_k] bool: which of the next titles there are; and whose those are, [N]."""
    present = rows["target"][:, :next_k] > 0
    return present, np.broadcast_to(rows["user"][:, None], present.shape)[present]


def summary(scores: np.ndarray, rows: np.ndarray, next_k: int) -> dict[str, Any]:
    """Metrics of one list from scores [Q, >= next_k, 1 + negatives], the target first: means over queries."""
    rank, users = _ranks(scores, rows, next_k)
    out: dict[str, Any] = {name: float(f(rank).mean()) for name, f in metrics.METRICS.items()}
    return out | {"users": len(np.unique(users)), "examples": len(rank)}


def model_lists(scores: np.ndarray, rows: np.ndarray, next_k: int, lists: tuple[str, ...]) -> dict[str, Any]:
    return {name: summary(scores[:, LISTS.index(name)], rows, next_k) for name in lists}


def baseline_lists(
    rows: np.ndarray, arrays: Arrays, next_k: int, lists: tuple[str, ...], shown_abandoned: bool,
    rules: dict[str, baselines.Rule],
) -> dict[str, Any]:  # fmt: skip
    """Every rule, and for K=1 the oracle's rows where the source knows the truth."""
    out = {
        rule: {name: summary(score(rows, name, arrays), rows, next_k) for name in lists}
        for rule, score in rules.items()
    }
    if next_k == 1 and len(rows) and np.isfinite(rows["oracle_enabled"]).all():
        out |= {
            row: {name: summary(score(rows, name, shown_abandoned), rows, 1) for name in lists}
            for row, score in baselines.ORACLES.items()
        }
    return out


def by_hard(scores: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Metrics on the enabled list by how many hard negatives it holds (K=1)."""
    counts = rows["list_hard"][:, 0]
    return {
        str(n): summary(scores[counts == n, LISTS.index("enabled")], rows[counts == n], 1)
        for n in np.unique(counts)
    }


def full_metrics(ranks: np.ndarray) -> dict[str, float]:
    return {metric: float(f(ranks).mean()) for metric, f in metrics.FULL.items()}


def whole_catalogue(
    ranked: dict[str, CatalogueRanks], rows: np.ndarray, arrays: Arrays, filtered: bool
) -> dict[str, Any]:
    """Each row's metrics over all titles (K=1), by its name; and what was asked."""
    targets, users = rows["target"][:, 0], len(np.unique(rows["user"]))
    out: dict[str, Any] = {
        name: full_metrics(found.ranks) | metrics.shown(found.top, arrays.title_plays, targets)
        for name, found in ranked.items()
    }
    titles = len(arrays.id_of_rank)
    return out | {"filtered": filtered, "titles": titles, "users": users, "examples": len(rows)}


class EvaluationResult(NamedTuple):
    """A checkpoint's result as `report` prints it, and what it was worked out from."""

    result: dict[str, Any]
    rows: np.ndarray  # [Q] Layout.query_dtype
    scores: np.ndarray  # [Q, lists, K, 1 + negatives], the target first
    user_keys: np.ndarray  # the caller's keys, by a row's `user`
    lists: tuple[str, ...]
    next_k: tuple[int, ...]
    other_heads: dict[str, np.ndarray]  # scores by the heads that could rank and do not, where asked for
    ranked: CatalogueRanks | None  # among all titles, where asked for


def per_user(judged: EvaluationResult) -> dict[str, np.ndarray]:
    """Columns of each user's mean metrics, by the caller's own keys: what paired tests compare.

    `enabled/ndcg@1` is of K=1, `enabled_k3/ndcg@1` of the next three titles, `enabled_ctr/ndcg@1` and
    `enabled_ctr_k3/ndcg@1` by another head, `catalogue/ndcg@10` over all titles; `queries` and `queries_k3`
    count what a mean is over.
    """
    rows, out = judged.rows, {}
    by_head = {"": judged.scores} | {f"_{task}": scores for task, scores in judged.other_heads.items()}
    for k in sorted({1, *judged.next_k}):
        for head, scores in by_head.items():
            for name in judged.lists:
                rank, whose = _ranks(scores[:, LISTS.index(name)], rows, k)
                for metric, f in metrics.METRICS.items():
                    out[f"{name}{head}{metrics.suffix(k)}/{metric}"] = metrics.per_user(whose, f(rank))[1]
        users, out[f"queries{metrics.suffix(k)}"] = np.unique(
            _present_targets(rows, k)[1], return_counts=True
        )
    if judged.ranked is not None:
        for metric, f in metrics.FULL.items():
            out[f"{CATALOGUE}/{metric}"] = metrics.per_user(rows["user"], f(judged.ranked.ranks))[1]
    return {"user": judged.user_keys[users], **out}


def per_query(judged: EvaluationResult) -> dict[str, np.ndarray]:
    """Columns of every query (K=1): its user's key, and the target's rank in each list, from 1."""
    ranks = {
        name: metrics.rank(judged.scores[:, LISTS.index(name), 0]).astype(np.uint16) for name in judged.lists
    }
    if judged.ranked is not None:
        ranks[CATALOGUE] = judged.ranked.ranks.astype(np.uint32)
    return {"user": judged.user_keys[judged.rows["user"]], **ranks}


def write_result(workdir: str | AnyPath, judged: EvaluationResult, each: bool) -> None:
    """Writes the result to `eval-<split>-<which>.json` in a workdir and, where `each`, every user's means and
    every query's ranks beside it, as Parquet, for `paired.read`."""
    name = f"eval-{judged.result['split']}-{judged.result['which']}"
    write_json(as_path(workdir) / f"{name}.json", judged.result)
    if each:
        from jaxrec.evaluation import (
            per_user as per_user_module,  # polars, which not everyone who evaluates has a use for
        )

        per_user_module.write(workdir, name, per_user(judged), per_query(judged))
