"""Metrics of all models of a rolling study; those on disk are not repeated."""

from pathlib import Path

from jaxrec.data.storage.dataset import Dataset
from jaxrec.studies.rolling.day_metrics import DayMetrics, evaluate_day
from jaxrec.studies.rolling.plan import Plan, evaluated_days
from jaxrec.tasks.loading import load_checkpoint


def evaluate_all(plan: Plan, split: str) -> dict[tuple[str, int, int], DayMetrics]:
    """Return row, seed and day -> metrics on a split."""
    out: dict[tuple[str, int, int], DayMetrics] = {}
    datasets: dict[str, Dataset] = {}
    for row in plan.rows:
        for seed in plan.seeds:
            for day in evaluated_days(plan.study, row):
                run = plan.in_force(row, seed, day)
                path = _path(plan, run.workdir, row.rows, day, split)
                day_metrics = DayMetrics.load(path)
                if day_metrics is None:
                    directory = plan.day_data(plan.study.base, day).data.directory
                    dataset = datasets.setdefault(directory, Dataset(directory))
                    loaded = load_checkpoint(run.workdir, "last")
                    day_metrics = evaluate_day(loaded, dataset, row.rows, split)
                    day_metrics.save(path)
                out[row.name, seed, day] = day_metrics
    return out


def _path(plan: Plan, workdir: Path, rows: str, day: int, split: str) -> Path:
    """Return the file of the metrics of a day, which rows that share a model and `start.rows` share."""
    run = workdir.relative_to(plan.folder / "runs")
    return plan.folder / "evaluations" / run / f"day-{day:02d}-{rows}-{split}.npz"
