"""A run that is stopped, however rudely, and started again ends as if it never had been.

`pytest -m slow tests/end_to_end/test_resume.py` stops the tiny config's run too, which has two experts and
all tasks.
"""

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
from commands import Command

from jaxrec.core.paths import as_path
from jaxrec.reporting.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY, SMALL = "configs/tiny.py", "tests/end_to_end/small.py"  # one dataset serves both
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def train(workdir, dataset, *more, config=SMALL):
    words = [
        "-m", "jaxrec.train", "--config", config, "--workdir", workdir,
        f"--config.data.directory={dataset}", "--config.train.duration=6 epochs", *more,
    ]  # fmt: skip
    log = Path(f"{workdir}.log")
    return Command(words, log, log)


def final_parameters(workdir):
    import jax

    from jaxrec.tasks.loading import load_checkpoint

    loaded = load_checkpoint(workdir, "last")
    return jax.device_get(loaded.params), loaded.step


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def finished(workdir, dataset, config=SMALL):
    assert train(workdir, dataset, config=config).wait(300) == 0, Path(f"{workdir}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def whole(tiny_directory, tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    finished(workdir, tiny_directory)
    return workdir


def stop_in_mid_epoch(workdir, dataset, number, config=SMALL):
    """Start the run, or go on with it, and stop it once it has logged a step of its own past a checkpoint,
    which is no epoch's last."""
    metrics = workdir / "metrics.jsonl"
    before = last_line(metrics)["step"]
    run = train(workdir, dataset, "--config.train.log_seconds=0.01", config=config)

    def in_mid_epoch():
        saved = [
            int(p.parent.name)
            for p in (workdir / "checkpoints").glob("*/commit_success.txt")
            if p.parent.name.isdigit()
        ]  # a save under way has a longer name
        last = last_line(metrics)
        return saved and last["step"] > max(before, min(saved)) and last["epoch"] % 1 > 0

    wait_for(in_mid_epoch, run)
    run.send_signal(number)
    assert run.wait(120) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert not (workdir / "test.json").exists()


def last_line(metrics):
    records = [json.loads(line) for line in lines(metrics)] if metrics.exists() else []
    return records[-1] if records else {"step": 0, "epoch": 0.0}


def check_same_end(whole, cut, starts):
    """`cut` was started so many times and ends as `whole`."""
    import jax

    log = Path(f"{cut}.log").read_text()
    assert len(re.findall(r"from step [1-9]", log)) == starts - 1  # it went on, and did not begin again
    expected, steps = final_parameters(whole)
    actual, reached = final_parameters(cut)
    assert steps == reached
    jax.tree.map(np.testing.assert_array_equal, expected, actual)
    a, b = (json.loads((d / "test.json").read_text()) for d in (whole, cut))
    assert a["lists"] == b["lists"]
    steps_logged = [json.loads(line)["step"] for line in lines(cut / "metrics.jsonl")]
    assert steps_logged == sorted(steps_logged)


def test_a_run_killed_and_then_stopped_in_mid_epoch_ends_with_the_same_parameters(
    whole, tiny_directory, tmp_path
):
    cut = tmp_path / "cut"
    stop_in_mid_epoch(cut, tiny_directory, signal.SIGKILL)
    stop_in_mid_epoch(cut, tiny_directory, signal.SIGTERM)
    finished(cut, tiny_directory)
    check_same_end(whole, cut, starts=3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_tiny_run_stopped_in_mid_epoch_ends_with_the_same_parameters(tiny_directory, tmp_path, number):
    cut = tmp_path / "cut"
    finished(tmp_path / "whole", tiny_directory, TINY)
    stop_in_mid_epoch(cut, tiny_directory, number, TINY)
    finished(cut, tiny_directory, TINY)
    check_same_end(tmp_path / "whole", cut, starts=2)


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


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_ends_as_one_on_this_machine(whole, bucket, tiny, tmp_path):
    """Prepared to, trained in, killed, resumed in and evaluated from a bucket."""
    import jax

    from jaxrec.evaluation import per_user
    from jaxrec.evaluation.evaluator import evaluate
    from jaxrec.evaluation.results import write_result
    from jaxrec.tasks.loading import load_checkpoint

    def done(*arguments):
        assert in_bucket(tmp_path, *arguments).wait(300) == 0, (tmp_path / "log").read_text()[-3000:]

    config, data, run = ("--config", str(ROOT / SMALL)), f"{bucket}/data", f"{bucket}/runs/cut"
    done("jaxrec.prepare", *config, f"--out={data}")
    assert json.loads(as_path(f"{data}/manifest.json").read_bytes())["fingerprint"] == tiny.fingerprint

    train = ("jaxrec.train", *config, "--config.train.duration=12 epochs", f"--workdir={run}",
             f"--config.data.directory={data}")  # fmt: skip
    cut = in_bucket(tmp_path, *train, "--config.train.log_seconds=0.01")
    complete = re.compile(r"bucket/runs/cut/checkpoints/(\d+)/commit_success.txt")
    wait_for(lambda: any(complete.fullmatch(key) for key in S3.objects()), cut)
    cut.send_signal(signal.SIGKILL)
    assert cut.wait(60) == -signal.SIGKILL and not as_path(f"{run}/test.json").exists()
    saved = max(int(match[1]) for key in S3.objects() if (match := complete.fullmatch(key)))
    kept = [line for line in read_metrics(as_path(f"{run}/metrics.jsonl")) if line["step"] == saved]
    assert [line["split"] for line in kept] == ["train", "validation"]  # no line before a checkpoint is lost
    done(*train)
    assert re.search(rf"from step {saved} ", (tmp_path / "log").read_text())

    for which in ("last", "best"):
        expected, actual = load_checkpoint(whole, which), load_checkpoint(run, which)
        assert actual.step == expected.step and actual.meta["dataset_directory"] == data
        a, b = jax.device_get((expected.params, actual.params))
        jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = (json.loads((as_path(d) / "test.json").read_bytes()) for d in (whole, run))
    assert a["lists"] == b["lists"] and a["dataset"] == b["dataset"]
    steps = [line["step"] for line in read_metrics(as_path(f"{run}/metrics.jsonl"))]
    assert steps == sorted(steps) and steps[-1] == load_checkpoint(run, "last").step
    assert b"<svg" in as_path(f"{run}/report.html").read_bytes()
    assert len(list(as_path(f"{run}/tensorboard").iterdir())) == 2  # one of each start

    write_result(run, evaluate(run), each=True)  # as `evaluate --per-user`
    results = per_user.read(run)
    assert results.result["lists"] == b["lists"] and len(results.users) == b["lists"]["enabled"]["users"]
    assert results.queries.height == b["lists"]["enabled"]["examples"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["buckets", "cache", "log"]


def lines(path):
    """Whole lines alone: the last may be half written."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
