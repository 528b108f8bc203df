"""Distillation: the divergence of scores from those of the run that a run starts from."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import HostBatch
from jaxrec.data.storage.arrays import as_words
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.tasks.loading import build_task


@pytest.fixture(scope="module")
def made(small_config, tiny):
    """A task without dropout, its parameters, a table and a batch of eight rows."""
    config = copy.deepcopy(small_config)
    config.start.workdir, config.objective.distil = "old", 0.5
    config.model.dropout = config.model.experts[0].dropout = config.sampling.id_dropout = 0.0
    task = build_task(config, tiny.layout, 0.5, 4, 8)
    table = tiny.arrays.title_table()
    params = jax.jit(task.init_params)(jax.random.key(0), empty_table(task.layout, task.config))
    host = HostBatch(as_words(tiny.rows("train").all()[:8]), np.arange(8) < 6)
    return task, params, table, host


def loss_of(made, teacher, distil):
    task, params, table, host = made
    task.config.objective.distil = distil
    state = task.init_task_state()._replace(teacher=teacher if distil else ())
    key = jnp.zeros((8, 2), jnp.uint32)
    total, sums = task.loss(params, host, table, state, jnp.int32(0), key, None, None)
    task.config.objective.distil = 0.5
    return float(total), sums


def test_a_model_does_not_diverge_from_itself(made):
    plain, _ = loss_of(made, (), 0.0)
    total, sums = loss_of(made, made[1], 0.5)
    assert total == pytest.approx(plain, rel=1e-6)
    assert float(sums["loss_distil"][0]) == pytest.approx(0.0, abs=1e-5)


def test_the_divergence_is_that_of_the_softmaxes_over_the_candidates(made):
    task, params, table, host = made
    other = jax.jit(task.init_params)(jax.random.key(1), empty_table(task.layout, task.config))
    other = jax.tree.map(lambda x: 3 * x, other)
    plain, _ = loss_of(made, (), 0.0)
    total, sums = loss_of(made, other, 0.5)
    batch = ranking_inputs.training(
        host.words, host.valid, task.view, task.pool_mix, 1, 0, jnp.zeros((8, 2), jnp.uint32), None
    )
    ids = jnp.concatenate([batch.positive, batch.negative], axis=1)
    head = task.default_head
    log_p, log_q = (
        jax.nn.log_softmax(task.model.apply({"params": x}, batch.history, ids, table, 1.0).scores[head])
        for x in (other, params)
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1)[:6].sum()
    assert expected > 0.01
    assert float(sums["loss_distil"][0]) == pytest.approx(float(expected), rel=1e-4)
    assert total - plain == pytest.approx(0.5 * float(expected), rel=1e-4)


def test_the_teacher_gets_no_gradient_and_the_student_one(made):
    task, params, table, host = made
    other = jax.tree.map(lambda x: 2 * x, params)

    def divergence(params, teacher):
        state = task.init_task_state()._replace(teacher=teacher)
        key = jnp.zeros((8, 2), jnp.uint32)
        return task.loss(params, host, table, state, jnp.int32(0), key, None, None)[1]["loss_distil"][0]

    of_student, of_teacher = jax.jit(jax.grad(divergence, argnums=(0, 1)))(params, other)
    assert all((x == 0).all() for x in jax.tree.leaves(of_teacher))
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(of_student)) > 0
