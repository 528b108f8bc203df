"""Steps with the retrieval head: what it draws is the example's, whatever part of a batch that is in."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def gradients(tiny, tiny_config, microbatch, width, weight):
    """Of a first step, and its sums."""
    config = copy.deepcopy(tiny_config)
    config.model.dtype, config.train.microbatch_size = "float64", microbatch
    config.model.retrieval_dim, config.objective.retrieval = width, weight
    config.objective.retrieval_negatives = 4
    program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(program, tiny.rows("train"))[1]
    state, table = mesh.replicate(StateInit(program).init()), mesh.replicate(tiny.arrays.title_table())
    return jax.device_get(
        parallel_step.parallelize_step(lambda *given: TrainStep(program).gradients(*given))(
            state, batch, table
        )
    )


def test_parts_and_the_head_change_nothing_else(tiny, tiny_config):
    with jax.enable_x64(True):
        plain, sums = gradients(tiny, tiny_config, 64, 6, 0.5)
        in_parts, found = gradients(tiny, tiny_config, 16, 6, 0.5)
        without, others = gradients(tiny, tiny_config, 16, 0, 0.0)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(in_parts), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert found["loss_retrieval"][0] == pytest.approx(sums["loss_retrieval"][0], rel=1e-12)
    assert np.any(plain["retrieval"]["user"])
    # What is drawn for it is drawn from numbers of its own: the other terms are those of no such head.
    assert "retrieval" not in without and "loss_retrieval" not in others
    for term in ("ctr", "ranking", "regression", "entropy"):
        assert found[f"loss_{term}"][0] == pytest.approx(others[f"loss_{term}"][0], rel=1e-12)
