"""Changing task weights: by hand, in a step, and across a checkpoint."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.config.schema import Objective, Optimizer
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.losses import ranking, task_weights
from jaxrec.models.outputs import RankingOutput
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import optimizer
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def test_uncertainty_weights_start_from_the_fixed_weights():
    parameters = task_weights.init_log_variances(jnp.array([1.0, 0.2]))
    weights, addend = task_weights.uncertainty_weights(parameters)
    np.testing.assert_allclose(weights, [1.0, 0.2], rtol=1e-6)
    assert float(addend) == pytest.approx(np.log(5.0) / 2)


def test_averaged_weights_by_hand():
    # last / before = 1/2 and 2: the softmax of 1/4 and 1 is 1 / (1 + e^.75) = .3208213 and its complement;
    # multiplied by 2 and by the fixed weights
    averages = task_weights.LossAverages(jnp.zeros(2), jnp.float32(0), jnp.array([[0.3, 0.8], [0.6, 0.4]]))
    fixed = jnp.array([1.0, 0.2])
    actual = task_weights.averaged_weights(averages, jnp.int32(2), fixed)
    np.testing.assert_allclose(actual, [0.6416426, 0.2 * 1.3583574], rtol=1e-6)
    for epoch in (0, 1):
        np.testing.assert_array_equal(task_weights.averaged_weights(averages, jnp.int32(epoch), fixed), fixed)


def test_epoch_means_shift_at_the_end_of_an_epoch():
    averages = task_weights.init_averages(2)
    for step, (total, count) in enumerate([((4.0, 2.0), 4), ((2.0, 0.0), 2), ((9.0, 3.0), 3)]):
        averages = task_weights.update_averages(
            averages, jnp.array(total), jnp.int32(count), jnp.bool_(step > 0)
        )
    np.testing.assert_allclose(averages.means, [[3.0, 1.0], [1.0, 1 / 3]])  # 9/3, 3/3; 6/6, 2/6
    assert float(averages.total.sum()) == float(averages.examples) == 0.0


def test_entropy_term_keeps_its_weight():
    scores = {"ctr": jnp.zeros((1, 3))}
    c = ranking.CandidateLoss(
        jnp.ones((1, 1), bool), jnp.ones((1, 1)), jnp.ones((1, 2), bool), jnp.zeros((1, 2), bool)
    )
    config = Objective(ranking=0.0, regression=0.0, personalised=False, soft_on="none")
    weights = {"ctr": jnp.float32(3.0), "ranking": jnp.float32(5.0)}
    gate = jnp.array([[0.9, 0.1]])
    total, terms = ranking.per_example(
        RankingOutput(scores, gate, gate), c, config, (1.0,), 0.5, 0.52, weights
    )
    np.testing.assert_allclose(total, 3 * np.log(2) + 0.1 * terms["entropy"], rtol=1e-6)


@pytest.mark.parametrize("decay", ["decoupled", "coupled"])
def test_log_variances_do_not_decay(decay):
    params = {"weighting": {"log_variance": jnp.ones(3)}, "kernel": jnp.ones(3)}
    config = Optimizer(weight_decay=0.5, weight_decay_mode=decay)
    after, _ = optimizer.step(
        config, jax.tree.map(jnp.zeros_like, params), optimizer.make(config).init(params), params,
        value=0.0, fresh=False,
    )  # fmt: skip
    assert np.all(after["kernel"] < 1) and np.all(after["weighting"]["log_variance"] == 1)


def make_task(tiny, tiny_config, weighting):
    config = copy.deepcopy(tiny_config)
    config.objective.weighting, config.train.microbatch_size = weighting, 64
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 2, 40)


def test_log_variances_learn_and_do_not_change_the_validation_loss(tiny, tiny_config):
    task = make_task(tiny, tiny_config, "uncertainty")
    table = mesh.replicate(tiny.arrays.title_table())
    batch = training_batches(task, tiny.rows("train"))[0]
    state = mesh.replicate(StateInit(task).init())
    step = parallel_step.parallelize_step(lambda *args: TrainStep(task).gradients(*args))
    grads, sums = jax.device_get(step(state, batch, table))
    means = {name: s / n for name, (s, n) in sums.items()}
    # derivative of exp(-s) L + s / 2 by s
    expected = [0.5 - w * means[f"loss_{t}"] for t, w in (("ctr", 1), ("ranking", 1), ("regression", 0.2))]
    np.testing.assert_allclose(grads["weighting"]["log_variance"], expected, rtol=1e-4)
    total = 1 * means["loss_ctr"] + means["loss_ranking"] + 0.2 * means["loss_regression"]
    assert means["loss"] == pytest.approx(total + 0.1 * means["loss_entropy"] + np.log(5) / 2, rel=1e-5)

    params = mesh.replicate(StateInit(task).init().params)
    scorer = ListScorer(task, table, with_loss=True, next_k=1)
    before = scorer(params, tiny.rows("validation")).sums
    changed = params | {"weighting": {"log_variance": params["weighting"]["log_variance"] + 1.0}}
    after = scorer(changed, tiny.rows("validation")).sums
    assert before["loss"] == after["loss"] and before["loss"][0] > 0


@pytest.mark.slow
def test_averaging_resumes_bit_for_bit(tiny, tiny_config, tmp_path):
    task = make_task(tiny, tiny_config, "averaging")
    batches, table = training_batches(task, tiny.rows("train")), tiny.arrays.title_table()
    step, table = parallel_step.parallelize_step(TrainStep(task)), mesh.replicate(table)

    def run_steps(state, start, stop):
        for t in range(start, stop):
            state, sums = step(state, batches[t], table)
        return state, {name: float(s / n) for name, (s, n) in jax.device_get(sums).items()}

    state, first = run_steps(mesh.replicate(StateInit(task).init()), 0, 3)
    assert first["weight_regression"] == pytest.approx(0.2)
    with Checkpointer(tmp_path / "checkpoints", writing=True) as checkpoints:
        checkpoints.save(3, state, {}, {})
        checkpoints.wait()
        restored = checkpoints.restore(
            "last", with_shardings(StateInit(task).abstract(), mesh.replicated_sharding())
        )
    assert float(restored.task_state.averages.examples) == 64  # in the middle of an epoch
    expected, after = run_steps(state, 3, 6)
    actual, _ = run_steps(restored, 3, 6)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(expected), jax.device_get(actual))
    weights = [after[f"weight_{name}"] for name in ("ctr", "ranking", "regression")]
    last = task_weights.averaged_weights(
        expected.task_state.averages, jnp.int32(3), task.fixed_weights
    )  # of the next epoch
    assert weights[0] + weights[1] + 5 * weights[2] == pytest.approx(3.0, rel=1e-5)
    assert not np.allclose(weights, [1.0, 1.0, 0.2], rtol=1e-4) and not np.allclose(weights, last, rtol=1e-4)
