"""The fault harness: its verdicts, its watchdog, its record, and a few real trials.

`pytest -m slow tests/benchmarks/test_faults.py` runs the command with faults in mid-training.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import __main__ as harness
from benchmarks.faults import damage, processes, verdicts
from benchmarks.faults.config import get_config
from benchmarks.faults.lab import Lab, Trial, Verdict
from benchmarks.faults.processes import HangError, Start, unusual_lines
from benchmarks.faults.summary import read_trials, summarize
from benchmarks.faults.verdicts import FaultError, Outcome, differences, read_outcome, refusal

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
USUAL = "2,046 parameters, to step 45 in run\nstep 2/45  loss 0.7  100 examples/s  0:01 left\n"
ERROR = "error: dataset d: train-00000.rows is damaged\n"


def outcome(weight=1.0, ndcg=0.5, loss=0.7, steps=range(1, 13)):
    arrays = {"45['params']": np.array([weight, 2.0], np.float32)}
    return Outcome(arrays, {"test.json": {"ndcg": ndcg}}, {step: {"loss": loss} for step in steps})


def test_a_silent_difference_is_seen_wherever_it_is():
    assert differences(outcome(), outcome()) == []
    next_weight = float(np.nextafter(np.float32(1), np.float32(2)))
    assert differences(outcome(), outcome(weight=next_weight)) == ["45['params']: other values"]
    assert differences(outcome(0.0), outcome(-0.0)) == ["45['params']: other values"]
    assert differences(outcome(), outcome(ndcg=0.5000001)) == ["test.json: other contents"]
    assert len(differences(outcome(), outcome(loss=0.8))) == 12
    assert differences(outcome(), Outcome({}, *outcome()[1:])) == ["45['params']: not in both"]
    assert differences(outcome(), outcome(steps=[1])) == ["only 1 steps of metrics.jsonl can be compared"]


def test_a_run_is_read_and_a_changed_file_is_a_difference(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "_LEAST_COMPARED", 0)  # the run logs every half second
    workdir = shutil.copytree(tiny_run / "run", tmp_path / "run")
    whole = read_outcome(tiny_run / "run")
    assert differences(whole, read_outcome(workdir)) == []
    assert sum(array.nbytes for array in whole.arrays.values()) > 10_000
    assert {"test.json", "report.html", "validation at 28", "validation at 56"} <= whole.results.keys()
    result = json.loads((workdir / "test.json").read_text())
    result["lists"]["enabled"]["ndcg@1"] += 1e-9
    (workdir / "test.json").write_text(json.dumps(result | {"seconds": 1.0}))
    assert differences(whole, read_outcome(workdir)) == ["test.json: other contents"]
    (workdir / "report.html").unlink()
    with pytest.raises(FaultError, match=r"cannot be read: FileNotFoundError: .*report\.html"):
        read_outcome(workdir)


def test_trainings_of_the_harness_write_what_its_verdicts_read():
    assert get_config().evaluate.report  # without report.html each trial ended in FAULT


def test_a_refusal_is_one_line_that_names_the_cause():
    assert refusal(2, USUAL + ERROR, "train-00000") == ERROR.strip()
    for status, stderr in (
        (0, ERROR), (-9, ERROR), (2, USUAL), (2, ERROR + ERROR), (1, f"Traceback (most recent):\n{ERROR}"),
        (2, ERROR.replace("error: ", "")),
    ):  # fmt: skip
        with pytest.raises(FaultError, match="not refused in one line"):
            refusal(status, stderr, "train")
    with pytest.raises(FaultError, match="does not name test-00000"):
        refusal(2, ERROR, "test-00000")


def test_lines_of_a_run_without_a_fault_are_usual(tiny_run):
    assert unusual_lines("W1128 08:59:49.429892 140408888506048 seals.py:90] step 3 is damaged\n\n") == []
    assert unusual_lines("E1128 08:59:49.429892 140408888506048 future.py:90] failed\n") != []


def test_the_watchdog_ends_a_process_that_hangs(tmp_path):
    for hang in (lambda start: start.wait(0.05), lambda start: start.wait_until(lambda: False, 0.05)):
        with Start(SLEEP, tmp_path / "log", dict(os.environ), tmp_path) as start:
            with pytest.raises(HangError):
                hang(start)
            assert not start.is_running()


def test_no_process_is_left_behind(tmp_path):
    with Start(SLEEP, tmp_path / "log", dict(os.environ), tmp_path) as start:
        assert start.is_running()
    assert not start.is_running()
    ended = Start([sys.executable, "-c", ""], tmp_path / "log", dict(os.environ), tmp_path)
    with ended:
        assert ended.wait() == 0 and not ended.wait_until(lambda: False)


def test_trials_are_recorded_resumed_and_counted(tmp_path, monkeypatch):
    ran = []

    def equal(trial):
        ran.append(trial.number)
        trial.moment = str(trial.draws.random())
        return Verdict("equal")

    def hang(trial):
        ran.append(trial.number)
        raise HangError("still running")

    def differ(trial):
        ran.append(trial.number)
        if trial.number > 3:
            raise KeyError("planted")
        raise FaultError(f"{trial.folder}/run: other values")

    monkeypatch.setattr(harness, "KINDS", {"a": equal, "b": hang, "c": differ})
    monkeypatch.setattr(Lab, "make", lambda self, has_pair: None)
    arguments = ["--out", str(tmp_path), "--seed", "7", "--kinds", "a,b,c", "--count"]
    assert harness.main([*arguments, "1"]) == 0
    assert harness.main([*arguments, "4", "--jobs", "1"]) == 1
    assert ran == [0, 1, 2, 3]
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"number": 9')  # a line that was cut by a kill
    lines = read_trials(tmp_path)
    assert [line["verdict"] for line in lines] == ["equal", "FAULT", "FAULT", "equal"]
    assert [line["hang"] for line in lines] == [False, True, False, False]
    assert lines[2]["text"] == "TRIAL/run: other values" and lines[0]["moment"] != lines[3]["moment"]
    assert {p.name for p in tmp_path.glob("trial-*")} == {"trial-0001", "trial-0002"}
    table = summarize(tmp_path)
    assert "| a | 2 | 2 | 0 | 0 | 0 | 0 |" in table and "| all | 4 | 2 | 0 | 0 | 2 | 1 |" in table
    assert "- trial 1, b, : hang: still running" in table and "--count 4 --seed 7" in table
    assert harness.main([*arguments, "6", "--jobs", "1"]) == 1
    assert read_trials(tmp_path)[-1]["text"] == "harness: KeyError: 'planted'"
    with pytest.raises(SystemExit, match="holds trials of seed 7"):
        harness.main([*arguments[:3], "8", *arguments[4:], "4"])


def test_every_kind_of_damage_changes_a_file_and_is_undone(tmp_path):
    path, draws = tmp_path / "file", random.Random(0)
    for damaged in (damage._cut, damage._flip):
        path.write_bytes(bytes(range(100)))
        restore = damage._saved([path])
        damaged(path, draws)
        assert path.read_bytes() != bytes(range(100))
        restore()
        assert path.read_bytes() == bytes(range(100))
    tree = {"a": [1, {"b": None}], "c": "x", "d": {}}
    leaves = damage._leaves(tree)
    assert leaves == [("a", 0), ("a", 1, "b"), ("c",), ("d",)]
    for value in (1, 0, 0.5, None, True, "x", {}, []):
        assert damage._edited(value, draws) != value


@pytest.fixture
def finished(tiny_run, tiny_directory, tmp_path, monkeypatch):
    """The harness, with the suite's trained run in place of its own runs."""

    def lab(folder):
        out = Lab(folder)
        out.alone, out.data, out.cache = (
            tiny_run / "run",
            tiny_directory,
            Path(os.environ["JAX_COMPILATION_CACHE_DIR"]),
        )
        out.make, out.stopped = lambda has_pair: None, lambda draws: tiny_run / "run"
        return out

    monkeypatch.setattr(processes, "CONFIG", "configs/tiny.py")
    monkeypatch.setattr(verdicts, "_LEAST_COMPARED", 0)
    monkeypatch.setattr(harness, "Lab", lab)


@pytest.mark.slow
def test_a_trial_with_a_damaged_checkpoint_ends_equal_or_refused(finished, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "--out",
        str(out),
        "--count",
        "2",
        "--seed",
        "5",
        "--kinds",
        "manifest edited,checkpoint cut",
    ]
    assert harness.main(arguments) == 0, read_trials(out)
    lines = sorted(read_trials(out), key=lambda line: line["number"])
    assert lines[0]["verdict"] == "refused" and "manifest.json" in lines[0]["text"]
    assert "set aside: damaged-" in lines[1]["text"] or "damaged" in lines[1]["text"]


def test_a_run_that_ends_otherwise_is_a_fault(finished, tiny_run, tmp_path, monkeypatch):
    """A run whose result was changed: the end of a trial in which the program was silently wrong."""
    lab = harness.Lab(tmp_path / "lab")
    trial = Trial(lab, tmp_path, 0, 0, 0)
    trial.continue_stopped()
    trial.check_equal()
    path = trial.workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["loss"] = float(np.nextafter(lines[-1]["loss"], 1))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FaultError, match="not equal: validation at 56: other contents"):
        trial.check_equal()


@pytest.mark.slow
def test_faults_in_mid_training_end_equal_or_refused(tmp_path):
    kinds = "kill -9,SIGINT,full disk,input thread raises,manifest edited"
    assert harness.main(["--out", str(tmp_path), "--count", "5", "--kinds", kinds]) == 0, read_trials(
        tmp_path
    )
