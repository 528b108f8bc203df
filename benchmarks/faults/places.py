"""Kinds of faults of places: a full disk and read-only folders, by mounts of the test machine."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.lab import Trial, Verdict
from benchmarks.faults.verdicts import refusal

_LEAST_KIB, _MOST_KIB, _DATASET_KIB = 16, 860, 1_020  # a whole run takes about 800 KiB, its dataset 1,000
_FREED_KIB = 65_536
_REFUSAL_SECONDS = 240.0  # a process that lives longer in a place that it cannot write hangs


def _mount(*arguments: str) -> str:
    """Run mount; return its error, or ""."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=60)
    return done.stderr.strip() if done.returncode else ""


def unmount_all(folder: Path) -> None:
    """Unmount all that is mounted below a folder, such as by a harness that was killed."""
    with Path("/proc/mounts").open() as mounts:
        points = [line.split()[1] for line in mounts]
    for point in reversed(points):
        if Path(point).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", point], check=True, timeout=60)


@contextlib.contextmanager
def _mounted(point: Path, *arguments: str) -> Iterator[str]:
    """Mount at a folder in a block; the value is the error of mount, or ""."""
    point.mkdir(parents=True, exist_ok=True)
    error = _mount(*arguments, str(point)) if os.geteuid() == 0 else "needs root"
    try:
        yield error
    finally:
        if not error:
            subprocess.run(["umount", "--lazy", str(point)], check=True, timeout=60)


def full_disk(trial: Trial) -> Verdict:
    """Train on a disk of a random size; free it, and start again."""
    disk, is_dataset_there = trial.folder / "disk", trial.draws.random() < 0.3
    size = trial.draws.randint(_LEAST_KIB, _MOST_KIB + _DATASET_KIB * is_dataset_there)
    with _mounted(disk, "-t", "tmpfs", "-o", f"size={size}k", "tmpfs") as error:
        if error:
            return Verdict("skipped", error)
        trial.workdir = disk / "run"
        trial.moment = f"{size} KiB" + (" with the dataset" if is_dataset_there else "")
        if is_dataset_there:
            trial.data = disk / "data"
        with trial.start() as start:
            status, stderr = start.wait(), start.stderr()
        line = "the disk was large enough"
        if status:
            line = refusal(status, stderr, "disk|No space|cannot be written")
        if error := _mount("-o", f"remount,size={_FREED_KIB}k", str(disk)):
            raise RuntimeError(error)
        return Verdict(trial.end_equal().name, line)


def read_only(trial: Trial) -> Verdict:
    """Start in folders that cannot be written; make them writable, and start again."""
    where = ("workdir", "new workdir", "checkpoints", "dataset")[trial.turn % 4]
    trial.moment = f"{where} read-only"
    if where in ("workdir", "checkpoints"):
        trial.continue_stopped()
    point = trial.folder / "place"
    if where == "new workdir":
        trial.workdir = point / "run"
    elif where == "dataset":
        trial.data = point / "data"
    else:
        point = trial.workdir / ("checkpoints" if where == "checkpoints" else "")
    point.mkdir(exist_ok=True)
    with _mounted(point, "--bind", str(point)) as error:
        error = error or _mount("-o", "remount,ro,bind", str(point))
        if error:
            return Verdict("skipped", error)
        with trial.start() as start:
            status, stderr = start.wait(_REFUSAL_SECONDS), start.stderr()
        line = refusal(status, stderr, "[Rr]ead-only|cannot be written")
        if error := _mount("-o", "remount,rw,bind", str(point)):
            raise RuntimeError(error)
        trial.end_equal()
    return Verdict("refused", line)


KINDS = {"full disk": full_disk, "read-only": read_only}
