"""Cost of checksums and locks: the same work with them and without, in turn.

    python -m benchmarks.integrity [--events 5e6] [--rounds 5] [--json F]

Four pieces of work: preparation of a log, the time from the start of a process to the first step of
`configs/smoe.py:small` on a prepared dataset, a save of its checkpoint until it is complete, and ten epochs
of its training rows read as batches from a dataset that is opened for it. Without means that the functions
of `runtime.checksums`, `runtime.locks` and `checkpoints.seals` do nothing. The share is the time of all
threads in these functions, which is less noisy than a ratio on a shared machine.
"""

import contextlib
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import prepare
from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from benchmarks.stage_start import seconds_to_first_step
from jaxrec.checkpoints import seals
from jaxrec.config.loading import load_config
from jaxrec.data.loading.batches import TrainBatches
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.runtime import checksums, locks

WANTED = 1.02  # time with the checks relative to the time without them
_BATCH, _EPOCHS = 256, 10  # examples of a batch that is read, and epochs
WITH, WITHOUT = "with", "without"


def _flags() -> None:
    flags.DEFINE_float("events", 5e6, "watch events of the preparation", lower_bound=1e3)
    flags.DEFINE_integer("rounds", 5, "rounds of each piece of work", lower_bound=1)


@contextlib.contextmanager
def replaced(by: dict[Callable, Callable]) -> Iterator[None]:
    """Replace functions in all loaded modules of jaxrec in a block."""
    places = [
        (module, name, value)
        for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "jaxrec" and m]
        for name, value in list(vars(module).items())
        if callable(value) and any(value is function for function in by)
    ]
    for module, name, value in places:
        setattr(module, name, next(new for old, new in by.items() if old is value))
    try:
        yield
    finally:
        for module, name, value in places:
            setattr(module, name, value)


_EXCLUSIVE = locks.exclusive
_NO_CHECKSUM = {"bytes": 0, "sha256": ""}
# What takes the place of each check where it is left out.
_NO_CHECKS: dict[Callable, Callable] = {
    checksums.checksum: lambda path: dict(_NO_CHECKSUM),
    checksums.checksum_of: lambda content: dict(_NO_CHECKSUM),
    checksums.verify: lambda path, expected, what, advice: None,
    seals.seal: lambda step: None,
    seals.seal_when_complete: lambda step, closing: None,
    seals.verify_step: lambda step, items=(): None,
    locks.exclusive: lambda path, what, *, wait: contextlib.nullcontext(),
}  # fmt: skip


class Meter:
    """Seconds that the threads of this process spend in checksums, and in taking locks."""

    def __init__(self) -> None:
        """Start at 0 s."""
        self.seconds, self._lock, self._of_thread = 0.0, threading.Lock(), threading.local()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the seconds of a block, unless it lies in another one of the same thread."""
        if getattr(self._of_thread, "is_counting", False):
            yield
            return
        self._of_thread.is_counting = True
        began = time.perf_counter()
        try:
            yield
        finally:
            self._of_thread.is_counting = False
            with self._lock:
                self.seconds += time.perf_counter() - began

    def _timed(self, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._counted():
                return function(*arguments, **options)

        return call

    def _timed_lock(self, *arguments: Any, **options: Any) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        with self._counted():
            stack.enter_context(_EXCLUSIVE(*arguments, **options))
        return stack

    def functions(self) -> dict[Callable, Callable]:
        """Return what takes the place of each check while it is timed."""
        waiting = (_EXCLUSIVE, seals.seal_when_complete)  # the second waits for Orbax, and seals by `seal`
        timed = {check: self._timed(check) for check in _NO_CHECKS if check not in waiting}
        return timed | {_EXCLUSIVE: self._timed_lock}


def compare(work: Callable[[str], Any], rounds: int) -> dict[str, Any]:
    """Return timings of a piece of work with the checks and without, and the share of the checks.

    Args:
        work: Does the work once; receives WITH or WITHOUT.
        rounds: Number of counted rounds.
    """
    meter = Meter()

    def checked() -> None:
        with replaced(meter.functions()):
            work(WITH)

    def unchecked() -> None:
        with replaced(_NO_CHECKS):
            work(WITHOUT)

    timing = interleaved({WITH: checked, WITHOUT: unchecked}, rounds)
    total = sum(timing[WITH].seconds) * (rounds + 1) / rounds  # the meter counts the warm-up too
    return _figures(timing) | {"share": meter.seconds / total}


def _figures(timing: dict[str, Timing]) -> dict[str, Any]:
    seconds = {
        name: {"median": t.median, "least": min(t.seconds), "most": max(t.seconds)}
        for name, t in timing.items()
    }
    return {**seconds, "ratio": ratio(timing[WITH], timing[WITHOUT])}


def train(name: str) -> None:
    """Run `python -m jaxrec.train` with the checks or without, in a process of its own."""

    with replaced(_NO_CHECKS) if name == WITHOUT else contextlib.nullcontext():
        runpy.run_module("jaxrec.train", run_name="__main__")


def starts(folder: Path, data: Path, rounds: int) -> dict[str, Any]:
    """Return the timings of starts in empty workdirs, by processes of their own; without a share."""
    number = iter(range(10**6))

    def start(name: str) -> None:
        workdir = folder / f"start-{next(number)}"
        program = [sys.executable, "-c", f"from benchmarks.integrity import train; train({name!r})"]
        options = ["--config=configs/smoe.py:small", f"--config.data.directory={data}"]
        options += ["--config.train.log_seconds=1e-9", f"--workdir={workdir}"]
        seconds_to_first_step([*program, *options], workdir, to_end=False)

    return _figures(interleaved({name: partial(start, name) for name in (WITH, WITHOUT)}, rounds))


class Save:
    """Saves of a training state of `configs/smoe.py:small`."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        """Build the state for a dataset."""
        from benchmarks.save import Run

        config = load_config("configs/smoe.py:small")
        titles = dataset.layout.num_titles
        self.runs = {name: Run(config, dataset, titles, 0, folder / name) for name in (WITH, WITHOUT)}
        for training in self.runs.values():
            training.train_for(0.0, save=False)

    def __call__(self, name: str) -> None:
        """Save once, and wait until the step is complete and sealed."""
        training = self.runs[name]
        training.saves += 1
        training.checkpoints.save(training.saves, training.state, training.meta, training.arrays)
        training.checkpoints.wait()


def epochs(data: Path) -> None:
    """Open a dataset and read all its training rows as batches, in `_EPOCHS` epochs."""
    batches = TrainBatches(Dataset(data).rows("train"), _BATCH, 0, 10**6)
    for step in range(_EPOCHS * batches.steps_per_epoch):
        batches[step]


def main(args: flags.FlagValues) -> Report:
    """Time all four pieces of work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare.write_tables(folder / "raw", int(args.events))
        config = prepare.config_of(folder / "raw")
        number = iter(range(10**6))
        figures = {
            "preparation": compare(
                lambda _: ensure_dataset(config, str(folder / f"data-{next(number)}")), args.rounds
            )
        }
        small = load_config("configs/smoe.py:small")
        ensure_dataset(small, str(folder / "small"))
        figures["start to first step"] = starts(folder, folder / "small", args.rounds)
        figures["save"] = compare(Save(Dataset(folder / "small"), folder), args.rounds)
        figures["epochs of batches"] = compare(lambda _: epochs(folder / "small"), args.rounds)
    rows = []
    for name, of in figures.items():
        share = f"; {of['share']:.2%} in checks" if "share" in of else ""
        rows.append((name, spread(of[WITH], "s"), f"{spread(of[WITHOUT], 's')} without"))
        rows.append((f"{name}, ratio", spread(of["ratio"], "", 3) + share, f"at most {WANTED:g}"))
    return Report("Checksums and locks", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
