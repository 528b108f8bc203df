"""Studies as processes that are killed, and the final parameters of their runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def start_study(folder: Path, config: str, tables: str, *edits: str) -> subprocess.Popen:
    """Start a study of one seed, on the dataset beside its folder; its runs save often.

    Args:
        folder: Folder of the study; its log is beside it.
        config: File of the study, with its argument.
        tables: Value of --tables.
        edits: Further arguments.
    """
    words = [
        sys.executable, "-m", "jaxrec.study", "--config", config, "--seeds", "1", "--tables", tables,
        "--workdir", folder, f"--config.data.directory={folder.parent / 'data'}",
        "--config.train.checkpoint_every_seconds=0.3", *edits,
    ]  # fmt: skip
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def finish_study(process: subprocess.Popen, folder: Path) -> None:
    """Wait for the end of a study, which must be a success."""
    assert process.wait(1800) == 0, folder.with_suffix(".log").read_text()[-3000:]


def saved(folder: Path) -> set[str]:
    """Return the names of the runs of a study that have a checkpoint."""
    return {path.parts[-4] for path in folder.glob("runs/*/seed-0/checkpoints/[0-9]*")}


def wait_until(process: subprocess.Popen, is_reached: Callable[[], bool], seconds: float) -> bool:
    """Wait until a study has reached a point, and for some seconds; return False if it ends before."""
    since = time.monotonic()
    while process.poll() is None:
        if not is_reached():
            since = time.monotonic()
        elif time.monotonic() - since >= seconds:
            return True
        time.sleep(0.02)
    return False


def kill(process: subprocess.Popen) -> list[int]:
    """Kill a study and its jobs at once, none of which can react; return the ids of the jobs."""
    process.send_signal(signal.SIGSTOP)  # no further job starts
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    jobs = [int(pid) for pid in task.read_text().split()]
    for pid in jobs:
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    return jobs


def number_of_kills() -> int:
    """Return the value of JAXREC_KILLS, 10 without it."""
    return int(os.environ.get("JAXREC_KILLS", "10"))


def final_parameters(folder: Path) -> dict[str, tuple[int, list[np.ndarray]]]:
    """Return the last step and the parameters of each run of a study."""
    import jax

    from jaxrec.tasks.loading import load_checkpoint

    out = {}
    for workdir in sorted(folder.glob("runs/*/seed-0")):
        loaded = load_checkpoint(workdir, "last")
        out[workdir.parent.name] = (loaded.step, jax.tree.leaves(jax.device_get(loaded.params)))
    return out


def assert_same_parameters(got: Path, expected: Path, runs: set[str]) -> None:
    """Check that two studies have the same runs, with the same parameters bit for bit."""
    ours, theirs = final_parameters(got), final_parameters(expected)
    assert {*ours} == {*theirs} == runs
    for name, (step, leaves) in theirs.items():
        assert ours[name][0] == step
        for a, b in zip(ours[name][1], leaves, strict=True):
            np.testing.assert_array_equal(a, b)
