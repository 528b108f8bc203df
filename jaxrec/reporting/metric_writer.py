"""Output of a training run: metrics.jsonl, TensorBoard events, progress display.

Each line of metrics.jsonl is a JSON object: `step`, `epoch` (steps / steps per epoch), `split` ("train" or
"validation"), then the values, and the constants of the run, such as "reward/<name>", the version of a reward
that a head learns. Training values are means since the previous line. `examples_per_second` covers only
training steps. Values that are not finite are null.

An object in a bucket cannot be appended to. For a workdir in a bucket, both files are therefore written on
this machine and uploaded whole once a minute, before each checkpoint and at the end. The bucket thus holds
every line up to its last checkpoint.
"""

import contextlib
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

from jaxrec.core.json_io import dumps, write_bytes, write_text
from jaxrec.core.paths import AnyPath, Remote
from jaxrec.reporting.event_file import EventFile
from jaxrec.runtime.multihost import is_first_process

METRICS_FILE, EVENTS_FOLDER = "metrics.jsonl", "tensorboard"
_LINE_SECONDS = 30.0  # between progress lines if standard error is not a terminal
_UPLOAD_SECONDS = 60.0  # between uploads to a bucket


def read_metrics(path: AnyPath) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, or [] if there is no file.

    A line that a crash has truncated, or that is no JSON object, is skipped.
    """
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [record for record in records if isinstance(record, dict)]


class Writer:
    """Context manager that writes and displays the metrics of a run.

    Lines and events of an earlier run after step `start` are removed. Only the first process writes and
    displays.

    Args:
        workdir: Directory of the run.
        start: Step at which the run begins or resumes.
        total: Last step of the run.
        log_seconds: Seconds between two training lines.
        constants: Texts that each line holds too, such as versions of rewards.
    """

    def __init__(
        self, workdir: AnyPath, start: int, total: int, log_seconds: float,
        constants: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._constants = constants or {}
        self.workdir, self.step, self.total, self.log_seconds = workdir, start, total, log_seconds
        self._active = is_first_process()
        self._since = time.monotonic()  # when `step` was reached or the last validation ended
        self._batch_size, self._compiling = 0, True
        if self._active:
            previous = [line for line in read_metrics(workdir / METRICS_FILE) if line["step"] <= start]
            self._bucket = None if isinstance(workdir, Path) else _BucketUploader(workdir)
            folder = self._bucket.folder if self._bucket else workdir
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / METRICS_FILE, "".join(dumps(line) + "\n" for line in previous))
            self._file = (folder / METRICS_FILE).open("a", encoding="utf-8")
            # tensorboardX can write to buckets, but through libraries that use other credentials.
            self._events = EventFile(folder / EVENTS_FOLDER, start + 1)
            self._display = _Display(start, total)
            self.flush()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            with contextlib.ExitStack() as closing:  # each closes, also where another one fails
                if self._bucket:
                    closing.callback(self._bucket.close)
                for file in (self._file, self._events, self._display):
                    closing.callback(file.close)

    def flush(self) -> None:
        """Upload all lines to a bucket and wait.

        Call this method before a checkpoint, because a bucket must hold every line up to its last checkpoint.
        """
        if self._active and self._bucket:
            self._bucket.upload(wait=True)

    def start(self, parameters: int, batch_size: int) -> None:
        """Display the size of the run and start the clock.

        Args:
            parameters: Number of parameters of the model.
            batch_size: Examples per step on all devices together.
        """
        self._batch_size = batch_size
        self._since = time.monotonic()
        if self._active:
            first = f"from step {self.step:,} " if self.step else ""
            self._display.print_line(
                f"{parameters:,} parameters, {first}to step {self.total:,} in {self.workdir}"
            )

    def due(self, step: int) -> bool:
        """Return True if `log_seconds` have passed since the last training line.

        Call this method at each `step`. The first call compiles the step, so the clock of the rate starts
        after the first call.
        """
        if self._compiling:
            self._compiling, self.step, self._since = False, step, time.monotonic()
        return time.monotonic() - self._since >= self.log_seconds

    def train(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Write a training line.

        Args:
            step: The last step of the means.
            epoch: `step` in epochs.
            values: Name -> mean over the steps since the last training line, including `loss`.
        """
        now = time.monotonic()
        rate = (step - self.step) / max(now - self._since, 1e-9)
        self.step, self._since = step, now
        if self._active:
            per_second = rate * self._batch_size
            self._write(step, epoch, "train", {**values, "examples_per_second": per_second})
            self._display.show(step, values["loss"], per_second, (self.total - step) / rate if rate else None)

    def validation(
        self, step: int, epoch: float, values: Mapping[str, float], lists: Mapping[str, Mapping[str, float]],
        displayed: str,
    ) -> None:  # fmt: skip
        """Write a validation line.

        Args:
            step: The step after which the model was validated.
            epoch: `step` in epochs.
            values: Values over the validation users, including `loss`.
            lists: Name of each candidate list -> its metrics.
            displayed: Name of the metric that is displayed.
        """
        self._since = time.monotonic()  # validation is not training time
        if self._active:
            flat = {f"{name}/{k}": v for name, metrics in lists.items() for k, v in metrics.items()}
            self._write(step, epoch, "validation", {**values, **flat})
            scores = ", ".join(f"{name} {metrics[displayed]:.4f}" for name, metrics in lists.items())
            self._display.print_line(
                f"epoch {epoch:g}: validation loss {values['loss']:.4f}, {displayed.upper()} {scores}"
            )

    def _write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **values, **self._constants}
        self._file.write(dumps(line) + "\n")
        self._file.flush()
        self._events.add_scalars({f"{split}/{name}": value for name, value in values.items()}, step)
        if self._bucket:
            self._bucket.upload()


class _BucketUploader:
    """Local folder whose changed files are uploaded whole to a bucket."""

    def __init__(self, remote: Remote):
        self._remote, self._uploaded = remote, dict[str, int]()  # name of a file -> bytes at its upload
        self._temporary = tempfile.TemporaryDirectory(prefix="jaxrec-workdir-")
        self.folder = Path(self._temporary.name)
        self._pool = ThreadPoolExecutor(1)
        self._upload: Future | None = None
        self._since = float("-inf")

    def upload(self, wait: bool = False) -> None:
        """Upload changed files in the background, at most once per `_UPLOAD_SECONDS`.

        Args:
            wait: Upload at once and wait for the end of the upload.

        Raises:
            Exception: The previous upload failed; the error of that upload is raised.
        """
        if not wait and time.monotonic() - self._since < _UPLOAD_SECONDS:
            return
        if self._upload:
            self._upload.result()
        self._since = time.monotonic()
        # The calling thread reads the files between two lines; another thread could read half of a line.
        files = {str(p.relative_to(self.folder)): p for p in self.folder.rglob("*") if p.is_file()}
        changed = {
            name: p.read_bytes() for name, p in files.items() if p.stat().st_size != self._uploaded.get(name)
        }
        self._upload = self._pool.submit(self._write, changed)
        if wait:
            self._upload.result()

    def _write(self, changed: dict[str, bytes]) -> None:
        for name, data in changed.items():
            write_bytes(self._remote / name, data)
            self._uploaded[name] = len(data)

    def close(self) -> None:
        """Upload the last changes and delete the local folder."""
        try:
            self.upload(wait=True)
        finally:
            self._pool.shutdown()
            self._temporary.cleanup()


class _Display:
    """Progress on standard error: a live line on a terminal, else occasional lines."""

    def __init__(self, start: int, total: int):
        self._total, self._last_line = total, float("-inf")
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            bar = (BarColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*bar, console=self._console, refresh_per_second=2, transient=True)
            self._task = self._progress.add_task("compiling", total=total, completed=start)
            self._progress.start()

    def show(self, step: int, loss: float, rate: float, remaining: float | None) -> None:
        """Display the progress of training.

        Args:
            step: The current step.
            loss: Mean training loss.
            rate: Examples per second.
            remaining: Remaining seconds, or None if unknown.
        """
        suffix = "" if remaining is None else f"  {_format_duration(remaining)} left"
        text = f"step {step:,}/{self._total:,}  loss {loss:.4f}  {rate:,.0f} examples/s{suffix}"
        if self._progress:
            self._progress.update(self._task, completed=step, description=text)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS or step == self._total:
            self._last_line = time.monotonic()
            self.print_line(text)

    def print_line(self, text: str) -> None:
        """Print a permanent line."""
        if self._progress:
            self._console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


def _format_duration(seconds: float) -> str:
    """Format seconds as minutes or hours: 90 -> 1:30, 4000 -> 1:06:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
