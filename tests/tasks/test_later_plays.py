"""Tests of the targets of positions from the plays of the next hours: `next_item.horizon_hours`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_next_item_task import LAYOUT, TABLE, B, L, batch, make_task, run_on_devices

from jaxrec.config.schema import NextItem, Sampling
from jaxrec.core.batch import HostBatch
from jaxrec.data.storage.dataset import as_words
from jaxrec.tasks import next_item_inputs
from jaxrec.tasks.inputs.later_plays import LaterPlays, later_plays, target_sets
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

HOUR = 3600
SEVERAL = NextItem(horizon_hours=24.0, half_life_hours=12.0, most=3)


def test_the_next_plays_of_positions_computed_by_hand():
    """Plays after the window count; plays that are not selected and the row's end do not."""
    rows = {
        "title": jnp.array([[0, 2, 3, 4, 5, 6]]),
        "time": jnp.array([[0, 1, 2, 5, 9, 30]], jnp.uint32) * HOUR,
        "completion": jnp.arange(6, dtype=jnp.float32)[None] / 8,
        "selected": jnp.array([[0, 1, 1, 1, 0, 1]], jnp.uint8),
    }
    plays = later_plays(rows, jnp.array([[2, 3, 4]]), 3)
    assert plays.title.tolist() == [[[3, 4, 0], [4, 0, 6], [0, 6, 0]]]
    assert plays.hours[0, 0].tolist() == [0, 3, 7] and plays.hours[0, 1].tolist() == [0, 4, 25]
    assert plays.completion[0, 0].tolist() == [2 / 8, 3 / 8, 4 / 8]


def test_weights_fall_with_time_and_repeats_count_once():
    """Half lives of 12 h; the second play of title 7 counts at the first, and 25 h are beyond the horizon."""
    plays = LaterPlays(
        jnp.array([[[7, 8, 7], [8, 7, 9], [9, 4, 5]]]),
        jnp.array([[[0.0, 12, 24], [0, 24, 25], [0, 1, 2]]]),
        jnp.array([[[0.5, 0.5, 1.0], [1, 0, 1], [0, 0, 0]]]),
    )
    sets, factor = target_sets(plays, jnp.array([[7, 8, 0]]), SEVERAL, 0.5)
    assert sets.title.tolist() == [[[7, 8, 0], [8, 7, 0], [0, 0, 0]]]
    assert sets.weight.tolist() == [[[1, 0.5, 0], [1, 0.25, 0], [0, 0, 0]]]
    assert factor.tolist() == [[1, 1, 0]]
    rewarded = replace(SEVERAL, personalised=True, alpha=12.0)  # rewards: 1 + 12 (completion - .5)
    sets, factor = target_sets(plays, jnp.array([[7, 8, 0]]), rewarded, 0.5)
    assert sets.weight.tolist() == [
        [[7 / 4, 0.5, 0], [7, 0, 0], [0, 0, 0]]
    ]  # the later play of 7 weighs more
    np.testing.assert_allclose(factor, [[2.25 / 1.5, 7 / 1.25, 0]])


def test_without_a_horizon_windows_have_no_later_plays():
    host, key = batch(), jnp.zeros((B, 2), jnp.uint32)
    windows = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, key)
    assert windows.later is None
    with_later = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, key, num_later=3)
    jax.tree.map(np.testing.assert_array_equal, windows, with_later._replace(later=None))
    has_target = windows.target > 0
    np.testing.assert_array_equal(with_later.later.title[..., 0][has_target], windows.target[has_target])


@pytest.mark.parametrize("personalised", [False, True])
def test_the_loss_of_a_step_equals_a_loop_over_later_plays(personalised):
    objective = {"horizon_hours": 900.0, "half_life_hours": 300.0, "most": 4, "personalised": personalised}
    p, host = make_task(**objective), batch(valid=12)
    state = StateInit(p).init()
    _, sums = run_on_devices(1, TrainStep(p).gradients, state, host)
    windows = next_item_inputs.training(host.words, LAYOUT, L, False, 0.0, jnp.zeros((B, 2), jnp.uint32))
    (t_VxD,) = p.project_titles(state.params, TABLE)
    logits = p.model.apply({"params": state.params}, windows.window, (t_VxD,)) @ t_VxD.T
    log_p = np.asarray(jax.nn.log_softmax(logits.at[..., :2].set(-jnp.inf)))
    rows = np.asarray(host.words).view(LAYOUT.row_dtype()).reshape(-1)
    expected, count, several = 0.0, 0, 0
    for b, row in enumerate(rows[:12]):
        for i in range(L):
            at = len(row["title"]) - L + i  # the index of the position's next play
            if row["title"][at - 1] == 0:
                continue
            weight, decay = {}, {}
            for title, time, completion in list(
                zip(row["title"], row["time"], row["completion"], strict=True)
            )[at : at + 4]:
                hours = (int(time) - int(row["time"][at])) / HOUR
                reward = max(1 + float(completion) - 0.5, 0) if personalised else 1.0
                if hours <= 900:
                    weight[title] = max(weight.get(title, 0.0), reward * 2 ** (-hours / 300))
                    decay.setdefault(title, 2 ** (-hours / 300))
            expected -= sum(w * log_p[b, i, t] for t, w in weight.items()) / sum(decay.values())
            count, several = count + 1, several + (len(weight) > 1)
    assert several > 20 and int(sums["loss"][1]) == count
    np.testing.assert_allclose(sums["loss"][0], expected, rtol=1e-4)


def test_stochastic_length_keeps_the_later_plays_of_its_positions():
    rows = np.zeros(64, LAYOUT.row_dtype())
    rows["title"], rows["time"] = np.arange(2, 20), np.arange(18) * HOUR
    key = jax.random.bits(jax.random.key(0), (64, 2), "uint32")
    whole = next_item_inputs.training(as_words(rows), LAYOUT, L, False, 0.0, key, num_later=2)
    windows, _ = next_item_inputs.stochastic_length(whole, 1.5, key)
    present = windows.window.title_BxL > 0
    assert 0 < present.sum() < 64 * L
    expected = np.stack([windows.target, np.where(windows.target < 19, windows.target + 1, 0)], -1)
    np.testing.assert_array_equal(windows.later.title, np.where(present[..., None], expected, 0))


def test_scores_do_not_read_later_plays():
    """A later play changes the loss, and no output: only the loss reads it."""
    p = make_task(horizon_hours=100.0)
    rows = np.zeros(B, LAYOUT.row_dtype())
    rows["title"][:, -4:], rows["time"][:, -4:] = [3, 4, 5, 6], np.arange(4) * HOUR
    other = rows.copy()
    other["title"][:, -1] = 9
    state, key = StateInit(p).init(), jnp.zeros((B, 2), jnp.uint32)
    windows = [
        next_item_inputs.training(as_words(r), LAYOUT, L, False, 0.0, key, num_later=8) for r in (rows, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, windows[0].window, windows[1].window)
    assert (np.asarray(windows[0].later.title[:, -3]) != np.asarray(windows[1].later.title[:, -3])).any()
    losses = [
        run_on_devices(1, TrainStep(p).gradients, state, HostBatch(as_words(r), np.ones(B, bool)))[1]["loss"][
            0
        ]
        for r in (rows, other)
    ]
    assert losses[0] != losses[1]


def test_a_horizon_changes_the_loss_and_not_the_counted_positions():
    """With stochastic length too, whose long windows are computed apart."""
    sampling = Sampling(id_dropout=0.0, stochastic_length=1.9)
    sums = {}
    for horizon in (0.0, 900.0):
        p = make_task(sampling=sampling, horizon_hours=horizon)
        sums[horizon] = run_on_devices(1, TrainStep(p).gradients, StateInit(p).init(), batch())[1]["loss"]
    assert int(sums[0.0][1]) == int(sums[900.0][1]) > 0
    assert float(sums[0.0][0]) != float(sums[900.0][0])
