"""Jobs of a rolling study: preparations in the order of days, then trainings."""

import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jaxrec.config.serialization import run_differences, to_json
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_text
from jaxrec.core.paths import as_path
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.rolling.plan import DayRun, Plan
from jaxrec.studies.runs import Job, Pool, config_file

TRAINED = "test.json"  # the evaluation that ends a training


class Cost(NamedTuple):
    """Cost of a training.

    Attributes:
        examples: Examples read.
        seconds: Time between the first and the last step.
    """

    examples: int
    seconds: float


def run_jobs(plan: Plan, at_once: int, interrupt: PreemptionHandler) -> list[str]:
    """Prepare the datasets and train the runs that are missing; return a line per failed job.

    Raises:
        InputError: A folder holds a run of another config, or `at_once` is wrong.
    """
    for run in plan.runs:
        _check_workdir(run)
    with Pool(at_once, interrupt) as pool:
        preparations = [job for job in _preparations(plan) if not job.done]
        for run in plan.runs:
            _write(run.workdir, config_file(run.config, f"{run.job}: python -m jaxrec.train --config THIS"))
        return pool.run(preparations) or pool.run([_training(run) for run in plan.runs])


def _check_workdir(run: DayRun) -> None:
    path = run.workdir / "config.json"
    if not path.exists():
        return
    recorded = json.loads(path.read_text())
    for key, (was, now) in run_differences(recorded, to_json(run.config)).items():
        raise InputError(
            f"{run.workdir}: holds a run with {key}={was!r}, this study has {now!r}; "
            "allowed: the same study, or another --workdir"
        )


def _preparations(plan: Plan) -> list[Job]:
    """Return the job of each dataset; a dataset stands on the one that it continues."""
    jobs = []
    for directory, config in plan.datasets.items():
        name = Path(directory).name
        _write(plan.folder / "configs" / name, config_file(config, f"Dataset {name}."))
        arguments = ("-m", "jaxrec.prepare", f"--config={plan.folder / 'configs' / name / 'config.py'}")
        log = plan.folder / f"prepare-{name}.log"
        after = f"dataset {config.data.continues}" if config.data.continues else ""
        jobs.append(Job(f"dataset {directory}", as_path(directory), arguments, "manifest.json", log, after))
    return jobs


def _training(run: DayRun) -> Job:
    arguments = ("-m", "jaxrec.train", f"--config={run.workdir / 'config.py'}", f"--workdir={run.workdir}")
    return Job(run.job, run.workdir, arguments, TRAINED, run.workdir / "log.txt", run.after)


def _write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.py", text)


def cost_of(run: DayRun) -> Cost:
    """Return the cost of a training, from the rates of its lines of metrics."""
    lines = [line for line in read_metrics(run.workdir / METRICS_FILE) if line["split"] == "train"]
    steps = [0, *(line["step"] for line in lines)]
    examples = [(now - before) * run.config.train.batch_size for before, now in pairwise(steps)]
    seconds = [n / line["examples_per_second"] for n, line in zip(examples, lines, strict=True)]
    return Cost(sum(examples), sum(seconds))
