"""Tests of sequence windows: inputs, targets and times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Sampling
from jaxrec.core.ids import UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.layers import rng
from jaxrec.tasks import next_item_inputs

LAYOUT = Layout(50, 4, 1, (4, 4, 4, 4), 20, (), "next_item")  # rows of 2 * (4 + 1) plays


def rows(*lengths):
    """Build training rows: ids 2, 3, ..., times 100, 200, ..., completion id / 64."""
    out = np.zeros(len(lengths), LAYOUT.row_dtype())
    for row, n in zip(out, lengths, strict=True):
        row["title"][10 - n :] = np.arange(2, 2 + n)
        row["time"][10 - n :] = 100 * np.arange(1, 1 + n)
        row["completion"][10 - n :] = np.arange(2, 2 + n) / 64
    return jnp.asarray(as_words(out))


def training(words, size=4, random=False, rate=0.0, step=0):
    key = rng.row_keys(0, step, jnp.arange(len(words)))
    return jax.tree.map(np.asarray, next_item_inputs.training(words, LAYOUT, size, random, rate, key))


def test_latest_window_computed_by_hand():
    windows = training(rows(7, 3, 2))
    assert windows.window.title_BxL.tolist() == [[4, 5, 6, 7], [0, 0, 2, 3], [0, 0, 0, 2]]
    assert windows.target.tolist() == [[5, 6, 7, 8], [0, 0, 3, 4], [0, 0, 0, 3]]  # padding has no target
    assert windows.window.time_BxL.tolist() == [[300, 400, 500, 600], [0, 0, 100, 200], [0, 0, 0, 100]]
    assert windows.window.until_BxL.tolist()[0] == [400, 500, 600, 700]
    np.testing.assert_allclose(windows.outcome.completion[0], np.array([5, 6, 7, 8]) / 64)


def test_a_shorter_window_holds_the_latest_plays():
    windows = training(rows(7), size=2)
    assert windows.window.title_BxL.tolist() == [[6, 7]]
    assert windows.target.tolist() == [[7, 8]]


@pytest.mark.parametrize("plays", [2, 5, 6, 8, 10])
def test_random_windows_are_full_and_have_uniform_ends(plays):
    words = jnp.repeat(rows(plays), 2000, axis=0)
    windows = training(words, random=True)
    last, full = windows.target[:, -1], min(plays - 1, 4)
    assert ((windows.target > 0).sum(1) == full).all()
    ends = np.arange(min(plays, 5) + 1, plays + 2)  # titles 2 to plays + 1
    counts = np.array([(last == end).sum() for end in ends])
    assert counts.sum() == 2000
    assert np.abs(counts / 2000 - 1 / len(ends)).max() < 0.04
    present = windows.window.title_BxL > 0
    assert (windows.target[present] == windows.window.title_BxL[present] + 1).all()
    other_step = training(words, random=True, step=1)
    assert len(ends) == 1 or (other_step.target[:, -1] != last).any()


def test_mixed_windows_are_the_latest_with_their_share():
    """Rows of 10 plays have 6 windows of 4 positions: the latest by its share, and by chance."""
    words = jnp.repeat(rows(10), 4000, axis=0)
    ends = training(words, random=0.3).target[:, -1]
    assert set(ends) == set(range(6, 12))
    assert abs((ends == 11).mean() - (0.7 + 0.3 / 6)) < 0.03
    other = np.array([(ends == end).mean() for end in range(6, 11)])
    assert np.abs(other - 0.3 / 6).max() < 0.02
    sampling = Sampling(window="mixed", latest_share=0.75)
    assert next_item_inputs.random_share(sampling) == 0.25


def test_unknown_inputs_keep_their_targets():
    words = jnp.repeat(rows(10), 500, axis=0)
    windows, unmasked = training(words, rate=0.25), training(words)
    hidden = windows.window.title_BxL == UNKNOWN
    assert abs(hidden.mean() - 0.25) < 0.03
    assert (windows.window.title_BxL[~hidden] == unmasked.window.title_BxL[~hidden]).all()
    np.testing.assert_array_equal(windows.target, unmasked.target)
    assert not (training(jnp.repeat(rows(2), 500, axis=0), rate=0.5).window.title_BxL[:, :-1]).any()


def test_the_last_time_of_a_query_is_the_time_of_the_target():
    row = np.zeros(1, LAYOUT.query_dtype())
    row["target"], row["target_time"] = 9, 900
    row["history_title"], row["history_time"] = [0, 5, 6, 7], [0, 500, 600, 700]
    window, fields = next_item_inputs.queries(jnp.asarray(as_words(row)), LAYOUT, 4)
    assert np.asarray(window.title_BxL).tolist() == [[0, 5, 6, 7]]
    assert np.asarray(window.until_BxL).tolist() == [[500, 600, 700, 900]]
    assert fields["target"].tolist() == [[9]]
    shorter, _ = next_item_inputs.queries(jnp.asarray(as_words(row)), LAYOUT, 2)
    assert np.asarray(shorter.title_BxL).tolist() == [[6, 7]]
    assert np.asarray(shorter.until_BxL).tolist() == [[700, 900]]


def test_stochastic_length_has_the_distribution_of_the_paper():
    """N = 9, alpha = 1.5: 6 positions are kept (9^.75 = 5.2); P(whole) is 27 / n^2."""
    layout, size, alpha, num_rows = Layout(50, 12, 1, (4, 4, 4, 4), 20, (), "next_item"), 9, 1.5, 6000
    assert next_item_inputs.kept_positions(size, alpha) == 6
    for plays in (5, 7, 8, 10):  # one play more than the titles of a window
        row = np.zeros(1, layout.row_dtype())
        row["title"][0, -plays:], row["time"][0, -plays:] = np.arange(2, 2 + plays), np.arange(1, 1 + plays)
        words = jnp.repeat(jnp.asarray(as_words(row)), num_rows, axis=0)
        key = rng.row_keys(0, 0, jnp.arange(num_rows))
        full_windows = next_item_inputs.training(words, layout, size, False, 0.0, key)
        windows, long = jax.tree.map(np.asarray, next_item_inputs.stochastic_length(full_windows, alpha, key))
        titles, n = windows.window.title_BxL, plays - 1
        present = titles > 0
        assert (np.diff(present.astype(int), axis=1) >= 0).all()  # right-aligned, no gap
        assert (windows.target[present] == titles[present] + 1).all()  # the next title of the whole window
        assert (windows.window.until_BxL[present] == windows.window.time_BxL[present] + 1).all()
        assert (titles[:, 1:] > titles[:, :-1])[present[:, :-1]].all()  # in order of time
        assert (present.sum(1) == np.where(long | (n <= 6), n, 6)).all()
        if n <= 6:
            assert not long.any() and (titles == np.asarray(full_windows.window.title_BxL)).all()
            continue
        assert abs(long.mean() - 27 / n**2) < 0.025
        kept = np.array([(titles[~long] == t).any(1).mean() for t in range(2, 2 + n)])
        assert np.abs(kept - 6 / n).max() < 0.03  # each position is equally likely
