"""Quality by slice: metrics with intervals, regret against another run, and what may explain it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy  # which loads its parts where they are first used

from jaxrec.core.ids import CATALOGUE, SERVED
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import baselines, metrics
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.labels.bootstrap import counts_of_users
from jaxrec.evaluation.references.orders import catalogue_orders, means_by_slice
from jaxrec.evaluation.results import EvaluationResult, model_ranks
from jaxrec.evaluation.slices.causes import causes, new_targets
from jaxrec.evaluation.slices.slicing import Slicing, slice_queries
from jaxrec.evaluation.statistics import LEVEL, smallest_difference, tests
from jaxrec.tasks.growth.later_catalogue import open_later_dataset
from jaxrec.tasks.loading import LoadedCheckpoint, load_checkpoint

SLICES = "slices"  # key of the result
_REPLICATES, _COUNTS = 1_000, 2**22


def with_slices(
    evaluation: EvaluationResult, workdir: AnyPath, names: tuple[str, ...], against: AnyPath | None = None,
    data: AnyPath | None = None,
) -> EvaluationResult:  # fmt: skip
    """Return an evaluation with the quality of slices as the value of SLICES of its result.

    Args:
        evaluation: Evaluation of the run.
        workdir: Workdir of the run.
        names: Slices, as for `slice_queries`.
        against: Workdir of a run whose results on the same queries are compared. None: none.
        data: Dataset of the evaluation. None: that of the training.

    Raises:
        InputError: There is no such slice, or the other run cannot be evaluated on these queries.
    """
    loaded, dataset = open_later_dataset(load_checkpoint(workdir, evaluation.result["which"]), data)
    rows = evaluation.rows
    slicings = slice_queries(names, rows, loaded.task.layout, dataset.manifest["categories"])
    values = query_values(evaluation)
    other: dict[str, np.ndarray] = {}
    if against is not None:
        split = evaluation.result["split"]
        lists = tuple(evaluation.result["protocol"]["lists"])
        options = EvaluationOptions(split=split, lists=lists, report_users=0)
        other = query_values(evaluate(against, options, data=dataset.directory))
    shown = loaded.config.sampling.history_keeps_abandoned
    truth = oracle_values(rows, evaluation.lists, shown)
    is_new, orders = _new_targets(evaluation, dataset, loaded), catalogue_orders(evaluation, dataset, loaded)
    parts = {}
    for slicing in slicings:
        parts[slicing.name] = _of_slicing(slicing, rows["user"], values, other, truth) | {
            "why": causes(slicing, rows, loaded.arrays, is_new, evaluation.scores, shown)
        }
        if orders:
            parts[slicing.name]["orders"] = means_by_slice(slicing.group, len(slicing.names), orders)
    _flag(parts)
    result = {"against": str(against) if against is not None else None, "by": parts}
    return evaluation._replace(result=evaluation.result | {SLICES: result})


def query_values(evaluation: EvaluationResult) -> dict[str, np.ndarray]:
    """Return the metrics of each query (K=1), [Q] by column; NaN for a query without such a list."""
    out: dict[str, np.ndarray] = {}
    for name in evaluation.lists:
        ranks = model_ranks(evaluation.scores, evaluation.rows, (name,))[name]
        has_list = baselines.listed(evaluation.rows, name)[:, 0]
        for metric, f in metrics.METRICS.items():
            out[f"{name}/{metric}"] = np.full(len(evaluation.rows), np.nan)
            out[f"{name}/{metric}"][has_list] = f(ranks)
    if evaluation.ranked is not None:
        ranks = evaluation.ranked.by_order["model"].ranks
        out |= {f"{CATALOGUE}/{metric}": f(ranks).astype(np.float64) for metric, f in metrics.FULL.items()}
    return out


def oracle_values(rows: np.ndarray, lists: tuple[str, ...], shown: bool) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of the true probabilities on lists; {} where the source stores none."""
    out: dict[str, np.ndarray] = {}
    for name in lists:
        if name == SERVED or not len(rows) or not np.isfinite(rows[f"oracle_{name}"]).all():
            continue
        rank = metrics.rank(baselines.oracle(rows, name, shown))[:, 0]
        out |= {f"{name}/{metric}": f(rank) for metric, f in metrics.METRICS.items()}
    return out


def _new_targets(
    evaluation: EvaluationResult, dataset: Dataset, loaded: LoadedCheckpoint
) -> np.ndarray | None:
    seen, index = dataset.seen_titles(evaluation.result["split"]), evaluation.row_index
    time = None if seen is None else seen.query_time if index is None else seen.query_time[index]
    return new_targets(evaluation.rows, dataset.daily_plays(), time, loaded.task.layout.num_titles)


def _of_slicing(
    slicing: Slicing, user: np.ndarray, values: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """Return the slices of one slicing as JSON values, one entry per slice in each list."""
    out: dict[str, Any] = {"slices": slicing.names, "queries": [], "users": [], "metrics": {}}
    regrets = {"regret": other} if other else {}
    regrets |= {"oracle_regret": truth} if truth else {}
    out |= {name: {} for name in regrets}
    for i in range(len(slicing.names)):
        own = slicing.group == i
        of_slice = {column: x[own] for column, x in values.items()}
        out["queries"].append(int(own.sum()))
        out["users"].append(len(np.unique(user[own])))
        _append(out["metrics"], summaries(user_means(user[own], of_slice)))
        for name, better in regrets.items():
            differences = {c: x[own] - of_slice[c] for c, x in better.items() if c in of_slice}
            _append(out[name], summaries(user_means(user[own], differences), with_tests=True))
    return out


def user_means(user: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the means [U] of users by column, over the queries that have a value; NaN for none."""
    users, index = np.unique(user, return_inverse=True)
    out = {}
    for column, x in values.items():
        has = ~np.isnan(x)
        count = np.bincount(index[has], minlength=len(users))
        with np.errstate(invalid="ignore"):
            out[column] = np.bincount(index[has], x[has], len(users)) / np.where(count, count, np.nan)
    return out


def summaries(means: Mapping[str, np.ndarray], with_tests: bool = False) -> dict[str, dict[str, Any]]:
    """Return mean, 95% bootstrap interval over users and smallest visible difference by column.

    Args:
        means: Column -> means [U] of the users, NaN for a user without a value.
        with_tests: True to add the p-value of a zero mean by Student's t, two-sided.
    """
    columns = [*means]
    x_UxC = np.stack([means[c] for c in columns], axis=1) if columns else np.empty((0, 0))
    has_UxC = ~np.isnan(x_UxC)
    filled_UxC, users = np.where(has_UxC, x_UxC, 0.0), len(x_UxC)
    replicates = [np.empty((0, len(columns)))]
    for counts in counts_of_users(users, max(_COUNTS // max(users, 1), 1), _REPLICATES, 0) if users else ():
        with np.errstate(invalid="ignore"):
            replicates.append((counts @ filled_UxC) / (counts @ has_UxC))
    of_resamples = np.concatenate(replicates)
    out = {}
    for c, column in enumerate(columns):
        x = x_UxC[has_UxC[:, c], c]
        defined = of_resamples[~np.isnan(of_resamples[:, c]), c]
        low, high = np.quantile(defined, [LEVEL / 2, 1 - LEVEL / 2]) if len(defined) else (np.nan, np.nan)
        sd = float(x.std(ddof=1)) if len(x) > 1 else np.nan
        out[column] = {
            "mean": float(x.mean()) if len(x) else np.nan, "low": float(low), "high": float(high),
            "visible": smallest_difference(sd, len(x)),
        } | ({"p": tests(x).t_p} if with_tests else {})  # fmt: skip
    return {column: {k: v if np.isfinite(v) else None for k, v in s.items()} for column, s in out.items()}


def _append(table: dict[str, dict[str, list]], summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Append the summaries of a slice to the lists of all slices."""
    for column, values in summary.items():
        of_column = table.setdefault(column, {})
        for name, value in values.items():
            of_column.setdefault(name, []).append(value)


def _flag(parts: Mapping[str, dict[str, Any]]) -> None:
    """Add adjusted p-values `q`, and the slices that are `worse` or `better`, to every regret.

    The slices of all slicings are one family: of the flagged ones 5% are expected to be false (Benjamini &
    Hochberg 1995). `worse`: the other run is better on the slice.
    """
    for kind in ("regret", "oracle_regret"):
        columns = dict.fromkeys(c for part in parts.values() for c in part.get(kind, {}))
        for column in columns:
            tables = [part[kind][column] for part in parts.values() if column in part.get(kind, {})]
            p = [x for table in tables for x in table["p"] if x is not None]
            adjusted = iter(scipy.stats.false_discovery_control(p, method="bh").tolist() if p else ())
            for table in tables:
                table["q"] = [None if x is None else next(adjusted) for x in table["p"]]
                flagged = [q is not None and q < LEVEL for q in table["q"]]
                table["worse"] = [f and m > 0 for f, m in zip(flagged, table["mean"], strict=True)]
                table["better"] = [f and m < 0 for f, m in zip(flagged, table["mean"], strict=True)]
