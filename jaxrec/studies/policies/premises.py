"""Premises on methods: their best rows and equal KL, at several values of a simulator setting."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.ids import TRUTH
from jaxrec.evaluation import statistics
from jaxrec.studies.comparisons import Comparisons, RowResults
from jaxrec.studies.declared.study import CurvePremise
from jaxrec.studies.plan import premise_row
from jaxrec.studies.policies.curves import Points, best_row, common_seeds, curve_point, points_of, value_at


def curve_premise(
    premise: CurvePremise, base: Config, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return the comparisons of a premise on methods: one for each value with results.

    At equal KL means: at the KL of the method whose best row goes less far, both methods, interpolated
    between their rows, seed by seed.

    Args:
        premise: Declaration.
        base: Base config of the study.
        row_results: Row -> seed -> per-user results.
        comparisons: Comparisons of the study.
    """
    points, lines = points_of(row_results), []
    for value in premise.values:
        better, worse = (
            [name for row in rows if points.get(name := premise_row(base, premise, row, value))]
            for _, rows in (premise.better, premise.worse)
        )
        if not better or not worse:
            continue
        best, other = best_row(better, points), best_row(worse, points)
        lines.append({
            "value": value,
            "better": curve_point(best, points[best]), "worse": curve_point(other, points[other]),
            "difference": comparisons.compare(best, other, TRUTH, 1, "", "value"),
            "equal_kl": _at_equal_kl((best, better), (other, worse), points),
            "rows": [curve_point(row, points[row]) for row in (*better, *worse)],
        })  # fmt: skip
    names = {"better": premise.better[0], "worse": premise.worse[0]}
    return {"name": premise.name, "key": premise.key, **names, "points": lines}


def _at_equal_kl(
    better: tuple[str, Sequence[str]], worse: tuple[str, Sequence[str]], points: Points
) -> dict[str, Any] | None:
    """Return the difference of two methods at the smaller KL of their best rows; None if not reached.

    Args:
        better: Best row and rows of the first method.
        worse: Best row and rows of the second method.
        points: Points of all rows.
    """
    seeds = common_seeds((*better[1], *worse[1]), points)
    kls, differences = [], []
    for seed in seeds:
        kl = min(points[better[0]][seed].kl, points[worse[0]][seed].kl)
        first, second = (value_at(kl, rows, seed, points) for _, rows in (better, worse))
        if first is None or second is None:
            return None
        kls.append(kl)
        differences.append(first - second)
    if not seeds:
        return None
    return {"kl": float(np.mean(kls)), "over_seeds": statistics.over_seeds(np.array(differences))._asdict()}
