"""Dry run: its figures are those of the run. A batch larger than the data is adapted."""

import copy

import jax
import numpy as np
import pytest
from absl import logging

from jaxrec.reporting.dry_run_report import format_dry_run
from jaxrec.tasks.loading import build_task
from jaxrec.training.dry_run import dry_run, parameter_table
from jaxrec.training.inputs.batch_size import fit_batch_size
from jaxrec.training.train_state import StateInit


@pytest.fixture(scope="module")
def config(small_config, tiny_directory):
    config = copy.deepcopy(small_config)
    config.data.directory = str(tiny_directory)
    return config


@pytest.fixture(scope="module")
def report(config, tiny):
    return dry_run(config, tiny)


def test_the_parameters_are_those_of_a_real_state(config, tiny, report):
    state = StateInit(build_task(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 8)).init()
    leaves = jax.tree.leaves(state.params)
    assert report["parameter_count"] == sum(x.size for x in leaves)
    assert report["parameter_bytes"] == sum(x.nbytes for x in leaves)
    assert report["state_bytes"] == sum(x.nbytes for x in jax.tree.leaves(state))
    assert [p["shape"] for p in report["parameters"]] == [list(x.shape) for x in leaves]
    table = {p["name"]: p for p in report["parameters"]}
    rows = tiny.layout.num_titles
    assert table["title/title_id/embedding"] == {
        "name": "title/title_id/embedding", "shape": [rows, 8], "count": rows * 8, "bytes": rows * 32,
    }  # fmt: skip


def test_examples_steps_and_seconds(config, tiny, report):
    examples = tiny.rows("train").rows
    assert report["examples"] == examples and report["batch_size"] == 64
    assert report["steps_per_epoch"] == examples // 64 and report["total_steps"] == 2 * (examples // 64)
    assert report["timed_steps"] == 5 and report["seconds_per_step"] > 0
    assert report["seconds"] == report["seconds_per_step"] * report["total_steps"]
    assert report["config"]["train"]["batch_size"] == 64


@pytest.mark.slow
def test_flops_do_not_depend_on_microbatches(config, tiny, report):
    """The compiler counts a loop over microbatches once, which would give a quarter of the FLOPs."""
    smaller = copy.deepcopy(config)
    smaller.train.microbatch_size = 64 // jax.device_count() // 4
    other = dry_run(smaller, tiny)
    assert other["step"]["microbatches"] == 4
    # Histories are packed for each microbatch, which changes the padding.
    assert other["step"]["flops"] == pytest.approx(report["step"]["flops"], rel=0.1)


def test_memory_and_flops_of_a_step(report):
    step = report["step"]
    kernels = sum(p["count"] for p in report["parameters"] if "kernel" in p["name"] and len(p["shape"]) > 1)
    assert (
        step["flops"] > 2 * kernels * 64 / jax.device_count()
    )  # each kernel multiplies each example at least
    assert step["temporary_bytes"] > 0 and step["argument_bytes"] > report["state_bytes"]


def test_the_text_has_every_figure(report):
    text = format_dry_run(report)
    for part in (
        "train.batch_size = 64", "model.experts[0].max_len = 4", "title/title_id/embedding",
        f"{report['parameter_count']:,}", f"{report['steps_per_epoch']:,} steps an epoch", "FLOPs a step",
    ):  # fmt: skip
        assert part in text


def test_the_parameter_table_of_a_small_tree():
    tree = {"a": np.zeros((2, 3), np.float32), "b": [np.zeros((), np.int8)]}
    assert parameter_table(tree) == [
        {"name": "a", "shape": [2, 3], "count": 6, "bytes": 24},
        {"name": "b/0", "shape": [], "count": 1, "bytes": 1},
    ]


@pytest.mark.parametrize(
    ("size", "examples", "devices", "adapted"),
    [
        (100, 100, 1, 100),
        (101, 100, 1, 8),  # 12 steps an epoch
        (8192, 1000, 1, 64),
        (8192, 1000, 3, 63),
        (8192, 1000, 128, 128),
        (8192, 7, 1, 1),
        (8192, 3, 4, 8192),  # fewer rows than devices: the loader reports them
    ],
)
def test_a_batch_larger_than_the_data_is_adapted(tiny_config, size, examples, devices, adapted, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *args: lines.append(text % args))
    config = copy.deepcopy(tiny_config)
    config.train.batch_size = size
    assert fit_batch_size(config, examples, devices).train.batch_size == adapted
    assert config.train.batch_size == size
    line = f"train.batch_size={size} is more than the {examples} training examples: adapted to {adapted}"
    assert lines == ([line] if adapted != size else [])
