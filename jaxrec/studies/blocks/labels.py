"""Tables of predicted labels: the AUC of every head in every row that has it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.evaluation.labels.differences import mean_auc, ordering_heads
from jaxrec.evaluation.labels.observed import BASELINE, gain_over, gain_to_json, mean_gain
from jaxrec.evaluation.labels.predictions import AUC, ORDERS
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.studies.comparisons import Comparisons, RowResults
from jaxrec.studies.plan import Row

BASELINES = "label_baselines"  # key of a run's result


def label_blocks(
    rows: Sequence[Row], table: str, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return head -> one line for each row that predicts its label, as JSON values.

    A row is compared with `Row.against` where that row has the head, otherwise with the first row of the
    table that has it: rows of a single task come first.

    Args:
        rows: Rows of the table.
        table: Name of the table.
        row_results: Row -> seed -> per-user results.
        comparisons: Comparisons of the study.
    """
    runs_of = {row.name: [*row_results.get(row.name, {}).values()] for row in rows}
    heads = {head: None for runs in runs_of.values() for head in (ordering_heads(runs[0]) if runs else ())}
    out: dict[str, Any] = {}
    for head in heads:
        having = [row for row in rows if runs_of[row.name] and head in ordering_heads(runs_of[row.name][0])]
        names = [row.name for row in having]
        out[head] = {
            "rows": [
                _line(row, table, head, row.against if row.against in names else names[0], runs_of[row.name],
                      comparisons)
                for row in having
            ],
            "baselines": _baselines(runs_of[names[0]], head),
            "observed": [line for row in having for line in _observed(row, table, head, runs_of[row.name])],
            "positives": _positives(runs_of[names[0]], head),
        }  # fmt: skip
    return out


def _line(
    row: Row, table: str, head: str, against: str, runs: list[PerUserResults], comparisons: Comparisons
) -> dict[str, Any]:
    """Return the line of a row: its AUC over the seeds, and the difference from the row `against`."""
    means = mean_auc(runs, head)
    each = [run.result["labels"][head] for run in runs]
    metrics = {
        metric: {
            "mean": mean.value,
            "interval": mean.interval,
            "sd": float(np.std([one[metric]["value"] for one in each], ddof=1)) if len(each) > 1 else np.nan,
        }
        for metric, mean in means.items()
    }
    differs = against != row.name
    return {
        "row": row.name, "label": row.tables[table], "against": against, "seeds": len(runs), **metrics,
        "differences": {
            metric: comparisons.compare_auc(row.name, against, f"{metric}/{head}") for metric in ORDERS
        } if differs else {},
    }  # fmt: skip


def _observed(row: Row, table: str, head: str, runs: list[PerUserResults]) -> list[dict[str, Any]]:
    """Return a line for each early label that a row's model reads: its AUC, and what the model adds."""
    lines = []
    for label in runs[0].observed_labels:
        gains = [gain_over(run.predictions(head), run.observed(label), run.query_users) for run in runs]
        lines.append({"row": row.tables[table], "label": label, **gain_to_json(mean_gain(gains))})
    return lines


def _baselines(runs: list[PerUserResults], head: str) -> dict[str, float]:
    """Return baseline -> its mean AUC over the runs, where evaluations measured baselines of label rates."""
    first = runs[0].result.get(BASELINES, {})
    return {
        name: float(np.mean([run.result[BASELINES][name][head][AUC]["value"] for run in runs]))
        for name, by_head in first.items()
        if head in by_head and not name.startswith(BASELINE)
    }


def _positives(runs: list[PerUserResults], head: str) -> int:
    """Return the number of positive labels that the runs test, each once where users are those of folds."""
    of_dataset = {}
    for run in runs:
        of_run = run.predictions(head)
        of_dataset[run.result["dataset"]] = int((of_run.label[of_run.known] > 0).sum())
    return sum(of_dataset.values())
