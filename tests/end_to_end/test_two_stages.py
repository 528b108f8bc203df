"""Training on served titles, and a study of two stages that is killed.

`pytest -m slow tests/end_to_end/test_two_stages.py` kills the tiny study of `configs/study_stages.py` ten
times; JAXREC_KILLS is another number.
"""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stop import Stop

from jaxrec.config import Mix
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import write_result
from jaxrec.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
STUDY = "configs/study_stages.py:tiny"


@pytest.fixture(scope="module")
def run(served, served_config, tmp_path_factory):
    """The workdir of a run on served titles alone, of two epochs."""
    config = copy.deepcopy(served_config)
    config.sampling.mix, config.train.batch_size = Mix(0.0, 0.0, 0.0, 0.0, 1.0), 128
    config.optimizer.learning_rate, config.evaluate.report = 1e-2, False
    workdir = tmp_path_factory.mktemp("served") / "run"
    assert train(config, served, workdir, Stop()) == 2 * (served.rows("train").rows // 128)
    return workdir


def test_a_run_on_served_titles_is_measured_on_all_lists(run, served):
    evaluation = evaluate(run)
    lists = evaluation.result["lists"]
    rows = served.rows("test").all()
    listed = rows["list_served"][:, 0, 0] > 0
    assert set(lists) == {"enabled", "disabled", "served"}
    assert lists["served"]["examples"] == listed.sum() < lists["enabled"]["examples"] == len(rows)
    assert evaluation.result["protocol"]["name"] == ""
    write_result(run, evaluation, each=True)
    (file,) = run.glob("eval-test-*-per-query.parquet")
    ranks = pl.read_parquet(file)["served"].to_numpy()
    np.testing.assert_array_equal(ranks > 0, listed)
    scores = evaluation.scores[:, 2, 0]
    there = rows["list_served"][:, 0] > 0
    by_hand = 1 + (~(scores[:, 1:] < scores[:, :1]) & there).sum(axis=1)
    np.testing.assert_array_equal(ranks[listed], by_hand[listed])
    assert lists["served"]["ndcg@1"] == pytest.approx((by_hand[listed] == 1).mean())
    random_order = (1 / (1 + there[listed].sum(axis=1))).mean()
    assert lists["served"]["ndcg@1"] > 1.3 * random_order


def test_the_served_list_alone_is_a_protocol_of_its_own(run):
    result = evaluate(run, EvaluationOptions(lists=("served",))).result
    assert [*result["lists"]] == ["served"] and result["protocol"]["name"] == "served"
    assert {"oracle", "popularity"} <= set(result["baselines"])


def test_the_best_checkpoint_is_that_of_the_served_list(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["served/ndcg@1"] for line in lines if line["split"] == "validation"}
    assert len(values) == 2
    best = max(values, key=lambda step: (values[step], step))
    assert evaluate(run, which="best").result["step"] == best


# ---------------------------------------------------------------- kills


def study(folder: Path) -> subprocess.Popen:
    """Start the tiny study of one share, on the dataset beside its folder; its runs save often."""
    words = [
        sys.executable, "-m", "jaxrec.study", "--config", STUDY, "--seeds", "1", "--tables", "0.1",
        "--workdir", folder, f"--config.data.directory={folder.parent / 'data'}",
        "--config.train.duration=600 steps", "--config.train.checkpoint_every_seconds=0.3",
    ]  # fmt: skip
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def saved(folder: Path) -> set[str]:
    """Return the names of the runs of a study that have a checkpoint."""
    return {path.parts[-4] for path in folder.glob("runs/*/seed-0/checkpoints/[0-9]*")}


def wait_to_kill(process: subprocess.Popen, folder: Path, draws: random.Random, hit: set[str] | None) -> bool:
    """Wait for a random moment of a study; return False if the study ends before.

    Args:
        process: The study.
        folder: Its folder.
        draws: Random numbers.
        hit: Runs that have been killed in their steps. The moment comes up to two seconds after the first
            checkpoint of another run. None: up to 45 seconds after the start.
    """
    seconds, since = draws.uniform(5, 45) if hit is None else draws.uniform(0, 2), time.monotonic()
    while process.poll() is None:
        if hit is not None and saved(folder) <= hit:
            since = time.monotonic()
        if time.monotonic() - since >= seconds:
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


def final_parameters(folder: Path) -> dict[str, tuple[int, list[np.ndarray]]]:
    """Return the last step and the parameters of each run of a study."""
    import jax

    from jaxrec.tasks.loading import load_checkpoint

    out = {}
    for workdir in sorted(folder.glob("runs/*/seed-0")):
        loaded = load_checkpoint(workdir, "last")
        out[workdir.parent.name] = (loaded.step, jax.tree.leaves(jax.device_get(loaded.params)))
    return out


@pytest.mark.timeout(3600)
@pytest.mark.slow  # a dozen starts of a study; the short form is the kill of a run, in test_resume.py
@pytest.mark.skipif(sys.platform != "linux", reason="finds the jobs of a study in /proc")
def test_a_study_of_two_stages_that_is_killed_ends_in_the_same_parameters(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert study(whole).wait(1800) == 0, whole.with_suffix(".log").read_text()[-3000:]
    draws, kills, jobs = random.Random(0), int(os.environ.get("JAXREC_KILLS", "10")), 0
    hit: set[str] = set()
    for number in range(kills):
        process = study(cut)
        in_steps = number % 2 == 0 and len(hit) < 5
        if not wait_to_kill(process, cut, draws, hit if in_steps else None):
            break  # the study has ended: nothing is left to kill
        jobs += len(kill(process))
        hit |= saved(cut) if in_steps else set()
        print(f"kill {number + 1}: {', '.join(sorted(saved(cut))) or 'no run'} with a checkpoint", flush=True)
    assert jobs >= min(kills, 3)
    assert study(cut).wait(1800) == 0, cut.with_suffix(".log").read_text()[-3000:]
    expected, got = final_parameters(whole), final_parameters(cut)
    assert {*got} == {"pools", "first_stage", "served_0.1", "mixed_0.1", "then_0.1"}
    for name, (step, leaves) in expected.items():
        assert got[name][0] == step
        for ours, theirs in zip(got[name][1], leaves, strict=True):
            np.testing.assert_array_equal(ours, theirs)
