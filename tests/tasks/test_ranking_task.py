"""Tests of the ranking task: gradients with packing and microbatches, load balancing."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingState, RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def gradients(tiny, config, microbatch, pack):
    config = copy.deepcopy(config)
    config.model.dtype, config.train.microbatch_size, config.objective.balance = "float64", microbatch, 0.1
    config.model.features = ("title_id", "segment", "completion")  # few are compiled sooner
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(task, tiny.rows("train"))[1]
    assert batch.packing is not None
    if not pack:
        batch = batch._replace(packing=None)

    # Microbatches with different numbers of valid rows: the mean of their means is not the batch's mean.
    rows = (
        np.arange(64).reshape(-1, task.microbatches(64)).T.reshape(-1)
    )  # rows of the global batch, microbatch by microbatch
    batch = batch._replace(valid=(rows % 4 != 1) | (rows > 40))

    def step(state, batch, table):
        grads, sums = TrainStep(task).gradients(state, batch, table)
        return (grads, state.task_state), sums  # the task state is donated, so it must be an output

    state = StateInit(task).init()
    state = state._replace(task_state=RankingState(usage=jnp.asarray([0.3, 0.7])))
    table = mesh.replicate(tiny.arrays.title_table())
    return jax.device_get(parallel_step.parallelize_step(step)(mesh.replicate(state), batch, table))


@pytest.fixture(scope="module")
def plain(tiny, tiny_config):
    """Gradients and metric sums of one microbatch without packing."""
    with jax.enable_x64(True):
        return gradients(tiny, tiny_config, 64, pack=False)


@pytest.mark.parametrize(
    "microbatch", [pytest.param(64, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow), 16]
)
def test_packing_and_microbatches_do_not_change_gradients(tiny, tiny_config, plain, microbatch):
    """Gradients, metric sums and counts do not depend on `train.microbatch_size`, with dropout and noise."""
    grads, sums = plain
    assert {"loss", "loss_entropy", "loss_balance", "gate_0", "gate_entropy"} <= sums.keys()
    with jax.enable_x64(True):
        packed, packed_sums = gradients(tiny, tiny_config, microbatch, pack=True)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert packed_sums.keys() == sums.keys()
    for name, (total, count) in sums.items():
        assert packed_sums[name][1] == count == 54, name
        assert packed_sums[name][0] == pytest.approx(total, rel=1e-12), name


def test_load_balancing_uses_the_gate_of_the_previous_step(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.objective.balance, config.train.microbatch_size, config.model.gate.noise_std = 0.5, 16, 0.0
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batches, table = training_batches(task, tiny.rows("train")), tiny.arrays.title_table()
    step, table = parallel_step.parallelize_step(TrainStep(task)), mesh.replicate(table)
    state = mesh.replicate(StateInit(task).init())
    np.testing.assert_allclose(state.task_state.usage, [0.5, 0.5])
    for t in range(2):
        before = np.asarray(state.task_state.usage)
        state, sums = step(state, batches[t], table)
        mean = np.array([sums[f"gate_{e}"][0] / sums[f"gate_{e}"][1] for e in (0, 1)])
        np.testing.assert_allclose(state.task_state.usage, mean, rtol=1e-6)
        batch_mean = float(sums["loss_balance"][0] / sums["loss_balance"][1])
        assert batch_mean == pytest.approx(mean @ np.log(before), rel=1e-5)
    config.model.experts = config.model.experts[1:]  # a single expert is not balanced
    assert StateInit(RankingTask(config, tiny.layout, 0.5, 4, 40)).abstract().task_state.usage == ()


@pytest.mark.parametrize(
    ("microbatch", "device_batch", "count"),
    [(64, 64, 1), (0, 64, 1), (0, 1024, 4), (20, 64, 4), (3, 7, 7), (99, 64, 1)],
)
def test_microbatches_divide_the_device_batch_within_the_limit(
    tiny, tiny_config, microbatch, device_batch, count
):
    config = copy.deepcopy(tiny_config)
    config.train.microbatch_size = microbatch
    assert RankingTask(config, tiny.layout, 0.5, 4, 40).microbatches(device_batch) == count
