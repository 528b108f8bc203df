"""Runs of a study, one process each: unfinished runs resume, missing runs start.

The workdir of a run is `S/runs/<row>/seed-<n>`, as `python -m jaxrec.train` writes it. The workdir holds
`config.py`, the log, checkpoints and the evaluation results. `config.py` alone suffices to train the run
again. A run is done once the per-query results of its evaluation exist. Checkpoints are kept for
`jaxrec.evaluate` and for the runs that start from them.
"""

import dataclasses
import json
import os
import pprint
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from jaxrec.config import schema
from jaxrec.config.schema import Config
from jaxrec.config.serialization import run_differences, to_json
from jaxrec.core.errors import InputError
from jaxrec.core.ids import REWARDS
from jaxrec.core.json_io import write_text
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.storage.dataset import MANIFEST
from jaxrec.evaluation.per_user import PerUserResults, read
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies import chains
from jaxrec.studies.plan import Run, datasets

_POLL_SECONDS = 0.1
MEASURED = "measured"  # folder in a workdir: the evaluation by reward models of another run


class Job(NamedTuple):
    """A command with a pattern of the file that shows its completion.

    Attributes:
        name: Name for messages.
        folder: Folder of the output.
        arguments: Arguments of the Python interpreter.
        output_pattern: Glob in `folder`; the job is done once a file matches.
        log: File that receives the output of the process.
        after: Name of the job that has to be done before this one. Empty: none.
    """

    name: str
    folder: AnyPath
    arguments: tuple[str, ...]
    output_pattern: str
    log: Path
    after: str = ""

    @property
    def done(self) -> bool:
        """True once the job's output exists."""
        return is_done(self.folder, self.output_pattern)


def is_done(folder: AnyPath, pattern: str) -> bool:
    """Return True where a file in `folder` matches the glob `pattern`."""
    return any(folder.glob(pattern))


# ---------------------------------------------------------------- jobs


def config_file(config: Config, docstring: str) -> str:
    """Return the text of a file, as under configs/, that defines `config`."""
    names = sorted(name for name, value in vars(schema).items() if dataclasses.is_dataclass(value))
    body = pprint.pformat(config, width=100, sort_dicts=False).replace("\n", "\n    ")
    return (
        f'"""{docstring}"""\n\nfrom jaxrec.config import {", ".join(names)}\n\n\n'
        f"def get_config() -> Config:\n    return {body}\n"
    )


def check_workdir(run: Run) -> None:
    """Raise InputError if the workdir holds another run, or one that started from a run as it is no more."""
    recorded_path = run.workdir / "config.json"
    if recorded_path.exists():
        recorded = json.loads(recorded_path.read_text())
        for key, (was, now) in run_differences(recorded, to_json(run.config)).items():
            is_of_study = (run.after and key == "start.workdir") or key == "codes.path"
            if is_of_study and chains.is_same_place(was, now):
                continue  # the study was moved
            raise InputError(
                f"{run.workdir}: holds a run with {key}={was!r}, this study has {now!r}; "
                "allowed: the same study, or another --workdir"
            )
    chains.check_first_run(run)


def write_config(run: Run) -> Path:
    """Write the run's config.py and return its path."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    path = run.workdir / "config.py"
    docstring = f"{run.name}, seed {run.seed}: python -m jaxrec.train --config THIS --workdir W"
    write_text(path, config_file(chains.resumable_config(run), docstring))
    return path


def training_job(run: Run) -> Job:
    """Return the job that trains a run and evaluates all its heads.

    The job only evaluates a run that is already trained.
    """
    config, workdir = f"--config={run.workdir / 'config.py'}", f"--workdir={run.workdir}"
    train = ("-m", "jaxrec.train", config, workdir, "--per-user")
    after = f"{run.after} seed {run.seed}" if run.after else ""
    after = codes_job(run).name if run.config.codes.path and not after else after
    after = pairs_job(run).name if run.pairs_of else after
    name, log = f"{run.name} seed {run.seed}", run.workdir / "log.txt"
    return Job(name, run.workdir, train, chains.EVALUATED, log, after)


def codes_job(run: Run) -> Job:
    """Return the job that writes the codes of a run; runs with the same codes share the job."""
    folder, row = Path(run.config.codes.path), run.codes_of
    of_row = run.workdir.parents[1] / row / run.workdir.name if row else ""
    arguments = (f"--config={run.workdir / 'config.py'}", f"--config.start.workdir={of_row}")
    write = ("-m", "jaxrec.tokenise", *arguments, f"--workdir={folder}")
    name, after = f"codes {folder.parent.name} seed {run.seed}", f"{row} seed {run.seed}" if row else ""
    return Job(name, as_path(folder), write, "codes.json", run.workdir / "codes.log", after)


def pairs_job(run: Run) -> Job:
    """Return the job that draws the pairs of a run from the run that it starts from.

    Runs that start from the same run share the pairs.
    """
    first, folder = run.config.start.workdir, as_path(run.config.data.directory)
    draw = (
        "-m", "jaxrec.pairs", f"--checkpoint={first}", f"--rewards={run.rewards_of}",
        f"--config={run.workdir / 'config.py'}", f"--config.data.directory={run.pairs_of}", f"--out={folder}",
    )  # fmt: skip
    log = run.workdir / "pairs.log"
    after = f"{run.after} seed {run.seed}"
    return Job(f"pairs of {after}", folder, draw, MANIFEST, log, after)


def measuring_jobs(runs: Sequence[Run], measured_by: str) -> list[Job]:
    """Return the jobs that measure the policies of all runs by the reward models of a row."""
    models = {run.seed: run.workdir for run in runs if run.name == measured_by}
    return [
        Job(
            f"{run.name} seed {run.seed} by the reward models of {measured_by}",
            run.workdir / MEASURED,
            ("-m", "jaxrec.evaluate", f"--checkpoint={run.workdir}", f"--reward_models={models[run.seed]}",
             f"--out={run.workdir / MEASURED}", "--per-user"),
            chains.EVALUATED,
            run.workdir / "measured.log",
        )
        for run in runs
        if models and run.name != measured_by and chains.is_evaluated(run.workdir)
    ]  # fmt: skip


def preparation_jobs(runs: Sequence[Run], folder: Path) -> list[Job]:
    """Return one job for each dataset that the runs read and that is not prepared yet."""
    run_by_config = {id(run.config): run for run in runs}
    jobs = []
    for directory, config in datasets(list(runs)).items():
        config_path = run_by_config[id(config)].workdir / "config.py"
        prepare = ("-m", "jaxrec.prepare", f"--config={config_path}")
        log = folder / f"prepare-{Path(directory).name}.log"
        after = f"dataset {config.data.continues}" if config.data.continues else ""
        jobs.append(Job(f"dataset {directory}", as_path(directory), prepare, "manifest.json", log, after))
    return [job for job in jobs if not job.done]


# ---------------------------------------------------------------- execution


class _RunningJob(NamedTuple):
    """A job, its process and the process's start in seconds of `time.monotonic`."""

    job: Job
    process: subprocess.Popen
    since: float


class Pool:
    """Context manager that runs up to `at_once` jobs in parallel, on separate cores.

    Leaving the context sends SIGTERM to the jobs that still run and waits for them. A training saves a
    checkpoint on SIGTERM.

    Raises:
        InputError: `at_once` is below 1 or above the number of cores.
    """

    def __init__(self, at_once: int, interrupt: PreemptionHandler) -> None:
        cores = (
            sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
        )
        if not 1 <= at_once <= len(cores):
            raise InputError(f"--jobs={at_once}; allowed: 1 to {len(cores)}, the cores")
        edges = [len(cores) * i // at_once for i in range(at_once + 1)]
        self._core_sets = [cores[a:b] for a, b in pairwise(edges)]
        self._running: dict[int, _RunningJob] = {}  # index of a core set -> job
        self._interrupt = interrupt
        self._seconds: list[float] = []  # durations of the successful jobs

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for running_job in self._running.values():
            running_job.process.send_signal(signal.SIGTERM)
        for running_job in self._running.values():
            running_job.process.wait()

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run the jobs that are not done; return one line per failed job.

        A job starts once the job that it stands on is done. A failed job does not stop the other jobs, save
        those that stand on it, directly or not. Where `interrupt.requested` is set, the method returns early
        with trainings still running: the caller leaves the context to stop them.
        """
        waiting = [job for job in jobs if not job.done]
        count, ended, failures = len(waiting), 0, []
        causes: dict[str, str] = {}  # job that failed or cannot run -> job that failed
        while (waiting or self._running) and not self._interrupt.requested:
            self._start_ready(waiting)
            time.sleep(_POLL_SECONDS)
            for slot, running_job in list(self._running.items()):
                job, status = running_job.job, running_job.process.poll()
                if status is None:
                    continue
                del self._running[slot]
                ended += 1
                if status != 0 or not job.done:
                    causes[job.name] = job.name
                    failures.append(_failure_line(job, status))
                    _log(f"[{ended}/{count}] {failures[-1]}")
                else:
                    self._seconds.append(time.monotonic() - running_job.since)
                    _log(f"[{ended}/{count}] {job.name}: {self._progress(count - ended)}")
            while blocked := [job for job in waiting if job.after in causes]:
                job = blocked[0]
                waiting.remove(job)
                ended += 1
                causes[job.name] = causes[job.after]
                failures.append(f"{job.name}: not run, because {causes[job.name]} failed")
                _log(f"[{ended}/{count}] {failures[-1]}")
        return failures

    def _start_ready(self, waiting: list[Job]) -> None:
        """Start jobs of `waiting` on the free core sets, in their order, and remove them from the list."""
        for slot in range(len(self._core_sets)):
            unfinished = {job.name for job in [*waiting, *(r.job for r in self._running.values())]}
            ready = [job for job in waiting if job.after not in unfinished]
            if slot not in self._running and ready:
                waiting.remove(ready[0])
                self._start(slot, ready[0])

    def _start(self, slot: int, job: Job) -> None:
        cores = ",".join(map(str, self._core_sets[slot]))
        command = [sys.executable, "-m", "jaxrec.studies.child", cores, *job.arguments]
        with job.log.open("a", encoding="utf-8") as log:
            process = _start_detached(command, log)
        self._running[slot] = _RunningJob(job, process, time.monotonic())

    def _progress(self, left: int) -> str:
        """Return the last duration, the number of jobs left and their estimated time."""
        seconds = sum(self._seconds) / len(self._seconds) * left / len(self._core_sets)
        return f"{self._seconds[-1]:,.0f} s; {left} left, {_format_duration(seconds)}"


def _start_detached(command: list[str], log: IO[str]) -> subprocess.Popen:
    """Start a process in its own session.

    Only the study receives Ctrl-C. The study then sends SIGTERM to the process once.
    """
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _failure_line(job: Job, status: int) -> str:
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return f"{job.name}: ended with exit status {status}; its log is {job.log}, which ends: {last}"


def _format_duration(seconds: float) -> str:
    return f"about {seconds / 60:,.0f} min" if seconds < 5400 else f"about {seconds / 3600:,.1f} h"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_all(
    runs: Sequence[Run], folder: Path, at_once: int, interrupt: PreemptionHandler, measured_by: str = ""
) -> list[str]:
    """Prepare datasets, train and evaluate the runs; return a line per failed job.

    Policies are then measured by the reward models of the row `measured_by`, if there is one.

    Where `interrupt.requested` is set, the function returns early, after every training has saved.
    No training starts where the preparation of a dataset failed.

    Raises:
        InputError: A workdir holds a run of another config, or a run that started from a run as it is no
            more; or `at_once` is wrong. Raised before anything is written.
    """
    for run in runs:
        check_workdir(run)
    with Pool(at_once, interrupt) as pool:
        for run in runs:
            write_config(run)
        if failures := pool.run(preparation_jobs(runs, folder)):
            return failures
        jobs: dict[str, Job] = {}
        for run in runs:
            first = [codes_job(run)] if run.config.codes.path else []
            for job in (*first, *([pairs_job(run)] if run.pairs_of else ()), training_job(run)):
                jobs.setdefault(job.name, job)  # codes are written once, and pairs drawn once
        failures = pool.run([*jobs.values()])
        if interrupt.requested:
            return failures
        return failures + pool.run(measuring_jobs(runs, measured_by))


def finished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are trained and evaluated, in the same order."""
    return [run for run in runs if chains.is_evaluated(run.workdir)]


def values(runs: Sequence[Run]) -> dict[str, dict[int, PerUserResults]]:
    """Return row -> seed -> per-user results, for the runs that are done.

    Raises:
        InputError: The results of a run are incomplete.
    """
    out: dict[str, dict[int, PerUserResults]] = {}
    for run in finished(runs):
        results = read(run.workdir)
        if chains.is_evaluated(run.workdir / MEASURED):
            results.measured = read(run.workdir / MEASURED)
            results.result[REWARDS] = results.measured.result[REWARDS]
        out.setdefault(run.name, {})[run.seed] = results
    return out
