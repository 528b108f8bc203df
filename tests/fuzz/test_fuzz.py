"""The stored inputs of the fuzzer raise documented errors alone, and the fuzzer finds a planted fault."""

import random
import subprocess
import sys

import pytest

from tests.fuzz import targets
from tests.fuzz.__main__ import Finds, mutated


@pytest.mark.parametrize("target", targets.TARGETS)
def test_stored_inputs_and_changes_of_them(target, tmp_path):
    """Each stored input, and a few that are one change away, from a fixed seed."""
    stored, numbers = targets.seeds(target), random.Random(0)
    assert len(stored) >= 4
    accepted = [targets.run(target, data) for data in stored.values()]
    assert any(accepted)
    finds = Finds(target, tmp_path)
    for _ in range(60 if target != "tables" else 25):
        finds(mutated(numbers.choice([*stored.values()]), [*stored.values()], numbers))
    assert not finds.places


def test_a_find_is_reported_once_with_its_input(tmp_path, monkeypatch, capsys):
    def broken(data):
        if b"x" in data:
            raise KeyError("a defect")

    monkeypatch.setitem(targets.TARGETS, "broken", broken)
    finds = Finds("broken", tmp_path)
    for data in (b"a", b"ax", b"bx"):
        finds(data)
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == b"ax" and finds.runs == 3 and len(finds.places) == 1
    assert "KeyError at test_fuzz.py" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_fuzzer_for_half_a_minute_a_target(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is of the extra `fuzz`")
    command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--seconds", "25"]
    done = subprocess.run(
        [*command, "--finds", tmp_path], cwd=targets.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "FIND" not in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
