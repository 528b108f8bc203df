"""Tests of the moving average of the parameters: recursion, validation, checkpoints."""

import copy
import json

import jax
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.runtime import mesh, parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep
from jaxrec.training.trainer import train


@pytest.fixture
def config(small_config, tiny_directory):
    config = copy.deepcopy(small_config)
    config.data.directory = str(tiny_directory)
    config.optimizer.ema_decay, config.train.duration = 0.3, "6 steps"
    return config


def test_the_average_equals_its_recursion(tiny, config):
    with jax.enable_x64(True):
        config.model.dtype = "float64"
        task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 6)
        step = parallel_step.parallelize_step(TrainStep(task))
        state, table = mesh.replicate(StateInit(task).init()), mesh.replicate(tiny.arrays.title_table())
        expected = jax.device_get(state.params)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.eval_params), expected)
        batches = training_batches(task, tiny.rows("train"))
        for t, decay in enumerate((0.1, 2 / 11, 0.25, 0.3)):  # (1 + t) / (10 + t), up to the config's
            state, _ = step(state, batches[t], table)
            params = jax.device_get(state.params)
            expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, params)
        checkpoint = jax.device_get(state.eval_params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), checkpoint, expected
        )


@pytest.mark.slow
def test_the_average_is_validated_saved_and_loaded(tiny, config, tmp_path):
    assert train(config, tiny, tmp_path, PreemptionHandler()) == 6
    checkpoint = load_checkpoint(tmp_path, "last")
    with Checkpointer(tmp_path / CHECKPOINTS) as checkpoints:
        saved = checkpoints.restore(
            "last", with_shardings(StateInit(checkpoint.task).abstract(), mesh.replicated_sharding())
        )
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(checkpoint.params), jax.device_get(saved.average)
    )
    difference = jax.tree.map(lambda a, p: float(np.abs(a - p).max()), saved.average, saved.params)
    assert min(jax.tree.leaves(difference)) > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in reversed(lines) if line["split"] == "validation")
    options = EvaluationOptions(split="validation")
    evaluated = evaluate(tmp_path, options, which="last").result["lists"]
    assert logged["enabled/ndcg@5"] == evaluated["enabled"]["ndcg@5"]
    assert logged["disabled/mrr@5"] == evaluated["disabled"]["mrr@5"]


def test_without_the_average_the_parameters_are_evaluated(tiny, config):
    config.optimizer.ema_decay = 0.0
    state = StateInit(RankingTask(config, tiny.layout, 0.5, 4, 6)).init()
    assert state.average == () and state.eval_params is state.params
