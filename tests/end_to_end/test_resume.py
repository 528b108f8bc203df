"""A run that is stopped, however rudely, and started again ends as if it never had been."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def train(workdir, dataset, *more):
    command = [
        sys.executable, "-m", "jaxrec.train", "--config", "configs/tiny.py", "--workdir", str(workdir),
        f"--config.data.directory={dataset}", "--config.train.length=12 epochs", *more,
    ]  # fmt: skip
    with Path(f"{workdir}.log").open("a") as log:
        return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=log, stderr=log)


def final_parameters(workdir):
    import jax

    from jaxrec.evaluation import load

    return jax.device_get(load(workdir, "last").params), load(workdir, "last").step


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tiny_directory, tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert train(workdir, tiny_directory).wait(300) == 0, Path(f"{workdir}.log").read_text()[-3000:]
    return workdir


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_stopped_in_mid_epoch_resumes_to_the_same_parameters(whole, tiny_directory, tmp_path, number):
    import jax

    metrics = tmp_path / "cut" / "metrics.jsonl"
    cut = train(tmp_path / "cut", tiny_directory, "--config.train.log_seconds=0.01")

    def in_mid_epoch():
        """A checkpoint is whole, and steps were taken after it that are no epoch's last."""
        saved = [
            int(p.parent.name)
            for p in (tmp_path / "cut/checkpoints").glob("*/commit_success.txt")
            if p.parent.name.isdigit()
        ]  # a save under way has a longer name
        last = [json.loads(line) for line in lines(metrics)][-1:] if metrics.exists() else []
        return saved and last and last[0]["step"] > min(saved) and last[0]["epoch"] % 1 > 0

    wait_for(in_mid_epoch, cut)
    cut.send_signal(number)
    assert cut.wait(120) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert not (tmp_path / "cut" / "test.json").exists()
    again = train(tmp_path / "cut", tiny_directory)
    log = tmp_path / "cut.log"
    assert again.wait(300) == 0, log.read_text()[-3000:]
    assert re.search(r"from step [1-9]", log.read_text())  # it went on, and did not begin again
    expected, steps = final_parameters(whole)
    found, reached = final_parameters(tmp_path / "cut")
    assert steps == reached
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    a, b = (json.loads((d / "test.json").read_text()) for d in (whole, tmp_path / "cut"))
    assert a["lists"] == b["lists"]
    steps_logged = [json.loads(line)["step"] for line in lines(metrics)]
    assert steps_logged == sorted(steps_logged)


def test_sigterm_before_the_first_step_leaves_at_once_to_be_started_again(tmp_path):
    more = ("--config.train.preempted_exit=75", "--config.source.users=4000")
    run = train(tmp_path / "run", tmp_path / "data", *more)
    log = tmp_path / "run.log"
    wait_for(lambda: "building rows" in log.read_text(), run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 75, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run.log"}  # nothing is left half prepared


def lines(path):
    """Whole lines alone: the last may be half written."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
