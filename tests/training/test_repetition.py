"""A run is compared with its repetition, number by number."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.training import repetition
from jaxrec.training.repetition import compare_runs, format_repetition, read_origin


@pytest.fixture
def runs(tiny_run, tmp_path):
    """Two copies of the tiny run."""
    for name in ("a", "b"):
        shutil.copytree(tiny_run / "run", tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def different(values):
    return {
        value.name: (value.different, value.numbers, value.largest) for value in values if value.different
    }


def rewrite(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_copy_is_the_run_but_for_the_clock(runs):
    first, second = runs

    def change(lines):
        for line in lines:
            if line["split"] == "train":
                line["examples_per_second"] *= 2

    rewrite(second / "metrics.jsonl", change)
    result = json.loads((second / "test.json").read_text())
    (second / "test.json").write_text(json.dumps(result | {"seconds": 1.5}))
    values = compare_runs(first, second)
    assert different(values) == {}
    kinds = {value.name.partition("/")[0] for value in values}
    assert kinds == {"train", "validation", "test", "parameter"}
    assert format_repetition(values).endswith("the repetition is the run, bit for bit")


def test_what_differs_is_named_with_its_size(runs, monkeypatch):
    first, second = runs

    def change(lines):
        validations = [line for line in lines if line["split"] == "validation"]
        validations[1]["loss"] += 0.25
        del validations[0]["enabled/mrr@5"]

    rewrite(second / "metrics.jsonl", change)
    result = json.loads((second / "test.json").read_text())
    result["lists"]["enabled"]["ndcg@5"] += 0.125
    (second / "test.json").write_text(json.dumps(result))
    read = repetition._parameters

    def parameters(workdir):
        out = read(workdir)
        if workdir == second:
            name = min(out)
            out[name] = out[name] + np.float32(2**-20) * (
                np.arange(out[name].size).reshape(out[name].shape) == 0
            )
        return out

    monkeypatch.setattr(repetition, "_parameters", parameters)
    values = compare_runs(first, second)
    apart = different(values)
    assert apart["validation/loss"] == (1, 2, pytest.approx(0.25))
    assert apart["test/lists.enabled.ndcg@5"] == (1, 1, pytest.approx(0.125))
    (parameter,) = (name for name in apart if name.startswith("parameter/"))
    assert apart[parameter][0] == 1 and apart[parameter][2] == pytest.approx(2**-20, rel=0.1)
    assert len(apart) == 3  # the line that lacks a metric is not compared
    text = format_repetition(values)
    assert "  differs: validation/loss in 1 of 2 numbers, by at most 0.25\n" in text
    assert text.endswith("the repetition differs")


def test_training_lines_of_other_steps_are_not_compared(runs):
    """They are means over other steps."""
    first, second = runs

    def change(lines):
        trains = [line for line in lines if line["split"] == "train"]
        trains[0]["step"] -= 1
        for line in trains:
            line["loss"] += 1

    rewrite(second / "metrics.jsonl", change)
    loss = next(value for value in compare_runs(first, second) if value.name == "train/loss")
    trains = [
        x
        for x in map(json.loads, (first / "metrics.jsonl").read_text().splitlines())
        if x["split"] == "train"
    ]
    assert loss.numbers == loss.different == max(0, len(trains) - 2)


def test_a_run_that_did_not_end_or_was_extended_is_refused(runs, monkeypatch):
    first, second = runs
    assert read_origin(first).config.name == "tiny"
    (second / "test.json").unlink()
    with pytest.raises(InputError, match=r"holds no test\.json; allowed: the workdir of a finished run"):
        read_origin(second)
    restore = repetition.Checkpointer.restore_meta
    monkeypatch.setattr(
        repetition.Checkpointer, "restore_meta", lambda *a: restore(*a) | {"extended": [[28, 28, 56]]}
    )
    with pytest.raises(InputError, match="was extended from step 28, so that its schedules had two lengths"):
        read_origin(first)


@pytest.mark.slow
def test_the_command_repeats_a_run_bit_for_bit(runs, tiny_directory):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "jaxrec.train", "--repeat", str(runs[0])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("the repetition is the run, bit for bit\n")
    assert (runs[0].parent / "a-repeated" / "test.json").exists()
