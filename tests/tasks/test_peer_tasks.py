"""Tests of steps of SASRec, GRU4Rec and HSTU, with and without packed histories."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Objective
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def make_peer_config(tiny_config):
    """Return a config with all baselines in one model, which compiles once."""
    config = copy.deepcopy(tiny_config)
    config.model.experts = (
        Expert(3, num_layers=2, num_heads=2, mlp_ratio=1.0, dropout=0.1, encoder="sasrec"),
        Expert(8, num_layers=2, num_heads=2, dropout=0.1, encoder="gru4rec"),
        Expert(5, num_layers=2, num_heads=2, dropout=0.1, encoder="hstu"),
    )
    config.model.head, config.model.features, config.model.position = "dot", ("title_id",), "time_gap"
    config.objective = Objective(ranking=0.0, regression=0.0, personalised=False)
    config.model.dtype = "float64"
    return config


@pytest.mark.slow
def test_packing_and_microbatches_do_not_change_gradients(tiny, tiny_config):
    config = make_peer_config(tiny_config)

    def gradients(microbatch, pack):
        config.train.microbatch_size = microbatch
        task = RankingTask(copy.deepcopy(config), tiny.layout, 0.5, 4, 40)
        assert task.projects_once(64)
        batch = training_batches(task, tiny.rows("train"))[1]
        assert batch.packing is not None and len(batch.packing.titles) < len(batch.words)
        batch = batch if pack else batch._replace(packing=None)
        state, table = mesh.replicate(StateInit(task).init()), mesh.replicate(tiny.arrays.title_table())

        def step(state, batch, table):
            return TrainStep(task).gradients(state, batch, table)

        return jax.device_get(parallel_step.parallelize_step(step)(state, batch, table))

    with jax.enable_x64(True):
        plain, sums = gradients(64, pack=False)
        packed, packed_sums = gradients(32, pack=True)
    expert_gradients = {name: g for name, g in plain.items() if name.startswith("expert")}
    assert len(expert_gradients) == 3 and all(np.any(g) for g in jax.tree.leaves(expert_gradients))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert packed_sums["loss"][0] == pytest.approx(sums["loss"][0], rel=1e-12)
