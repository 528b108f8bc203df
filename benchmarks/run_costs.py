"""Quality and cost of trained runs beside one another: what is trained, for how many steps and seconds.

    python -m benchmarks.run_costs --workdirs W1,W2 [--json F]
    python -m benchmarks.run_costs --study S [--json F]

A run is a workdir of `python -m jaxrec.train`, or the runs of a row of a study, whose figures are means over
the seeds. The quality is the AUC of each head of a label, or NDCG@10 among all titles. Seconds are those of
the whole command: validations, checkpoints and the test too, and the preparation where the dataset was
absent. A run that goes on from another one has the cost of the other run besides.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.core.errors import InputError
from jaxrec.tasks.loading import CHECKPOINTS, START_JSON


class RunCost(NamedTuple):
    """Quality and cost of a run.

    Attributes:
        quality: Metric -> value on the test queries.
        parameters: Number of parameters of the model.
        trained: Number of parameters that steps change.
        steps: Number of steps.
        seconds: Seconds of the command.
        start: Workdir of the run that it started from; empty for none.
    """

    quality: dict[str, float]
    parameters: int
    trained: int
    steps: int
    seconds: float
    start: str


def _flags() -> None:
    flags.DEFINE_list("workdirs", [], "workdirs of finished runs")
    flags.DEFINE_string("study", "", "folder of a study: its rows with a finished run")


def quality_of(result: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a result of `evaluate` that runs are compared by."""
    quality = {
        f"AUC {head}": values["auc"]["value"]
        for head, values in result.get("labels", {}).items()
        if "auc" in values
    }
    if "catalogue" in result:
        quality["NDCG@10"] = result["catalogue"]["model"]["ndcg@10"]
    return quality


def cost_of(workdir: Path) -> RunCost:
    """Return the quality and the cost of a run.

    Raises:
        InputError: The run is not finished.
    """
    if not (workdir / "test.json").exists():
        raise InputError(f"{workdir}: holds no test.json; allowed: the workdir of a finished training")
    result = json.loads((workdir / "test.json").read_text())
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        params, last = checkpoints.restore_on_host("last", "params"), checkpoints.step("last")
    sizes = {name.removeprefix("params/"): int(np.size(value)) for name, value in params.items()}
    start = workdir / START_JSON
    record: dict[str, Any] = {"frozen": [], "workdir": ""}
    if start.exists():
        record = json.loads(start.read_text())
    total = sum(sizes.values())
    trained = total - sum(sizes[name] for name in record["frozen"])
    return RunCost(quality_of(result), total, trained, last, result["seconds"], record["workdir"])


def rows_of_study(folder: Path) -> dict[str, list[Path]]:
    """Return row -> workdirs of its finished runs.

    Raises:
        InputError: No run is finished.
    """
    rows: dict[str, list[Path]] = {}
    for result in sorted(folder.glob("runs/*/seed-*/test.json")):
        rows.setdefault(result.parent.parent.name, []).append(result.parent)
    if not rows:
        raise InputError(f"--study={folder}: no finished run; allowed: the folder of a study with some")
    return rows


def mean_cost(costs: list[RunCost]) -> RunCost:
    """Return the means over the seeds of a row, whose runs have the same metrics."""
    quality = {name: float(np.mean([cost.quality[name] for cost in costs])) for name in costs[0].quality}
    seconds = float(np.mean([cost.seconds for cost in costs]))
    return costs[0]._replace(quality=quality, seconds=seconds)


def main(args: flags.FlagValues) -> Report:
    """Return a line for each run or row.

    Raises:
        InputError: Neither or both of the flags are given, or a run is not finished.
    """
    if bool(args.workdirs) == bool(args.study):
        raise InputError("--workdirs and --study: give one of them")
    runs = {name: [Path(name)] for name in args.workdirs} or rows_of_study(Path(args.study))
    costs = {name: mean_cost([cost_of(workdir) for workdir in each]) for name, each in runs.items()}
    rows = []
    for name, cost in costs.items():
        quality = ", ".join(f"{metric} {value:.4f}" for metric, value in cost.quality.items())
        trained = f"{cost.trained:,} of {cost.parameters:,} parameters"
        parts = Path(cost.start).parts
        first = parts[-2] if parts[-3:-2] == ("runs",) else cost.start  # a row of a study
        after = f"; after {first}" if cost.start else ""
        rows.append((name, quality, f"{trained}, {cost.steps:,} steps, {cost.seconds:,.0f} s{after}"))
    return Report("Runs beside one another", {"runs": {k: v._asdict() for k, v in costs.items()}}, rows)


if __name__ == "__main__":
    run(main, _flags)
