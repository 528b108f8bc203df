"""The peers' steps (SASRec, GRU4Rec, HSTU): histories packed or not, the catalogue projected once or not."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Objective
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def peers(tiny_config):
    """All in one model, which compiles once."""
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


def test_packing_and_parts_change_nothing(tiny, tiny_config):
    config = peers(tiny_config)

    def gradients(microbatch, pack):
        config.train.microbatch_size = microbatch
        program = RankingTask(copy.deepcopy(config), tiny.layout, 0.5, 4, 40)
        assert program.projects_once(64)
        batch = training_batches(program, tiny.rows("train"))[1]
        assert batch.packing is not None and len(batch.packing.titles) < len(batch.words)
        batch = batch if pack else batch._replace(packing=None)
        state, table = mesh.replicate(StateInit(program).init()), mesh.replicate(tiny.arrays.title_table())

        def step(state, batch, table):
            return TrainStep(program).gradients(state, batch, table)

        return jax.device_get(parallel_step.parallelize_step(step)(state, batch, table))

    with jax.enable_x64(True):
        plain, sums = gradients(64, pack=False)
        packed, other = gradients(32, pack=True)
    learned = {name: g for name, g in plain.items() if name.startswith("expert")}
    assert len(learned) == 3 and all(np.any(g) for g in jax.tree.leaves(learned))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert other["loss"][0] == pytest.approx(sums["loss"][0], rel=1e-12)
