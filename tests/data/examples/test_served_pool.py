"""The pool of titles that were shown at a request: windows, targets, copies and draws, worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.config.schema import Config, Signal
from jaxrec.core.hashing import of_keys
from jaxrec.data.examples.user_pools import ShownTitles, served_pool
from jaxrec.data.signals.records import record_dtype

# Plays of user 0 at 100 s, 200 s and 200 s, and of user 1 at 200 s; times are in milliseconds.
LOG = SimpleNamespace(user=np.array([0, 0, 0, 1]), time=np.array([100, 200, 200, 200]) * 1000)
STATES = SimpleNamespace(start=np.array([0, 1, 1, 3]), user_start=np.array([0, 0, 0, 3]))
# User 0 was shown 7 and 8 at the first play, 5 in between, and 6, 6, 9 and the target 4 at the second.
TIMES = np.array([100, 100, 150, 200, 200, 200, 200, 199]) * 1000
RANKS, USERS = np.array([7, 8, 5, 6, 6, 9, 4, 3]), np.array([0] * 7 + [1])


def pool(query, window=0, width=4, targets=(4,)):
    shown = ShownTitles(USERS, RANKS, TIMES, 1000 * window)
    query = np.array(query)
    key = of_keys(np.arange(len(query)))
    return served_pool(shown, LOG, STATES, query, np.array([targets] * len(query)), key, width)


@pytest.mark.parametrize(
    ("query", "window", "expected"),
    [(1, 0, {6, 9}), (1, 49, {6, 9}), (1, 50, {5, 6, 9}), (1, 1000, {5, 6, 9}), (3, 0, set()), (3, 1, {3})],
)
def test_impressions_belong_to_the_next_play_within_the_window(query, window, expected):
    (row,) = pool([query], window)
    assert set(row[: len(expected)]) == expected
    assert (row[len(expected) :] == -1).all()


def test_the_first_play_of_a_user_has_its_impressions_too():
    (row,) = pool([0], 1000)
    assert set(row[:2]) == {7, 8} and (row[2:] == -1).all()


def test_no_target_of_the_row_is_served():
    (row,) = pool([1], 50, targets=(4, 9))
    assert set(row[:2]) == {5, 6} and (row[2:] == -1).all()


def test_a_narrow_pool_is_a_uniform_draw_without_copies():
    drawn = pool([1] * 3000, 50, width=2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    share = np.bincount(drawn.ravel(), minlength=10)[[5, 6, 9]] / len(drawn)
    assert np.abs(share - 2 / 3).max() < 4 * np.sqrt(2 / 9 / len(drawn))  # 6, shown twice, is not more likely


def test_impressions_of_titles_outside_the_catalogue_are_left_out():
    """Row 1 has no rank yet: its impression is none of another query's."""
    signals = (Signal("impression", column="shown"),)
    records = np.zeros(3, record_dtype(signals))
    records["user"], records["title"], records["time"] = 7, [0, 1, 2], [1000, 2000, 3000]
    log = SimpleNamespace(hash=np.array([7], np.uint64))
    shown = ShownTitles.of_partition(Config(signals=signals), log, records, np.array([4, -1, 3]))
    assert shown.rank.tolist() == [4, 3] and shown.time.tolist() == [1000, 3000]
    assert shown.user.tolist() == [0, 0]
