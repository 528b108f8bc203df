"""Evaluation results: metrics, values by user and by query, output files."""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.ids import CATALOGUE, DRAWN_LISTS, LISTS, SERVED
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.loading.left_out import LeftOutTitles
from jaxrec.data.storage.dataset import Arrays
from jaxrec.evaluation import baselines, metrics
from jaxrec.evaluation.details.measurements import write_measurements
from jaxrec.evaluation.labels.predictions import KNOWN, LABEL, OBSERVED, PREDICTION, HeadPredictions
from jaxrec.evaluation.scorers import CatalogueRanks
from jaxrec.runtime.checksums import checksum_of


def _ranks(
    scores: np.ndarray, rows: np.ndarray, next_k: int, name: str = DRAWN_LISTS[0]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks [N] and users [N] of the targets among `next_k` that have a list of this name."""
    present, users = _present_targets(rows, next_k, name)
    shown = rows[f"list_{SERVED}"][:, :next_k] > 0 if name == SERVED else None
    return metrics.rank(scores[:, :next_k], shown)[present], users


def _present_targets(
    rows: np.ndarray, next_k: int, name: str = DRAWN_LISTS[0]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask [Q, next_k] of next titles that have a list of this name, and their users [N]."""
    present = baselines.listed(rows, name)[:, :next_k]
    return present, np.broadcast_to(rows["user"][:, None], present.shape)[present]


def summary(scores: np.ndarray, rows: np.ndarray, next_k: int, name: str = DRAWN_LISTS[0]) -> dict[str, Any]:
    """Return the mean metrics of one list, and the number of users and examples.

    Args:
        scores: [Q, >= next_k, 1 + negatives], the target first.
        rows: the Q held-out rows.
        next_k: number of next titles K to evaluate.
        name: name of the list.
    """
    return list_metrics(_ranks(scores, rows, next_k, name)[0], rows, next_k, name)


def list_metrics(
    rank: np.ndarray, rows: np.ndarray, next_k: int, name: str = DRAWN_LISTS[0]
) -> dict[str, Any]:
    """Return the mean metrics of ranks [N] of one list, and the number of users and examples.

    Args:
        rank: ranks of the targets present among `next_k`.
        rows: the Q held-out rows.
        next_k: number of next titles K of the ranks.
        name: name of the list.
    """
    out: dict[str, Any] = {name: float(f(rank).mean()) for name, f in metrics.METRICS.items()}
    return out | {"users": len(np.unique(_present_targets(rows, next_k, name)[1])), "examples": len(rank)}


def lists_of_queries(lists: tuple[str, ...], rows: np.ndarray) -> tuple[str, ...]:
    """Return those of `lists` that a query has: without any slate in the rows no served list."""
    return tuple(name for name in lists if name != SERVED or baselines.listed(rows, name).any())


def model_lists(scores: np.ndarray, rows: np.ndarray, next_k: int, lists: tuple[str, ...]) -> dict[str, Any]:
    """Return metrics on each of `lists`.

    Args:
        scores: [Q, LISTS, K, 1 + negatives], the target first.
        rows: the Q held-out rows.
        next_k: number of next titles K to evaluate.
        lists: names of the candidate lists.

    Returns:
        List -> metrics, as `summary` returns them.
    """
    return {name: summary(scores[:, LISTS.index(name)], rows, next_k, name) for name in lists}


def model_ranks(scores: np.ndarray, rows: np.ndarray, lists: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return list -> ranks [N] of the next titles (K=1) that have a list; arguments as of `model_lists`."""
    return {name: _ranks(scores[:, LISTS.index(name)], rows, 1, name)[0] for name in lists}


def baseline_ranks(
    rows: np.ndarray, arrays: Arrays, next_k: int, lists: tuple[str, ...], shown_abandoned: bool,
    rules: dict[str, baselines.Rule],
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Return the ranks of the targets by each baseline on each of `lists`.

    For K=1 the oracles are included, if the source stores the true probabilities.

    Args:
        rows: the Q held-out rows.
        arrays: statistics of titles.
        next_k: number of next titles K to evaluate.
        lists: names of the candidate lists.
        shown_abandoned: True if the model reads abandoned titles of the history.
        rules: name -> baseline.

    Returns:
        Baseline -> list -> ranks [N] of the targets present among `next_k`.
    """
    out = {
        rule: {name: _ranks(score(rows, name, arrays), rows, next_k, name)[0] for name in lists}
        for rule, score in rules.items()
    }
    if next_k == 1 and len(rows) and np.isfinite(rows["oracle_enabled"]).all():
        out |= {
            row: {name: _ranks(score(rows, name, shown_abandoned), rows, 1, name)[0] for name in lists}
            for row, score in baselines.ORACLES.items()
        }
    return out


def by_hard(scores: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Return the metrics on the enabled list by its number of hard negatives (K=1).

    Args:
        scores: [Q, LISTS, K, 1 + negatives], the target first.
        rows: the Q held-out rows.

    Returns:
        Number of hard negatives, as text -> metrics, as `summary` returns them.
    """
    counts = rows["num_hard"][:, 0]
    return {
        str(n): summary(scores[counts == n, LISTS.index("enabled")], rows[counts == n], 1)
        for n in np.unique(counts)
    }


def full_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Return the mean metrics over the whole catalogue.

    Args:
        ranks: [Q] ranks of the targets, from 1.
    """
    return {metric: float(f(ranks).mean()) for metric, f in metrics.FULL.items()}


def catalogue_result(
    ranked: CatalogueRanks, rows: np.ndarray, arrays: Arrays, left_out: LeftOutTitles, retrieve: int = 0,
    diversity: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Return metrics over all titles (K=1) by name of the order, and the settings.

    Args:
        ranked: ranks and recommended titles of each order.
        rows: the Q held-out rows.
        arrays: statistics of titles.
        left_out: titles that were left out. The targets among them, which compete in any case, are counted
            as "repeated_targets". Targets that no training user played are counted as "cold_targets".
        retrieve: number of retrieved titles of the two-stage ranking; 0: none.
        diversity: weight of dissimilarity of the order by MMR; 0: none.
    """
    targets, users = rows["target"][:, 0], len(np.unique(rows["user"]))
    titles = len(arrays.id_of_rank)
    out: dict[str, Any] = {
        name: full_metrics(order.ranks) | metrics.shown(order.top, arrays.title_plays, targets, titles)
        for name, order in ranked.by_order.items()
    }
    for name, order in ranked.by_order.items():
        if order.distance is not None:
            lists_of_two = order.distance[~np.isnan(order.distance)]
            out[name][f"ild@{metrics.SHOWN}"] = float(lists_of_two.mean()) if len(lists_of_two) else None
    if diversity:
        out["diversity"] = diversity
    if retrieve:
        out |= {
            "two_stage": full_metrics(ranked.staged),
            "retrieved": retrieve,
            "kept": float(ranked.kept.mean()),
        }
    seen = {"seen": left_out.seen, "repeated_targets": int(left_out.contain(targets).sum())}
    seen["cold_targets"] = int((arrays.title_plays[targets] == 0).sum())
    return out | seen | {"titles": titles, "users": users, "examples": len(rows)}


class EvaluationResult(NamedTuple):
    """Result of a checkpoint, and the scores and rows behind the result.

    Attributes:
        result: JSON values, as `reporting.result_table` prints them.
        rows: [Q] of `Layout.query_dtype`.
        scores: [Q, lists, K, 1 + negatives], the target first.
        user_keys: Keys of the source, indexed by `user` of a row.
        lists: Names of the candidate lists.
        next_k: Values of K, the number of next titles.
        other_heads: Head -> scores of the other heads; empty unless requested.
        ranked: Ranks among all titles; None unless requested.
        measured: Measurements for the report, as `details.measurements` writes them.
        report: True to write report.html beside the result.
        labels: Predictions of the heads that predict a label.
        observed: Early labels that the model reads, [Q] each; only of offline runs.
        policy: Column -> values [Q] of the policy, such as "truth/value", and ranks by delay, such as
            "delay/24"; empty unless requested.
        row_index: [Q] indices of the rows in the split; None: all of it.
    """

    result: dict[str, Any]
    rows: np.ndarray
    scores: np.ndarray
    user_keys: np.ndarray
    lists: tuple[str, ...]
    next_k: tuple[int, ...]
    other_heads: dict[str, np.ndarray]
    ranked: CatalogueRanks | None
    measured: dict[str, Any]
    report: bool
    labels: dict[str, HeadPredictions]
    observed: dict[str, np.ndarray]
    policy: dict[str, np.ndarray]
    row_index: np.ndarray | None


def per_user(evaluation: EvaluationResult) -> dict[str, np.ndarray]:
    """Return columns [U] with the mean metrics of each user, for paired tests.

    `user` holds the keys of the source. `enabled/ndcg@1` is for K=1, `enabled_k3/ndcg@1` for the next three
    titles, `enabled_ctr/ndcg@1` and `enabled_ctr_k3/ndcg@1` for another head, `catalogue/ndcg@10` over all
    titles, `truth/value` of the policy. `queries` and `queries_k3` are the number of values in each mean. A
    user without a served list has NaN in the columns of that list, whose means are over the queries that have
    one.
    """
    rows, out = evaluation.rows, {}
    by_head = {"": evaluation.scores} | {
        f"_{head}": scores for head, scores in evaluation.other_heads.items()
    }
    for k in sorted({1, *evaluation.next_k}):
        for head, scores in by_head.items():
            for name in evaluation.lists:
                rank, user = _ranks(scores[:, LISTS.index(name)], rows, k, name)
                for metric, f in metrics.METRICS.items():
                    means = metrics.per_user(user, f(rank))
                    column = f"{name}{head}{metrics.suffix(k)}/{metric}"
                    out[column] = _of_all_users(*means[:2], rows["user"]) if name == SERVED else means[1]
        users, out[f"queries{metrics.suffix(k)}"] = np.unique(
            _present_targets(rows, k)[1], return_counts=True
        )
    if evaluation.ranked is not None:
        ranks = evaluation.ranked.by_order["model"].ranks
        for metric, f in metrics.FULL.items():
            out[f"{CATALOGUE}/{metric}"] = metrics.per_user(rows["user"], f(ranks))[1]
    for column, values in evaluation.policy.items():
        out[column] = metrics.per_user(rows["user"], values)[1]
    return {"user": evaluation.user_keys[users], **out}


def _of_all_users(user: np.ndarray, mean: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Return the means of all users, NaN for a user that is not in `user`.

    Args:
        user: [N] users, ascending.
        mean: [N] their means.
        every: [Q] users of all queries.
    """
    users = np.unique(every)
    out = np.full(len(users), np.nan)
    out[np.searchsorted(users, user)] = mean
    return out


def per_query(evaluation: EvaluationResult) -> dict[str, np.ndarray]:
    """Return columns [Q] per query (K=1): user key, rank of the target in each list, labels.

    The rank is 0 where a query has no such list. `prediction/<head>`, `label/<head>` and `known/<head>` are
    those of the heads that predict a label, `observed/<label>` the early labels that the model reads,
    `truth/<metric>` and `rewards/value` the values of the policy, `delay/<hours>` the ranks by delay.
    """
    ranks = {}
    for name in evaluation.lists:
        ranks[name] = np.zeros(len(evaluation.rows), np.uint16)
        scores = evaluation.scores[:, LISTS.index(name)]
        has_list = baselines.listed(evaluation.rows, name)[:, 0]
        ranks[name][has_list] = _ranks(scores, evaluation.rows, 1, name)[0]
    if evaluation.ranked is not None:
        ranks[CATALOGUE] = evaluation.ranked.by_order["model"].ranks.astype(np.uint32)
    labels: dict[str, np.ndarray] = {}
    for head, of_head in evaluation.labels.items():
        labels[f"{PREDICTION}{head}"], labels[f"{LABEL}{head}"] = of_head.prediction, of_head.label
        labels[f"{KNOWN}{head}"] = of_head.known.astype(np.uint8)
    labels |= {f"{OBSERVED}{name}": values for name, values in evaluation.observed.items()}
    user = evaluation.user_keys[evaluation.rows["user"]]
    return {"user": user, **ranks, **labels, **evaluation.policy}


def write_result(
    workdir: str | AnyPath, evaluation: EvaluationResult, each: bool, out: AnyPath | str = ""
) -> None:
    """Write the result to `eval-<split>-<which>.json` in a workdir, and write its report again.

    Another protocol than that of the training's report has its name at the end, as in
    `eval-test-best-catalogue.json`, so that no protocol overwrites the result of another.

    Args:
        workdir: folder to write to.
        evaluation: the result of `evaluate`.
        each: True to write also the means of each user and the ranks of each query, as Parquet, for
            `per_user.read`.
        out: another folder for the files; the workdir and its report are then left as they are.

    Raises:
        InputError: `out` cannot be a folder.
    """
    result = evaluation.result
    protocol = result["protocol"]["name"]
    name = f"eval-{result['split']}-{result['which']}" + f"-{protocol}" * bool(protocol)
    folder = as_path(out or workdir)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    if each:
        # Imports polars, which an evaluation without Parquet files does not need.
        from jaxrec.evaluation import per_user as per_user_module

        files = per_user_module.encode(name, per_user(evaluation), per_query(evaluation))
        result = result | {"files": {file: checksum_of(data) for file, data in files.items()}}
    write_json(folder / f"{name}.json", result)
    if not out:
        write_report(workdir, evaluation)
    if each:
        per_user_module.write(folder, files)


def write_report(workdir: str | AnyPath, evaluation: EvaluationResult) -> None:
    """Write the measurements of an evaluation and report.html to a workdir that holds its result.

    Without `evaluate.report` only the measurements are written. Measurements on another dataset than the
    training's do not replace those of the run.

    Args:
        workdir: folder of the run.
        evaluation: the result of `evaluate`.
    """
    if evaluation.result["protocol"]["own_dataset"]:
        write_measurements(as_path(workdir), evaluation.result, evaluation.measured)
    if evaluation.report:
        from jaxrec.reporting.pages.run_page import write_run_page  # imports matplotlib

        write_run_page(workdir)
