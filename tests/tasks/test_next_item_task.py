"""Training on sequences: what the loss is of, on any number of devices, and that it learns."""

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
LAYOUT = Layout(V, L, 1, (4, 4, 4, 4), 20, (FeatureSpec("title_id", "category", "title", 8, V),), "sequences")
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))


def program(kind="sasrec", dropout=0.0, rate=0.01, sampling=None, train=None, **objective):
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


def on(devices, function, state, host):
    """`function(state, share, table)` of a step, on so many devices in one process: a batch is dealt round
    robin, and collectives are those of `vmap`'s axis."""
    dealt = jax.tree.map(
        lambda x: np.moveaxis(x.reshape(len(x) // devices, devices, *x.shape[1:]), 1, 0), host
    )
    mapped = jax.vmap(function, in_axes=(None, 0, None), out_axes=0, axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, dealt, TABLE))


@pytest.mark.parametrize("kind", ["sasrec", "hstu", "gru4rec"])
def test_the_loss_is_the_mean_of_cross_entropies_over_the_places_that_have_a_next_title(kind):
    p, host = program(kind), batch(valid=12)
    state = StateInit(p).init()
    _, sums = on(1, TrainStep(p).gradients, state, host)
    key = jnp.zeros((B, 2), jnp.uint32)
    aimed = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, key)
    (t_VxD,) = p.project_titles(state.params, TABLE)
    h_BxLxD = p.model.apply({"params": state.params}, aimed.window, (t_VxD,))
    logits = np.asarray(h_BxLxD @ t_VxD.T, np.float64)[..., 2:]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = [
        -logs[b, i, aimed.target[b, i] - 2] for b in range(12) for i in range(L) if aimed.target[b, i] > 0
    ]
    assert int(sums["loss"][1]) == len(wanted)
    np.testing.assert_allclose(sums["loss"][0], np.sum(wanted), rtol=1e-5)


def test_a_personalised_loss_weighs_places_by_eq_13():
    p, host = program(personalised=True, alpha=2.0), batch()
    state = StateInit(p).init()
    _, sums = on(1, TrainStep(p).gradients, state, host)
    aimed = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, jnp.zeros((B, 2), jnp.uint32))
    (t_VxD,) = p.project_titles(state.params, TABLE)
    logits = p.model.apply({"params": state.params}, aimed.window, (t_VxD,)) @ t_VxD.T
    logits = logits.at[..., :2].set(-jnp.inf)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), aimed.target[..., None], axis=-1)[..., 0]
    weight = engagement_weight(aimed.completion, 2.0, 0.5)
    there = aimed.target > 0
    np.testing.assert_allclose(sums["loss"][0], (losses * weight)[there].sum(), rtol=1e-5)
    assert int(sums["loss"][1]) == int(there.sum())  # divided by places, not by weights


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"loss": "sampled_softmax", "negatives": 5, "negative_distribution": "uniform"},
        {
            "loss": "sampled_softmax",
            "negatives": 5,
            "negative_distribution": "in_batch",
            "logq_correction": True,
        },
        {"loss": "gbce", "negatives": 5, "negatives_shared_by": "sequence"},
    ],
    ids=["softmax", "uniform", "in_batch", "sequence"],
)
def test_gradients_are_the_same_on_one_device_and_four_and_in_parts(objective):
    random = Sampling(id_dropout=0.1, window="random")
    host, state = batch(valid=13), StateInit(program(dropout=0.3, **objective)).init()
    found = []
    for devices, most in ((1, B), (1, 4), (4, 4), (4, 2)):
        p = program(
            dropout=0.3, sampling=random, train=Train(batch_size=B, microbatch_size=most), **objective
        )
        found.append(_in_order(p, devices, state, host))
    (grads, sums), *others = found
    assert float(sums["loss"][1]) > 0
    for other, figures in others:
        np.testing.assert_allclose(figures["loss"][0], sums["loss"][0], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()))


def _in_order(p, devices, state, host):
    """Gradients where each device's share is worked through in parts: rows are dealt to devices' parts."""
    shares = devices * p.microbatches(B // devices)
    dealt = jax.tree.map(lambda x: np.moveaxis(x.reshape(B // shares, shares, *x.shape[1:]), 1, 0), host)
    dealt = jax.tree.map(lambda x: x.reshape(devices, B // devices, *x.shape[2:]), dealt)
    mapped = jax.vmap(TrainStep(p).gradients, in_axes=(None, 0, None), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, dealt, TABLE))


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_thinned_windows_give_the_same_apart_and_together(loss, monkeypatch):
    """Long windows with room of their own, and all as long: what is computed is the same."""
    thin = Sampling(id_dropout=0.0, stochastic_length=1.3)
    p = program("hstu", dropout=0.3, sampling=thin, loss=loss, negatives=5)
    host, state, found = batch(valid=13), StateInit(p).init(), []
    for room in (1, 10**6):  # for all windows; for one, so that they are worked out together
        monkeypatch.setattr(next_item, "_LONG_SHARE", room)
        found.append(on(1, TrainStep(p).gradients, state, host))
    (grads, sums), (other, figures) = found
    plain = on(1, TrainStep(program("hstu", dropout=0.3, loss=loss, negatives=5)).gradients, state, host)[1]
    assert 0 < int(sums["loss"][1]) == int(figures["loss"][1]) < int(plain["loss"][1])
    np.testing.assert_allclose(figures["loss"][0], sums["loss"][0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * float(jnp.abs(a).max()))


def test_what_the_batch_is_drawn_from_does_not_know_its_windows():
    """The pool is of the latest windows whatever the rows' keys say, so no device has to ask another."""
    p = program(loss="sampled_softmax", negative_distribution="in_batch")
    pool = on(
        1,
        lambda state, host, table: p.device_context((), state.step, host, table).ids,
        StateInit(p).init(),
        batch(valid=3),
    )
    wanted = next_item_inputs.training(
        batch().words, LAYOUT, L, False, 0.0, jnp.zeros((B, 2), jnp.uint32)
    ).target
    np.testing.assert_array_equal(pool.reshape(B, L)[:3], wanted[:3])
    assert not pool.reshape(B, L)[3:].any()


KINDS, LOSSES = ("sasrec", "hstu", "gru4rec"), ("softmax", "sampled_softmax", "bce", "gbce")
# The default suite has each kind and each loss once: kinds and losses meet in the scores alone.
ONCE = (("sasrec", "sampled_softmax"), ("hstu", "softmax"), ("gru4rec", "bce"), ("sasrec", "gbce"))


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        pytest.param(kind, loss, marks=[] if (kind, loss) in ONCE else [pytest.mark.slow])
        for loss in LOSSES
        for kind in KINDS
    ],
)
def test_a_sequence_is_learnt_by_heart(kind, loss):
    """`pytest -m slow tests/test_sequence_step.py`: every kind with every loss."""
    titles = np.random.default_rng(1).permutation(np.arange(2, 2 + 2 * (L + 1)))
    host = batch(titles=titles)
    p = program(kind, rate=0.03, loss=loss, negatives=10)
    state, step = (
        StateInit(p).init(),
        jax.jit(jax.vmap(TrainStep(p), in_axes=(None, 0, None), axis_name=AXIS)),
    )
    share = jax.tree.map(lambda x: x[None], host)
    losses = []
    for _ in range(200):
        state, sums = jax.tree.map(lambda x: x[0], step(state, share, TABLE))
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
    assert losses[-1] < 0.2 * losses[0], losses[::10]
    assert int(state.step) == 200


def test_the_catalogues_scores_are_of_the_newest_place():
    p = program("hstu")
    rows = np.zeros(3, LAYOUT.query_dtype())
    rows["history_title"], rows["target"] = np.random.default_rng(0).integers(2, V, (3, L)), [[5], [6], [7]]
    rows["history_time"] = np.arange(1, L + 1) * 1000
    rows["target_time"] = 20_000
    state = StateInit(p).init()
    found = p.score_all_titles(state.params, HostBatch(as_words(rows), np.ones(3, bool)), TABLE)
    window, _ = next_item_inputs.queries(as_words(rows), LAYOUT, L)
    (t_VxD,) = p.project_titles(state.params, TABLE)
    wanted = p.model.apply({"params": state.params}, window, (t_VxD,))[:, -1] @ t_VxD.T
    np.testing.assert_allclose(found.scores_BxV, wanted, rtol=1e-5, atol=1e-6)
    assert found.target_B.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(found.seen_BxL, rows["history_title"])


def test_a_config_of_another_window_reads_less():
    p = program()
    p = replace(
        p,
        config=replace(
            p.config, model=replace(p.config.model, experts=(Expert(4, 1, 2, 1.0, encoder="sasrec"),))
        ),
    )
    assert p.size == 4
    assert StateInit(p).init().params["position"].shape == (4, 8)
