"""The moving average of the parameters: what it is, and that it is what validation and a checkpoint judge."""

import copy
import json

import jax
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer, with_shardings
from jaxrec.evaluation.evaluator import CHECKPOINTS, evaluate, load_checkpoint
from jaxrec.runtime import mesh, parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep
from jaxrec.training.trainer import train


@pytest.fixture
def config(tiny_config, tiny_directory):
    config = copy.deepcopy(tiny_config)
    config.data.directory = str(tiny_directory)
    config.optimizer.ema_decay, config.train.duration = 0.3, "6 steps"
    return config


def test_it_is_the_recursion_over_the_steps(tiny, config):
    with jax.enable_x64(True):
        config.model.dtype = "float64"
        program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 6)
        step = parallel_step.parallelize_step(TrainStep(program))
        state, table = mesh.replicate(StateInit(program).init()), mesh.replicate(tiny.arrays.title_table())
        expected = jax.device_get(state.params)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.eval_params), expected)
        batches = training_batches(program, tiny.rows("train"))
        for t, decay in enumerate((0.1, 2 / 11, 0.25, 0.3)):  # (1 + t) / (10 + t), up to the config's
            state, _ = step(state, batches[t], table)
            now = jax.device_get(state.params)
            expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, now)
        found = jax.device_get(state.eval_params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found, expected)


def test_it_is_what_is_validated_kept_and_loaded(tiny, config, tmp_path):
    assert train(config, tiny, tmp_path, PreemptionHandler()) == 6
    found = load_checkpoint(tmp_path, "last")
    with Checkpointer(tmp_path / CHECKPOINTS) as checkpoints:
        kept = checkpoints.restore(
            "last", with_shardings(StateInit(found.task).abstract(), mesh.replicated_sharding())
        )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params), jax.device_get(kept.average))
    apart = jax.tree.map(lambda a, p: float(np.abs(a - p).max()), kept.average, kept.params)
    assert min(jax.tree.leaves(apart)) > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    said = next(line for line in reversed(lines) if line["split"] == "validation")
    judged = evaluate(tmp_path, which="last", split="validation").result["lists"]
    assert said["enabled/ndcg@5"] == judged["enabled"]["ndcg@5"]
    assert said["disabled/mrr@5"] == judged["disabled"]["mrr@5"]


def test_without_it_the_parameters_are_judged(tiny, config):
    config.optimizer.ema_decay = 0.0
    state = StateInit(RankingTask(config, tiny.layout, 0.5, 4, 6)).init()
    assert state.average == () and state.eval_params is state.params
