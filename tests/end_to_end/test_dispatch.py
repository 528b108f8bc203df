"""Several steps a dispatch are the same steps: batches, dropout, epochs' ends, stops, and what is logged."""

import copy
import json

import jax
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.runtime.mesh import replicated_sharding
from jaxrec.tasks.loading import CHECKPOINTS, restore_task
from jaxrec.training import trainer
from jaxrec.training.train_state import StateInit
from tests.stop import Stop


def train(tiny, tiny_config, workdir, dispatch, stop=None):
    """Four epochs, or what a stop leaves of them, in float64; the step reached."""
    config = copy.deepcopy(tiny_config)
    config.model.dtype, config.data.directory = "float64", str(tiny.directory)
    config.model.experts = config.model.experts[1:]  # one, and few features, are compiled sooner
    config.model.features = ("title_id", "segment", "completion")
    config.objective.weighting = "averaging"  # which counts steps, and acts where an epoch ends
    config.optimizer.plateau_patience, config.optimizer.plateau_factor = 0, 0.5
    # So that the validation loss rises after the third epoch, and the rate halves.
    config.optimizer.learning_rate, config.model.embedding_init_std = 0.02, 0.05
    config.train.duration, config.train.steps_per_call, config.train.log_seconds = "4 epochs", dispatch, 1e9
    return trainer.train(config, tiny, workdir, stop or Stop()), config


def final_state(workdir, config):
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        program = restore_task(config, checkpoints.restore_meta("last"))
        return jax.device_get(
            checkpoints.restore("last", with_shardings(StateInit(program).abstract(), replicated_sharding()))
        )


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_groups_of_steps_stopped_and_resumed_in_other_groups_are_the_same_steps(tiny, tiny_config, tmp_path):
    per_epoch = tiny.rows("train").rows // 64
    assert per_epoch % 5 and per_epoch > 17  # epochs have tails
    one, some = tmp_path / "one", tmp_path / "some"
    with jax.enable_x64(True):
        total, config = train(tiny, tiny_config, one, 1)
        # `requested` is read after each of an epoch's groups and after each step of its tail.
        polls = per_epoch // 5 + per_epoch % 5
        assert train(tiny, tiny_config, some, 5, Stop(polls - 1))[0] == per_epoch
        assert "validation" not in {line["split"] for line in logged(some)}  # is left to the next start
        assert train(tiny, tiny_config, some, 5, Stop(1))[0] == per_epoch + 10
        assert train(tiny, tiny_config, some, 1, Stop(6))[0] == per_epoch + 17  # within a group of five
        assert train(tiny, tiny_config, some, 5)[0] == total == 4 * per_epoch
        expected, actual = final_state(one, config), final_state(some, config)
    assert expected.step == actual.step == total
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-8)
    plain, grouped = logged(one), logged(some)
    # A stop logs the mean up to it, so that the lines of the second epoch are of all of its steps.
    parts = [x for x in grouped if x["split"] == "train" and per_epoch < x["step"] <= 2 * per_epoch]
    assert [x["step"] - per_epoch for x in parts] == [10, 17, per_epoch]
    (whole,) = (x for x in plain if x["split"] == "train" and x["step"] == 2 * per_epoch)
    mean = np.average([x["loss"] for x in parts], weights=[10, 7, per_epoch - 17])
    assert mean == pytest.approx(whole["loss"], rel=1e-9)
    grouped = [x for x in grouped if x not in parts[:2]]
    assert [x["step"] for x in plain] == [x["step"] for x in grouped]
    assert len({x["learning_rate"] for x in plain if x["split"] == "train"}) > 1  # the plateau acted
    stalls = [line["save_stall"] for line in plain if line["split"] == "train"]
    assert stalls[0] == 0 < min(stalls[1:])  # of the save at the end of the epoch before
    for before, after in zip(plain, grouped, strict=True):
        if (before["step"], before["split"]) == (2 * per_epoch, "train"):
            continue  # after a stop a line is of the steps since then
        for name in before.keys() - {"split", "examples_per_second", "input_stall", "save_stall"}:
            assert after[name] == pytest.approx(before[name], rel=1e-5), name
