"""Windows of sequences: what is read, what is to be said, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.ids import UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.layers import rng
from jaxrec.tasks import next_item_inputs

LAYOUT = Layout(50, 4, 1, (4, 4, 4, 4), 20, (), "sequences")  # rows of 2 * (4 + 1) plays


def rows(*lengths):
    """Training rows of titles 2, 3, ... at times 100, 200, ..., seen to the title's number / 64."""
    out = np.zeros(len(lengths), LAYOUT.row_dtype())
    for row, n in zip(out, lengths, strict=True):
        row["title"][10 - n :] = np.arange(2, 2 + n)
        row["time"][10 - n :] = 100 * np.arange(1, 1 + n)
        row["completion"][10 - n :] = np.arange(2, 2 + n) / 64
    return jnp.asarray(as_words(out))


def training(words, size=4, random=False, rate=0.0, step=0):
    key = rng.row_keys(0, step, jnp.arange(len(words)))
    return jax.tree.map(np.asarray, next_item_inputs.training(words, LAYOUT, size, random, rate, key))


def test_the_latest_window_by_hand():
    found = training(rows(7, 3, 2))
    assert found.window.title_BxL.tolist() == [[4, 5, 6, 7], [0, 0, 2, 3], [0, 0, 0, 2]]
    assert found.target.tolist() == [[5, 6, 7, 8], [0, 0, 3, 4], [0, 0, 0, 3]]  # of padding there is none
    assert found.window.time_BxL.tolist() == [[300, 400, 500, 600], [0, 0, 100, 200], [0, 0, 0, 100]]
    assert found.window.until_BxL.tolist()[0] == [400, 500, 600, 700]
    np.testing.assert_allclose(found.completion[0], np.array([5, 6, 7, 8]) / 64)


def test_a_shorter_window_is_the_latest_too():
    found = training(rows(7), size=2)
    assert found.window.title_BxL.tolist() == [[6, 7]]
    assert found.target.tolist() == [[7, 8]]


@pytest.mark.parametrize("plays", [2, 5, 6, 8, 10])
def test_random_windows_are_full_where_they_can_be_and_end_anywhere(plays):
    words = jnp.repeat(rows(plays), 2000, axis=0)
    found = training(words, random=True)
    last, full = found.target[:, -1], min(plays - 1, 4)
    assert ((found.target > 0).sum(1) == full).all()
    ends = np.arange(min(plays, 5) + 1, plays + 2)  # titles 2 to plays + 1
    counts = np.array([(last == end).sum() for end in ends])
    assert counts.sum() == 2000
    assert np.abs(counts / 2000 - 1 / len(ends)).max() < 0.04
    there = found.window.title_BxL > 0
    assert (found.target[there] == found.window.title_BxL[there] + 1).all()
    another = training(words, random=True, step=1)
    assert len(ends) == 1 or (another.target[:, -1] != last).any()


def test_what_is_hidden_is_read_as_unknown_and_still_to_be_said():
    words = jnp.repeat(rows(10), 500, axis=0)
    found, shown = training(words, rate=0.25), training(words)
    hidden = found.window.title_BxL == UNKNOWN
    assert abs(hidden.mean() - 0.25) < 0.03
    assert (found.window.title_BxL[~hidden] == shown.window.title_BxL[~hidden]).all()
    np.testing.assert_array_equal(found.target, shown.target)
    assert not (training(jnp.repeat(rows(2), 500, axis=0), rate=0.5).window.title_BxL[:, :-1]).any()


def test_a_query_is_asked_at_its_targets_time():
    row = np.zeros(1, LAYOUT.query_dtype())
    row["target"], row["target_time"] = 9, 900
    row["history_title"], row["history_time"] = [0, 5, 6, 7], [0, 500, 600, 700]
    window, found = next_item_inputs.queries(jnp.asarray(as_words(row)), LAYOUT, 4)
    assert np.asarray(window.title_BxL).tolist() == [[0, 5, 6, 7]]
    assert np.asarray(window.until_BxL).tolist() == [[500, 600, 700, 900]]
    assert found["target"].tolist() == [[9]]
    shorter, _ = next_item_inputs.queries(jnp.asarray(as_words(row)), LAYOUT, 2)
    assert np.asarray(shorter.title_BxL).tolist() == [[6, 7]]
    assert np.asarray(shorter.until_BxL).tolist() == [[700, 900]]


def test_stochastic_length_keeps_the_law_of_the_paper():
    """N = 9 places, alpha = 1.5: 9^.75 = 5.2, so 6 are kept of what is thinned; whole with 27 / n^2."""
    layout, size, alpha, many = Layout(50, 12, 1, (4, 4, 4, 4), 20, (), "sequences"), 9, 1.5, 6000
    assert next_item_inputs.kept_positions(size, alpha) == 6
    for plays in (5, 7, 8, 10):  # a play more than a window's titles
        row = np.zeros(1, layout.row_dtype())
        row["title"][0, -plays:], row["time"][0, -plays:] = np.arange(2, 2 + plays), np.arange(1, 1 + plays)
        words = jnp.repeat(jnp.asarray(as_words(row)), many, axis=0)
        key = rng.row_keys(0, 0, jnp.arange(many))
        aimed = next_item_inputs.training(words, layout, size, False, 0.0, key)
        found, long = jax.tree.map(np.asarray, next_item_inputs.stochastic_length(aimed, alpha, key))
        titles, n = found.window.title_BxL, plays - 1
        there = titles > 0
        assert (np.diff(there.astype(int), axis=1) >= 0).all()  # right-aligned, no gap
        assert (found.target[there] == titles[there] + 1).all()  # the title that came after it
        assert (found.window.until_BxL[there] == found.window.time_BxL[there] + 1).all()
        assert (titles[:, 1:] > titles[:, :-1])[there[:, :-1]].all()  # in their order
        assert (there.sum(1) == np.where(long | (n <= 6), n, 6)).all()
        if n <= 6:
            assert not long.any() and (titles == np.asarray(aimed.window.title_BxL)).all()
            continue
        assert abs(long.mean() - 27 / n**2) < 0.025
        kept = np.array([(titles[~long] == t).any(1).mean() for t in range(2, 2 + n)])
        assert np.abs(kept - 6 / n).max() < 0.03  # each place as likely
