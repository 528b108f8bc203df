"""A study's trainings, each a process of its own: what is missing is run, what is half done resumes.

A training is `S/runs/<row>/seed-<n>`: a workdir as `python -m jaxrec.train` leaves it, with the config it
was given (`config.py`, which trains it again alone), its log, and what `evaluate` made of it. It is done
once every user's values lie there. Checkpoints stay, for `evaluate`; what is needed to recompute a row
is `config.py` alone.
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
from jaxrec.core.json_io import write_text
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.evaluation.per_user import PerUserResults, read
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.plan import Run, datasets

JUDGED = "eval-test-*-per-query.parquet"  # the last thing a training leaves
_POLL_SECONDS = 0.1


class Job(NamedTuple):
    """A command, and what is there once it is done."""

    name: str
    folder: AnyPath
    arguments: tuple[str, ...]  # of python
    leaves: str  # a glob in `folder`
    log: Path

    @property
    def done(self) -> bool:
        return is_done(self.folder, self.leaves)


def is_done(folder: AnyPath, pattern: str) -> bool:
    return any(folder.glob(pattern))


# ---------------------------------------------------------------- what is to be run


def config_file(config: Config, words: str) -> str:
    """A config as the text of a file under configs/ that gives it."""
    names = sorted(name for name, value in vars(schema).items() if dataclasses.is_dataclass(value))
    body = pprint.pformat(config, width=100, sort_dicts=False).replace("\n", "\n    ")
    return (
        f'"""{words}"""\n\nfrom jaxrec.config import {", ".join(names)}\n\n\n'
        f"def get_config() -> Config:\n    return {body}\n"
    )


def write_config(run: Run) -> Path:
    """Writes the run's config.py. Raises InputError where the workdir holds another config's run."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    kept = run.workdir / "config.json"
    if kept.exists():
        before = json.loads(kept.read_text())
        for key, (was, now) in run_differences(before, to_json(run.config)).items():
            raise InputError(
                f"{run.workdir}: holds a run with {key}={was!r}, this study has {now!r}; "
                "allowed: the same study, or another --workdir"
            )
    path = run.workdir / "config.py"
    words = f"{run.name}, seed {run.seed}: python -m jaxrec.train --config THIS --workdir W"
    write_text(path, config_file(run.config, words))
    return path


def training(run: Run) -> Job:
    """Trains and judges a run, by every head; of one that is trained, judges it."""
    config, there = f"--config={run.workdir / 'config.py'}", f"--workdir={run.workdir}"
    train = ("-m", "jaxrec.train", config, there, "--per-user")
    return Job(f"{run.name} seed {run.seed}", run.workdir, train, JUDGED, run.workdir / "log.txt")


def preparations(runs: Sequence[Run], folder: Path) -> list[Job]:
    """The datasets that are not there yet, each to be prepared once."""
    of_config = {id(run.config): run for run in runs}
    jobs = []
    for directory, config in datasets(list(runs)).items():
        given = of_config[id(config)].workdir / "config.py"
        prepare = ("-m", "jaxrec.prepare", f"--config={given}")
        log = folder / f"prepare-{Path(directory).name}.log"
        jobs.append(Job(f"dataset {directory}", as_path(directory), prepare, "manifest.json", log))
    return [job for job in jobs if not job.done]


# ---------------------------------------------------------------- running them


class _Started(NamedTuple):
    job: Job
    process: subprocess.Popen
    since: float


class Pool:
    """So many jobs beside each other, each on its share of the cores. A context manager: what still runs
    at its end is stopped as by SIGTERM, which trainings answer with a checkpoint."""

    def __init__(self, at_once: int, interrupt: PreemptionHandler) -> None:
        cores = (
            sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
        )
        if not 1 <= at_once <= len(cores):
            raise InputError(f"--jobs={at_once}; allowed: 1 to {len(cores)}, the cores")
        edges = [len(cores) * i // at_once for i in range(at_once + 1)]
        self._shares = [cores[a:b] for a, b in pairwise(edges)]
        self._running: dict[int, _Started] = {}  # by share
        self._interrupt = interrupt
        self._seconds: list[float] = []  # of jobs that were run to their end

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for started in self._running.values():
            started.process.send_signal(signal.SIGTERM)
        for started in self._running.values():
            started.process.wait()

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Runs what is not done of the jobs; returns a line for each that failed. The others go on.

        Returns early where `interrupt.requested`, with trainings running: leave the pool.
        """
        waiting = [job for job in jobs if not job.done]
        count, ended, failures = len(waiting), 0, []
        while (waiting or self._running) and not self._interrupt.requested:
            for share in range(len(self._shares)):
                if share not in self._running and waiting:
                    self._start(share, waiting.pop(0))
            time.sleep(_POLL_SECONDS)
            for share, started in list(self._running.items()):
                status = started.process.poll()
                if status is None:
                    continue
                del self._running[share]
                ended += 1
                if status != 0 or not started.job.done:
                    failures.append(_failure(started.job, status))
                    _say(f"[{ended}/{count}] {failures[-1]}")
                else:
                    self._seconds.append(time.monotonic() - started.since)
                    _say(f"[{ended}/{count}] {started.job.name}: {self._progress(count - ended)}")
        return failures

    def _start(self, share: int, job: Job) -> None:
        cores = ",".join(map(str, self._shares[share]))
        line = [sys.executable, "-m", "jaxrec.studies.child", cores, *job.arguments]
        with job.log.open("a", encoding="utf-8") as log:
            process = _detached(line, log)
        self._running[share] = _Started(job, process, time.monotonic())

    def _progress(self, left: int) -> str:
        seconds = sum(self._seconds) / len(self._seconds) * left / len(self._shares)
        return f"{self._seconds[-1]:,.0f} s; {left} left, {_time(seconds)}"


def _detached(line: list[str], log: IO[str]) -> subprocess.Popen:
    """In a session of its own: Ctrl-C reaches the study, which passes it on once and waits."""
    return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _failure(job: Job, status: int) -> str:
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return f"{job.name}: ended with exit status {status}; its log is {job.log}, which ends: {last}"


def _time(seconds: float) -> str:
    return f"about {seconds / 60:,.0f} min" if seconds < 5400 else f"about {seconds / 3600:,.1f} h"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_all(runs: Sequence[Run], folder: Path, at_once: int, interrupt: PreemptionHandler) -> list[str]:
    """Prepares what is not prepared, then trains and judges; returns a line for each job that failed.

    Returns early where `interrupt.requested`, once every training has saved. Raises InputError, before
    anything is started, where a workdir holds another config's run.
    """
    for run in runs:
        write_config(run)
    with Pool(at_once, interrupt) as pool:
        return pool.run(preparations(runs, folder)) or pool.run([training(run) for run in runs])


def finished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if is_done(run.workdir, JUDGED)]


def values(runs: Sequence[Run]) -> dict[str, dict[int, PerUserResults]]:
    """Row -> seed -> its judged values, of the runs that are done."""
    out: dict[str, dict[int, PerUserResults]] = {}
    for run in finished(runs):
        out.setdefault(run.name, {})[run.seed] = read(run.workdir)
    return out
