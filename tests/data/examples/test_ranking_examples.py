"""Ranking examples of a log worked by hand: histories, targets, pools, next titles."""

import numpy as np
import pytest

from jaxrec.config.schema import Data
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import Log, TitleStats, last_plays
from jaxrec.data.examples import ranking

HOUR = 3_600_000
# One user; ranks of six titles of 100 minutes each; minutes seen; hours.
#   t=1 title 0, 50 | t=2 title 1, 1 (abandoned so far) | t=3 title 2, 80 | t=4 title 1 again, 60
#   t=5 title 3, 2 (abandoned for good) | t=5 title 4, 90 (the same time) | t=6 title 5, 100
EVENTS = [(1, 0, 50), (2, 1, 1), (3, 2, 80), (4, 1, 60), (5, 3, 2), (5, 4, 90), (6, 5, 100)]


def make_log(events=EVENTS, user_split=0, users=1):
    time, rank, minutes = (np.array(x, np.int64) for x in zip(*events, strict=True))
    n = len(time)
    return Log(
        np.array([77], np.uint64), np.array([user_split], np.int8), np.zeros(n, np.int64), rank, time * HOUR,
        minutes * 60_000, np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32),
        np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32),
    )  # fmt: skip


def build_examples(user_split=0, events=EVENTS, titles=40, trending=10, **data):
    catalogue = TitleStats(
        np.full(titles, 100.0), np.arange(2, titles + 2), trending, np.arange(titles, dtype=np.uint64)
    )
    settings = Data(max_history=4, hard=4, trending=4, tailing=4, random=2, negatives=20, **data)
    layout = Layout(titles + 2, 4, 3, (4, 4, 4, 2), 20, ())
    return ranking.build(make_log(events, user_split), catalogue, layout, settings)[0]


def test_targets_are_first_plays_of_titles_not_abandoned_with_a_history():
    rows = build_examples().rows["train"]
    # Title 0 has no history; title 1 has 61 of 100 minutes finally; title 3 is abandoned; ids are ranks + 2.
    assert rows["target"].tolist() == [[3, 4, 6], [4, 6, 7], [6, 7, 0], [7, 0, 0]]
    np.testing.assert_allclose(rows["target_completion"][:, 0], [0.61, 0.80, 0.90, 1.0])
    assert rows["position"].tolist() == [0, 1, 2, 3]


def test_any_target_takes_later_plays_too():
    assert build_examples(targets="any").rows["train"]["target"][:, 0].tolist() == [3, 4, 3, 6, 7]


def test_every_target_takes_first_plays_of_abandoned_titles_too():
    rows = build_examples(targets="every").rows["train"]
    assert rows["target"][:, 0].tolist() == [3, 4, 5, 6, 7]  # not the second play of title 1
    np.testing.assert_allclose(rows["target_completion"][:, 0], [0.61, 0.80, 0.02, 0.90, 1.0])


def test_history_is_strictly_earlier_as_of_the_query_with_each_title_once():
    rows = build_examples().rows["train"]
    # At t=3 title 1 has 1 minute; at t=5 title 1 has 61 and is the newest; titles 3 and 4 are both at t=5.
    assert rows["history_title"].tolist() == [[0, 0, 0, 2], [0, 0, 2, 3], [0, 2, 4, 3], [4, 3, 5, 6]]
    np.testing.assert_allclose(rows["history_completion"][1], [0, 0, 0.5, 0.01], atol=1e-3)
    np.testing.assert_allclose(rows["history_completion"][2], [0, 0.5, 0.8, 0.61], atol=1e-3)
    assert rows["history_abandoned"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert rows["history_sessions"].tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 2, 1, 1]]
    np.testing.assert_allclose(rows["history_age"][2], np.log1p([0, 4 * 3600, 2 * 3600, 3600]), rtol=1e-3)


def test_hard_negatives_are_titles_abandoned_before_the_query():
    rows = build_examples().rows["train"]
    real = [sorted(r["pool_hard"][r["pool_hard_filled"] == 0].tolist()) for r in rows]
    assert real == [[], [3], [], [5]]


def test_next_targets_are_no_hard_negatives():
    rows = build_examples(targets="any").rows["train"]
    # At t=3 and t=4 title 1 is abandoned so far, but its play at t=4 is one of the next targets.
    real = [sorted(r["pool_hard"][r["pool_hard_filled"] == 0].tolist()) for r in rows]
    assert real == [[], [], [], [], [5]]


def test_columns_of_an_example_are_distinct_and_never_interacted_with():
    rows = build_examples().rows["train"]
    ranks = np.concatenate([rows[f"pool_{p}"] for p in ("hard", "trending", "tailing", "random")], axis=1)
    seen = {e[1] + 2 for e in EVENTS}
    for row, filled in zip(ranks, rows["pool_hard_filled"], strict=True):
        assert len(set(row.tolist())) == 14
        assert not seen & set(row[4:].tolist())
        assert not seen & set(row[:4][filled == 1].tolist())
    assert (rows["pool_trending"] < 12).all() and (rows["pool_tailing"] >= 12).all()


def test_lists_follow_table_2_and_each_next_title_has_its_own():
    rows = build_examples(user_split=2).rows["test"]
    assert rows["num_hard"].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert rows["list_enabled"][1, 0, 0] == 3  # the hard negative is first
    trending = (rows["list_disabled"] < 12).sum(axis=2)
    # Only 10 - 6 trending titles remain for this user, so the other columns of 10 are filled from random.
    assert (rows["list_disabled"][rows["target"] == 0] == 0).all()
    present = rows["target"] > 0
    assert (trending[present] >= 4).all()
    for lists in (rows["list_enabled"], rows["list_disabled"]):
        assert all(len(set(r.tolist())) == 20 for r in lists[present])
        assert not np.array_equal(lists[0, 0], lists[0, 1])


def test_a_catalogue_with_too_few_titles_gives_no_example():
    made = build_examples(titles=18, trending=4)
    assert len(made.rows["train"]) == 0
    assert made.counts["train examples with too few titles left"] == 4


SPLITS_BY = [
    {"split": "last", "validation_share": 1.0},
    {"split": "time", "validation_from": "1970-01-06", "test_from": "1970-01-07"},  # days 5 and 6
]


@pytest.mark.parametrize("by", SPLITS_BY, ids=lambda by: by["split"])
def test_a_users_targets_in_three_splits(by):
    """Events a day apart: titles 1 and 2 train, 4 is validated, 5 is tested."""
    made = build_examples(user_split=2, events=[(24 * hour, *rest) for hour, *rest in EVENTS], **by)
    assert made.rows["train"]["target"].tolist() == [[3, 4, 0], [4, 0, 0]]
    assert made.rows["validation"]["target"].tolist() == [[6, 0, 0]]
    assert made.rows["test"]["target"].tolist() == [[7, 0, 0]]
    assert made.rows["validation"]["history_title"].tolist() == [[0, 2, 4, 3]]
    assert made.rows["test"]["history_title"].tolist() == [[4, 3, 5, 6]]
    assert [made.users[s].tolist() for s in ("train", "validation", "test")] == [[77]] * 3
    assert all((rows["user"] == 0).all() for rows in made.rows.values())
    # For training, later titles count as not met: 4 of 7 trending titles are drawn for each row.
    rows = made.rows["train"]
    pool_titles = np.concatenate(
        [rows[f"pool_{p}"] for p in ("hard", "trending", "tailing", "random")], axis=1
    )
    assert not {2, 4} & set(pool_titles.flat) and {5, 6, 7} & set(pool_titles.flat)
    held_out_titles = np.concatenate([made.rows[s]["list_disabled"][:, 0] for s in ("validation", "test")])
    assert not {2, 3, 4, 5, 6, 7} & set(held_out_titles.flat)  # the lists exclude the titles of the whole log


@pytest.mark.parametrize("width", [1, 3, 8])
def test_last_plays_equal_a_loop(width):
    rng = np.random.default_rng(0)
    rank = rng.integers(0, 6, 60)
    following = np.full(60, 60)
    for i in range(60):
        later = np.nonzero(rank[i + 1 :] == rank[i])[0]
        following[i] = i + 1 + later[0] if len(later) else 60
    start = np.arange(60)
    past = last_plays(start, np.zeros(60, int), following, width)
    for q in range(60):
        distinct = list(dict.fromkeys(rank[:q][::-1].tolist()))[:width][::-1]
        of_query = past.query == q
        assert rank[past.event[of_query]].tolist() == distinct
        assert past.back[of_query].tolist() == list(range(len(distinct), 0, -1))
        assert (np.diff(past.event[of_query]) > 0).all()
    assert (np.diff(past.query) >= 0).all()
