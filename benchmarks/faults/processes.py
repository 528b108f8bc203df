"""Starts of training processes, moments of their lives, and the watchdog."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "benchmarks/faults/config.py"
LIMIT_SECONDS = 900.0  # a process that lives longer hangs: a run takes 15 s, on a busy machine 200 s
_POLL_SECONDS = 0.005
_LINES = 50  # of metrics in a run: 45 steps and 5 validations
_CHILD = "benchmarks.faults.child"
PHASES = ("import", "preparation", "compile", "steps", "save", "evaluation")


class HangError(Exception):
    """A process that outlives the limit of the watchdog."""


class Start:
    """One start of a command, in a session of its own; a context manager that leaves no process behind.

    Args:
        command: The command line.
        log: Path without suffix of the files of standard output and standard error.
        environment: Environment of the process.
        workdir: Folder of the run, for the moments.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str], workdir: Path) -> None:
        self.workdir, self._errors = workdir, log.with_suffix(".err")
        self._lines_before = _count_lines(workdir)
        with self._errors.open("wb") as errors, log.with_suffix(".out").open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=errors, start_new_session=True
            )

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()

    @property
    def pid(self) -> int:
        """Id of the process, and of its session."""
        return self._process.pid

    def stderr(self) -> str:
        """Return the standard error so far."""
        return self._errors.read_text(errors="replace")

    def is_running(self) -> bool:
        """Return True until the process has ended."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, if it still runs."""
        if self.is_running():
            self._process.send_signal(number)

    def end_all(self) -> None:
        """Kill all that is left of the session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Return the exit status.

        Raises:
            HangError: The process outlived the limit and was killed.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end_all()
            raise HangError(f"still running after {seconds:g} s: {self.stderr()[-300:]}") from None

    def wait_until(self, condition: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> bool:
        """Wait for a condition; return False if the process ended before.

        Raises:
            HangError: Neither happened within the limit.
        """
        end = time.monotonic() + seconds
        while not condition():
            if not self.is_running():
                return False
            if time.monotonic() > end:
                self.end_all()
                raise HangError(f"reached no such moment in {seconds:g} s: {self.stderr()[-300:]}")
            time.sleep(_POLL_SECONDS)
        return True

    def sleep(self, seconds: float) -> bool:
        """Wait for a random moment; return False if the process ended before."""
        end = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= end)
        return self.is_running()

    def wait_for_phase(self, phase: str, draws: random.Random) -> str:
        """Wait until a random moment of a phase; return the moment in words."""
        lines = draws.randint(1, max(_LINES - self._lines_before, 1))
        saves, checkpoints = draws.randint(1, 4), self.workdir / "checkpoints"
        seen = set[str]()

        def is_saving() -> bool:
            seen.update(p.name for p in checkpoints.glob("*tmp*"))
            return len(seen) >= saves

        conditions: dict[str, tuple[Callable[[], bool], float]] = {
            "import": (lambda: True, 1.5),
            "preparation": (lambda: "preparing " in self.stderr(), 0.8),
            "compile": ((self.workdir / ".lock").exists, 3.0),
            "steps": (lambda: _count_lines(self.workdir) - self._lines_before >= lines, 0.05),
            "save": (is_saving, 0.3),
            "evaluation": (lambda: _is_trained(self.workdir), 4.0),
        }
        condition, longest = conditions[phase]
        delay = draws.uniform(0, longest)
        reached = self.wait_until(condition) and self.sleep(delay)
        detail = {"steps": f" after {lines} lines", "save": f" number {saves}"}.get(phase, "")
        return f"{phase}{detail} + {delay:.2f} s" + ("" if reached else ", after the end")


def _count_lines(workdir: Path) -> int:
    path = workdir / METRICS_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _is_trained(workdir: Path) -> bool:
    """Return True once the last step is validated."""
    lines = read_metrics(workdir / METRICS_FILE)
    return any(line["split"] == "validation" and line["epoch"] >= 5 for line in lines)


def environment(cache: Path, **more: str) -> dict[str, str]:
    """Return the environment of the processes, whose compiled programs are kept in `cache`."""
    own = {
        "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    return os.environ | own | more


def arguments(workdir: Path, data: Path, *more: str) -> list[str]:
    """Return the arguments of a training."""
    return ["--config", CONFIG, "--workdir", str(workdir), f"--config.data.directory={data}", *more]


def training(workdir: Path, data: Path, faults: dict[str, Any] | None = None) -> list[str]:
    """Return the command of a training; with `faults`, those of `child.py` in the process."""
    wrapper = ["-m", _CHILD, json.dumps(faults)] if faults else ["-m", "jaxrec.train"]
    return [sys.executable, *wrapper, *arguments(workdir, data)]


def pod(workdir: Path, data: Path) -> list[str]:
    """Return the command of a training of two processes."""
    script = str(ROOT / "launch/local.sh")
    return [script, "--processes", "2", "--devices", "1", "--", *arguments(workdir, data)]


# Lines of a run without a fault; a refusal is one line beside them.
_USUAL = re.compile(
    r"""\s*$ | [\d,]+\ parameters,\ | step\ \d+/\d+\ | epoch\ [\d.]+:\ validation | (reading|building)\ rows
    | counting\ plays | next:\ | (SIGTERM|SIGINT):\ saving | [IW]\d{4}\ [\d:.]+\ +\d+\ \w+\.py:\d+\]\ """,
    re.VERBOSE,
)


def unusual_lines(stderr: str) -> list[str]:
    """Return the lines of standard error that a run without a fault does not print."""
    return [line for line in stderr.splitlines() if not _USUAL.match(line)]


@contextlib.contextmanager
def ended(*starts: Start) -> Iterator[None]:
    """Leave none of the processes behind after a block."""
    try:
        yield
    finally:
        for start in starts:
            start.end_all()
