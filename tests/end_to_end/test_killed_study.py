"""A study of post-training that is killed at ten random moments ends with the parameters of a whole one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec.tasks.loading import load_checkpoint

pytestmark = pytest.mark.slow  # 3 to 10 minutes: ten trainings by commands, and what the kills repeat

ROOT = Path(__file__).resolve().parents[2]
KILLS, SEED = 10, 0
ROWS = ("imitation", "bc", "asft_0.5", "ppo", "dpo")
STUDY = f"""
from configs import study_post
from jaxrec.studies.plan import Policies


def get_config():
    study = study_post.get_config("tiny")
    every = study.rows
    study.rows = lambda base: tuple(row for row in every(base) if row.name in {ROWS})
    study.claims, study.premises, study.policies = (), (), Policies()
    return study
"""


def start(folder, out):
    """Start the study, or go on with it."""
    line = [
        sys.executable, "-m", "jaxrec.study", f"--config={folder / 'study.py'}", f"--workdir={folder / out}",
        f"--config.data.directory={folder / out}-data", "--seeds=1",
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with (folder / f"{out}.log").open("a") as log:
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)


def kill(study):
    """Kill the study and its jobs, which have sessions of their own."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in table.splitlines()]
    every = [study.pid]
    for pid in every:  # it grows
        every += [child for child, parent in parents if parent == pid]
    for pid in every:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself
    study.wait()


@pytest.mark.timeout(3600)
def test_a_killed_study_ends_with_the_parameters_of_a_whole_one(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    began = time.monotonic()
    assert start(tmp_path, "whole").wait(900) == 0, (tmp_path / "whole.log").read_text()
    seconds, draws, killed = time.monotonic() - began, random.Random(SEED), 0
    while killed < KILLS:
        study = start(tmp_path, "cut")
        time.sleep(draws.uniform(1.0, max(seconds / 8, 8.0)))
        if study.poll() is None:
            kill(study)
            killed += 1
            continue
        assert study.returncode == 0, (tmp_path / "cut.log").read_text()
        assert_as_whole(tmp_path)  # it was quicker than the kills: the others are of another one
        shutil.rmtree(tmp_path / "cut")
    assert start(tmp_path, "cut").wait(900) == 0, (tmp_path / "cut.log").read_text()
    assert_as_whole(tmp_path)


def assert_as_whole(folder):
    """Check that the last parameters of the killed study are those of the whole one, bit for bit."""
    for row in ROWS:
        whole, cut = (
            load_checkpoint(folder / out / "runs" / row / "seed-0", "last") for out in ("whole", "cut")
        )
        for a, b in zip(*map(jax.tree.leaves, (whole.params, cut.params)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=row)
