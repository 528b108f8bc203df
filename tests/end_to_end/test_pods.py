"""Several processes over jax.distributed: the numbers of one, and nothing lost but what was not saved."""

import json
import random
import signal
import sys
from pathlib import Path

import pytest

from jaxrec.writer import METRICS_FILE, read_metrics

from .pods import STEPS, Pod, final_parameters, resumed_from, same

SEED = 6  # of the steps at which processes are killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="module")
def whole(folder, tiny_directory):
    """Two processes of two devices, which nobody stops."""
    with Pod(folder / "whole", tiny_directory) as pod:
        status, said = pod.end()
        assert status == 0, said[-3000:]
    return pod.workdir


@pytest.fixture(scope="module")
def alone(folder, tiny_directory):
    """By its devices: one process."""
    found = {}
    for devices in (1, 4):
        with Pod(folder / f"alone{devices}", tiny_directory, processes=1, devices=devices) as pod:
            status, said = pod.end()
            assert status == 0, said[-3000:]
        found[devices] = pod.workdir
    return found


def near(a, b):
    """Within what float32 sums in another order make of thirty steps."""
    return a == b if isinstance(a, int | str | None) else a == pytest.approx(b, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_two_processes_of_two_devices_train_to_the_metrics_of_one(whole, alone, devices):
    ours, theirs = (json.loads((d / "test.json").read_text()) for d in (whole, alone[devices]))
    assert ours["step"] == theirs["step"] and ours["baselines"] == theirs["baselines"]
    for metric, value in theirs["lists"]["enabled"].items():
        assert ours["lists"]["enabled"][metric] == pytest.approx(value, abs=0.004)  # two of 604 ranks
    pairs = zip(*(lines(d) for d in (whole, alone[devices])), strict=True)
    for a, b in pairs:
        assert a.keys() == b.keys() and a["split"] == b["split"]
        wrong = {k for k in a if k not in ("examples_per_second", "input_stall", "save_stall") and not near(a[k], b[k])}
        assert not {k for k in wrong if "/" not in k}, (a, b)  # ranks are held above


def lines(workdir):
    """Of metrics.jsonl, those that do not depend on when they were written: of validations."""
    found = [line for line in read_metrics(workdir / METRICS_FILE) if line["split"] == "validation"]
    assert [line["step"] for line in found] == [28, STEPS]
    return found


BREAKS = {
    "raises": "import jaxrec.writer as w\ndef due(self, step):\n    raise RuntimeError('a defect of one host')\nw.Writer.due = due",
    "has no dataset": "sys.argv.append('--config.data.directory=/nowhere')",
}
