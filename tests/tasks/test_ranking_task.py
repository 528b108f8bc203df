"""The step's ways to the same gradients: histories packed or not, a batch at once or part by part."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingState, RankingTask
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def gradients(tiny, config, microbatch, pack):
    config = copy.deepcopy(config)
    config.model.dtype, config.train.microbatch_size, config.objective.balance = "float64", microbatch, 0.1
    program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(program, tiny.rows("train"))[1]
    assert batch.packing is not None
    if not pack:
        batch = batch._replace(packing=None)

    # Parts of unequal count: the mean of their means would not be the batch's.
    rows = (
        np.arange(64).reshape(-1, program.microbatches(64)).T.reshape(-1)
    )  # of the global batch, part by part
    batch = batch._replace(valid=(rows % 4 != 1) | (rows > 40))

    def step(state, batch, table):
        grads, sums = TrainStep(program).gradients(state, batch, table)
        return (grads, state.task_state), sums  # which is donated, and has to go somewhere

    state = StateInit(program).init()
    state = state._replace(task_state=RankingState(usage=jnp.asarray([0.3, 0.7])))
    table = mesh.replicate(tiny.arrays.title_table())
    return jax.device_get(parallel_step.parallelize_step(step)(mesh.replicate(state), batch, table))


def test_packing_and_parts_change_nothing(tiny, tiny_config):
    """`train.microbatch_size` is gradient accumulation: in one part, in two and in four, a step has the same
    gradients and every figure has the same sum and count, dropout and noise on."""
    with jax.enable_x64(True):
        plain, sums = gradients(tiny, tiny_config, 64, pack=False)
        assert {"loss", "loss_entropy", "loss_balance", "gate_0", "gate_entropy"} <= sums.keys()
        for microbatch in (64, 32, 16):
            found, other = gradients(tiny, tiny_config, microbatch, pack=True)
            for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
                np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
            assert other.keys() == sums.keys()
            for name, (total, count) in sums.items():
                assert other[name][1] == count == 54, name
                assert other[name][0] == pytest.approx(total, rel=1e-12), name


def test_a_balanced_gate_is_pulled_to_what_the_step_before_used_least(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.objective.balance, config.train.microbatch_size, config.model.gate.noise_std = 0.5, 16, 0.0
    program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batches, table = training_batches(program, tiny.rows("train")), tiny.arrays.title_table()
    step, table = parallel_step.parallelize_step(TrainStep(program)), mesh.replicate(table)
    state = mesh.replicate(StateInit(program).init())
    np.testing.assert_allclose(state.task_state.usage, [0.5, 0.5])
    for t in range(2):
        before = np.asarray(state.task_state.usage)
        state, sums = step(state, batches[t], table)
        mean = np.array([sums[f"gate_{e}"][0] / sums[f"gate_{e}"][1] for e in (0, 1)])
        np.testing.assert_allclose(state.task_state.usage, mean, rtol=1e-6)
        of_batch = float(sums["loss_balance"][0] / sums["loss_balance"][1])
        assert of_batch == pytest.approx(mean @ np.log(before), rel=1e-5)
    config.model.experts = config.model.experts[1:]  # one has nothing to balance
    assert StateInit(RankingTask(config, tiny.layout, 0.5, 4, 40)).abstract().task_state.usage == ()


@pytest.mark.parametrize(
    ("microbatch", "share", "parts"),
    [(64, 64, 1), (0, 64, 1), (0, 1024, 4), (20, 64, 4), (3, 7, 7), (99, 64, 1)],
)
def test_parts_divide_a_share_and_hold_no_more_than_asked(tiny, tiny_config, microbatch, share, parts):
    config = copy.deepcopy(tiny_config)
    config.train.microbatch_size = microbatch
    assert RankingTask(config, tiny.layout, 0.5, 4, 40).microbatches(share) == parts
