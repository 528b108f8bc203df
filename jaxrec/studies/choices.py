"""Rows of a study that are chosen on validation, and the claims on them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.paths import as_path
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.studies.comparisons import RowResults
from jaxrec.studies.plan import Choice, Claim

_LOSS = "loss"  # prefix of the metrics of which a smaller value is better


def validation_metric(run: PerUserResults, metric: str) -> float:
    """Return a metric of the validation at the step of the checkpoint that was evaluated.

    Raises:
        InputError: The run's metrics.jsonl has no such value.
    """
    path = as_path(run.workdir) / METRICS_FILE
    step = run.result["step"]
    lines = [
        line for line in read_metrics(path) if (line.get("split"), line.get("step")) == ("validation", step)
    ]
    if not lines or metric not in lines[-1]:
        names = ", ".join(lines[-1]) if lines else "none"
        raise InputError(f"{path}: has no {metric} of validation at step {step}; there are {names}")
    return float(lines[-1][metric])


def choose(choice: Choice, row_results: RowResults) -> dict[str, Any] | None:
    """Return the chosen row of a choice beside the validation metric of all its rows, as JSON values.

    The means are over the seeds that all rows have. A row without results is left out.

    Args:
        choice: Declaration.
        row_results: Row -> seed -> per-user results.

    Returns:
        `name`, `metric`, `row` (the chosen one), `seeds`, and `rows` (row -> mean); None where no row has
        results, or the rows have no seed in common.
    """
    rows = [row for row in choice.rows if row_results.get(row)]
    seeds = sorted(set.intersection(*({*row_results[row]} for row in rows))) if rows else []
    if not seeds:
        return None
    means = {
        row: float(np.mean([validation_metric(row_results[row][seed], choice.metric) for seed in seeds]))
        for row in rows
    }
    best = (min if choice.metric.startswith(_LOSS) else max)(means, key=means.__getitem__)
    return {"name": choice.name, "metric": choice.metric, "row": best, "seeds": seeds, "rows": means}


def claims_on_rows(claims: Iterable[Claim], chosen: Iterable[dict[str, Any]]) -> list[Claim]:
    """Return the claims with the chosen rows in place of the names of choices."""
    row_of = {choice["name"]: choice["row"] for choice in chosen}
    return [
        replace(claim, pairs=tuple(tuple(row_of.get(name, name) for name in pair) for pair in claim.pairs))
        for claim in claims
    ]
