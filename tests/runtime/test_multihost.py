"""Cluster detection, synchronization between processes, progress files and exit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxrec.core.errors import InputError
from jaxrec.runtime import multihost
from jaxrec.runtime.multihost import ClusterSpec, find_cluster

ROOT = Path(__file__).resolve().parents[2]
OURS = {"JAXREC_COORDINATOR": "a:1", "JAXREC_PROCESSES": "4", "JAXREC_PROCESS": "3"}
FLAGS = {"coordinator": "a:1", "processes": 2, "process": 0}
SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip
TWO = {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    "environment, flags, expected",
    [
        ({}, {}, None),
        (OURS, {}, ClusterSpec("a:1", 4, 3)),
        ({}, {"coordinator": "[::1]:12", "processes": 2, "process": 0}, ClusterSpec("[::1]:12", 2, 0)),
        (OURS, {"coordinator": "a:1", "processes": 4, "process": 3}, ClusterSpec("a:1", 4, 3)),
        (OURS | SLURM, {}, ClusterSpec("a:1", 4, 3)),
        (OURS | SLURM, {"hosts": "alone"}, None),
        (OURS, {"hosts": "auto"}, ClusterSpec()),
        (SLURM, {}, ClusterSpec("gpu07:61441", 4, 2)),
        (SLURM | {"SLURM_STEP_NODELIST": "n1,n2"}, {}, ClusterSpec("n1:61441", 4, 2)),
        (SLURM | {"SLURM_STEP_NODELIST": "login-1"}, {}, ClusterSpec("login-1:61441", 4, 2)),
        # Two tasks per host: each task has one device, selected by its local index unless Slurm exposes only
        # the device of the task.
        (SLURM | TWO, {}, ClusterSpec("gpu07:61441", 4, 2, 1)),
        (SLURM | TWO | {"SLURM_GPUS_PER_TASK": "1"}, {}, ClusterSpec("gpu07:61441", 4, 2)),
        (SLURM | {"SLURM_NTASKS": "1"}, {}, None),
        # A step of one task in a job of four, and the batch script itself, which runs outside any step.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {}, None),
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, {}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}, {}, ClusterSpec()),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, {}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"}, {}, ClusterSpec()),
    ],
)  # fmt: skip
def test_first_configured_source_decides(environment, flags, expected):
    assert find_cluster(environment, **flags) == expected


@pytest.mark.parametrize(
    "environment, flags, message",
    [
        ({"JAXREC_PROCESSES": "2"}, {}, "JAXREC_PROCESSES=2 without JAXREC_COORDINATOR; allowed: all of "),
        (
            {},
            {"processes": 2, "process": 0},
            "--processes=2 --process=0 without --coordinator; allowed: all of --coordinator, --processes, ",
        ),
        (OURS, FLAGS, "--processes=2, but JAXREC_PROCESSES=4; allowed: equal values, or only one of the two"),
        ({}, FLAGS | {"hosts": "auto"}, "--hosts=auto and --coordinator=a:1: allowed: one of them"),
        (OURS | {"JAXREC_PROCESS": "4"}, {}, "JAXREC_PROCESS=4 must be a whole number in 0..3"),
        (OURS | {"JAXREC_PROCESS": "-1"}, {}, "JAXREC_PROCESS=-1 must be a whole number in 0..3"),
        (OURS | {"JAXREC_PROCESSES": "two"}, {}, "JAXREC_PROCESSES=two must be a whole number at least 1"),
        (OURS | {"JAXREC_COORDINATOR": "a"}, {}, "JAXREC_COORDINATOR=a must be host:port, as 10.0.0.1:12355"),
        ({}, {"coordinator": "a b:1", "processes": 1, "process": 0}, "--coordinator=a b:1 must be host:port"),
        (
            {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"},
            {},
            "SLURM_STEP_NODELIST=gpu[07-09,12] without SLURM_PROCID; allowed: a task started by srun",
        ),
        (SLURM | {"SLURM_NTASKS": "n"}, {}, "SLURM_NTASKS=n must be a whole number at least 1"),
    ],
)  # fmt: skip
def test_incomplete_or_contradictory_settings_are_rejected_in_one_line(environment, flags, message):
    with pytest.raises(InputError) as caught:
        find_cluster(environment, **flags)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_initialize_passes_the_timeouts_and_disables_unwanted_detection(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(multihost, "_reserve_stdout", lambda: None)
    multihost.initialize(None)
    assert calls == []
    multihost.initialize(ClusterSpec("a:1", 4, 3), 7, 11)
    multihost.initialize(ClusterSpec())
    (explicit, first), (detected, second) = calls
    assert explicit == ("a:1", 4, 3) and detected == (None, None, None)
    assert first["heartbeat_timeout_seconds"] == 7 and first["initialization_timeout"] == 11
    assert first["cluster_detection_method"] == "deactivate" and second["cluster_detection_method"] is None


@pytest.mark.parametrize(
    "step_seconds, seconds, steps",
    [(10.0, 3.0, 1), (0.5, 3.0, 6), (1e-4, 3.0, 64), (0.0, 3.0, 64), (1.0, 0.01, 1)],
)
def test_slow_steps_are_synchronized_one_by_one(step_seconds, seconds, steps):
    assert multihost.steps_between(step_seconds, seconds) == steps


def test_slowest_process_determines_the_synchronization_steps(monkeypatch):
    """0.1 s per step here; 0.5 s until step 9, then 10 s, on another process."""
    clock, calls = [0.0], []

    def fake_all_reduce_max(value, step_seconds):
        calls.append((value, step_seconds))
        return max(value, 0.0), max(step_seconds, 0.5 if len(calls) < 4 else 10.0)

    monkeypatch.setattr(multihost, "all_reduce_max", fake_all_reduce_max)
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost.time, "monotonic", lambda: clock[0])
    schedule, synchronized = multihost.SyncSchedule(0, 16.0), []  # 16 s / 8: every two seconds
    for step in range(1, 16):
        clock[0] += 0.1
        if schedule.due(step):
            synchronized.append(step)
            assert schedule(step, step % 2) == step % 2
    assert synchronized == [1, 5, 9, 13, 14, 15]
    assert [value for value, _ in calls] == [1, 1, 1, 1, 0, 1]
    assert [step_seconds for _, step_seconds in calls] == pytest.approx([0.1] * 6)


def test_single_process_needs_no_synchronization():
    schedule = multihost.SyncSchedule(0, 1e9)
    assert schedule.due(1) and schedule.due(2) and multihost.all_reduce_max(3, 0.25) == (3, 0.25)


def test_progress_is_written_about_once_per_second(monkeypatch, tmp_path):
    clock, log = [100.0], tmp_path / "termination-log"
    log.write_text("a longer text from before")
    inode = log.stat().st_ino
    monkeypatch.setattr(multihost.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("JAXREC_REACHED", str(tmp_path))
    monkeypatch.setenv("JAXREC_TERMINATION_LOG", str(log))
    progress_file = multihost.ProgressFile()
    for step, seconds in ((5, 0), (6, 0.5), (7, 0.6)):
        clock[0] += seconds
        progress_file(step)
        written = json.loads((tmp_path / "0.json").read_text())
        assert (written["process"], written["pid"]) == (0, os.getpid())
        assert written["step"] == (7 if step == 7 else 5)
    # Kubernetes mounts the file itself, so the inode must stay.
    assert json.loads(log.read_text()) == written and log.stat().st_ino == inode
    monkeypatch.delenv("JAXREC_REACHED")
    monkeypatch.delenv("JAXREC_TERMINATION_LOG")
    multihost.ProgressFile()(9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "termination-log"]


def test_single_process_raises_its_error():
    with pytest.raises(RuntimeError, match="a defect"), multihost.multihost_session(lambda error: 3):
        raise RuntimeError("a defect")


ENDS = """
import os, sys, time
from jaxrec.cli import app
from jaxrec.core.errors import InputError
from jaxrec.runtime import multihost
with multihost.multihost_session(app.report_failure):
    multihost.initialize(multihost.find_cluster(os.environ), 30, 60)
    time.sleep(0.5)  # process 0 learns first that all have joined; at once, its exit would block the other
    {what}
"""


@pytest.mark.parametrize(
    "what, status, last",
    [
        ("time.sleep(int(os.environ['JAXREC_PROCESS'])); raise InputError('key=1 must be 2')", 2,
         "error: key=1 must be 2"),
        ("raise RuntimeError('a defect')", 1, "RuntimeError: a defect"),
        ("sys.exit(75)", 75, ""),
        ("print('done', file=sys.stderr)", 0, "done"),
    ],
)  # fmt: skip
def test_each_process_exits_with_its_own_error(what, status, last):
    """Both processes fail; tests/end_to_end/test_pods.py covers the failure of one."""
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        cluster = {"JAXREC_COORDINATOR": f"localhost:{s.getsockname()[1]}", "JAXREC_PROCESSES": "2"}
    environment = os.environ | cluster | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS.format(what=what)], stderr=subprocess.PIPE, text=True,
            env=environment | {"JAXREC_PROCESS": str(i)},
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    if status == 2:  # the first process waits until the others have reported their error
        assert [process.returncode for process in processes] == [2, 2]
    assert processes[0].returncode == status
    lines = re.sub(r"\[Gloo\].*", "", outputs[0][1]).strip().splitlines()
    assert (lines[-1:] or [""])[0].endswith(last), outputs
