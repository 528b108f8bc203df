"""Runs left alone and stopped runs, which all trials share, and the steps that trials are made of."""

import random
import re
import shutil
import signal
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.processes import HangError, Start, environment, pod, training
from benchmarks.faults.verdicts import FaultError, Outcome, contents, differences, read_outcome, refusal

_STOPPED_AT = (15, 24, 38)  # lines of metrics after which the stopped runs were stopped
_SET_ASIDE = re.compile(r"it is now called (damaged-\d+)")


class Verdict(NamedTuple):
    """Result of a trial: "equal", "refused" or "skipped", and what was seen."""

    name: str
    text: str = ""


class Lab:
    """Prepared dataset, finished run of one and of two processes, stopped runs, compiled programs.

    They are made once in `folder`, and trials only read them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.cache = folder / "data", folder / "programs"
        self.alone, self.pair = folder / "alone", folder / "pair"

    def make(self, has_pair: bool) -> None:
        """Make what is missing, the run of two processes only with `has_pair`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._once("alone", lambda: self._finish(training(self.alone, self.data), self.alone))
        if has_pair:
            self._once("pair", lambda: self._finish(pod(self.pair, self.data), self.pair))
        for lines in _STOPPED_AT:
            self._once(f"stopped-{lines}", partial(self._stop, lines))

    def _once(self, name: str, make: Callable[[], None]) -> None:
        done = self.folder / f"{name}.done"
        if not done.exists():
            shutil.rmtree(self.folder / name, ignore_errors=True)
            make()
            done.touch()

    def _finish(self, command: list[str], workdir: Path) -> None:
        with Start(command, workdir.with_suffix(".log"), environment(self.cache), workdir) as start:
            if start.wait():
                raise RuntimeError(f"the run left alone failed: {start.stderr()[-2000:]}")

    def _stop(self, lines: int) -> None:
        workdir = self.folder / f"stopped-{lines}"
        command = training(workdir, self.data)
        with Start(command, workdir.with_suffix(".log"), environment(self.cache), workdir) as start:
            metrics = workdir / "metrics.jsonl"
            start.wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= lines)
            start.send(signal.SIGTERM)
            start.wait()

    def stopped(self, draws: random.Random) -> Path:
        """Return one of the stopped runs."""
        return self.folder / f"stopped-{draws.choice(_STOPPED_AT)}"

    @cached_property
    def outcome(self) -> Outcome:
        """Outcome of the run left alone."""
        return read_outcome(self.alone)

    @cached_property
    def pair_outcome(self) -> Outcome:
        """Outcome of the run of two processes left alone."""
        return read_outcome(self.pair)

    @cached_property
    def data_contents(self) -> dict[str, str]:
        """Checksums of the dataset's files."""
        return contents(self.data)


class Trial:
    """One trial: a folder of its own, and random draws from the seed and the trial's number."""

    def __init__(self, lab: Lab, folder: Path, number: int, seed: int, turn: int) -> None:
        self.lab, self.folder, self.number, self.turn = lab, folder, number, turn
        self.draws = random.Random(f"{seed} {number}")
        self.workdir, self.data = folder / "run", lab.data
        self.moment = ""
        self._starts = 0

    def continue_stopped(self) -> None:
        """Use a copy of a stopped run as the workdir."""
        shutil.copytree(self.lab.stopped(self.draws), self.workdir)

    def copy_data(self) -> None:
        """Use a copy of the dataset."""
        self.data = self.folder / "data"
        shutil.copytree(self.lab.data, self.data)

    def start(
        self,
        command: list[str] | None = None,
        faults: dict[str, Any] | None = None,
        cache: Path | None = None,
    ) -> Start:
        """Start a training in the trial's workdir, or another command."""
        self._starts += 1
        command = command or training(self.workdir, self.data, faults)
        log = self.folder / f"start-{self._starts}"
        return Start(command, log, environment(cache or self.lab.cache), self.workdir)

    def check_equal(self, workdir: Path | None = None, expected: Outcome | None = None) -> None:
        """Compare a finished run, and the dataset, with those left alone.

        Raises:
            FaultError: Something differs.
        """
        actual = read_outcome(workdir or self.workdir)
        unequal = differences(expected or self.lab.outcome, actual)
        if contents(self.data) != self.lab.data_contents:
            unequal.append("the dataset's files differ")
        if unequal:
            raise FaultError(f"exit status 0, but not equal: {'; '.join(unequal)[:600]}")

    def end_equal(self, faults: dict[str, Any] | None = None) -> Verdict:
        """Start again without a fault, or with `faults`, to an equal end."""
        with self.start(faults=faults) as start:
            status = start.wait()
            if status:
                raise FaultError(f"started again: status {status}: {start.stderr()[-600:]}")
        self.check_equal()
        return Verdict("equal")

    def end_damaged(self, restore: Callable[[], None], names: str) -> Verdict:
        """Start with a damaged file: an equal end, or a refusal and, once the file is restored, an equal end.

        Args:
            restore: Puts the undamaged bytes back.
            names: Regular expression of what a refusal names.
        """
        with self.start() as start:
            status, stderr = start.wait(), start.stderr()
        aside = _SET_ASIDE.findall(stderr)
        if status == 0:
            restore_data = self.data != self.lab.data
            if restore_data:
                restore()
            self.check_equal()
            return Verdict("equal", f"set aside: {', '.join(aside)}" if aside else "the damage was not read")
        line = refusal(status, stderr, names)
        for name in aside:
            path = self.workdir / "checkpoints" / name
            path.rename(path.with_name(name.removeprefix("damaged-")))
        restore()
        self.end_equal()
        return Verdict("refused", line)


__all__ = ["HangError", "Lab", "Trial", "Verdict"]
