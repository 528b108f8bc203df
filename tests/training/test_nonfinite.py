"""Tests of steps whose loss or gradient is not finite: the run stops, or leaves the step out."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.core.errors import InputError, RunError
from jaxrec.runtime import mesh, parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.loading import CHECKPOINTS
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import trainer
from jaxrec.training.inputs.input_pipeline import count_steps, training_batches
from jaxrec.training.nonfinite import NONFINITE, nonfinite_metrics
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

BAD = 2  # index of the step with a NaN in one gradient


@pytest.fixture
def config(small_config, tiny_directory):
    config = copy.deepcopy(small_config)
    config.data.directory = str(tiny_directory)
    config.train.duration, config.train.steps_per_call = "6 steps", 1
    return config


@pytest.fixture
def poisoned(monkeypatch):
    """Set one element of a gradient to NaN in the step with index BAD."""
    gradients = TrainStep.gradients

    def with_nan(self, state, host, table):
        grads, sums = gradients(self, state, host, table)
        leaves, tree = jax.tree.flatten(grads)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].multiply(jnp.where(state.step == BAD, jnp.nan, 1))
        return jax.tree.unflatten(tree, leaves), sums

    monkeypatch.setattr(TrainStep, "gradients", with_nan)


def test_a_step_that_is_not_finite_stops_the_run(tiny, config, poisoned, tmp_path):
    with pytest.raises(RunError) as error:
        trainer.train(config, tiny, tmp_path, PreemptionHandler())
    assert str(error.value) == (
        f"step 3: not finite: gradient_norm; the batch is in {tmp_path / NONFINITE}, no checkpoint is kept, "
        "and the same command repeats the step; lower optimizer.learning_rate, or leave such steps out with "
        "train.on_nonfinite=skip"
    )
    with np.load(tmp_path / NONFINITE) as batch:
        assert {name.rpartition("_")[0] for name in batch} == {"step_3"}
        assert max(len(batch[name]) for name in batch) >= config.train.batch_size
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        Checkpointer(tmp_path / CHECKPOINTS)


def test_a_step_that_is_not_finite_is_left_out(tiny, config, poisoned):
    config.train.on_nonfinite = "skip"
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 6)
    step = parallel_step.parallelize_step(TrainStep(task))
    table = mesh.replicate(tiny.arrays.title_table())
    batches = training_batches(task, tiny.rows("train"))

    def states(order):
        state = mesh.replicate(StateInit(task).init())
        for t in order:
            state, sums = step(state, batches[t], table)
            yield jax.device_get(state), jax.device_get(sums)

    *_, (before, sums), (after, bad), (last, _) = states(range(4))
    assert float(sums["skipped"][0]) == 0 and float(bad["skipped"][0]) == 1
    assert all(total == count == 0 for name, (total, count) in bad.items() if name != "skipped")
    assert int(after.step) == BAD + 1
    jax.tree.map(np.testing.assert_array_equal, after._replace(step=before.step), before)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.params))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), last.params, before.params)
    assert any(jax.tree.leaves(changed))


def test_metrics_that_are_not_finite_are_named_only_with_the_loss_or_the_gradient():
    sums = {"loss": (1.0, 2), "gradient_norm": (3.0, 1), "gate": (float("nan"), 0)}
    assert nonfinite_metrics(sums) == []
    assert set(nonfinite_metrics(sums | {"loss": (float("inf"), 2)})) == {"gate", "loss"}
    assert nonfinite_metrics({"loss": (1.0, 1), "gradient_norm": (float("nan"), 1)}) == ["gradient_norm"]


def test_a_validation_loss_that_is_not_finite_stops_the_run(tiny, config, tmp_path):
    run = trainer._Run(config, tiny, tmp_path, PreemptionHandler())
    run.validator = lambda params: ({"loss": float("nan")}, {})
    with pytest.raises(RunError, match="step 6: the validation loss is nan; no checkpoint is written"):
        run._validate(StateInit(run.task).init(), 6, None)


def test_a_warm_up_longer_than_the_run_is_refused(tiny, config, caplog):
    config.optimizer.warmup_steps = 7
    with pytest.raises(InputError, match="warmup_steps=7 must be at most the 6 steps"):
        count_steps(config, tiny.rows("train"))
    config.optimizer.warmup_steps = 6
    assert count_steps(config, tiny.rows("train"))[0] == 6
    assert "the run takes 6 updates; a model seldom learns much in fewer than 1000" in caplog.text
