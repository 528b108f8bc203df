"""Gradients of heads: products against a gradient for each head, statistics, refusals."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import evaluate as command
from jaxrec.config.schema import Head, Objective
from jaxrec.core.errors import InputError
from jaxrec.evaluation import evaluator
from jaxrec.evaluation.details import gradients
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.ranking import RankingTask

GENRES = {"of": "title:genres", "on": "state", "loss": "softmax", "weight": 3.0}


@pytest.fixture(scope="module")
def task(small_config, tiny):
    """A task of a click head and two heads of the state on the same categories, with learned weights."""
    config = copy.deepcopy(small_config)
    config.model.head, config.model.head_hidden, config.model.matcher_product = "matcher", (8,), True
    config.objective = Objective(
        ranking=0.0, regression=0.0, weighting="uncertainty", heads=(Head("x", **GENRES), Head("y", **GENRES))
    )
    config.model.features = ("title_id", "segment")
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


def plain(task, runner, params, table, rows):
    """Return the gradients of the mean losses of two heads, [batches, heads, N]."""

    def loss(params, host, head):
        queries = ranking_inputs.queries(host.words, task.view, host.packing)
        batch = ranking_inputs.validation(queries, host.valid, task.config.sampling.next_k)
        sums = task.batch_loss(params, batch, table, 1.0, None)[1]
        return jnp.stack([total / count for total, count in (sums["loss_ctr"], sums["loss_x"])])[head]

    gradient, batches, own = jax.jit(jax.grad(loss)), runner._batches(rows), ("matcher", "product", "state_")

    def shared(t, head):
        tree = gradient(params, batches[t]._replace(place=None), head)
        kept = {name: x for name, x in tree.items() if not name.startswith(own)}
        assert len(tree) - len(kept) == 4
        return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(kept)])

    return np.array([[shared(t, head) for head in (0, 1)] for t in range(len(batches))])


def test_statistics_are_those_of_a_gradient_for_each_head(task, tiny):
    """A head that is a copy of another has the cosine 1 with it, exactly."""
    values, table = np.random.default_rng(0), replicate(tiny.arrays.title_table())
    params = dict(
        jax.tree.map(lambda x: values.normal(0, 0.2, x.shape).astype(x.dtype), task.abstract_params)
    )
    params["state_y"] = params["state_x"]
    rows = tiny.rows("validation")
    loaded = SimpleNamespace(task=task, params=params)
    queries = SimpleNamespace(loaded=loaded, table=table, dataset=tiny)
    assert evaluator._gradients(queries, evaluator.EvaluationOptions()) == {}
    made = evaluator._gradients(queries, evaluator.EvaluationOptions(gradients=True))["gradients"]
    g = plain(task, gradients.HeadGradients(task, table, rows), params, table, rows)
    assert (made["split"], made["heads"]) == ("validation", ["ctr", "x", "y"])
    assert (made["batches"], made["batch_size"]) == (len(g), 64 * jax.device_count())
    assert 1 < len(g) < gradients.BATCHES  # as many as there are
    norm = np.linalg.norm(g, axis=2)
    cosine = (g[:, 0] * g[:, 1]).sum(1) / norm.prod(1)
    np.testing.assert_allclose(np.array(made["norm"])[:2], norm.mean(0), rtol=1e-5)
    np.testing.assert_allclose(made["norm_error"][0], norm[:, 0].std(ddof=1) / len(g) ** 0.5, rtol=1e-4)
    assert made["cosine"][0][1] == pytest.approx(cosine.mean(), abs=1e-6)
    assert made["cosine_error"][0][1] == pytest.approx(cosine.std(ddof=1) / len(g) ** 0.5, rel=1e-4)
    assert abs(cosine).max() < 0.99
    assert made["cosine"][1][2] == 1 and made["cosine_error"][1][2] == 0
    assert [made["cosine"][i][i] for i in range(3)] == [1, 1, 1]


def test_a_batch_without_a_gradient_has_no_cosine():
    products = np.array([
        [[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
        [[1.0, 1.5, 0.0], [1.5, 9.0, 0.0], [0.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    ])  # fmt: skip
    made = gradients.gradient_statistics(products)
    assert made["cosine"][0][:2] == [1, 0.5] and made["cosine_error"][0][:2] == [0, 0]
    assert np.isnan(made["cosine"][2]).all() and np.isnan(made["cosine_error"][2]).all()
    np.testing.assert_allclose(made["norm"], [4 / 3, 4 / 3, 0])
    np.testing.assert_allclose(made["norm_error"], [1 / 3, np.std([1, 3, 0], ddof=1) / 3**0.5, 0])


def test_models_of_one_head_and_split_tables_are_refused(task, small_config, tiny):
    one = RankingTask(small_config, tiny.layout, 0.5, 4, 40)
    with pytest.raises(
        InputError, match=r"^gradients: 'small' trains ctr alone; allowed: a ranking model of"
    ):
        gradients.check_heads(one)
    sequences = NextItemTask(small_config, tiny.layout, 0.5, 4, 40)
    with pytest.raises(
        InputError, match=r"^gradients: 'small' is a next-item model; allowed: a ranking model"
    ):
        gradients.check_heads(sequences)
    split = copy.deepcopy(task.config)
    split.model.item_table_sharding = "split"
    with pytest.raises(
        InputError, match=r"^gradients: model.item_table_sharding='split'; allowed: replicated"
    ):
        gradients.check_heads(replace(task, config=split))


class _Stopped(Exception):
    """Ends a command at the call that is observed."""


def test_the_flag_asks_for_gradients_before_anything_is_scored(tiny_run, monkeypatch):
    def stop(task, table, rows):
        assert len(task.compared_heads) > 1
        raise _Stopped

    monkeypatch.setattr(evaluator, "HeadGradients", stop)
    args = SimpleNamespace(
        split="test", lists=[], next_k=[], heads=False, seen=None, retrieve=0, diversity=0.0,
        report_users=None, blend="", which=None, out="", verify=False, per_user=False, gradients=True,
        session=[], delay_hours=[], slices=[], against="", reward_models="", segments="",
    )  # fmt: skip
    with pytest.raises(_Stopped):
        command._evaluate_on_host(args, tiny_run / "run", None)
