"""Small runs through launch/local.sh, and how tests stop one of their two processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT = 5  # seconds
STEPS = 40  # an epoch has 28


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


TINY, SMALL = "configs/tiny.py", "tests/end_to_end/small.py"  # one dataset serves both


def arguments(workdir: Path, dataset: Path, steps: int = STEPS, config: str = TINY) -> list[str]:
    """Return arguments of train that log every step."""
    options = {"data.directory": dataset, "train.duration": f"{steps} steps", "train.log_seconds": 0.001}
    configured = [f"--config.{key}={value}" for key, value in options.items()]
    return ["--config", config, "--workdir", str(workdir), *configured]


class Pod:
    """A training by launch/local.sh, started as it is made; its standard error is beside its workdir.

    It logs every step, and saves every `every` seconds. A context manager, which leaves no process behind.
    """

    def __init__(
        self, workdir: Path, dataset: Path, config: str = SMALL, devices: int = 1, steps: int = STEPS,
        every: float = 0.5, resident: str = "never", **environment: str,
    ) -> None:  # fmt: skip
        self.workdir, self.log = workdir, workdir.with_name(workdir.name + ".log")
        self.reached = workdir.with_name(workdir.name + ".reached")
        self.begun = len(self.log_text())  # of the log, where this start's part begins
        options = {
            "train.heartbeat_seconds": HEARTBEAT, "train.checkpoint_every_seconds": every,
            "train.resident": resident,
        }  # fmt: skip
        command = [
            ROOT / "launch/local.sh", "--processes", "2", "--devices", str(devices), "--",
            *arguments(workdir, dataset, steps, config), *(f"--config.{k}={v}" for k, v in options.items()),
        ]  # fmt: skip
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                env=ENVIRONMENT | {"PYTHON": sys.executable, "JAXREC_REACHED": str(self.reached)}
                | environment,
            )  # fmt: skip

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def log_text(self) -> str:
        """Return the log of all starts."""
        return self.log.read_text() if self.log.exists() else ""

    def step(self) -> int:
        """The last one logged; 0 before any is."""
        return max((line["step"] for line in read_metrics(self.workdir / METRICS_FILE)), default=0)

    def saved(self) -> int:
        """The newest complete checkpoint; 0 where there is none."""
        folders = (self.workdir / "checkpoints").glob("[0-9]*")
        return max((int(path.name) for path in folders if path.name.isdigit()), default=0)

    def wait_for(self, step: int, seconds: float = 300) -> None:
        """Until a step is logged by this start, which cuts what an earlier one logged past its own."""
        end = time.monotonic() + seconds
        while " parameters, " not in self.log_text()[self.begun :] or self.step() < step:
            assert self._process.poll() is None and time.monotonic() < end, self.log_text()[-3000:]
            time.sleep(0.01)

    def send(self, process: int, number: signal.Signals) -> None:
        """A signal to one of the processes, which has logged a step."""
        os.kill(json.loads((self.reached / f"{process}.json").read_text())["pid"], number)

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """The launcher's exit status, and its standard error since this start."""
        return self._process.wait(seconds), self.log_text()[self.begun :]


def resumed_from(stderr: str) -> int:
    """Return the step at which a run resumes, from its log; 0 for a new run."""
    match = re.search(r"parameters, from step ([\d,]+) ", stderr)
    return int(match[1].replace(",", "")) if match else 0


def final_parameters(workdir: Path, steps: int = STEPS) -> Any:
    import jax

    from jaxrec.tasks.loading import load_checkpoint

    loaded = load_checkpoint(workdir, "last")
    assert loaded.step == steps
    return jax.device_get(loaded.params)


def same(a: Any, b: Any) -> bool:
    """Return True if two trees of parameters are equal bit for bit."""
    import jax
    import numpy as np

    x, y = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(x) == len(y) and all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
