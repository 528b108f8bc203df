"""Scripts of this folder as processes: the number of devices is fixed before JAX starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def environment(devices=1, **more):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more


def environments(processes, devices=1):
    """Return the environments of processes that join a cluster, each with `devices` devices."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    joined = {"JAXREC_COORDINATOR": f"localhost:{port}", "JAXREC_PROCESSES": str(processes)}
    return [environment(devices, **joined, JAXREC_PROCESS=str(i)) for i in range(processes)]


def launch(script, log, env, *arguments):
    """The process, and the file that its standard error goes to."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    with log.open("w") as file:
        return subprocess.Popen(command, env=env, stderr=file), log


def finish(*launched):
    for process, log in launched:
        assert process.wait(500) == 0, log.read_text()[-3000:]
