"""Hosts: how processes find one another, agree, say how far they came, and end together.

Jax's own distributed runtime joins them. A process that dies is missed by the others within the heartbeat
limit, and jax's C++ then ends them without a Python error. One that fails must die at once: left to exit in
order, it would wait for the others, who wait for it.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jax._src import distributed

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps, write_text

_NAMES = ("coordinator", "processes", "process")
_MOST_STEPS = 64  # between questions to the other processes, each of which waits for the device
_SHARE = 8  # of the shortest time that matters: how often they are asked
_A_WEEK = 7 * 24 * 3600 * 1000  # milliseconds; a process that is lost ends the wait sooner
_LIKEWISE = 5.0  # seconds in which others fail alike, so that each has said so before the first one is gone


# ---------------------------------------------------------------- who the others are


class ClusterSpec(NamedTuple):
    """What `jax.distributed.initialize` is given."""

    coordinator: str | None = None  # host:port of process 0; None: jax finds out all three
    processes: int | None = None
    process: int | None = None
    device: int | None = None  # the one of this host's devices that is this process's; None: all are


def find_cluster(
    environment: Mapping[str, str], coordinator: str = "", processes: int | None = None,
    process: int | None = None, hosts: str = "",
) -> ClusterSpec | None:  # fmt: skip
    """How to join the others, None where this process is alone.

    By the first of these that says anything: the flags; JAXREC_COORDINATOR, JAXREC_PROCESSES and
    JAXREC_PROCESS; Slurm, in a step of several tasks; GKE's variables of a TPU slice of several hosts, or of
    several slices. `hosts` is "auto" (jax is to ask the cluster), "alone" or "". Raises InputError where
    something is said in part, or twice and differently.
    """
    flags = {"coordinator": coordinator or None, "processes": processes, "process": process}
    by_flag = _complete_spec({f"--{k}": None if v is None else str(v) for k, v in flags.items()})
    ours = _complete_spec(
        {f"JAXREC_{k.upper()}": environment.get(f"JAXREC_{k.upper()}") or None for k in _NAMES}
    )
    if hosts and by_flag:
        raise InputError(f"--hosts={hosts} and --coordinator={coordinator}: allowed: one of them")
    if by_flag and ours and by_flag != ours:
        wrong = next(k for k in range(3) if by_flag[k] != ours[k])
        key, name = f"--{_NAMES[wrong]}", f"JAXREC_{_NAMES[wrong].upper()}"
        given = f"{key}={by_flag[wrong]}, but {name}={ours[wrong]}"
        raise InputError(f"{given}; allowed: the same, or one of them")
    if hosts == "alone":
        return None
    if by_flag or hosts == "auto":
        return by_flag or ClusterSpec()
    return ours or _slurm_spec(environment) or _tpu_spec(environment)


def _complete_spec(said: dict[str, str | None]) -> ClusterSpec | None:
    """Of three settings by their names, the last two whole numbers; None where none of them is set."""
    if not any(value is not None for value in said.values()):
        return None
    for name, value in said.items():
        if value is None:
            others = " ".join(f"{k}={v}" for k, v in said.items() if v is not None)
            raise InputError(f"{others} without {name}; allowed: all of {', '.join(said)}, or none")
    (where, address), (_, count), (which, number) = said.items()
    assert address is not None and count is not None and number is not None
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):\d+", address):
        raise InputError(f"{where}={address} must be host:port, as 10.0.0.1:12355")
    processes = _number(count, list(said)[1], 1, None)
    return ClusterSpec(address, processes, _number(number, which, 0, processes))


def _number(text: str, name: str, low: int, past: int | None) -> int:
    if not text.isdecimal() or int(text) < low or (past is not None and int(text) >= past):
        allowed = f"at least {low}" if past is None else f"in {low}..{past - 1}"
        raise InputError(f"{name}={text} must be a whole number {allowed}")
    return int(text)


def _slurm_spec(environment: Mapping[str, str]) -> ClusterSpec | None:
    """Of a task that srun started, one of several. A host's only task has all its devices, as
    launch/slurm.sbatch asks for; several tasks have one each, unless Slurm itself shows each its own."""
    nodes = environment.get("SLURM_STEP_NODELIST")
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    if not nodes or tasks == "1":  # in a batch script itself there is no step
        return None
    names = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID")
    for name in names:
        if not environment.get(name):
            raise InputError(f"SLURM_STEP_NODELIST={nodes} without {name}; allowed: to be started by srun")
    job, task, local = (_number(environment[name], name, 0, None) for name in names)
    processes = _number(tasks, "SLURM_NTASKS", 1, None)
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST={nodes} must be names of hosts, as node[01-04]")
    host = first[1] + (first[2] or "")
    several = re.sub(r"\(x\d+\)", "", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")) != "1"
    shown = "SLURM_GPUS_PER_TASK" in environment or "SLURM_TRES_PER_TASK" in environment
    port = 61440 + job % 4096  # the highest 4096: two jobs that share a host seldom meet
    return ClusterSpec(f"{host}:{port}", processes, task, local if several and not shown else None)


def _tpu_spec(environment: Mapping[str, str]) -> ClusterSpec | None:
    """On GKE, whose variables jax reads by itself; a TPU VM sets none, so `hosts` has to say auto there."""
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    return ClusterSpec() if "," in names or slices != "1" else None


def initialize(joining: ClusterSpec | None, heartbeat_seconds: int = 30, join_seconds: int = 300) -> None:
    """Joins the others, waiting up to `join_seconds` for all of them; call before anything touches a device.
    One that is not heard of for `heartbeat_seconds` is lost, and all end."""
    if joining is None:
        return
    _reserve_stdout()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself until somebody else asks for the signal, and then know of none.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        *joining[:3],
        local_device_ids=joining.device,
        cluster_detection_method=None if joining.coordinator is None else "deactivate",
        initialization_timeout=join_seconds,
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def _reserve_stdout() -> None:
    """Leaves standard output to Python: gloo writes lines of its own there, in C++, and a result in JSON
    would not be one. From here on they are on standard error."""
    assert sys.__stdout__ is not None
    sys.__stdout__.flush()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    if sys.stdout is sys.__stdout__:  # under --json it is standard error by now
        sys.stdout = results
    sys.__stdout__ = results  # type: ignore[misc]


# ---------------------------------------------------------------- together


def is_first_process() -> bool:
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for every process to come to the same place, however long one takes: in a collective gloo would
    give up after 30 s."""
    if jax.process_count() > 1:
        client = distributed.global_state.client  # jax offers no public way to its runtime's barrier
        assert client is not None
        client.wait_at_barrier(f"jaxrec/{name}", _A_WEEK)


def all_reduce_max(*values: float) -> tuple[float, ...]:
    """The largest of all processes' values, each in float32. Every process must ask at the same step: clocks
    and signals differ between them, and a save that one alone begins never ends."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.array(values, np.float32))
    return tuple(float(value) for value in everyone.max(0))


class SyncSchedule:
    """At which steps processes ask one another for the largest of something, and what they hear.

    The steps are the same on every process, and at most about an eighth of `seconds` apart, worked out from
    how long the slowest took for a step since they asked last.
    """

    def __init__(self, step: int, seconds: float) -> None:
        self._asked, self._next, self._seconds = step, step + 1, seconds / _SHARE
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to ask after `step`: always where there are no others."""
        return jax.process_count() == 1 or step >= self._next

    def __call__(self, step: int, value: float) -> float:
        """The largest `value` of all; where `due`, and once `step` is done, so that its time counts."""
        taken = (time.monotonic() - self._since) / max(step - self._asked, 1)
        largest, slowest = all_reduce_max(value, taken)
        self._asked, self._next = step, step + steps_between(slowest, self._seconds)
        self._since = time.monotonic()
        return largest


def steps_between(step_seconds: float, seconds: float) -> int:
    """How many steps fit in, at least one; and few enough that a step that has become slow is noticed."""
    return max(1, min(_MOST_STEPS, int(seconds / max(step_seconds, 1e-9))))


# ---------------------------------------------------------------- how far, and the end


class ProgressFile:
    """Says about once a second how far this process came, for whoever finds it dead.

    JAXREC_REACHED names a folder, where <process>.json is whole or not there; JAXREC_TERMINATION_LOG a file
    that is overwritten in place, as Kubernetes wants its /dev/termination-log.
    """

    def __init__(self) -> None:
        folder, self._log = os.environ.get("JAXREC_REACHED"), os.environ.get("JAXREC_TERMINATION_LOG")
        self._process = jax.process_index()
        self._file = Path(folder) / f"{self._process}.json" if folder else None
        self._said = float("-inf")

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        if (self._file is None and not self._log) or now - self._said < 1.0:
            return
        self._said = now
        line = dumps({"process": self._process, "pid": os.getpid(), "step": step, "time": time.time()}) + "\n"
        if self._file is not None:
            write_text(self._file, line)
        if self._log:
            Path(self._log).write_text(line, encoding="utf-8")


@contextlib.contextmanager
def multihost_session(failed: Callable[[BaseException], int]) -> Iterator[None]:
    """A context for all that several processes do. Where one fails, `failed` says so and gives its exit
    status, and its process ends there and then. A process that is alone is left as it is."""
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        status = failed(error)
        if isinstance(error, InputError):  # which as a rule all of them meet
            leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            leaving.start()
            leaving.join(_LIKEWISE)
        logging.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    jax.distributed.shutdown()
