"""Scripts of this folder as processes: the number of devices is fixed before JAX starts."""

import socket
from pathlib import Path

from commands import Command, environment

HERE = Path(__file__).resolve().parent


def environments(processes, devices=1):
    """Return the environments of processes that join a cluster, each with `devices` devices."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    joined = {"JAXREC_COORDINATOR": f"localhost:{port}", "JAXREC_PROCESSES": str(processes)}
    return [environment(devices, **joined, JAXREC_PROCESS=str(i)) for i in range(processes)]


def launch(script, log, env, *arguments):
    """The process, and the file that its standard error goes to."""
    return Command([HERE / script, *arguments], log.with_name(f"{log.name}-out"), log, env=env), log


def finish(*launched):
    for process, log in launched:
        assert process.wait(500) == 0, log.read_text()[-3000:]
