"""Tests of steps with the retrieval head: draws do not depend on microbatches."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def gradients(tiny, tiny_config, microbatch, width, weight):
    """Return gradients and metric sums of a first step."""
    config = copy.deepcopy(tiny_config)
    config.model.dtype, config.train.microbatch_size = "float64", microbatch
    config.model.retrieval_dim, config.objective.retrieval = width, weight
    config.objective.retrieval_negatives = 4
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(task, tiny.rows("train"))[1]
    state, table = mesh.replicate(StateInit(task).init()), mesh.replicate(tiny.arrays.title_table())
    return jax.device_get(
        parallel_step.parallelize_step(lambda *arguments: TrainStep(task).gradients(*arguments))(
            state, batch, table
        )
    )


@pytest.mark.slow
def test_microbatches_and_the_head_change_no_other_term(tiny, tiny_config):
    with jax.enable_x64(True):
        plain, sums = gradients(tiny, tiny_config, 64, 6, 0.5)
        by_microbatch, microbatch_sums = gradients(tiny, tiny_config, 16, 6, 0.5)
        without, sums_without = gradients(tiny, tiny_config, 16, 0, 0.0)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(by_microbatch), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert microbatch_sums["loss_retrieval"][0] == pytest.approx(sums["loss_retrieval"][0], rel=1e-12)
    assert np.any(plain["retrieval"]["user"])
    # The head's draws have their own layer id, so the other terms equal those of a model without the head.
    assert "retrieval" not in without and "loss_retrieval" not in sums_without
    for term in ("ctr", "ranking", "regression", "entropy"):
        assert microbatch_sums[f"loss_{term}"][0] == pytest.approx(sums_without[f"loss_{term}"][0], rel=1e-12)
