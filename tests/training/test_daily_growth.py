"""A day's training that goes on from the day before, with 40 new titles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from growing_days import prepared, trained

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import CHECKPOINTS, task_of_dataset
from jaxrec.training.inputs.input_pipeline import training_input
from jaxrec.training.starting import read_start
from jaxrec.training.train_state import StateInit

ROOT = Path(__file__).resolve().parents[2]
TASK, RATE, BETA2 = "next_item", 1e-2, 0.95
TITLES = "title/vectors/title_id/embedding"


def saved(workdir):
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        return checkpoints.restore_on_host("last", "params", "optimizer")


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Return the folder, configs and datasets of two days; the first day is trained."""
    folder, made = tmp_path_factory.mktemp("growth"), []
    for number in range(2):
        config, dataset = prepared(folder, TASK, number)
        config.optimizer.learning_rate, config.optimizer.beta2 = RATE, BETA2
        config.optimizer.weight_decay, config.sampling.id_dropout = 0.0, 0.0
        made.append((config, dataset))
    trained(*made[0], folder / "0/run")
    return folder, made


def by_hand(old, dataset_before, dataset, names):
    """Return the first values of day 2's parameters and moments, a title at a time.

    Rows of known titles are those of their keys; the row of a new title is the mean row, its moments are 0.
    """
    keys_before = {key: FIRST_TITLE + i for i, key in enumerate(dataset_before.arrays.title_key.tolist())}
    known = list(keys_before.values())
    out = {name: old[name].copy() for name in names}
    for name in names:
        if not name.endswith(TITLES):
            continue
        table = np.full_like(old[name], np.nan)  # ids without a title: not compared
        table[:FIRST_TITLE] = old[name][:FIRST_TITLE]
        for i, key in enumerate(dataset.arrays.title_key.tolist()):
            if key in keys_before:
                table[FIRST_TITLE + i] = old[name][keys_before[key]]
            else:
                table[FIRST_TITLE + i] = old[name][known].mean(0) if name.startswith("params") else 0.0
        out[name] = table
    return out


def test_a_day_with_40_new_titles_starts_as_a_state_made_by_hand(days):
    folder, [(_, before), (config, dataset)] = days
    old = saved(folder / "0/run")
    new = set(dataset.arrays.title_key.tolist()) - set(before.arrays.title_key.tolist())
    assert len(new) == 40 and dataset.layout.num_titles == before.layout.num_titles == 256
    task = task_of_dataset(config, dataset, 4, 3)
    state = read_start(task, dataset, StateInit(task).abstract()).apply(StateInit(task).init_sharded())
    values = {name: np.asarray(x) for name, x in slashed_leaves(state).items()}
    names = [n for n in old if n.startswith(("params/", "optimizer/0/"))]
    expected = by_hand(old, before, dataset, names)
    for name in names:
        kept = ~np.isnan(expected[name])
        np.testing.assert_allclose(values[name][kept], expected[name][kept], rtol=1e-6, err_msg=name)
    assert values["optimizer/0/count"] == old["optimizer/0/count"] == 3
    last = FIRST_TITLE + len(dataset.arrays.title_key)
    for moment in ("mu", "nu"):
        assert not values[f"optimizer/0/{moment}/{TITLES}"][last:].any()
    assert np.isfinite(values[f"params/{TITLES}"]).all()

    # The first step: gradients from the first moment, then Adam by hand with the count of day 1.
    config.train.duration = "1 steps"
    trained(config, dataset, folder / "1/run")
    after = saved(folder / "1/run")
    count = 4
    assert after["optimizer/0/count"] == count
    for name in (n for n in names if n.startswith("optimizer/0/mu/")):
        parameter, second = name.replace("optimizer/0/mu", "params"), name.replace("/mu/", "/nu/")
        gradient = (after[name] - 0.9 * values[name]) / 0.1
        nu = BETA2 * values[second] + (1 - BETA2) * np.square(gradient)
        np.testing.assert_allclose(after[second], nu, rtol=1e-3, atol=1e-9, err_msg=name)
        update = after[name] / (1 - 0.9**count) / (np.sqrt(after[second] / (1 - BETA2**count)) + 1e-8)
        np.testing.assert_allclose(
            after[parameter], values[parameter] - RATE * update, rtol=1e-3, atol=1e-6, err_msg=name
        )
    gradient = (after[f"optimizer/0/mu/{TITLES}"] - 0.9 * values[f"optimizer/0/mu/{TITLES}"]) / 0.1
    rows = np.array(
        [FIRST_TITLE + i for i, key in enumerate(dataset.arrays.title_key.tolist()) if key in new]
    )
    assert np.abs(gradient[rows]).min() > 0  # a softmax moves every title, also one that nobody played
    np.testing.assert_allclose(gradient[last:], 0, atol=1e-9)


def test_the_gate_stays_at_its_final_temperature_where_the_optimizer_is_kept(tiny_config, tiny):
    import copy

    config = copy.deepcopy(tiny_config)
    temperatures = []
    for optimizer in ("fresh", "kept"):
        config.start.optimizer = optimizer
        task = task_of_dataset(copy.deepcopy(config), tiny, 4, 100)
        temperatures.append([float(task.temperature(jax.numpy.int32(step))) for step in (0, 10, 60)])
    assert temperatures[0][0] == config.model.gate.start_temperature and temperatures[0][2] == 1.0
    assert temperatures[1] == [1.0, 1.0, 1.0]


def test_pools_rotate_by_a_hash_of_the_step_in_a_chain(tiny_config, tiny):
    """The program of a day must not depend on the number of its rows."""
    from dataclasses import replace

    task = task_of_dataset(tiny_config, tiny, 4, 100)
    chained = replace(task, layout=replace(task.layout, has_gaps=True))
    steps = jax.numpy.arange(400)
    assert np.asarray(task.rotation(steps)).tolist() == [step // 4 for step in range(400)]
    rotations = np.asarray(chained.rotation(steps))
    assert rotations.min() >= 0 and len(np.unique(rotations)) == 400
    other = replace(chained, steps_per_epoch=7)
    np.testing.assert_array_equal(np.asarray(other.rotation(steps)), rotations)
    for every in (4, 5, 8):  # a row that comes every few steps still has all columns of its pool
        assert len(np.unique(rotations[::every] * 8 % 32)) == 4


def test_batches_of_a_later_day_have_the_shapes_of_the_day_before(tmp_path):
    """A ranking program depends on the packed rows of its batches: other shapes are other programs."""
    shapes = []
    for number in range(3):
        config, dataset = prepared(tmp_path, "ranking", number)
        task = task_of_dataset(config, dataset, 4, 3)
        train = training_input(task, dataset.rows("train")).stored[0]
        assert train.packing is not None
        scorer = ListScorer(task, replicate(dataset.arrays.title_table()), with_loss=True, next_k=1)
        queries = scorer._batches(dataset.rows("validation"))[0]
        shapes.append(jax.tree.map(np.shape, (train, queries)))
    assert shapes[1] == shapes[2]


@pytest.mark.parametrize("task", ["next_item", pytest.param("ranking", marks=pytest.mark.slow)])
def test_a_day_with_new_titles_compiles_nothing(tmp_path, task):
    """The third day has 40 titles more than the second, other rows, and a capacity of 256."""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"), "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, ROOT / "tests/training/growing_days.py", tmp_path / "days", task]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    days = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [day["titles"] for day in days] == [50, 90, 130] and {day["ids"] for day in days} == {256}
    assert days[0]["compiled"] > 5 and days[2]["compiled"] == 0
