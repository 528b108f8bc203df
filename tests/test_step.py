"""The step's ways to the same gradients: histories packed or not, a batch at once or part by part."""

import copy

import jax
import numpy as np
import pytest

from jaxrec import parallel
from jaxrec.loop import training_batches
from jaxrec.step import Program


def gradients(tiny, config, microbatch, pack):
    config = copy.deepcopy(config)
    config.model.dtype, config.train.microbatch = "float64", microbatch
    program = Program(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(program, tiny.rows("train"))[1]
    assert batch.packing is not None
    if not pack:
        batch = batch._replace(packing=None)

    def step(state, batch, table):
        return program.gradients(state, batch, table)

    state, table = parallel.replicate(program.init()), parallel.replicate(tiny.arrays.title_table())
    return jax.device_get(parallel.map_over_devices(step)(state, batch, table))


def test_packing_and_parts_change_nothing(tiny, tiny_config):
    with jax.enable_x64(True):
        plain, sums = gradients(tiny, tiny_config, 64, pack=False)
        for microbatch in (64, 16):
            found, other = gradients(tiny, tiny_config, microbatch, pack=True)
            for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
                np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
            assert other["loss"][1] == sums["loss"][1] == 64
            assert other["loss"][0] == pytest.approx(sums["loss"][0], rel=1e-12)


def test_a_balanced_gate_is_pulled_to_what_the_step_before_used_least(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.objective.balance, config.train.microbatch, config.model.gate.noise = 0.5, 16, 0.0
    program = Program(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batches, table = training_batches(program, tiny.rows("train")), tiny.arrays.title_table()
    step, table = parallel.map_over_devices(program.train_step), parallel.replicate(table)
    state = parallel.replicate(program.init())
    np.testing.assert_allclose(state.usage, [0.5, 0.5])
    for t in range(2):
        before = np.asarray(state.usage)
        state, sums = step(state, batches[t], table)
        mean = np.array([sums[f"gate_{e}"][0] / sums[f"gate_{e}"][1] for e in (0, 1)])
        np.testing.assert_allclose(state.usage, mean, rtol=1e-6)
        of_batch = float(sums["loss_balance"][0] / sums["loss_balance"][1])
        assert of_batch == pytest.approx(mean @ np.log(before), rel=1e-5)
    config.model.experts = config.model.experts[1:]  # one has nothing to balance
    assert Program(config, tiny.layout, 0.5, 4, 40).abstract_state().usage == ()


@pytest.mark.parametrize(
    ("microbatch", "share", "parts"),
    [(64, 64, 1), (0, 64, 1), (0, 1024, 4), (20, 64, 4), (3, 7, 7), (99, 64, 1)],
)
def test_parts_divide_a_share_and_hold_no_more_than_asked(tiny, tiny_config, microbatch, share, parts):
    config = copy.deepcopy(tiny_config)
    config.train.microbatch = microbatch
    assert Program(config, tiny.layout, 0.5, 4, 40).parts(share) == parts
