"""Tests of the target in the sequence: steps by microbatch, and scores by candidate list."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.evaluation.scorers import ListScorer
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def make_task(tiny, tiny_config, microbatch):
    config = copy.deepcopy(tiny_config)
    config.model.target_in_sequence, config.model.dtype = True, "float64"
    config.train.microbatch_size = microbatch
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


@pytest.mark.slow
def test_microbatches_do_not_change_gradients(tiny, tiny_config):
    def gradients(microbatch):
        task = make_task(tiny, tiny_config, microbatch)
        batch = training_batches(task, tiny.rows("train"))[1]
        assert batch.packing is None
        state, table = mesh.replicate(StateInit(task).init()), mesh.replicate(tiny.arrays.title_table())
        step = parallel_step.parallelize_step(lambda *arguments: TrainStep(task).gradients(*arguments))
        return jax.device_get(step(state, batch, table))

    with jax.enable_x64(True):
        (plain, sums), (queries, microbatch_sums) = gradients(64), gradients(16)
    assert np.any(plain["history"]["target"])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(queries), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12 * np.abs(a).max() + 1e-15)
    assert microbatch_sums["loss"][0] == pytest.approx(sums["loss"][0], rel=1e-12)
    assert 0 < sums["gate_entropy"][0] / sums["gate_entropy"][1] < np.log(2)


def test_a_cpu_uses_smaller_microbatches(tiny, tiny_config):
    assert make_task(tiny, tiny_config, 0).microbatches(64) == 4
    assert RankingTask(tiny_config, tiny.layout, 0.5, 4, 40).microbatches(64) == 1


def test_lists_scored_in_groups_equal_lists_scored_together(tiny, tiny_config):
    with jax.enable_x64(True):
        task, rows = make_task(tiny, tiny_config, 0), tiny.rows("test")
        params, table = mesh.replicate(StateInit(task).init().params), tiny.arrays.title_table()
        scores, gate, sums, *_ = ListScorer(task, mesh.replicate(table), with_loss=True, next_k=2)(
            params, rows
        )
        assert scores.shape == (rows.rows, 2, 2, 1 + tiny.layout.negatives)
        assert np.isfinite(sums["loss"][0]) and sums["loss"][1] == rows.rows
        words = rows.read(np.arange(1))[5:9]

        @jax.jit
        def score_together(params, words):
            queries = ranking_inputs.queries(words, task.view)
            ids = queries.candidate[:, :, :2].reshape(len(words), -1)
            out = task.model.apply({"params": params}, queries.history, ids, table, 1.0)
            return out.scores["ranking"], out.clean_gate_BxE, ids > 0

        expected, gates, present = map(np.asarray, score_together(params, words))
    np.testing.assert_allclose(scores[5:9], expected.reshape(4, *scores.shape[1:]), atol=1e-10)
    mean_gates = [gate_CxE[is_present].mean(0) for gate_CxE, is_present in zip(gates, present, strict=True)]
    assert not present.all()
    np.testing.assert_allclose(gate[5:9], mean_gates, atol=1e-7)
