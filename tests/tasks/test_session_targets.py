"""Sessions as targets of the generative task: ends, filter by the median reward, recommendations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Label, Reward, Term
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import as_words
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.generative.sessions import middle_reward, sessions_of
from jaxrec.tasks.generative.task import GenerativeTask
from jaxrec.training.train_state import StateInit
from tests.tasks.test_generative_task import LAYOUT, TABLE, B, L, V, gradients, make_task

STORED = dataclasses.replace(LAYOUT, labels=("stars",))


def make_session_task(reward="stars", microbatch=0):
    config = make_task(microbatch, places=2).config
    config.codes.titles, config.codes.gap_hours, config.codes.reward = 3, 1.0, reward
    config.labels = (Label("stars", "last", "rating"),)
    config.rewards = (Reward("stars", (Term("stars"),), base=0.0),)
    return GenerativeTask(config, STORED, 0.5, 10, 100)


def rows_of():
    """Return rows of ten plays, half an hour apart but for long breaks, with rewards that grow by row."""
    rng, rows = np.random.default_rng(0), np.zeros(B, STORED.row_dtype())
    for i, row in enumerate(rows):
        n = row["title"].size
        row["title"] = 2 + rng.permutation(V - 2)[:n]
        row["time"] = 1_000_000_000 + np.cumsum(rng.choice([1800, 9000], n, p=[0.7, 0.3]))
        row["label"], row["label_known"] = 1.0 + i / 2, 1
    return rows


def test_a_session_ends_at_a_long_gap_a_repeated_title_and_the_last_play():
    title = jnp.array([[0, 5, 6, 5, 7, 8]])
    time = jnp.array([[0, 100, 200, 300, 5000, 5100]], jnp.uint32)
    reward, known = jnp.array([[0.0, 1, 2, 6, 4, 5]]), jnp.array([[0, 1, 1, 0, 1, 1]], bool)
    out = sessions_of(title, time, (reward, known), 3, 1000.0)
    assert out.title[0].tolist() == [[0, 0, 0], [5, 6, 0], [6, 5, 0], [5, 0, 0], [7, 8, 0], [8, 0, 0]]
    assert out.mean[0].tolist() == [-np.inf, 1.5, 2.0, -np.inf, 4.5, 5.0]


def test_the_sessions_of_the_upper_half_are_trained():
    task, rows = make_session_task(), rows_of()
    host = HostBatch(as_words(rows), np.arange(B) < B - 2)
    middle = jax.vmap(lambda _: middle_reward(host, STORED, task.config), axis_name=AXIS)(jnp.zeros(1))
    assert float(middle[0]) == 2.5  # of the six valid rows, 1 to 3.5, the upper middle
    key = jnp.stack([jnp.arange(B, dtype=jnp.uint32)] * 2, 1)
    windows, places, sums = jax.jit(task._targets)(host, key, middle[0])
    target = np.asarray(places.target)
    assert target.shape == (B, 2, 3)
    assert (target[3:6, :, 0] > 0).all() and not target[:3].any() and not target[6:].any()
    assert (target[3:6, :, 1] > 0).any() and (target[3:6, :, 1] == 0).any()
    assert (np.asarray(windows.target)[3:6, None] == target[3:6, :, :1]).any(-1).all()
    assert [int(x) for x in sums["sessions_kept"]] == [3 * L, 6 * L]


def test_gradients_of_sessions_do_not_depend_on_devices_and_microbatches():
    host, results = HostBatch(as_words(rows_of()), np.arange(B) < B - 1), []
    for devices, microbatch in ((1, B), (2, 2)):
        task = make_session_task(microbatch=microbatch)
        results.append(gradients(task, StateInit(task).init(), host, devices))
    (one, sums), (many, other) = results
    for name in sums:
        np.testing.assert_allclose(other[name], sums[name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()) + 1e-9)


def test_a_session_is_recommended_in_its_order():
    task = make_session_task("")
    rows = np.zeros(B, STORED.query_dtype())
    rows["history_title"] = [2 + np.random.default_rng(i).permutation(V - 2)[:L] for i in range(B)]
    params, host = StateInit(task).init().params, HostBatch(as_words(rows), np.ones(B, bool))
    best, scores = jax.jit(lambda p: (task.sessions(p, host, TABLE), task.encode_queries(p, host, TABLE)))(
        params
    )
    order = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :3]
    assert (order == np.asarray(best.id_BxWxm)[:, 0]).all()
    assert (np.isfinite(scores).sum(1) == 3).all()


def test_a_reward_without_its_label_is_refused():
    task = make_session_task()
    task.check()
    bare = GenerativeTask(task.config, LAYOUT, 0.5, 10, 100)
    with pytest.raises(InputError, match=r"codes.reward='stars' reads label 'stars', but the dataset's rows"):
        bare.check()
