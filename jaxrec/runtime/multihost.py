"""Multi-host runs: cluster detection, start-up, synchronization and exit.

Processes are connected by jax's distributed runtime. When a process dies, the other processes notice within
the heartbeat timeout, and the C++ runtime of jax then ends them without a Python error. A process that fails
must therefore exit at once: an orderly shutdown would wait for the other processes, and the other processes
would wait for the failed one.
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

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps, write_text
from jaxrec.runtime.private_apis import wait_at_barrier

_NAMES = ("coordinator", "processes", "process")
_MAX_STEPS = 64  # between synchronizations, each of which waits for the device
_SYNCS_PER_INTERVAL = 8  # synchronizations within the shortest interval that matters
_BARRIER_TIMEOUT_MS = 7 * 24 * 3600 * 1000  # one week; the loss of a process ends the wait sooner
_SHUTDOWN_SECONDS = 5.0  # time for the other processes to report the same error before the first one exits


# ---------------------------------------------------------------- cluster detection


class ClusterSpec(NamedTuple):
    """Arguments of `jax.distributed.initialize`.

    Attributes:
        coordinator: host:port of process 0; None: jax detects the first three values.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.
        local_device_id: Index of this process's only device on its host; None: all devices.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_id: int | None = None


def find_cluster(
    environment: Mapping[str, str], coordinator: str = "", processes: int | None = None,
    process: int | None = None, hosts: str = "",
) -> ClusterSpec | None:  # fmt: skip
    """Find the cluster of this process.

    The first configured source decides: the flags; JAXREC_COORDINATOR, JAXREC_PROCESSES and JAXREC_PROCESS;
    a Slurm step of several tasks; the variables that GKE sets for a TPU slice of several hosts or for
    several slices.

    Args:
        environment: Environment variables of the process.
        coordinator: Value of --coordinator: host:port of process 0, or "".
        processes: Value of --processes: the number of processes, or None.
        process: Value of --process: the index of this process from 0, or None.
        hosts: Value of --hosts: "auto" lets jax detect the cluster, "alone" disables detection, "" uses
            the sources above.

    Returns:
        The arguments to join the cluster, or None for a single process.

    Raises:
        InputError: A source is incomplete or malformed, or two sources contradict each other.
    """
    flags = {"coordinator": coordinator or None, "processes": processes, "process": process}
    by_flag = _complete_spec({f"--{k}": None if v is None else str(v) for k, v in flags.items()})
    by_environment = _complete_spec(
        {f"JAXREC_{k.upper()}": environment.get(f"JAXREC_{k.upper()}") or None for k in _NAMES}
    )
    if hosts and by_flag:
        raise InputError(f"--hosts={hosts} and --coordinator={coordinator}: allowed: one of them")
    if by_flag and by_environment and by_flag != by_environment:
        wrong = next(k for k in range(3) if by_flag[k] != by_environment[k])
        key, name = f"--{_NAMES[wrong]}", f"JAXREC_{_NAMES[wrong].upper()}"
        conflict = f"{key}={by_flag[wrong]}, but {name}={by_environment[wrong]}"
        raise InputError(f"{conflict}; allowed: equal values, or only one of the two")
    if hosts == "alone":
        return None
    if by_flag or hosts == "auto":
        return by_flag or ClusterSpec()
    return by_environment or _slurm_spec(environment) or _tpu_spec(environment)


def _complete_spec(settings: dict[str, str | None]) -> ClusterSpec | None:
    """Return the spec of three settings, or None if none of them is set.

    Args:
        settings: Name -> text or None, in the order coordinator, number of processes, index of the process.
    """
    if not any(value is not None for value in settings.values()):
        return None
    for name, value in settings.items():
        if value is None:
            present = " ".join(f"{k}={v}" for k, v in settings.items() if v is not None)
            raise InputError(f"{present} without {name}; allowed: all of {', '.join(settings)}, or none")
    (address_name, address), (_, count), (index_name, index) = settings.items()
    assert address is not None and count is not None and index is not None
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):\d+", address):
        raise InputError(f"{address_name}={address} must be host:port, as 10.0.0.1:12355")
    processes = _parse_int(count, list(settings)[1], 1, None)
    return ClusterSpec(address, processes, _parse_int(index, index_name, 0, processes))


def _parse_int(text: str, name: str, low: int, end: int | None) -> int:
    """Parse the whole number that the setting `name` holds, from `low` to `end` - 1."""
    if not text.isdecimal() or int(text) < low or (end is not None and int(text) >= end):
        allowed = f"at least {low}" if end is None else f"in {low}..{end - 1}"
        raise InputError(f"{name}={text} must be a whole number {allowed}")
    return int(text)


def _slurm_spec(environment: Mapping[str, str]) -> ClusterSpec | None:
    """Return the spec of a task in a Slurm step of several tasks, otherwise None.

    The only task on a host gets all devices of the host, as launch/slurm.sbatch requests. If a host runs
    several tasks, each task gets the device of its local index, unless Slurm itself exposes to each task
    only its own devices.
    """
    nodes = environment.get("SLURM_STEP_NODELIST")
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    if not nodes or tasks == "1":  # a batch script itself runs outside any step
        return None
    names = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID")
    for name in names:
        if not environment.get(name):
            raise InputError(f"SLURM_STEP_NODELIST={nodes} without {name}; allowed: a task started by srun")
    job, task, local = (_parse_int(environment[name], name, 0, None) for name in names)
    processes = _parse_int(tasks, "SLURM_NTASKS", 1, None)
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST={nodes} must be names of hosts, as node[01-04]")
    host = first[1] + (first[2] or "")
    several = re.sub(r"\(x\d+\)", "", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")) != "1"
    isolated = "SLURM_GPUS_PER_TASK" in environment or "SLURM_TRES_PER_TASK" in environment
    port = 61440 + job % 4096  # one of the highest 4096 ports, so that two jobs on a host seldom collide
    return ClusterSpec(f"{host}:{port}", processes, task, local if several and not isolated else None)


def _tpu_spec(environment: Mapping[str, str]) -> ClusterSpec | None:
    """Return the spec of a TPU slice of several hosts, or of several slices, on GKE.

    jax reads the variables of GKE itself. A TPU VM sets none of them and needs --hosts=auto.
    """
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    return ClusterSpec() if "," in names or slices != "1" else None


# ---------------------------------------------------------------- start-up


def initialize(cluster: ClusterSpec | None, heartbeat_seconds: int = 30, join_seconds: int = 300) -> None:
    """Join a cluster; call this function before any use of a device.

    Args:
        cluster: The cluster to join; None for a single process, for which nothing is done.
        heartbeat_seconds: Seconds without a heartbeat after which a process counts as lost and all
            processes end.
        join_seconds: Seconds to wait until all processes have joined.
    """
    if cluster is None:
        return
    _reserve_stdout()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The preemption service would capture SIGTERM until another handler is installed, and would miss the
    # signal after that.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        *cluster[:3],
        local_device_ids=cluster.local_device_id,
        cluster_detection_method=None if cluster.coordinator is None else "deactivate",
        initialization_timeout=join_seconds,
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def _reserve_stdout() -> None:
    """Reserve standard output for Python; redirect C++ output to standard error.

    gloo prints lines of its own from C++ to file descriptor 1, which would corrupt a result in JSON.
    """
    assert sys.__stdout__ is not None
    sys.__stdout__.flush()
    python_stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    if sys.stdout is sys.__stdout__:  # under --json, sys.stdout is already redirected to standard error
        sys.stdout = python_stdout
    sys.__stdout__ = python_stdout  # type: ignore[misc]


# ---------------------------------------------------------------- synchronization


def is_first_process() -> bool:
    """Return True on process 0, which writes logs and results for all processes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has reached the barrier of this name.

    The wait may last up to a week; after that, the runtime of jax raises an error. A collective is no
    alternative, because gloo would give up after 30 s.
    """
    if jax.process_count() > 1:
        wait_at_barrier(f"jaxrec/{name}", _BARRIER_TIMEOUT_MS)


def all_reduce_max(*values: float) -> tuple[float, ...]:
    """Return the maximum of each value over all processes, in float32.

    Every process must call this function at the same step. Clocks and signals differ between processes, and
    a save that only one process begins never ends. A single process gets its values back unchanged.
    """
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.array(values, np.float32))
    return tuple(float(value) for value in gathered.max(0))


class SyncSchedule:
    """Schedule of the steps after which processes exchange the maximum of a value.

    The steps are the same on every process. The interval between two exchanges is at most about an eighth of
    `seconds`, computed from the time per step of the slowest process since the previous exchange.

    Args:
        step: The step at which training begins.
        seconds: The shortest interval, in seconds, within which the processes must react.
    """

    def __init__(self, step: int, seconds: float) -> None:
        self._last_step, self._next_step, self._seconds = step, step + 1, seconds / _SYNCS_PER_INTERVAL
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Return True if an exchange is due after `step`, as always for one process."""
        return jax.process_count() == 1 or step >= self._next_step

    def __call__(self, step: int, value: float) -> float:
        """Return the maximum of `value` over processes; schedule the next exchange.

        Call this method on all processes after a step for which `due` is True, once the step has finished on
        the device, so that the measured time includes the step.
        """
        step_seconds = (time.monotonic() - self._since) / max(step - self._last_step, 1)
        largest, slowest = all_reduce_max(value, step_seconds)
        self._last_step, self._next_step = step, step + steps_between(slowest, self._seconds)
        self._since = time.monotonic()
        return largest


def steps_between(step_seconds: float, seconds: float) -> int:
    """Return the number of steps that fit into `seconds`, at least 1 and at most 64.

    The maximum bounds the delay until a step that has become slow is noticed.

    Args:
        step_seconds: Seconds per step.
        seconds: Length of the interval, in seconds.
    """
    return max(1, min(_MAX_STEPS, int(seconds / max(step_seconds, 1e-9))))


# ---------------------------------------------------------------- progress files and exit


class ProgressFile:
    """Writer of the last step of this process, for diagnosis after a crash.

    A call writes at most once per second. JAXREC_REACHED names a directory, in which <process>.json is
    replaced atomically. JAXREC_TERMINATION_LOG names a file that is overwritten in place, as Kubernetes
    requires for /dev/termination-log.
    """

    def __init__(self) -> None:
        folder, self._log = os.environ.get("JAXREC_REACHED"), os.environ.get("JAXREC_TERMINATION_LOG")
        self._process = jax.process_index()
        self._file = Path(folder) / f"{self._process}.json" if folder else None
        self._last_write = float("-inf")

    def __call__(self, step: int) -> None:
        """Write `step`, unless the last write was less than a second ago."""
        now = time.monotonic()
        if (self._file is None and not self._log) or now - self._last_write < 1.0:
            return
        self._last_write = now
        line = dumps({"process": self._process, "pid": os.getpid(), "step": step, "time": time.time()}) + "\n"
        if self._file is not None:
            write_text(self._file, line)
        if self._log:
            Path(self._log).write_text(line, encoding="utf-8")


@contextlib.contextmanager
def multihost_session(report_error: Callable[[BaseException], int]) -> Iterator[None]:
    """Run a block on all processes, and end this process at once if the block fails.

    A process without a cluster raises its error as usual.

    Args:
        report_error: Called with the error of a process in a cluster. It reports the error and returns the
            exit status with which the process then exits, without any cleanup.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        status = report_error(error)
        if isinstance(error, InputError):  # as a rule all processes raise the same InputError
            shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            shutdown.start()
            shutdown.join(_SHUTDOWN_SECONDS)
        logging.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    jax.distributed.shutdown()
