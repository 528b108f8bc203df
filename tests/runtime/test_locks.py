"""Tests of the exclusive use of a folder by one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.core.errors import InputError
from jaxrec.runtime.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from jaxrec.runtime.locks import exclusive
with exclusive(Path(sys.argv[1]), "folder f", wait="wait" in sys.argv):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(path, *flags):
    """Start a process that takes the lock and holds it until its standard input gets a line."""
    command = [sys.executable, "-c", HOLD, str(path), *flags]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    path = tmp_path / "new" / ".lock"
    with hold(path) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=rf"^folder f: is in use by process {other.pid} on \S+ since 20"),
            exclusive(path, "folder f", wait=False),
        ):
            pass
        other.communicate("\n")
    assert other.returncode == 0 and not path.exists()
    with exclusive(path, "folder f", wait=False):
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert not path.exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / ".lock"
    with hold(path) as other:
        other.stdout.readline()
        other.kill()
    assert path.exists()
    with exclusive(path, "folder f", wait=False):
        pass


def test_processes_wait_for_one_another(tmp_path):
    path = tmp_path / ".lock"
    with hold(path, "wait") as first:
        first.stdout.readline()
        waiting = [hold(path, "wait") for _ in range(3)]
        for process in waiting:
            assert f"waiting for process {first.pid}" in process.stderr.readline()
        first.communicate("\n")
    for process in waiting:  # in any order: each ends as soon as it holds the lock
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait() for process in waiting] == [0, 0, 0]
    assert [process.stdout.readline() for process in waiting] == ["held\n"] * 3
    for process in waiting:
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"^folder f: .*/file cannot be written: "),
        exclusive(tmp_path / "file" / ".lock", "folder f", wait=False),
    ):
        pass
    if Path("/proc/version").exists():
        with (
            pytest.raises(InputError, match=r"cannot be written"),
            exclusive(Path("/proc/jaxrec/.lock"), "folder f", wait=False),
        ):
            pass
