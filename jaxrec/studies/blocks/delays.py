"""Tables of delays: metrics over all titles of scores that were computed hours before the request."""

from collections.abc import Sequence
from typing import Any

from jaxrec.core.ids import DELAYED
from jaxrec.studies.comparisons import Comparisons, RowResults
from jaxrec.studies.plan import Row
from jaxrec.studies.policies.values import against, rows_with, summary

METRICS = ("hr@10", "ndcg@10", "mrr@100")
TESTED = "ndcg@10"  # the metric whose differences of rows are tested
_RESULT = "delay"


def delay_block(
    rows: Sequence[Row], table: str, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return the metrics of all rows by delay as JSON values; {} where no row has delays.

    Rows on different datasets have no difference.

    Args:
        rows: Rows of the table.
        table: Name of the table.
        row_results: Row -> seed -> per-user results.
        comparisons: Comparisons of the study.
    """
    runs_of, having = rows_with(rows, row_results, _RESULT)
    if not having:
        return {}
    names, first = [row.name for row in having], runs_of[having[0].name][0].result[_RESULT]
    lines = []
    for row in having:
        other = against(row, names)
        of_hours = {}
        for hours in first["metrics"]:
            values = [run.result[_RESULT]["metrics"][hours] for run in runs_of[row.name]]
            of_hours[hours] = {
                "metrics": {metric: summary([one[metric][0] for one in values]) for metric in METRICS},
                "difference": comparisons.compare(row.name, other, f"{DELAYED}{hours}", 1, "", TESTED)
                if other != row.name else None,
            }  # fmt: skip
        lines.append({"row": row.name, "label": row.tables[table], "against": other, "hours": of_hours})
    return {"rows": lines} | {name: first[name] for name in ("queries", "users", "left_out")}
