"""The step benchmark: its rows, operation counts and errors; no speed is required."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import step_parts
from jaxrec.config.schema import Config, Expert, Gate, Model, Objective, Sampling
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout

ROOT = Path(__file__).resolve().parents[2]
TINY, SMALL = ROOT / "configs/tiny.py", ROOT / "tests/end_to_end/small.py"


def test_full_rows_are_full_and_service_rows_vary(tiny, tiny_config):
    program = step_parts.program_of(tiny_config, tiny, 32)
    lengths = {}
    for kind in ("service", "full"):
        rows = step_parts.training_rows(tiny, program.config, kind)
        batches = step_parts.peer_batches(program, rows)
        assert all(len(b.valid) == 32 and b.valid.all() for b in batches)
        assert not np.array_equal(batches[0].positive, batches[1].positive)
        lengths[kind] = np.concatenate([(b.history.title > 0).sum(1) for b in batches])
    assert (lengths["full"] == 8).all()
    assert lengths["service"].min() < 4


def test_rows_in_memory_are_read_like_rows_on_disk(tiny):
    disk = tiny.rows("train")
    memory_rows, blocks = step_parts.SelectedRows(disk.all()), np.arange(disk.blocks)[::-1]
    assert np.array_equal(memory_rows.block_rows(), disk.block_rows())
    assert np.array_equal(memory_rows.read(blocks), disk.read(blocks))
    out = np.zeros_like(memory_rows.read(blocks))
    memory_rows.read_into(blocks, out)
    assert np.array_equal(out, disk.read(blocks))


def test_missing_full_rows_are_an_error(tiny, tiny_config):
    config = replace(tiny_config, model=replace(tiny_config.model, experts=(Expert(9, 1, 2),)))
    with pytest.raises(InputError, match="no row shows 9 titles"):
        step_parts.training_rows(tiny, config, "full")


def test_operations_counted_by_hand():
    features = tuple(
        FeatureSpec(where, "category", where, width, 3)
        for where, width in (("title", 5), ("user", 2), ("context", 3))
    )
    layout = Layout(7, 4, 1, (1, 1, 1, 1), 1, features)
    config = Config(
        sampling=Sampling(negatives=2, next_k=1),
        model=Model(
            width=4,
            experts=(Expert(2, 1, 2, 1.0), Expert(3, 2, 2, 2.0)),
            gate=Gate(hidden=(6,)),
            head_hidden=(8, 5),
        ),
        objective=Objective(ranking=0.0),
    )
    counted = step_parts.work(config, layout, batch=10)
    experts = (
        1 * 2 * (4 * 16 + 2 * 16 + 2 * 2 * 4) + 2 * 2 * 4 + 2 * 3 * (4 * 16 + 2 * 32 + 2 * 3 * 4) + 2 * 3 * 4
    )
    gate = 10 * 6 + 6 * 2  # input: user features of width 2 and two experts of width 4
    product = 9 * 5  # user vector of width 4 + 2 + 3
    heads = (3 + 1) * (5 * 8 + 8 * 5 + 5)  # ctr for three candidates, completion for one
    common = 10 * (experts + gate + product + heads)
    title_rows = 30 * 5 * 4 + 30 * 5 * 5 + (30 + 10) * 5 * 8
    user_rows = 30 * 3 * 4 + (30 + 10) * 9 * 8
    assert counted.plain == 6 * (common + title_rows + user_rows)
    title_once = 7 * 5 * 4 + 7 * 5 * 5 + (7 + 7) * 5 * 8
    user_once = 10 * (3 * 4 + 2 * 9 * 8)
    assert counted.factored == 6 * (common + title_once + user_once)


@pytest.mark.slow
def test_xla_counts_the_products_and_other_operations(tiny, tiny_config):
    tiny_config = replace(
        tiny_config, model=replace(tiny_config.model, experts=tiny_config.model.experts[1:])
    )
    program = step_parts.program_of(tiny_config, tiny, 64)
    rows, table = step_parts.training_rows(tiny, program.config, "full"), tiny.arrays.title_table()
    xla_count = step_parts.counted_by_xla(program, table, rows)
    counted = step_parts.work(tiny_config, tiny.layout, 64)
    assert counted.factored < xla_count < 4 * counted.plain
    program.config.train.microbatch_size = 16  # four microbatches, of which XLA would count one
    assert step_parts.counted_by_xla(program, table, rows) == xla_count


def test_a_run_must_be_a_multiple_of_the_steps_per_call(tiny, tiny_config, monkeypatch):
    """Any other run would perform fewer steps than are counted."""
    performed = []

    def step(state, batch, table):
        performed.append(batch.steps)
        return state, {}

    monkeypatch.setattr("jaxrec.runtime.parallel_step.parallelize_step", lambda _, rows: step)
    config = copy.deepcopy(tiny_config)
    config.train.steps_per_call = 2
    program = step_parts.program_of(config, tiny, tiny.rows("train").rows // 5)  # two calls and one step left
    run, steps_per_call = step_parts.ours(program, tiny.arrays.title_table(), tiny.rows("train"))
    run(6)  # continues into the next epoch
    assert steps_per_call == 2 and performed == [2, 2, 2]
    with pytest.raises(ValueError, match="3 steps are not a multiple of the 2 steps per call"):
        run(3)


def test_error_of_a_command_without_a_first_step(tmp_path):
    with pytest.raises(InputError, match=r"no first step after .*train\.batch_sise"):
        step_parts.first_step(str(TINY), {"train.batch_sise": 1}, str(tmp_path))


@pytest.mark.slow
def test_first_step_is_awaited(tiny_directory):
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert step_parts.first_step(str(SMALL), {"data.directory": tiny_directory}, cache) > 0


def test_reason_for_a_peer_that_cannot_run(monkeypatch):
    monkeypatch.setattr(step_parts.importlib.util, "find_spec", lambda name: None)
    assert step_parts.why_not(step_parts.EAGER) == "torch is not installed"


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "benchmarks.step", f"--config={TINY}", "--users=300", "--batch=32", *flags]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True)


def test_the_command(tmp_path):
    pytest.importorskip("torch", reason="the peer needs torch: pip install jaxrec[peers]")
    out = tmp_path / "step.json"
    process = command(
        "--peers=eager", "--parts=rate,memory", "--rows=full", "--rounds=2", "--seconds=0", f"--json={out}"
    )
    assert process.returncode == 0, process.stderr
    figures = json.loads(out.read_text())
    assert figures["apart"]["outputs"] < 1e-5
    full = figures["step"]["32"]["full"]
    assert full["mean_history"] == 8.0
    assert {"jaxrec", "torch eager", "over torch eager"} <= {*full}
    assert {*figures["memory_gib"]["32"]} == {"jaxrec", "torch eager"}
    assert all(0 < x["before"] <= x["peak"] for x in figures["memory_gib"]["32"].values())
    assert "jaxrec is" in process.stdout


@pytest.mark.parametrize(
    "flag",
    [
        "--rows=short",
        "--batch=many",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("--parts=rates", "--peers=jit")),
    ],
)
def test_an_invalid_flag_is_named(flag):
    process = command(flag)
    assert process.returncode == 2
    name, _, value = flag.partition("=")
    assert process.stderr.startswith(f"error: {name}={value}: allowed: ") and process.stderr.count("\n") == 1
