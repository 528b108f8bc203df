"""Objectives that compare the policy with fixed ones: draws of ppo, pairs of dpo and ipo, kept parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_preference_task import AXIS, LAYOUT, PLAYS, TABLE, B, L, V, batch, gradients, make_task

from jaxrec.config.schema import Post, Start
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.generative.policy import Facts
from jaxrec.models.layers import rng
from jaxrec.tasks.preference import compared, inputs
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

PAIRED = dataclasses.replace(LAYOUT, pairs=True)
POSTS = {
    "ppo": Post("ppo", "stars", "model", reward_models=2, kappa=0.3, samples=3, refresh=2),
    "grpo": Post("ppo", "stars", "ensemble", "group", reward_models=2, samples=3),
    "dpo": Post("dpo", "stars", beta=0.4, eta=0.2),
    "ipo": Post("ipo", beta=0.4, eta=0.0),
}


def task_of(name, **settings):
    task = make_task(POSTS[name], **settings)
    task.config.start = Start("w")
    if POSTS[name].objective != "ppo":
        task = dataclasses.replace(task, layout=PAIRED)
    return task


def pairs_of(rows):
    """Return rows with a pair at two plays in three: titles that the row does not hold."""
    random = np.random.default_rng(5)
    out = np.zeros(len(rows), PAIRED.row_dtype())
    for name in rows.dtype.names:
        out[name] = rows[name]
    for row in out:
        free = [title for title in range(2, V) if title not in row["title"]] or [2, 3]
        for play in np.flatnonzero(row["title"])[1:]:
            if random.random() < 0.7 and len(free) > 1:
                row["pair_winner"][play], row["pair_loser"][play] = random.choice(free, 2, replace=False)
    return out


def batch_of(name, valid=B):
    rows, host = batch(valid=valid)
    if POSTS[name].objective == "ppo":
        return rows, host
    rows = pairs_of(rows)
    return rows, HostBatch(as_words(rows), host.valid)


def state_of(task, seed=3):
    """Return a state whose current, old and reference parameters differ."""
    state = StateInit(task).init()

    def moved(params, number):
        keys = iter(jax.random.split(jax.random.key(number), len(jax.tree.leaves(params))))
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)

    reference = moved(state.params, seed) if state.reference else ()
    return state._replace(reference=reference, old=moved(state.old, seed + 1) if state.old else ())


@pytest.mark.parametrize("name", ["ppo", "dpo"])
def test_gradients_of_compared_policies_do_not_depend_on_devices_and_microbatches(name):
    _, host = batch_of(name, valid=B - 1)
    results = []
    for devices, microbatch in ((1, B), (2, 2)):
        task = task_of(name, microbatch=microbatch, window="random", dropout=0.2)
        results.append(gradients(task, state_of(task), host, devices))
    (one, sums), (many, other) = results
    for metric, (total, count) in sums.items():
        np.testing.assert_allclose(other[metric][0], total, rtol=1e-4, atol=1e-5, err_msg=metric)
        np.testing.assert_allclose(other[metric][1], count, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * float(jnp.abs(a).max()) + 1e-9)


def outputs_of(task, params, x):
    """Return log probabilities [B, L, V] in float64, and the encoding."""
    (t_VxD,) = task.project_titles(params, TABLE)
    h = task.model.apply({"params": params}, x.windows.window, (t_VxD,))
    logits = np.array(h @ t_VxD.T, np.float64) / task.config.next_item.temperature
    logits[..., :2] = -np.inf
    for b, t in np.ndindex(B, L):
        logits[b, t, [i for i in np.asarray(x.played[b, t]) if i]] = -np.inf
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), compared.Encoded(h, t_VxD)


def windows_of(task, host):
    return inputs.training(host.words, task.layout, task.config, L, jnp.zeros((B, 2), jnp.uint32))


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_loss_of_draws_by_brute_force(name):
    rows, host = batch_of(name)
    task, post = task_of(name), POSTS[name]
    state = state_of(task)
    _, sums = gradients(task, state, host)
    x = windows_of(task, host)
    new, encoded = outputs_of(task, state.params, x)
    old, of_old = outputs_of(task, state.old, x)
    reference, of_reference = outputs_of(task, state.reference, x)
    key = rng.row_keys(task.config.train.seed, 0, jnp.arange(B))
    title, log_old = compared.draw(of_old, x.played, key, 3, task.config.next_item)
    present = np.asarray(x.windows.target) > 0
    np.testing.assert_allclose(
        np.asarray(log_old)[present], np.take_along_axis(old, np.asarray(title), -1)[present], rtol=1e-4
    )
    pair = jnp.broadcast_arrays(of_reference.state[:, :, None], of_reference.title[title])
    models = task.model.apply({"params": state.reference}, *pair, method="rewards")
    known = (rows["label_known"] & 1).astype(bool) & (rows["title"] > 0)
    mean = rows["label"][..., 0][known].mean(dtype=np.float64)
    models = mean + np.asarray(models, np.float64)
    if name == "grpo":
        reward = models.mean(0) - models.std(0)
        spread = reward.std(-1, keepdims=True)
        centred = reward - reward.mean(-1, keepdims=True)
        advantage = np.where(spread > 1e-6, centred / np.maximum(spread, 1e-6), 0.0)  # one title thrice
    else:
        reward = models.mean(0)
        earlier = (np.asarray(x.earlier_sum) + 3 * mean) / (np.asarray(x.earlier_count) + 3) - mean
        facts = (jnp.asarray(earlier), x.earlier_count)
        value = task.model.apply({"params": state.params}, encoded.state, Facts(*facts), method="value")
        value = mean + np.asarray(value, np.float64)
        advantage = reward - value[..., None]
    ratio = np.exp(
        np.take_along_axis(new, np.asarray(title), -1) - np.take_along_axis(old, np.asarray(title), -1)
    )
    gain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage).mean(-1)
    with np.errstate(invalid="ignore"):
        kl = np.where(np.isfinite(new), np.exp(new) * (new - reference), 0.0).sum(-1)
    loss = -gain + post.kappa * kl
    np.testing.assert_allclose(sums["loss"][0], loss[present].sum(), rtol=1e-4, atol=1e-4)
    assert float(sums["loss"][1]) == present.sum()
    np.testing.assert_allclose(sums["reward"][0], reward.mean(-1)[present].sum(), rtol=1e-5)
    binds = (np.clip(ratio, 0.8, 1.2) * advantage < ratio * advantage).mean(-1)
    assert float(sums["clipped"][0]) == pytest.approx(binds[present].sum(), rel=1e-5) and binds.any()
    if post.kappa:
        np.testing.assert_allclose(sums["kl"][0], kl[present].sum(), rtol=1e-4)
        np.testing.assert_allclose(
            sums["value_error"][0], ((value[..., None] - reward) ** 2).mean(-1)[present].sum(), rtol=1e-4
        )


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_the_loss_of_pairs_by_brute_force(name):
    rows, host = batch_of(name)
    task, post = task_of(name), POSTS[name]
    state = state_of(task)
    grads, sums = gradients(task, state, host)
    x = windows_of(task, host)
    new, reference = (outputs_of(task, params, x)[0] for params in (state.params, state.reference))
    losses, margins, of_winners = [], [], []
    for b, t in np.ndindex(B, L):
        play = PLAYS - L + t
        winner, loser = rows[b]["pair_winner"][play], rows[b]["pair_loser"][play]
        if not winner or not rows[b]["title"][play - 1]:
            assert int(x.winner[b, t]) == 0
            continue
        margin = new[b, t, winner] - reference[b, t, winner] - (new[b, t, loser] - reference[b, t, loser])
        own = np.log1p(np.exp(-0.4 * margin)) if name == "dpo" else (margin - 1 / 0.8) ** 2
        losses.append(own - post.eta * new[b, t, rows[b]["title"][play]])
        margins.append(margin)
        of_winners.append(new[b, t, winner])
    assert len(losses) > 5
    np.testing.assert_allclose(sums["loss"][0], np.sum(losses), rtol=1e-4)
    assert float(sums["loss"][1]) == len(losses)
    np.testing.assert_allclose(sums["margin"][0], np.sum(margins), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sums["log_pi_winner"][0], np.sum(of_winners), rtol=1e-4)
    assert int(sums["pairs_in_order"][0]) == (np.array(margins) > 0).sum()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def steps_of(name, count, init=lambda task: StateInit(task).init()):
    task = task_of(name)
    _, host = batch_of(name)
    wide, state = jax.tree.map(lambda x: x[None], host), init(task)
    step = jax.jit(jax.vmap(TrainStep(task), in_axes=(None, 0, None), out_axes=(None, 0), axis_name=AXIS))
    states, metrics = [state], []
    for _ in range(count):
        state, sums = step(state, wide, TABLE)
        states.append(state)
        metrics.append({k: float(a[0] / b[0]) for k, (a, b) in sums.items()})
    return states, metrics


def equal(a, b):
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def test_the_old_policy_is_refreshed_and_the_reference_is_that_of_the_start():
    states, metrics = steps_of("ppo", 5)
    for number, state in enumerate(states):
        assert equal(state.reference, states[0].params)
        assert equal(state.old, states[number - number % 2].params)
    assert not equal(states[2].old, states[0].old)
    assert metrics[0]["clipped"] == 0  # the policy that drew is the policy itself
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-5) and metrics[4]["kl"] > 1e-4


def test_ppo_raises_the_reward_that_it_is_trained_by():
    _, metrics = steps_of("grpo", 40, state_of)
    first, last = (np.mean([m["reward"] for m in part]) for part in (metrics[:8], metrics[-8:]))
    assert last > first + 0.1


def test_dpo_orders_the_pairs_of_a_batch():
    _, metrics = steps_of("dpo", 60)
    assert metrics[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert metrics[-1]["pairs_in_order"] > 0.95 and metrics[-1]["margin"] > 1.0


def test_other_objectives_keep_no_further_parameters():
    for post in (Post(reward="stars"), Post("exponential", "stars"), Post("cql", "stars")):
        state = StateInit(make_task(post)).abstract()
        assert (state.reference, state.anchored, state.old) == ((), (), ())
    dpo = StateInit(task_of("dpo")).abstract()
    assert dpo.old == () and jax.tree.structure(dpo.reference) == jax.tree.structure(dpo.params)


def test_an_objective_of_pairs_on_a_dataset_without_pairs_is_refused():
    task = dataclasses.replace(task_of("dpo"), layout=LAYOUT)
    with pytest.raises(
        InputError, match="'dpo' learns from pairs, but the dataset's rows have none; allowed"
    ):
        task.check()
