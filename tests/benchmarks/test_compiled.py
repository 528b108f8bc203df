"""Steps compiled for devices that are not here: the count of kernels, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import absent_device, compiled
from benchmarks.collectives import run_counts
from benchmarks.roofline import Spent
from jaxrec.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TEXT = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %neg.1 = f32[8]{0} negate(%p)
}

%body (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %fusion.1 = f32[8]{0} fusion(%q), kind=kLoop, calls=%fused, metadata={op_name="step/matcher_ctr/add"}
}

%until (r: f32[8]) -> pred[] {
  %r = f32[8]{0} parameter(0)
  ROOT %fusion.2 = pred[] fusion(%r), kind=kLoop, calls=%fused
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %start = f32[8]{0} all-reduce-start(%a), replica_groups={}, to_apply=%fused
  %done = f32[8]{0} all-reduce-done(%start)
  %bits = f32[8]{0} bitcast(%done)
  %while.1 = f32[8]{0} while(%bits), condition=%until, body=%body, LOOP
  ROOT %fusion.3 = f32[8]{0} fusion(%while.1), kind=kLoop, calls=%fused, metadata={op_name="step/tower_a/f"}
}
"""


@pytest.mark.parametrize("loop, times", [('backend_config={"known_trip_count":{"n":"5"}}', 5), ("", 1)])
def test_kernels_are_counted_as_often_as_they_run(loop, times):
    """A fusion is one kernel, whatever is in it; a loop of unknown length counts once."""
    parts = compiled.by_part(TEXT.replace("LOOP", loop))
    conditions = times + bool(loop)  # one test more than rounds
    assert parts == {
        "matchers": Spent(0.0, times + 1, 64.0 * (times + 1)),
        "loss, decoding, update": Spent(0.0, conditions + 1, 33.0 * conditions + 64),
    }


def test_runs_of_computations_by_the_kind_of_their_callers():
    known = TEXT.replace("LOOP", 'backend_config={"known_trip_count":{"n":"5"}}')
    assert run_counts(known) == {"main": 1, "until": 6, "body": 5, "fused": 5 + 6 + 2}
    assert run_counts(known, ("while",)) == {"main": 1, "until": 6, "body": 5}
    assert run_counts(TEXT)["body"] is None


@pytest.mark.parametrize("name", ["", "h2000", "h200:", "h200:0", "h200:x", "v5e", "cpu:4"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(InputError, match=f"--device={name}: "):
        absent_device.absent_devices(name)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(absent_device.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"--device=h100: .* pip install 'jaxrec\[cuda\]'"):
        absent_device.absent_devices("h100")
    with pytest.raises(InputError, match=r"--device=v5e:2x2: .* pip install 'jaxrec\[tpu\]'"):
        absent_device.absent_devices("v5e:2x2")


@pytest.mark.parametrize("device", ["h200:2", "v5e:2x2"])
def test_a_step_is_compiled_for_a_device_that_is_not_here(device):
    """In a process of its own: a compiler changes the backends of a process."""
    if reason := absent_device.missing(device):
        pytest.skip(reason)
    command = [sys.executable, "-m", "benchmarks.compiled", "--config", "configs/tiny.py", "--batch=64"]
    command += [f"--device={device}", "--users=120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = dict(line.strip("| ").split(" | ")[:2] for line in done.stdout.splitlines() if " | " in line)
    assert int(rows["all"].split()[0]) > int(rows["matchers"].split()[0]) > 0
    assert "sent by all-reduce" in rows
