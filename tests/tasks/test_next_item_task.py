"""Tests of the next-item task: loss, gradients on several devices, and learning."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Config, Expert, Feature, Model, NextItem, Optimizer, Sampling, Task, Train
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.losses.ranking import engagement_weight
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import next_item, next_item_inputs
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

V, L, B = 40, 8, 16
LAYOUT = Layout(V, L, 1, (4, 4, 4, 4), 20, (FeatureSpec("title_id", "category", "title", 8, V),), "next_item")
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))


def make_task(kind="sasrec", dropout=0.0, rate=0.01, sampling=None, train=None, **objective):
    model = Model(
        width=8, experts=(Expert(L, 1, 2, 1.0, dropout, kind),), dropout=dropout, head="dot",
        embedding_init_std=0.3,
    )  # fmt: skip
    config = Config(
        features=(Feature("title_id", "category", "title", 8),),
        sampling=sampling or Sampling(id_dropout=0.0),
        model=model,
        task=Task(name="next_item"),
        next_item=NextItem(**objective),
        optimizer=Optimizer(learning_rate=rate, weight_decay=0.0),
        train=train or Train(batch_size=B),
    )
    return NextItemTask(config, LAYOUT, 0.5, 10, 100)


def batch(seed=0, valid=B, titles=None):
    rng = np.random.default_rng(seed)
    rows = np.zeros(B, LAYOUT.row_dtype())
    for row in rows:
        n = rng.integers(2, 2 * (L + 1) + 1)
        row["title"][-n:] = rng.integers(2, V, n) if titles is None else titles[:n]
        row["time"][-n:] = np.sort(rng.integers(1e9, 1.1e9, n))
        row["completion"][-n:] = rng.random(n)
    return HostBatch(as_words(rows), np.arange(B) < valid)


def run_on_devices(devices, function, state, host):
    """Run `function(state, per-device batch, table)` of a step on simulated devices.

    The rows of the batch are sharded round robin, and the collectives are those of the axis of `vmap`.
    """
    sharded = jax.tree.map(
        lambda x: np.moveaxis(x.reshape(len(x) // devices, devices, *x.shape[1:]), 1, 0), host
    )
    mapped = jax.vmap(function, in_axes=(None, 0, None), out_axes=0, axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, sharded, TABLE))


@pytest.mark.parametrize("kind", ["sasrec", "hstu", "gru4rec"])
def test_the_loss_is_the_mean_cross_entropy_over_positions_with_a_target(kind):
    p, host = make_task(kind), batch(valid=12)
    state = StateInit(p).init()
    _, sums = run_on_devices(1, TrainStep(p).gradients, state, host)
    key = jnp.zeros((B, 2), jnp.uint32)
    windows = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, key)
    (t_VxD,) = p.project_titles(state.params, TABLE)
    h_BxLxD = p.model.apply({"params": state.params}, windows.window, (t_VxD,))
    logits = np.asarray(h_BxLxD @ t_VxD.T, np.float64)[..., 2:]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [
        -logs[b, i, windows.target[b, i] - 2] for b in range(12) for i in range(L) if windows.target[b, i] > 0
    ]
    assert int(sums["loss"][1]) == len(expected)
    np.testing.assert_allclose(sums["loss"][0], np.sum(expected), rtol=1e-5)


def test_a_personalised_loss_weights_positions_by_eq_13():
    p, host = make_task(personalised=True, alpha=2.0), batch()
    state = StateInit(p).init()
    _, sums = run_on_devices(1, TrainStep(p).gradients, state, host)
    windows = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, jnp.zeros((B, 2), jnp.uint32))
    (t_VxD,) = p.project_titles(state.params, TABLE)
    logits = p.model.apply({"params": state.params}, windows.window, (t_VxD,)) @ t_VxD.T
    logits = logits.at[..., :2].set(-jnp.inf)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), windows.target[..., None], axis=-1)[..., 0]
    weight = engagement_weight(windows.outcome.completion, 2.0, 0.5)
    has_target = windows.target > 0
    np.testing.assert_allclose(sums["loss"][0], (losses * weight)[has_target].sum(), rtol=1e-5)
    assert int(sums["loss"][1]) == int(has_target.sum())  # divided by positions, not by weights


@pytest.mark.parametrize(
    "objective",
    [
        {},
        pytest.param(
            {"loss": "sampled_softmax", "negatives": 5, "negative_distribution": "uniform"},
            marks=pytest.mark.slow,
        ),
        {
            "loss": "sampled_softmax",
            "negatives": 5,
            "negative_distribution": "in_batch",
            "logq_correction": True,
        },
        pytest.param(
            {"loss": "gbce", "negatives": 5, "negatives_shared_by": "sequence"}, marks=pytest.mark.slow
        ),
    ],
    ids=["softmax", "uniform", "in_batch", "sequence"],
)
def test_gradients_do_not_depend_on_devices_and_microbatches(objective):
    random = Sampling(id_dropout=0.1, window="random")
    host, state = batch(valid=13), StateInit(make_task(dropout=0.3, **objective)).init()
    results = []
    for devices, limit in ((1, B), (1, 4), (4, 2)):
        p = make_task(
            dropout=0.3, sampling=random, train=Train(batch_size=B, microbatch_size=limit), **objective
        )
        results.append(gradients_by_microbatch(p, devices, state, host))
    (grads, sums), *remaining = results
    assert float(sums["loss"][1]) > 0
    for other, other_sums in remaining:
        np.testing.assert_allclose(other_sums["loss"][0], sums["loss"][0], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()))


def gradients_by_microbatch(p, devices, state, host):
    """Compute gradients with rows sharded round robin over the microbatches of all devices."""
    count = devices * p.microbatches(B // devices)
    sharded = jax.tree.map(lambda x: np.moveaxis(x.reshape(B // count, count, *x.shape[1:]), 1, 0), host)
    sharded = jax.tree.map(lambda x: x.reshape(devices, B // devices, *x.shape[2:]), sharded)
    mapped = jax.vmap(TrainStep(p).gradients, in_axes=(None, 0, None), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, sharded, TABLE))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_separate_long_windows_give_the_same_gradients(loss, monkeypatch):
    """Separate long windows give the same loss and gradients as all windows at full length."""
    sampling = Sampling(id_dropout=0.0, stochastic_length=1.3)
    p = make_task("hstu", dropout=0.3, sampling=sampling, loss=loss, negatives=5)
    host, state, results = batch(valid=13), StateInit(p).init(), []
    for ratio in (1, 10**6):  # all windows may be long; at most one, so all are computed at full length
        monkeypatch.setattr(next_item, "_LONG_RATIO", ratio)
        results.append(run_on_devices(1, TrainStep(p).gradients, state, host))
    (grads, sums), (other, other_sums) = results
    plain = run_on_devices(
        1, TrainStep(make_task("hstu", dropout=0.3, loss=loss, negatives=5)).gradients, state, host
    )[1]
    assert 0 < int(sums["loss"][1]) == int(other_sums["loss"][1]) < int(plain["loss"][1])
    np.testing.assert_allclose(other_sums["loss"][0], sums["loss"][0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * float(jnp.abs(a).max()))


def test_the_pool_of_a_batch_does_not_depend_on_its_random_windows():
    """The pool holds the latest windows for any keys, so devices need no keys of other devices."""
    p = make_task(loss="sampled_softmax", drawn="in_batch")
    pool = run_on_devices(
        1,
        lambda state, host, table: p.device_context((), state.step, host, table).ids,
        StateInit(p).init(),
        batch(valid=3),
    )
    expected = next_item_inputs.training(
        batch().words, LAYOUT, L, False, 0.0, jnp.zeros((B, 2), jnp.uint32)
    ).target
    np.testing.assert_array_equal(pool.reshape(B, L)[:3], expected[:3])
    assert not pool.reshape(B, L)[3:].any()


# The short form has each encoder and each loss once.
OVERFIT = {
    ("sasrec", "softmax"), ("hstu", "sampled_softmax"), ("gru4rec", "bce"), ("sasrec", "gbce"),
    ("ligr", "softmax"), ("fuxi", "sampled_softmax"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        pytest.param(kind, loss, marks=() if (kind, loss) in OVERFIT else pytest.mark.slow)
        for kind in ("sasrec", "hstu", "gru4rec", "ligr", "fuxi")
        for loss in ("softmax", "sampled_softmax", "bce", "gbce")
    ],
)
def test_a_sequence_overfits(kind, loss):
    titles = np.random.default_rng(1).permutation(np.arange(2, 2 + 2 * (L + 1)))
    host = batch(titles=titles)
    p = make_task(kind, rate=0.03, loss=loss, negatives=10)
    state, step = (
        StateInit(p).init(),
        jax.jit(jax.vmap(TrainStep(p), in_axes=(None, 0, None), axis_name=AXIS)),
    )
    shard = jax.tree.map(lambda x: x[None], host)
    losses = []
    for _ in range(200):
        state, sums = jax.tree.map(lambda x: x[0], step(state, shard, TABLE))
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
    assert losses[-1] < 0.2 * losses[0], losses[::10]
    assert int(state.step) == 200


def test_scores_of_all_titles_are_those_of_the_newest_position():
    p = make_task("hstu")
    rows = np.zeros(3, LAYOUT.query_dtype())
    rows["history_title"], rows["target"] = np.random.default_rng(0).integers(2, V, (3, L)), [[5], [6], [7]]
    rows["history_time"] = np.arange(1, L + 1) * 1000
    rows["target_time"] = 20_000
    state = StateInit(p).init()
    scored = p.score_all_titles(state.params, HostBatch(as_words(rows), np.ones(3, bool)), TABLE)
    window, _ = next_item_inputs.queries(as_words(rows), LAYOUT, L)
    (t_VxD,) = p.project_titles(state.params, TABLE)
    expected = p.model.apply({"params": state.params}, window, (t_VxD,))[:, -1] @ t_VxD.T
    np.testing.assert_allclose(scored.by_head["next_item"], expected, rtol=1e-5, atol=1e-6)
    assert scored.target_B.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(scored.seen_BxL, rows["history_title"])


def test_a_shorter_window_has_fewer_positions():
    p = make_task()
    p = replace(
        p,
        config=replace(
            p.config, model=replace(p.config.model, experts=(Expert(4, 1, 2, 1.0, encoder="sasrec"),))
        ),
    )
    assert p.size == 4
    assert StateInit(p).init().params["position"].shape == (4, 8)
