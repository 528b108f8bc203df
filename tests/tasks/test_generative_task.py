"""Generative task: its loss by hand, trained positions, overfitting, devices, beams of recommendations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.codes.residual_codes import random_codes
from jaxrec.codes.trie import build_trie
from jaxrec.config.schema import (
    Codes,
    Config,
    Evaluate,
    Expert,
    Feature,
    Model,
    Optimizer,
    Post,
    Sampling,
    Task,
    Train,
)
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.generative.places import draw_places
from jaxrec.tasks.generative.task import GenerativeTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

V, L, B = 30, 4, 8
PLAYS = 2 * (L + 1)
FEATURE = FeatureSpec("title_id", "category", "title", 8, V)
LAYOUT = Layout(V, L, 1, (0, 0, 0, 0), 0, (FEATURE,), "next_item")
TRIE = build_trie(random_codes(V - 2, 2, 4, 0).tokens, np.arange(2, V), V, 4)
TABLE = TitleTable(
    jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32), trie=jax.tree.map(jnp.asarray, TRIE)
)


def make_task(microbatch=0, dropout=0.0, places=L, experts=1, post=None):
    config = Config(
        features=(Feature("title_id", "category", "title", 8),),
        task=Task("generative"),
        codes=Codes(levels=2, size=4, places=places, decoder=1, experts=experts, beam=5),
        sampling=Sampling(id_dropout=0.0),
        model=Model(
            width=8, experts=(Expert(L, 1, 2, 1.0, dropout, "gru4rec"),), dropout=dropout, head="dot",
            embedding_init_std=0.3,
        ),
        optimizer=Optimizer(learning_rate=0.02, weight_decay=0.0, plateau_factor=1.0),
        train=Train(batch_size=B, microbatch_size=microbatch),
        evaluate=Evaluate(next_k=(1,)),
        post=post or Post(),
    )  # fmt: skip
    return GenerativeTask(config, replace(LAYOUT, pairs=post is not None), 0.5, 10, 100)


def batch(seed=0, valid=B):
    rng = np.random.default_rng(seed)
    rows = np.zeros(B, LAYOUT.row_dtype())
    for row in rows:
        n = rng.integers(2, PLAYS + 1)
        row["title"][-n:] = 2 + rng.permutation(V - 2)[:n]
        row["time"][-n:] = np.sort(rng.integers(1e9, 1.1e9, n))
    return rows, HostBatch(as_words(rows), np.arange(B) < valid)


def queries():
    rows = np.zeros(B, LAYOUT.query_dtype())
    rng = np.random.default_rng(1)
    for row in rows:
        n = rng.integers(1, L + 1)
        row["history_title"][-n:] = 2 + rng.permutation(V - 2)[:n]
    return HostBatch(as_words(rows), np.ones(B, bool))


def gradients(task, state, host, devices=1):
    """Return gradients and sums with rows that go round robin to the microbatches of all devices."""
    count = devices * task.microbatches(B // devices)
    shares = jax.tree.map(lambda x: np.moveaxis(x.reshape(B // count, count, *x.shape[1:]), 1, 0), host)
    shares = jax.tree.map(lambda x: x.reshape(devices, B // devices, *x.shape[2:]), shares)
    mapped = jax.vmap(TrainStep(task).gradients, in_axes=(None, 0, None), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, shares, TABLE))


def test_drawn_places_are_different_positions_with_a_next_title():
    target = jnp.array([[0, 0, 5, 6, 7], [0, 0, 0, 0, 9], [1, 2, 3, 4, 5]]) * jnp.ones((300, 1, 1), jnp.int32)
    target = target.reshape(-1, 5)
    key = jnp.stack([jnp.arange(900, dtype=jnp.uint32)] * 2, 1)
    places = jax.jit(draw_places, static_argnums=1)(target, 2, key)
    position, chosen = np.asarray(places.position), np.asarray(places.target)
    assert (position[:, 0] != position[:, 1]).all()
    assert (chosen == np.take_along_axis(np.asarray(target), position, 1)).all()
    assert (chosen[0::3] > 0).all() and (chosen[2::3] > 0).all()
    assert ((chosen[1::3] > 0).sum(1) == 1).all()
    counts = np.bincount(position[2::3].reshape(-1), minlength=5)
    assert (abs(counts - 120) < 5 * (300 * 0.4 * 0.6) ** 0.5).all()


def test_the_first_loss_is_that_of_equal_probabilities_of_children():
    rows, host = batch(valid=B - 1)
    task = make_task()
    state = StateInit(task).init()
    _, sums = gradients(task, state, host)
    title = rows["title"][: B - 1, -(L + 1) :]
    targets = title[:, 1:][title[:, :-1] > 0]
    node, parent, expected = TRIE.node[targets], np.zeros(len(targets), int), 0.0
    for level, child in zip(TRIE.levels, node.T, strict=True):
        expected += np.log(level.first[parent + 1] - level.first[parent]).sum()
        parent = child
    assert int(sums["loss"][1]) == len(targets)
    assert float(sums["loss"][0]) == pytest.approx(expected, rel=0.02)
    levels = sum(float(sums[f"loss_level_{i}"][0]) for i in (1, 2, 3))
    assert levels == pytest.approx(float(sums["loss"][0]), rel=1e-5)


def test_the_first_loss_of_pairs_is_that_of_equal_log_ratios():
    post = Post("dpo", beta=0.7, eta=0.5, rest=0.25, candidates="best")
    task, plain = make_task(places=1, dropout=0.5, post=post), batch()[0]
    rows = np.zeros(B, task.layout.row_dtype())
    for name in plain.dtype.names:
        rows[name] = plain[name]
    for row in rows[: B // 2]:  # a pair at the newest play, which is the target of the last position
        row["pair_winner"][-1], row["pair_loser"][-1] = [t for t in range(2, V) if t not in row["title"]][:2]
    host = HostBatch(as_words(rows), np.ones(B, bool))
    params = StateInit(task).init().params
    keys = jnp.stack([jnp.arange(B, dtype=jnp.uint32)] * 2, 1)

    @jax.jit
    def loss(params, reference):
        return task.loss(params, host, TABLE, (), 0, keys, None, task.with_kept(None, reference, None, TABLE))

    total, sums = loss(params, params)
    assert int(sums["margin"][1]) == B // 2 and abs(float(sums["margin"][0])) < 1e-5
    count, nll = int(sums["nll"][1]), float(sums["nll"][0])
    assert float(sums["loss"][1]) == B // 2 + 0.25 * (count - B // 2)
    assert float(total) == pytest.approx(B // 2 * np.log(2) + 0.375 * nll, rel=0.1)
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    _, sums = loss(moved, params)
    margin = float(sums["margin"][0])
    assert abs(margin) > 0.1
    assert margin != pytest.approx(float(sums["log_pi_winner"][0] - sums["log_pi_loser"][0]), abs=0.05)
    with pytest.raises(InputError, match="the dataset's rows have none"):
        replace(task, layout=LAYOUT).check()


def test_generative_gradients_do_not_depend_on_devices_and_microbatches():
    _, host = batch(valid=B - 1)
    results = []
    for devices, microbatch in ((1, B), (2, 2)):
        task = make_task(microbatch, dropout=0.2, places=2)
        results.append(gradients(task, StateInit(task).init(), host, devices))
    (one, sums), (many, other) = results
    for name in sums:
        np.testing.assert_allclose(other[name], sums[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()) + 1e-9)


def test_the_load_of_the_experts_is_that_of_trained_tokens():
    _, host = batch(valid=1)
    task, key = make_task(experts=3), jnp.zeros((B, 2), jnp.uint32)
    params = StateInit(task).init().params
    loss = jax.jit(lambda p, host: task.loss(p, host, TABLE, (), 0, key, None, None)[1])
    sums = loss(params, host)
    load = [float(sums[f"expert_load_{e}"][0]) for e in range(3)]
    trained = float(sums["loss"][1])  # positions of the one valid row, each with three tokens and two experts
    assert sum(load) == float(sums["expert_load_0"][1]) == trained * 3 * 2 > 0
    assert max(load) <= trained * 3


def test_a_batch_of_codes_overfits():
    _, host = batch()
    task = make_task()
    state = StateInit(task).init()
    step = TrainStep(task)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0, None), axis_name=AXIS))
    host = jax.tree.map(lambda x: x[None], host)
    for _ in range(150):
        states, sums = mapped(state, host, TABLE)
        state = jax.tree.map(lambda x: x[0], states)
    assert float(sums["loss"][0][0] / sums["loss"][1][0]) < 0.15


def test_recommendations_are_the_titles_of_the_beams_with_their_exact_scores():
    task = make_task()
    params, host = StateInit(task).init().params, queries()
    exact, beams, policy = jax.jit(
        lambda p: (
            task.score_all_titles(p, host, TABLE).by_head["next_item"],
            task.encode_queries(p, host, TABLE),
            task.policy_logits(p, host, TABLE),
        )
    )(params)
    exact, beams = np.asarray(exact), np.asarray(beams)
    assert (np.asarray(policy) == exact).all()
    np.testing.assert_allclose(np.exp(exact[:, 2:]).sum(1), 1.0, atol=1e-5)
    of_beam = np.isfinite(beams)
    assert (of_beam.sum(1) == 5).all() and not of_beam[:, :2].any()
    np.testing.assert_allclose(beams[of_beam], exact[of_beam], atol=1e-5)
    ids = jnp.array([7, 3, 29])
    assert (np.asarray(task.score_titles(params, beams, TABLE, "", ids)) == beams[:, ids]).all()
    assert task.dot_heads == () and task.catalogue_heads == ("next_item",)
