"""Tables of policies: values under the truth of the simulated service, of every row that has them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.core.ids import CATALOGUE, TRUTH
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.studies.comparisons import Comparisons, RowResults
from jaxrec.studies.plan import Row

VALUE = "value"  # the metric whose differences are tested
_NDCG = "ndcg@10"


def policy_block(
    rows: Sequence[Row], table: str, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return the values of all rows with a policy as JSON values; {} where no row has one.

    Efficiency is a ratio of means of a run, so it has a mean and a deviation over seeds and no interval.

    Args:
        rows: Rows of the table.
        table: Name of the table.
        row_results: Row -> seed -> per-user results.
        comparisons: Comparisons of the study.
    """
    runs_of, having = rows_with(rows, row_results, TRUTH)
    if not having:
        return {}
    names, first = [row.name for row in having], runs_of[having[0].name][0].result[TRUTH]
    return {
        "rows": [
            _line(row, table, against(row, names), runs_of[row.name], comparisons) for row in having
        ],
        "choice": first["choice"], "queries": first["queries"], "users": first["users"],
    }  # fmt: skip


def rows_with(
    rows: Sequence[Row], row_results: RowResults, part: str
) -> tuple[dict[str, list[PerUserResults]], list[Row]]:
    """Return the runs of all rows by name, and the rows whose results have a part."""
    runs_of = {row.name: [*row_results.get(row.name, {}).values()] for row in rows}
    return runs_of, [row for row in rows if runs_of[row.name] and part in runs_of[row.name][0].result]


def against(row: Row, names: Sequence[str]) -> str:
    """Return the row that a row is compared with: its own where it is among `names`, otherwise the first."""
    return row.against if row.against in names else names[0]


def _line(
    row: Row, table: str, against: str, runs: list[PerUserResults], comparisons: Comparisons
) -> dict[str, Any]:
    """Return the values of a row, and the difference of its value from that of the row `against`."""
    of_runs = [run.result[TRUTH]["model"] for run in runs]
    ranked = [run.result[CATALOGUE]["model"] for run in runs if CATALOGUE in run.result]
    values = {name: [one[name] for one in of_runs] for name in (*of_runs[0],) if name != "interval"}
    validation = [run.result[TRUTH].get("validation", {}).get(VALUE) for run in runs]
    values |= {"validation": validation} if None not in validation else {}
    values |= {_NDCG: [one[_NDCG] for one in ranked]} if len(ranked) == len(runs) else {}
    return {
        "row": row.name, "label": row.tables[table], "against": against, "seeds": len(runs),
        "metrics": {name: summary(each) for name, each in values.items()},
        "difference": comparisons.compare(row.name, against, TRUTH, 1, "", VALUE)
        if against != row.name else None,
    }  # fmt: skip


def summary(values: Sequence[float | None]) -> Mapping[str, float]:
    """Return mean and sample standard deviation over seeds; NaN where a seed has no value."""
    array = np.array([np.nan if value is None else value for value in values], np.float64)
    return {"mean": float(array.mean()), "sd": float(array.std(ddof=1)) if len(array) > 1 else np.nan}
