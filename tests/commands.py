"""Commands of jaxrec as processes of their own, forked from one that has imported jax.

`python -m jaxrec.train` spends three seconds of a core on imports, and the suite runs about a hundred
commands. The fork server of `multiprocessing` imports the libraries once, and every command jaxrec itself.
Tests of imports, of signals and of the README's commands start Python instead.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ["jax", "flax.linen", "optax", "orbax.checkpoint", "matplotlib.figure", "absl.app"]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_LIBRARIES)


def environment(devices: int = 0, **more: str) -> dict[str, str]:
    """Return the environment of a command on the CPU, with `devices` devices if they are named."""
    result = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more
    if devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        result["XLA_FLAGS"] = flags
    return result


class Command:
    """A running command.

    Args:
        words: What follows `python`: "-m", a module and its arguments, or a script and its arguments.
        out: File that its standard output is appended to.
        err: File that its standard error is appended to; it may be `out`.
        cwd: Working folder.
        env: Its environment.

    Attributes:
        words: The command's words, as text.
    """

    def __init__(
        self,
        words: Sequence[object],
        out: Path,
        err: Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.words = [str(word) for word in words]
        environ = dict(environment() if env is None else env)
        out.touch()
        err.touch()
        _start_server()
        self._process = _FORKS.Process(target=_run, args=(self.words, str(out), str(err), str(cwd), environ))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to a command that runs."""
        assert self.poll() is None and self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> int:
        """Return the exit status, negative for a signal.

        Raises:
            TimeoutExpired: It did not end within `timeout` seconds; it has been killed.
        """
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.words, timeout)
        return status


def run(
    *words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess:
    """Run a command to its end, and return its exit status and what it wrote."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        command = Command(words, out, err, cwd, env)
        status = command.wait(timeout)
        return subprocess.CompletedProcess(command.words, status, out.read_text(), err.read_text())


def _start_server() -> None:
    """Start the fork server, if it does not run, with jax on the CPU alone."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = before


def _run(words: list[str], out: str, err: str, cwd: str, environ: dict[str, str]) -> None:
    """Be the command: in the forked process."""
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    # jax reads its variables when it is imported, which was in the server.
    changed = {k for k in os.environ.keys() | environ.keys() if os.environ.get(k) != environ.get(k)}
    read = sorted(k for k in changed - {"PYTHON", "PYTHONPATH"} if k.startswith(("JAX_", "PYTHON")))
    assert not read, f"{read} differ from those of the fork server: start Python itself"
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    try:
        if words[0] == "-m":
            sys.path.insert(0, cwd)
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(words[0]).parent))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
