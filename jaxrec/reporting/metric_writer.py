"""What a run says while it runs: metrics.jsonl, TensorBoard events, and the progress display.

A line of metrics.jsonl is an object: `step`, `epoch` (steps / steps per epoch), `split` ("train" or
"validation"), then the values. Training values are means since the line before; `examples_per_second`
is of the training steps alone. Values that are not finite are null.

In a bucket no file grows, so both are written on this machine, and sent whole once a minute, before each
checkpoint and at the end; a bucket thus holds every line up to its last checkpoint.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tensorboardX import SummaryWriter

from jaxrec.core.json_io import dumps, write_bytes, write_text
from jaxrec.core.paths import AnyPath, Remote
from jaxrec.runtime.multihost import is_first_process

METRICS_FILE, EVENTS_FOLDER = "metrics.jsonl", "tensorboard"
_SECONDS_A_LINE = 30.0  # between lines of progress where standard error is no terminal
_SECONDS_A_SENDING = 60.0  # between copies to a bucket


def read_metrics(path: AnyPath) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl; one torn by a crash is left out. [] where there is no file."""
    lines = path.read_bytes().decode().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in found if isinstance(line, dict)]


class Writer:
    """A context manager over `workdir`, for a run that begins or resumes at step `start` of `total`.

    What an earlier run wrote past `start` is cut. `log_seconds` lie between two training lines. On all
    processes but the first, nothing is written or shown.
    """

    def __init__(self, workdir: AnyPath, start: int, total: int, log_seconds: float):
        self.workdir, self.step, self.total, self.log_seconds = workdir, start, total, log_seconds
        self._active = is_first_process()
        self._since = time.monotonic()  # the time at which `step` was reached, but for validations
        self._batch_size, self._compiling = 0, True
        if self._active:
            kept = [line for line in read_metrics(workdir / METRICS_FILE) if line["step"] <= start]
            self._bucket = None if isinstance(workdir, Path) else _Bucket(workdir)
            folder = self._bucket.folder if self._bucket else workdir
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / METRICS_FILE, "".join(dumps(line) + "\n" for line in kept))
            self._file = (folder / METRICS_FILE).open("a", encoding="utf-8")
            # tensorboardX writes to buckets too, by other libraries, which look elsewhere for credentials.
            self._events = SummaryWriter(logdir=str(folder / EVENTS_FOLDER), purge_step=start + 1)
            self._display = _Display(start, total)
            self.flush()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._display.close()
            self._events.close()
            self._file.close()
            if self._bucket:
                self._bucket.close()

    def flush(self) -> None:
        """Until all lines are where they belong: before a checkpoint, past which none may be missing."""
        if self._active and self._bucket:
            self._bucket.send(wait=True)

    def start(self, parameters: int, batch_size: int) -> None:
        """Says what begins, and starts the clock; `batch_size` is of all devices together."""
        self._batch_size = batch_size
        self._since = time.monotonic()
        if self._active:
            where = f"from step {self.step:,} " if self.step else ""
            self._display.say(f"{parameters:,} parameters, {where}to step {self.total:,} in {self.workdir}")

    def due(self, step: int) -> bool:
        """Whether `log_seconds` have passed since the last training line; asked as each `step` is reached.

        The first steps compile, which says nothing of the rate: the clock starts once they are dispatched.
        """
        if self._compiling:
            self._compiling, self.step, self._since = False, step, time.monotonic()
        return time.monotonic() - self._since >= self.log_seconds

    def train(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Means of the steps since the last training line; `values` holds `loss`."""
        now = time.monotonic()
        rate = (step - self.step) / max(now - self._since, 1e-9)
        self.step, self._since = step, now
        if self._active:
            per_second = rate * self._batch_size
            self._write(step, epoch, "train", {**values, "examples_per_second": per_second})
            self._display.show(step, values["loss"], per_second, (self.total - step) / rate if rate else None)

    def validation(
        self, step: int, epoch: float, values: Mapping[str, float], lists: Mapping[str, Mapping[str, float]],
        said: str,
    ) -> None:  # fmt: skip
        """The validation users' `values` (`loss` among them) and the metrics of each list, of which the one
        named is `said` on the display."""
        self._since = time.monotonic()  # validation is not training time
        if self._active:
            flat = {f"{name}/{k}": v for name, metrics in lists.items() for k, v in metrics.items()}
            self._write(step, epoch, "validation", {**values, **flat})
            scores = ", ".join(f"{name} {metrics[said]:.4f}" for name, metrics in lists.items())
            self._display.say(
                f"epoch {epoch:g}: validation loss {values['loss']:.4f}, {said.upper()} {scores}"
            )

    def _write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        self._file.write(dumps({"step": step, "epoch": round(epoch, 4), "split": split, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}".replace("@", "_"), value, step)  # a tag has no @
        self._events.flush()
        if self._bucket:
            self._bucket.send()


class _Bucket:
    """A folder on this machine whose files are copied to a bucket, those that have changed, whole."""

    def __init__(self, remote: Remote):
        self._remote, self._sent = remote, dict[str, int]()  # bytes of each file
        self._temporary = tempfile.TemporaryDirectory(prefix="jaxrec-workdir-")
        self.folder = Path(self._temporary.name)
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future | None = None
        self._since = float("-inf")

    def send(self, wait: bool = False) -> None:
        """In the background, where the last time is long enough ago; with `wait`, now. Raises the error of
        what failed before."""
        if not wait and time.monotonic() - self._since < _SECONDS_A_SENDING:
            return
        if self._under_way:
            self._under_way.result()
        self._since = time.monotonic()
        # Read here, between two lines: another thread could find half of one.
        found = {str(p.relative_to(self.folder)): p for p in self.folder.rglob("*") if p.is_file()}
        changed = {
            name: p.read_bytes() for name, p in found.items() if p.stat().st_size != self._sent.get(name)
        }
        self._under_way = self._pool.submit(self._put, changed)
        if wait:
            self._under_way.result()

    def _put(self, changed: dict[str, bytes]) -> None:
        for name, data in changed.items():
            write_bytes(self._remote / name, data)
            self._sent[name] = len(data)

    def close(self) -> None:
        try:
            self.send(wait=True)
        finally:
            self._pool.shutdown()
            self._temporary.cleanup()


class _Display:
    """A live line on a terminal, else a line a while; on standard error, which is free of results."""

    def __init__(self, start: int, total: int):
        self._total, self._said = total, float("-inf")
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            bar = (BarColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*bar, console=self._console, refresh_per_second=2, transient=True)
            self._task = self._progress.add_task("compiling", total=total, completed=start)
            self._progress.start()

    def show(self, step: int, loss: float, rate: float, left: float | None) -> None:
        """`rate` examples a second; `left` seconds, None where unknown."""
        remaining = "" if left is None else f"  {_clock(left)} left"
        text = f"step {step:,}/{self._total:,}  loss {loss:.4f}  {rate:,.0f} examples/s{remaining}"
        if self._progress:
            self._progress.update(self._task, completed=step, description=text)
        elif time.monotonic() - self._said >= _SECONDS_A_LINE or step == self._total:
            self._said = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._progress:
            self._console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


def _clock(seconds: float) -> str:
    """90 -> 1:30, 4000 -> 1:06:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
