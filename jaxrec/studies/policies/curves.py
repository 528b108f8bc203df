"""Curves of value against KL, the best row of a method, and policies under the reward models of other runs.

The best row of a curve is that of the highest value at validation queries. At equal KL means: a method's best
row against the value of another method at the same KL, interpolated between the rows of its curve, seed by
seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.ids import REWARDS, TRUTH
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.studies.comparisons import RowResults
from jaxrec.studies.declared.study import Policies
from jaxrec.studies.policies.values import summary

VALIDATION = "validation"
_HIGH = ("ndcg@10", "recall@10", "mrr@10")  # metrics on targets of high reward


class Point(NamedTuple):
    """Value and KL of a run, and its value at validation queries; NaN where there is none."""

    kl: float
    value: float
    validation: float


def policy_curves(policies: Policies, row_results: RowResults) -> dict[str, Any]:
    """Return the curves of a study, comparisons at equal KL, the frontier and measures of reward models.

    Args:
        policies: Declaration.
        row_results: Row -> seed -> per-user results; a row without results is left out.

    Returns:
        JSON values; V is a mean reward, KL is in nats.
    """
    points = {
        row: {seed: _point(run.result[TRUTH]) for seed, run in runs.items() if TRUTH in run.result}
        for row, runs in row_results.items()
    }
    curves = {
        name: [row for row in rows if points.get(row)] for name, rows in policies.curves.items()
    }  # fmt: skip
    curves = {name: rows for name, rows in curves.items() if rows}
    best = {name: _best(rows, points) for name, rows in curves.items()}
    return {
        "curves": [
            {"curve": name, "best": best[name], "rows": [_row(row, points[row]) for row in rows]}
            for name, rows in curves.items()
        ],
        "equal_kl": [
            line
            for name in curves
            for other, rows in curves.items()
            if name != other and len(rows) > 1
            for line in [_at_equal_kl(name, best[name], other, rows, points)]
            if line
        ],
        "frontier": _frontier(row_results),
        "measured": _measured(policies, row_results),
    }


def _point(truth: Mapping[str, Any]) -> Point:
    validation = truth.get(VALIDATION, {}).get("value", np.nan)
    return Point(truth["model"]["kl"], truth["model"]["value"], validation)


def _best(rows: Sequence[str], points: Mapping[str, Mapping[int, Point]]) -> str:
    """Return the row of the highest mean value at validation queries; the first without a truth of them."""
    means = [np.mean([point.validation for point in points[row].values()]) for row in rows]
    return rows[int(np.argmax(np.nan_to_num(means, nan=-np.inf)))]


def _row(row: str, points: Mapping[int, Point]) -> dict[str, Any]:
    columns = {name: [getattr(point, name) for point in points.values()] for name in Point._fields}
    return {"row": row} | {name: summary(values) for name, values in columns.items()}


def _at_equal_kl(
    name: str, best: str, other: str, rows: Sequence[str], points: Mapping[str, Mapping[int, Point]]
) -> dict[str, Any] | None:
    """Return the best row of a curve less another curve at its KL; None where the curve does not reach it."""
    seeds = sorted(set.intersection(*(set(points[row]) for row in (best, *rows))))
    differences = []
    for seed in seeds:
        kl, value, _ = points[best][seed]
        curve = sorted(points[row][seed][:2] for row in rows)
        at, values = (np.array(column) for column in zip(*curve, strict=True))
        if not at[0] <= kl <= at[-1]:
            return None
        differences.append(value - float(np.interp(kl, at, values)))
    if not differences:
        return None
    return {"curve": name, "row": best, "other": other, "seeds": seeds, "difference": summary(differences)}


def _frontier(row_results: RowResults) -> list[tuple[float, float]]:
    """Return (KL, V*) at the KL of every run, in order of the KL."""
    of_runs = [run.result.get(TRUTH) for runs in row_results.values() for run in runs.values()]
    return sorted({(x["frontier"]["kl"], x["frontier"]["value"]) for x in of_runs if x})


def _measured(policies: Policies, row_results: RowResults) -> dict[str, Any]:
    """Return the measures of all rows by reward models, in percent over a row; {} without any."""
    measured = {
        row: {seed: _measures(run) for seed, run in runs.items() if REWARDS in run.result}
        for row, runs in row_results.items()
    }
    measured = {row: by_seed for row, by_seed in measured.items() if by_seed}
    first = measured.get(policies.percent_of)
    if not first:
        return {}
    r2 = [row_results[policies.percent_of][seed].result[REWARDS]["r2"] for seed in first]
    lines = []
    for row, by_seed in measured.items():
        seeds = sorted(by_seed.keys() & first.keys())
        percent = {
            name: summary([100 * (by_seed[seed][name] / first[seed][name] - 1) for seed in seeds])
            for name in next(iter(by_seed.values()))
        }
        value = summary([by_seed[seed]["value"] for seed in seeds])
        lines.append({"row": row, "value": value, "percent": percent})
    return {
        "measured_by": policies.measured_by,
        "percent_of": policies.percent_of,
        "r2": {name: summary([one[name] for one in r2]) for name in r2[0]},
        "rows": lines,
    }


def _measures(run: PerUserResults) -> dict[str, float]:
    """Return the value of a policy under reward models, and its metrics on targets of high reward."""
    result = run.result[REWARDS]
    high = result["high"] or {}
    return {"value": result["value"]} | {name: high[name] for name in _HIGH if name in high}
