"""The objective of the titles that were shown: windows of rows, the loss by brute force, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Post
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.arrays import as_words
from jaxrec.models.generative.policy import Facts
from jaxrec.tasks.preference import compared, inputs
from jaxrec.tasks.preference.task import PreferenceTask
from jaxrec.training.train_state import StateInit
from tests.tasks.test_preference_task import LAYOUT, PLAYS, TABLE, B, L, V, batch, gradients, make_task

SHOWN = 3
WITH_SHOWN = dataclasses.replace(LAYOUT, shown=SHOWN)
POST = Post("wbc", "stars")


def make_batch():
    """Return rows in which each play has up to three other titles, some of which were played before."""
    without, host = batch()
    rng, rows = np.random.default_rng(1), np.zeros(B, WITH_SHOWN.row_dtype())
    for name in without.dtype.names:
        rows[name] = without[name]
    for row in rows:
        for play in range(PLAYS):
            others = np.setdiff1d(np.arange(2, V), [row["title"][play]])
            count = rng.integers(0, SHOWN + 1)
            row["shown"][play, :count] = rng.choice(others, count, replace=False)
    return rows, HostBatch(as_words(rows), host.valid)


def task_of(post=POST, layout=WITH_SHOWN):
    return PreferenceTask(make_task(post).config, layout, 0.5, 10, 100)


def windows_of(task, host):
    return inputs.training(host.words, WITH_SHOWN, task.config, L, jnp.zeros((B, 2), jnp.uint32))


def test_a_position_has_what_was_shown_with_its_next_title_and_not_played_before():
    rows, host = make_batch()
    shown, removed = np.asarray(windows_of(task_of(), host).shown), 0
    for b, row in enumerate(rows):
        for t in range(L):
            play = PLAYS - L + t
            expected = set(row["shown"][play].tolist()) if row["title"][play - 1] else set()
            played = set(row["title"][:play].tolist())
            removed += len(expected & played - {0})
            assert set(shown[b, t].tolist()) - {0} == expected - played - {0}
    assert removed > 5 and shown.any()
    assert windows_of(task_of(Post("reward", "stars")), host).shown is None


def test_the_loss_of_what_was_shown_by_brute_force():
    rows, host = make_batch()
    task = task_of()
    state = StateInit(task).init()
    grads, sums = gradients(task, state, host)
    x = windows_of(task, host)
    encoded = compared.encode(
        task.model, state.params, x.windows.window, task.project_titles(state.params, TABLE)
    )
    logits = np.array(encoded.state @ encoded.title.T, np.float64)
    logits[..., :2] = -np.inf
    known = (rows["label_known"] & 1).astype(bool) & (rows["title"] > 0)
    mean = rows["label"][..., 0][known].mean(dtype=np.float64)
    earlier = (np.asarray(x.earlier_sum) + 3 * mean) / (np.asarray(x.earlier_count) + 3) - mean
    facts = Facts(jnp.asarray(earlier, jnp.float32), x.earlier_count)
    offset = np.asarray(
        task.model.apply({"params": state.params}, encoded.state, facts, method="value"), np.float64
    )
    total = weight = 0.0
    for b, t in np.ndindex(B, L):
        others = [i for i in np.asarray(x.shown[b, t]).tolist() if i]
        if not x.known[b, t] or not others:
            continue
        z = logits[b, t].copy()
        z[[i for i in np.asarray(x.played[b, t]) if i]] = -np.inf
        z = z - np.log(np.exp(z).sum()) + offset[b, t]
        reward, target = float(x.reward[b, t]), int(x.windows.target[b, t])
        total += reward * np.log1p(np.exp(-z[target])) + np.log1p(np.exp(z[others])).sum()
        weight += reward + len(others)
    np.testing.assert_allclose(sums["loss"][0], total, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"][1], weight, rtol=1e-6)
    for head in ("title", "value"):  # the policy and the offset learn
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads[head])) > 0


def test_rows_without_shown_titles_are_refused():
    with pytest.raises(InputError, match=r"post.objective='wbc' learns from what was shown, but the dataset"):
        task_of(layout=LAYOUT).check()
    task_of().check()


def test_a_layout_with_shown_titles_is_stored_and_one_without_is_as_before():
    assert Layout.from_json(json.loads(json.dumps(WITH_SHOWN.to_json()))) == WITH_SHOWN
    assert "shown" not in LAYOUT.to_json() and "shown" not in LAYOUT.row_dtype().names
    assert WITH_SHOWN.query_dtype() == LAYOUT.query_dtype()
