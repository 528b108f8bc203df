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
from bucket import S3

from jaxrec.core.paths import as_path
from jaxrec.reporting.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def train(workdir, dataset, *more):
    command = [
        sys.executable, "-m", "jaxrec.train", "--config", "configs/tiny.py", "--workdir", str(workdir),
        f"--config.data.directory={dataset}", "--config.train.duration=12 epochs", *more,
    ]  # fmt: skip
    with Path(f"{workdir}.log").open("a") as log:
        return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=log, stderr=log)


def final_parameters(workdir):
    import jax

    from jaxrec.evaluation.evaluator import load_checkpoint

    return jax.device_get(load_checkpoint(workdir, "last").params), load_checkpoint(workdir, "last").step


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
    more = ("--config.train.preemption_exit_code=75", "--config.source.users=4000")
    run = train(tmp_path / "run", tmp_path / "data", *more)
    log = tmp_path / "run.log"
    wait_for(lambda: "building rows" in log.read_text(), run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 75, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run.log"}  # nothing is left half prepared


def in_bucket(folder, *arguments):
    """A command beside tests/bucket.py, which gives it an s3:// that is no folder of this machine."""
    line = [sys.executable, str(ROOT / "tests/bucket.py"), *arguments]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }  # as the fixture `bucket` has changed it
    with (folder / "log").open("a") as log:
        return subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log)


def test_a_run_in_a_bucket_that_is_killed_ends_as_one_on_this_machine(whole, bucket, tiny, tmp_path):
    """Prepared to, trained in, killed, resumed in and judged from a bucket."""
    import jax

    from jaxrec.evaluation import per_user
    from jaxrec.evaluation.evaluator import evaluate, load_checkpoint
    from jaxrec.evaluation.results import write_result

    def finished(*arguments):
        assert in_bucket(tmp_path, *arguments).wait(300) == 0, (tmp_path / "log").read_text()[-3000:]

    config, data, run = ("--config", str(ROOT / "configs/tiny.py")), f"{bucket}/data", f"{bucket}/runs/cut"
    finished("jaxrec.prepare", *config, f"--out={data}")
    assert json.loads(as_path(f"{data}/manifest.json").read_bytes())["fingerprint"] == tiny.fingerprint

    train = ("jaxrec.train", *config, "--config.train.duration=12 epochs", f"--workdir={run}",
             f"--config.data.directory={data}")  # fmt: skip
    cut = in_bucket(tmp_path, *train, "--config.train.log_seconds=0.01")
    complete = re.compile(r"bucket/runs/cut/checkpoints/(\d+)/commit_success.txt")
    wait_for(lambda: any(complete.fullmatch(key) for key in S3.objects()), cut)
    cut.send_signal(signal.SIGKILL)
    assert cut.wait(60) == -signal.SIGKILL and not as_path(f"{run}/test.json").exists()
    saved = max(int(found[1]) for key in S3.objects() if (found := complete.fullmatch(key)))
    kept = [line for line in read_metrics(as_path(f"{run}/metrics.jsonl")) if line["step"] == saved]
    assert [line["split"] for line in kept] == ["train", "validation"]  # no line before a checkpoint is lost
    finished(*train)
    assert re.search(rf"from step {saved} ", (tmp_path / "log").read_text())

    for which in ("last", "best"):
        expected, found = load_checkpoint(whole, which), load_checkpoint(run, which)
        assert found.step == expected.step and found.meta["dataset_directory"] == data
        a, b = jax.device_get((expected.params, found.params))
        jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = (json.loads((as_path(d) / "test.json").read_bytes()) for d in (whole, run))
    assert a["lists"] == b["lists"] and a["dataset"] == b["dataset"]
    steps = [line["step"] for line in read_metrics(as_path(f"{run}/metrics.jsonl"))]
    assert steps == sorted(steps) and steps[-1] == load_checkpoint(run, "last").step
    assert b"<svg" in as_path(f"{run}/report.html").read_bytes()
    assert len(list(as_path(f"{run}/tensorboard").iterdir())) == 2  # one of each start

    write_result(run, evaluate(run), each=True)  # as `evaluate --per-user`
    judged = per_user.read(run)
    assert judged.result["lists"] == b["lists"] and len(judged.users) == b["lists"]["enabled"]["users"]
    assert judged.queries.height == b["lists"]["enabled"]["examples"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["buckets", "cache", "log"]


def lines(path):
    """Whole lines alone: the last may be half written."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
