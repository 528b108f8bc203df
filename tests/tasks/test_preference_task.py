"""Preference task: rewards of positions, baselines, weights, gradients on several devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import (
    Config,
    Evaluate,
    Expert,
    Feature,
    Label,
    Model,
    NextItem,
    Optimizer,
    Post,
    Reward,
    Sampling,
    Task,
    Term,
    Train,
)
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.generative.policy import Policy
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.preference import inputs
from jaxrec.tasks.preference.head_losses import bootstrap_weights
from jaxrec.tasks.preference.task import PreferenceTask
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

V, L, B = 30, 4, 8
PLAYS = 2 * (L + 1)
FEATURE = FeatureSpec("title_id", "category", "title", 8, V)
LAYOUT = Layout(V, L, 1, (0, 0, 0, 0), 0, (FEATURE,), "next_item", ("stars",))
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))


def make_task(post=None, microbatch=0, window="latest", dropout=0.0, task="preference"):
    config = Config(
        features=(Feature("title_id", "category", "title", 8),),
        labels=(Label("stars", "count"),),
        rewards=(Reward("stars", (Term("stars"),), base=0.0),),
        task=Task(task),
        post=post or Post(reward="stars"),
        sampling=Sampling(id_dropout=0.0, window=window),
        model=Model(
            width=8, experts=(Expert(L, 1, 2, 1.0, dropout, "gru4rec"),), dropout=dropout, head="dot",
            head_hidden=(6,), embedding_init_std=0.3,
        ),
        next_item=NextItem(),
        optimizer=Optimizer(learning_rate=0.02, weight_decay=0.0, plateau_factor=1.0),
        train=Train(batch_size=B, microbatch_size=microbatch),
        evaluate=Evaluate(checkpoint="last", next_k=(1,)),
    )  # fmt: skip
    kind = PreferenceTask if task == "preference" else NextItemTask
    return kind(config, LAYOUT, 0.5, 10, 100)


def batch(seed=0, valid=B):
    rng = np.random.default_rng(seed)
    rows = np.zeros(B, LAYOUT.row_dtype())
    for i, row in enumerate(rows):
        n = rng.integers(2, PLAYS + 1)
        row["user"] = i
        row["title"][-n:] = 2 + rng.permutation(V - 2)[:n]
        row["time"][-n:] = np.sort(rng.integers(1e9, 1.1e9, n))
        row["label"][-n:, 0] = rng.integers(1, 6, n)
        row["label_known"][-n:] = rng.random(n) < 0.8
    return rows, HostBatch(as_words(rows), np.arange(B) < valid)


def gradients(task, state, host, devices=1):
    """Return gradients and sums with rows that go round robin to the microbatches of all devices."""
    count = devices * task.microbatches(B // devices)
    shares = jax.tree.map(lambda x: np.moveaxis(x.reshape(B // count, count, *x.shape[1:]), 1, 0), host)
    shares = jax.tree.map(lambda x: x.reshape(devices, B // devices, *x.shape[2:]), shares)
    mapped = jax.vmap(TrainStep(task).gradients, in_axes=(None, 0, None), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, shares, TABLE))


def test_rewards_of_positions_are_those_of_the_next_title():
    rows, host = batch()
    task = make_task()
    x = inputs.training(host.words, LAYOUT, task.config, L, jnp.zeros((B, 2), jnp.uint32))
    for b, row in enumerate(rows):
        known = (row["label_known"] & 1).astype(bool) & (row["title"] > 0)
        for t in range(L):
            play = PLAYS - L + t  # the stored play that is the target of position t
            has_target = row["title"][play - 1] > 0
            assert bool(x.known[b, t]) == bool(known[play] and has_target)
            if x.known[b, t]:
                assert x.reward[b, t] == row["label"][play, 0]
            assert float(x.earlier_count[b, t]) == known[:play].sum()
            assert float(x.earlier_sum[b, t]) == row["label"][:play, 0][known[:play]].sum()
            played = set(np.asarray(x.played[b, t]).tolist()) - {0}
            assert played == set(row["title"][:play].tolist()) - {0}
            assert int(x.windows.target[b, t]) not in played - {0}


POSTS = {
    "bc": Post(reward="stars", reward_models=2),
    "reward": Post("reward", "stars"),
    "user": Post("exponential", "stars", baseline="user", beta=2.0),
    "title": Post("exponential", "stars", baseline="title", beta=2.0),
    "value": Post("exponential", "stars", beta=2.0),
    "soft": Post("exponential", "stars", baseline="soft", beta=2.0),
    "cql": Post("cql", "stars", alpha=0.5, tau=0.5),
    "ensemble": Post("exponential", "stars", "ensemble", reward_models=3, beta=2.0),
}


@pytest.mark.parametrize("name", ["bc", "value", pytest.param("ensemble", marks=pytest.mark.slow)])
def test_preference_gradients_do_not_depend_on_devices_and_microbatches(name):
    _, host = batch(valid=B - 1)
    results = []
    for devices, microbatch in ((1, B), (2, 2)):
        task = make_task(POSTS[name], microbatch, window="random", dropout=0.2)
        state = StateInit(task).init()
        results.append(gradients(task, state, host, devices))
    (one, sums), (many, other) = results
    np.testing.assert_allclose(other["loss"][0], sums["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(other["loss"][1], sums["loss"][1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()))


def test_the_preference_loss_is_the_weighted_mean_over_positions():
    rows, host = batch()
    task = make_task(Post("exponential", "stars", baseline="user", beta=2.0, clip=1.5))
    state = StateInit(task).init()
    grads, sums = gradients(task, state, host)
    x = inputs.training(host.words, LAYOUT, task.config, L, jnp.zeros((B, 2), jnp.uint32))
    known = (rows["label_known"] & 1).astype(bool) & (rows["title"] > 0)
    mean = rows["label"][..., 0][known].mean(dtype=np.float64)
    baseline = (np.asarray(x.earlier_sum) + 3 * mean) / (np.asarray(x.earlier_count) + 3)
    weight = np.where(x.known, np.minimum(np.exp((np.asarray(x.reward) - baseline) / 2.0), 1.5), 0)
    (t_VxD,) = task.project_titles(state.params, TABLE)
    h = task.model.apply({"params": state.params}, x.windows.window, (t_VxD,))
    logits = np.array(h @ t_VxD.T, np.float64)
    logits[..., :2] = -np.inf
    for b, t in np.ndindex(B, L):
        logits[b, t, [i for i in np.asarray(x.played[b, t]) if i]] = -np.inf
    target = np.asarray(x.windows.target)
    log_z = np.log(np.exp(logits).sum(-1))
    loss = log_z - np.take_along_axis(logits, target[..., None], -1)[..., 0]
    np.testing.assert_allclose(sums["loss"][1], weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"][0], (weight * np.where(weight > 0, loss, 0)).sum(), rtol=1e-5)
    clipped = (weight == 1.5) & np.asarray(x.known)
    assert int(sums["clipped"][0]) == clipped.sum() > 0
    _, sums = task.update_task_state((), state.params, state.step, dict(sums))
    share, positions = sums["effective_share"]
    np.testing.assert_allclose(share, weight.sum() ** 2 / (weight**2).sum(), rtol=1e-5)
    assert int(positions) == (target > 0).sum()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_q_of_a_policy_is_tau_times_its_logits_around_the_mean_reward():
    rows, host = batch()
    task = make_task(POSTS["cql"])
    task.config.next_item.temperature = 0.7
    state = StateInit(task).init()
    _, sums = gradients(task, state, host)
    x = inputs.training(host.words, LAYOUT, task.config, L, jnp.zeros((B, 2), jnp.uint32))
    known = (rows["label_known"] & 1).astype(bool) & (rows["title"] > 0)
    (t_VxD,) = task.project_titles(state.params, TABLE)
    h = task.model.apply({"params": state.params}, x.windows.window, (t_VxD,))
    q = rows["label"][..., 0][known].mean(dtype=np.float64) + 0.5 * np.array(h @ t_VxD.T, np.float64) / 0.7
    of_target = np.take_along_axis(q, np.asarray(x.windows.target)[..., None], -1)[..., 0]
    q[..., :2] = -np.inf
    for b, t in np.ndindex(B, L):
        q[b, t, [i for i in np.asarray(x.played[b, t]) if i]] = -np.inf
    conservative = np.log(np.exp(q).sum(-1)) - of_target
    loss = 0.5 * (of_target - np.asarray(x.reward)) ** 2 + 0.5 * conservative
    np.testing.assert_allclose(sums["loss"][0], loss[np.asarray(x.known)].sum(), rtol=1e-5)
    assert float(sums["loss"][1]) == np.asarray(x.known).sum()


def test_a_sum_of_weights_below_1_divides_the_gradient():
    _, host = batch()
    reward = Reward("stars", (Term("stars"),), base=-5.0, low=-4.0, high=0.0)
    post = Post("exponential", "stars", baseline="zero", beta=0.5)
    grads = []
    for declared in (reward, dataclasses.replace(reward, base=-25.0, low=-24.0, high=-20.0)):
        task = make_task(post)
        task.config.rewards = (declared,)
        of_reward, sums = gradients(task, StateInit(task).init(), host)
        grads.append(of_reward)
    assert float(sums["loss"][1]) < 1e-12  # the weights of the second are e^-40 times those of the first
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * float(jnp.abs(a).max()))


@pytest.mark.parametrize("name", ["value", "soft"])
def test_a_preference_value_does_not_read_the_choice(name):
    """Neither another title at a position, its reward and its time nor the titles after it change V there."""
    rows, host = batch()
    task = make_task(POSTS[name])
    params = StateInit(task).init().params
    context = jax.vmap(task.device_context, (None, None, 0, None), axis_name=AXIS)(
        (), 0, jax.tree.map(lambda x: x[None], host), TABLE
    )
    context = jax.tree.map(lambda x: x[0], context)
    projections = task.project_titles(params, TABLE)

    def baseline(rows, projections=projections):
        x = inputs.training(as_words(rows), LAYOUT, task.config, L, jnp.zeros((B, 2), jnp.uint32))
        return task._heads(params, x, projections, None, context).baseline

    changed = rows.copy()
    changed["title"][:, -1] = 2 + (changed["title"][:, -1] - 1) % (V - 2)
    changed["label"][:, -1] = 6 - changed["label"][:, -1]
    changed["label_known"][:, -1] ^= 1
    before, after = np.asarray(baseline(rows)), np.asarray(baseline(changed))
    assert (before[:, -1] == after[:, -1]).all()
    moved = rows.copy()
    moved["label"][:, -2] = 6 - moved["label"][:, -2]
    moved["label_known"][:, -2] = 1
    assert (np.asarray(baseline(moved))[:, -1] != before[:, -1]).any()  # earlier rewards are read

    def of_choice(title_VxD):
        return baseline(rows, (title_VxD,))[:, -1].sum()

    gradient = np.asarray(jax.grad(of_choice)(projections[0]))
    targets = set(rows["title"][:, -1].tolist()) - set(rows["title"][:, :-1].ravel().tolist())
    assert targets and (gradient[sorted(targets)] == 0).all()
    grads, _ = gradients(task, StateInit(task).init(), host)
    assert np.abs(grads["value"]["hidden_0"]["kernel"]).max() > 0


def test_values_and_reward_models_train_the_encoder_only_if_they_are_told_to():
    _, host = batch()
    post = Post(reward="stars", reward_models=2)
    plain, with_models, deep = (
        make_task(p) for p in (Post(reward="stars"), post, dataclasses.replace(post, reward_gradient=True))
    )
    params = StateInit(with_models).init().params
    results = []
    for task in (plain, with_models, deep):
        state = StateInit(task).init()
        state = state._replace(params={name: params[name] for name in state.params})
        results.append(gradients(task, state, host)[0])
    trunk = [[leaf for name in ("title", "layers") for leaf in jax.tree.leaves(g[name])] for g in results]
    for a, b in zip(trunk[0], trunk[1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(trunk[0], trunk[2], strict=True))


def test_reward_models_learn_from_bootstrap_samples_of_the_users():
    weight = np.asarray(bootstrap_weights(jnp.arange(4000), 4, 0))
    assert weight.shape == (4, 4000) and set(np.unique(weight)) <= set(range(6))
    assert np.abs(weight.mean(1) - 1).max() < 0.07 and np.abs(weight.var(1) - 1).max() < 0.12
    assert np.abs(np.corrcoef(weight) - np.eye(4)).max() < 0.07
    few = np.asarray(bootstrap_weights(jnp.asarray([17, 3]), 4, 0))
    assert (few == weight[:, [17, 3]]).all()  # a function of the user, not of the batch
    assert (np.asarray(bootstrap_weights(jnp.arange(5), 1, 0)) == 1).all()


@pytest.mark.parametrize(
    "name",
    [
        "reward",
        "title",
        pytest.param("cql", marks=pytest.mark.slow),
        pytest.param("ensemble", marks=pytest.mark.slow),
    ],
)
def test_a_preference_objective_overfits_a_batch(name):
    _, host = batch()
    task = make_task(POSTS[name])
    state = StateInit(task).init()
    step = jax.jit(jax.vmap(TrainStep(task), in_axes=(None, 0, None), out_axes=(None, 0), axis_name=AXIS))
    wide, losses = jax.tree.map(lambda x: x[None], host), []
    for _ in range(60):
        state, sums = step(state, wide, TABLE)
        losses.append(float(sums["loss"][0][0] / sums["loss"][1][0]))
    assert name == "cql" or losses[0] == pytest.approx(np.log(V - 2 - L), abs=0.5)
    assert losses[-1] < 0.5 * losses[0]


def test_a_dataset_without_the_label_of_the_reward_is_refused():
    task = make_task(POSTS["value"])
    bare = dataclasses.replace(task, layout=dataclasses.replace(LAYOUT, labels=()))
    with pytest.raises(InputError, match="'stars', but the dataset's rows store no label"):
        bare.check()
    unknown = dataclasses.replace(task, label_shares={"stars": 0.0})
    with pytest.raises(InputError, match="known at none of the training targets"):
        unknown.check()
    assert isinstance(task.model, Policy)
