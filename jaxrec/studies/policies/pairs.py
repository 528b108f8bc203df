"""Log probabilities of winners and losers over the trainings that learn from pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.studies.plan import Run

PAIR_COLUMNS = (
    "log_pi_winner/first", "log_pi_winner/last", "log_pi_loser/first", "log_pi_loser/last", "margin/last",
    "pairs_in_order/last",
)  # fmt: skip


def pair_metrics(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return row -> name in PAIR_COLUMNS -> {mean, sd} over seeds, of the runs that learn from pairs.

    Runs that have not written metrics of pairs are left out.
    """
    by_row: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        lines = _lines(run.workdir) if run.pairs_of else []
        if lines:
            ends = {"first": lines[0], "last": lines[-1]}
            values = {column: ends[end][name] for column in PAIR_COLUMNS for name, end in [column.split("/")]}
            by_row.setdefault(run.name, []).append(values)
    return {
        row: {column: _spread([values[column] for values in of_seeds]) for column in PAIR_COLUMNS}
        for row, of_seeds in by_row.items()
    }


def _lines(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics that are of pairs; a step without a pair has none."""
    lines = read_metrics(workdir / METRICS_FILE)
    return [line for line in lines if line.get("log_pi_winner") is not None]


def _spread(values: list[float]) -> dict[str, float]:
    """Return mean and standard deviation over seeds; the deviation of one seed is NaN."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "sd": deviation}
