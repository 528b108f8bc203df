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
from jaxrec.studies.comparisons import Comparisons, RowResults
from jaxrec.studies.declared.study import Policies
from jaxrec.studies.policies.values import summary

VALIDATION = "validation"
_HIGH = ("ndcg@10", "recall@10", "mrr@10")  # metrics on targets of high reward


class Point(NamedTuple):
    """Value and KL of a run, and its value at validation queries; NaN where there is none."""

    kl: float
    value: float
    validation: float


Points = Mapping[str, Mapping[int, Point]]  # row -> seed -> point


def points_of(row_results: RowResults) -> Points:
    """Return the points of all rows whose runs have values under the truth."""
    return {
        row: {seed: _point(run.result[TRUTH]) for seed, run in runs.items() if TRUTH in run.result}
        for row, runs in row_results.items()
    }


def policy_curves(
    policies: Policies, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:  # fmt: skip
    """Return the curves of a study, comparisons at equal KL, the frontier and measures of reward models.

    Args:
        policies: Declaration.
        row_results: Row -> seed -> per-user results; a row without results is left out.
        comparisons: Comparisons of the study.

    Returns:
        JSON values; V is a mean reward, KL is in nats.
    """
    points = points_of(row_results)
    curves = {
        name: [row for row in rows if points.get(row)] for name, rows in policies.curves.items()
    }  # fmt: skip
    curves = {name: rows for name, rows in curves.items() if rows}
    best = {name: best_row(rows, points) for name, rows in curves.items()}
    return {
        "curves": [
            {"curve": name, "best": best[name], "rows": [curve_point(row, points[row]) for row in rows]}
            for name, rows in curves.items()
        ],
        "ends": [
            _ends(name, best[name], rows, comparisons) for name, rows in curves.items() if len(rows) > 2
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


def best_row(rows: Sequence[str], points: Points) -> str:
    """Return the row of the highest mean value at validation queries; the first without a truth of them."""
    means = [np.mean([point.validation for point in points[row].values()]) for row in rows]
    return rows[int(np.argmax(np.nan_to_num(means, nan=-np.inf)))]


def curve_point(row: str, points: Mapping[int, Point]) -> dict[str, Any]:
    columns = {name: [getattr(point, name) for point in points.values()] for name in Point._fields}
    return {"row": row} | {name: summary(values) for name, values in columns.items()}


def _ends(name: str, best: str, rows: Sequence[str], comparisons: Comparisons) -> dict[str, Any]:
    """Return the best row of a curve less the rows at both ends of its setting.

    The optimum lies within the range where both differences are shown.
    """
    parts = [
        {"end": end, "difference": comparisons.compare(best, end, TRUTH, 1, "", "value")}
        for end in (rows[0], rows[-1])
        if end != best
    ]
    return {"curve": name, "best": best, "parts": [part for part in parts if part["difference"]]}


def common_seeds(rows: Sequence[str], points: Points) -> list[int]:
    """Return the seeds that all rows have."""
    return sorted(set.intersection(*(set(points.get(row, {})) for row in rows)))


def value_at(kl: float, rows: Sequence[str], seed: int, points: Points) -> float | None:
    """Return the value of a curve at a KL, interpolated between its rows; None where it does not reach it."""
    curve = sorted(points[row][seed][:2] for row in rows)
    at, values = (np.array(column) for column in zip(*curve, strict=True))
    return float(np.interp(kl, at, values)) if at[0] <= kl <= at[-1] else None


def _at_equal_kl(
    name: str, best: str, other: str, rows: Sequence[str], points: Points
) -> dict[str, Any] | None:
    """Return the best row of a curve less another curve at its KL; None where the curve does not reach it."""
    seeds = common_seeds((best, *rows), points)
    differences = []
    for seed in seeds:
        kl, value, _ = points[best][seed]
        of_other = value_at(kl, rows, seed, points)
        if of_other is None:
            return None
        differences.append(value - of_other)
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
    of_users = Comparisons({
        row: {seed: run.measured for seed, run in runs.items() if run.measured}
        for row, runs in row_results.items()
    })  # fmt: skip
    r2 = [row_results[policies.percent_of][seed].result[REWARDS]["r2"] for seed in first]
    lines = []
    for row, by_seed in measured.items():
        seeds = sorted(by_seed.keys() & first.keys())
        percent = {
            name: summary([100 * (by_seed[seed][name] / first[seed][name] - 1) for seed in seeds])
            for name in next(iter(by_seed.values()))
        }
        value = summary([by_seed[seed]["value"] for seed in seeds])
        difference = of_users.compare(row, policies.percent_of, REWARDS, 1, "", "value")
        lines.append({"row": row, "value": value, "percent": percent,
                      "difference": difference if row != policies.percent_of else None})  # fmt: skip
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
