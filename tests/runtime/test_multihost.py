"""How processes find one another, when they ask one another, and what they leave behind."""

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
    "environment, given, expected",
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
        # Two tasks a host: each has one device, the one of its number unless Slurm shows it one alone.
        (SLURM | TWO, {}, ClusterSpec("gpu07:61441", 4, 2, 1)),
        (SLURM | TWO | {"SLURM_GPUS_PER_TASK": "1"}, {}, ClusterSpec("gpu07:61441", 4, 2)),
        (SLURM | {"SLURM_NTASKS": "1"}, {}, None),
        # A step of one task in a job of four, and the batch script itself, which is in no step.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {}, None),
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, {}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}, {}, ClusterSpec()),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, {}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"}, {}, ClusterSpec()),
    ],
)  # fmt: skip
def test_whoever_says_something_first_is_believed(environment, given, expected):
    assert find_cluster(environment, **given) == expected


@pytest.mark.parametrize(
    "environment, given, message",
    [
        ({"JAXREC_PROCESSES": "2"}, {}, "JAXREC_PROCESSES=2 without JAXREC_COORDINATOR; allowed: all of "),
        (
            {},
            {"processes": 2, "process": 0},
            "--processes=2 --process=0 without --coordinator; allowed: all of --coordinator, --processes, ",
        ),
        (OURS, FLAGS, "--processes=2, but JAXREC_PROCESSES=4; allowed: the same, or one of them"),
        ({}, FLAGS | {"hosts": "auto"}, "--hosts=auto and --coordinator=a:1: allowed: one of them"),
        (OURS | {"JAXREC_PROCESS": "4"}, {}, "JAXREC_PROCESS=4 must be a whole number in 0..3"),
        (OURS | {"JAXREC_PROCESS": "-1"}, {}, "JAXREC_PROCESS=-1 must be a whole number in 0..3"),
        (OURS | {"JAXREC_PROCESSES": "two"}, {}, "JAXREC_PROCESSES=two must be a whole number at least 1"),
        (OURS | {"JAXREC_COORDINATOR": "a"}, {}, "JAXREC_COORDINATOR=a must be host:port, as 10.0.0.1:12355"),
        ({}, {"coordinator": "a b:1", "processes": 1, "process": 0}, "--coordinator=a b:1 must be host:port"),
        (
            {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"},
            {},
            "SLURM_STEP_NODELIST=gpu[07-09,12] without SLURM_PROCID; allowed: to be started by srun",
        ),
        (SLURM | {"SLURM_NTASKS": "n"}, {}, "SLURM_NTASKS=n must be a whole number at least 1"),
    ],
)  # fmt: skip
def test_what_is_said_in_part_or_twice_is_refused_in_one_line(environment, given, message):
    with pytest.raises(InputError) as caught:
        find_cluster(environment, **given)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_jax_is_given_the_limits_and_asks_no_cluster_that_was_not_meant(monkeypatch):
    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: given.append((a, k)))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(multihost, "_reserve_stdout", lambda: None)
    multihost.initialize(None)
    assert given == []
    multihost.initialize(ClusterSpec("a:1", 4, 3), 7, 11)
    multihost.initialize(ClusterSpec())
    (told, first), (found, second) = given
    assert told == ("a:1", 4, 3) and found == (None, None, None)
    assert first["heartbeat_timeout_seconds"] == 7 and first["initialization_timeout"] == 11
    assert first["cluster_detection_method"] == "deactivate" and second["cluster_detection_method"] is None


@pytest.mark.parametrize(
    "step_seconds, seconds, steps",
    [(10.0, 3.0, 1), (0.5, 3.0, 6), (1e-4, 3.0, 64), (0.0, 3.0, 64), (1.0, 0.01, 1)],
)
def test_slow_steps_are_asked_after_one_by_one(step_seconds, seconds, steps):
    assert multihost.steps_between(step_seconds, seconds) == steps


def test_processes_ask_at_the_steps_that_the_slowest_of_them_allows(monkeypatch):
    """Ours takes a tenth of a second a step, another one half a second until step 9 and then ten."""
    clock, heard = [0.0], []

    def agreed(value, taken):
        heard.append((value, taken))
        return max(value, 0.0), max(taken, 0.5 if len(heard) < 4 else 10.0)

    monkeypatch.setattr(multihost, "all_reduce_max", agreed)
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost.time, "monotonic", lambda: clock[0])
    asking, asked = multihost.SyncSchedule(0, 16.0), []  # so every two seconds
    for step in range(1, 16):
        clock[0] += 0.1
        if asking.due(step):
            asked.append(step)
            assert asking(step, step % 2) == step % 2
    assert asked == [1, 5, 9, 13, 14, 15]
    assert [value for value, _ in heard] == [1, 1, 1, 1, 0, 1]
    assert [taken for _, taken in heard] == pytest.approx([0.1] * 6)


def test_alone_there_is_nobody_to_ask():
    asking = multihost.SyncSchedule(0, 1e9)
    assert asking.due(1) and asking.due(2) and multihost.all_reduce_max(3, 0.25) == (3, 0.25)


def test_how_far_it_came_is_said_about_once_a_second(monkeypatch, tmp_path):
    clock, log = [100.0], tmp_path / "termination-log"
    log.write_text("a longer text that was there before")
    inode = log.stat().st_ino
    monkeypatch.setattr(multihost.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("JAXREC_REACHED", str(tmp_path))
    monkeypatch.setenv("JAXREC_TERMINATION_LOG", str(log))
    reached = multihost.ProgressFile()
    for step, seconds in ((5, 0), (6, 0.5), (7, 0.6)):
        clock[0] += seconds
        reached(step)
        said = json.loads((tmp_path / "0.json").read_text())
        assert (said["process"], said["pid"]) == (0, os.getpid())
        assert said["step"] == (7 if step == 7 else 5)
    assert (
        json.loads(log.read_text()) == said and log.stat().st_ino == inode
    )  # Kubernetes mounts that very file
    monkeypatch.delenv("JAXREC_REACHED")
    monkeypatch.delenv("JAXREC_TERMINATION_LOG")
    multihost.ProgressFile()(9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "termination-log"]


def test_an_error_of_a_process_that_is_alone_goes_its_way():
    with pytest.raises(RuntimeError, match="a defect"), multihost.multihost_session(lambda error: 3):
        raise RuntimeError("a defect")


ENDS = """
import os, sys, time
from jaxrec import command, hosts
from jaxrec.errors import InputError
with hosts.together(command.failed):
    hosts.start(hosts.find(os.environ), 30, 60)
    time.sleep(0.5)  # process 0 knows first that all have joined: gone at once, it leaves the other to wait
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
def test_every_process_ends_by_itself_with_what_it_met(what, status, last):
    """Where both meet the same; where one alone does, tests/end_to_end/test_pods.py."""
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        joined = {"JAXREC_COORDINATOR": f"localhost:{s.getsockname()[1]}", "JAXREC_PROCESSES": "2"}
    environment = os.environ | joined | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS.format(what=what)], stderr=subprocess.PIPE, text=True,
            env=environment | {"JAXREC_PROCESS": str(i)},
        )
        for i in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=120) for process in both]
    if status == 2:  # the first to go waits for the others to say theirs
        assert [process.returncode for process in both] == [2, 2]
    assert both[0].returncode == status
    lines = re.sub(r"\[Gloo\].*", "", ended[0][1]).strip().splitlines()
    assert (lines[-1:] or [""])[0].endswith(last), ended
