"""Titles that held-out users played, and plays by day: a log worked by hand, and loops over a source."""

import copy
from collections import Counter, defaultdict

import numpy as np
import pytest

from jaxrec.config.schema import Data
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.examples import next_item, seen_titles
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.evaluation_arrays import DailyPlays, SeenTitles
from jaxrec.sources import open_source

DAY = 86_400_000
# User, day since 1970, rank of one of nine titles of 100 minutes, minutes seen; sorted by user, day, title.
#   User 0 plays titles 1 and 2 at one time, abandons title 3, and plays title 0 twice.
#   User 1 has too few titles for a held-out target. User 2 abandons the first of four titles.
EVENTS = [
    (0, 1, 0, 50), (0, 2, 1, 61), (0, 2, 2, 80), (0, 5, 3, 2), (0, 6, 4, 90), (0, 7, 0, 10),
    (1, 1, 5, 100), (1, 3, 6, 70),
    (2, 2, 7, 3), (2, 4, 2, 100), (2, 5, 0, 100), (2, 8, 6, 100),
]  # fmt: skip
ONE_BEFORE_TWO = 1  # seed, by the order of user 0's tie


def build_seen(strictly_earlier, **data):
    user, day, rank, minutes = (np.array(x, np.int64) for x in zip(*EVENTS, strict=True))
    none = np.empty((0, 0))
    hashes = np.arange(70, 73, dtype=np.uint64)
    log = Log(hashes, np.zeros(3, np.int8), user, rank, day * DAY, minutes * 60_000, *4 * (none,))
    catalogue = TitleStats(np.full(9, 100.0), np.arange(2, 11), 3, np.arange(9, dtype=np.uint64))
    settings = Data(seed=ONE_BEFORE_TWO, max_history=4, split="last", validation_share=1.0, **data)
    layout = Layout(11, 4, 1, (0, 0, 0, 0), 0, (), "next_item")
    examples = next_item.build(log, catalogue, layout, settings)
    return examples, seen_titles.build(log, examples, catalogue, settings, strictly_earlier)


def test_a_set_holds_every_title_before_the_query_abandoned_or_not():
    """The history of user 0's test query is 2, 3, 4; title 5 was abandoned. Ids are ranks + 2."""
    examples, seen = build_seen(strictly_earlier=False)
    test = seen["test"]
    assert examples.rows["test"]["target"][:, 0].tolist() == [6, 8]
    assert test.title.tolist() == [2, 3, 4, 5, 6, 9, 4, 2, 8]
    assert test.start.tolist() == [0, 5, 9] and test.num_titles.tolist() == [4, 3]
    assert test.query_time.tolist() == [6 * 86_400, 8 * 86_400]
    assert [a.dtype for a in test] == ["int32", "int64", "uint32", "uint32"]


def test_a_sequence_counts_a_title_that_precedes_the_query_at_the_same_time():
    """The validation query of user 0 is title 4, and title 3 precedes it at the same time."""
    assert build_seen(strictly_earlier=False)[1]["validation"].num_titles.tolist() == [2]
    assert build_seen(strictly_earlier=True)[1]["validation"].num_titles.tolist() == [1]


def test_a_title_that_is_played_again_is_in_the_set_of_its_query():
    examples, seen = build_seen(strictly_earlier=False, targets="any")
    assert examples.rows["test"]["target"][:, 0].tolist() == [2, 8]
    assert seen["test"].title[: seen["test"].num_titles[0]].tolist() == [2, 3, 4, 5, 6]


def test_groups_of_users_are_joined():
    one = SeenTitles(*map(np.array, ([4, 5, 6], [0, 2, 3], [1, 2, 1], [10, 20, 30])))
    two = SeenTitles(*map(np.array, ([7], [0, 0, 1], [1], [40])))
    joined = SeenTitles.concatenate([one, two])
    assert [a.tolist() for a in joined] == [[4, 5, 6, 7], [0, 2, 3, 3, 4], [1, 2, 1, 1], [10, 20, 30, 40]]


def test_daily_plays_by_hand():
    plays = DailyPlays.of_plays(np.array([DAY - 1, DAY, 2 * DAY - 1, 0, -1]), np.array([3, 3, 3, 1, 3]))
    assert [a.tolist() for a in plays] == [[-1, 0, 0, 1], [3, 1, 3, 3], [1, 1, 1, 2]]
    none = DailyPlays.of_plays(np.empty(0, np.int64), np.empty(0, np.int64))
    total = DailyPlays.total([plays, none, plays], np.array([9, 7, 5, 6], np.int32))
    assert [a.tolist() for a in total] == [[-1, 0, 0, 1], [6, 6, 7, 6], [2, 2, 2, 4]]


# ---------------------------------------------------------------- prepared


@pytest.fixture(scope="module")
def log(tiny_config):
    """Return {user: {title key: time in ms of the first play}} of the tiny source."""
    source, out = open_source(tiny_config.source, tiny_config.features), defaultdict(dict)
    keys = source.titles().key
    for chunk in source.interactions():
        for user, title, time in zip(chunk.user.tolist(), keys[chunk.title].tolist(), chunk.time.tolist(),
                                     strict=True):  # fmt: skip
            out[user][title] = min(time, out[user].get(title, time))
    return out


@pytest.fixture(scope="module", params=["ranking users", "ranking time", "next_item last", "next_item time"])
def prepared(request, tiny_config, tiny, log, tmp_path_factory):
    """Return (task, split, dataset)."""
    task, split = request.param.split()
    if (task, split) == ("ranking", "users"):
        return task, split, tiny
    config = copy.deepcopy(tiny_config)
    config.data.split, config.data.validation_share = split, 0.5
    if split == "time":
        times = np.array([time for titles in log.values() for time in titles.values()])
        days = np.quantile(times, [0.5, 0.75]).astype("datetime64[ms]").astype("datetime64[D]")
        config.data.validation_from, config.data.test_from = map(str, days)
    if task == "next_item":
        config.task.name, config.data.num_targets, config.evaluate.next_k = task, 1, (1,)
        config.features = tuple(f for f in config.features if f.where == "title")
    directory = tmp_path_factory.mktemp("seen") / "d"
    prepare(open_source(config.source, config.features), config, str(directory))
    return task, split, Dataset(directory)


def test_the_sets_are_those_of_a_loop_over_the_source(prepared, log):
    task, _, dataset = prepared
    key, more_than_stored = dataset.arrays.title_key, 0
    for split in SPLITS[1:]:
        rows, users, seen = dataset.rows(split).all(), dataset.user_keys(split), dataset.seen_titles(split)
        assert len(seen.start) == len(users) + 1 and len(seen.num_titles) == len(seen.query_time) == len(rows)
        for row, count, time in zip(rows, seen.num_titles, seen.query_time, strict=True):
            first_plays = log[users[row["user"]].item()]
            target = key[row["target"][0] - 2].item()
            now, first = first_plays[target], seen.start[row["user"]]
            ids = seen.title[first : first + count]
            actual = {key[i - 2].item() for i in ids}
            assert len(actual) == count and time == now // 1000 and row["target"][0] not in ids
            earlier = {title for title, played in first_plays.items() if played < now}
            same_time = {title for title, played in first_plays.items() if played == now}
            assert earlier <= actual <= (earlier if task == "ranking" else earlier | same_time)
            assert set(row["history_title"].tolist()) - {0} <= set(ids.tolist())
            more_than_stored += count > dataset.layout.max_history
    assert more_than_stored > 0


def test_daily_plays_are_those_of_a_loop_over_the_source(prepared, log):
    """A user and a title count once.

    With a split by user, plays of training users count; with a split by time, plays of all days.
    """
    _, split, dataset = prepared
    daily, key = dataset.daily_plays(), dataset.arrays.title_key
    assert (np.diff(daily.day.astype(np.int64) * 2**31 + daily.title) > 0).all() and (daily.plays > 0).all()
    totals = np.bincount(daily.title, daily.plays, len(key) + 2)
    if split == "last":
        np.testing.assert_array_equal(totals, dataset.arrays.title_plays)
        return
    held_out = {u for s in SPLITS[1:] for u in dataset.user_keys(s).tolist()} if split == "users" else set()
    expected = Counter(
        (time // DAY, title)
        for user, titles in log.items()
        if user not in held_out
        for title, time in titles.items()
    )
    entries = zip(daily.day.tolist(), key[daily.title - 2].tolist(), daily.plays.tolist(), strict=True)
    assert {(day, title): count for day, title, count in entries} == expected
    if split == "users":
        np.testing.assert_array_equal(totals, dataset.arrays.title_plays)
    else:
        trained = daily.day < dataset.seen_titles("validation").query_time.min() // 86_400
        plays = np.bincount(daily.title[trained], daily.plays[trained], len(key) + 2)
        np.testing.assert_array_equal(plays, dataset.arrays.title_plays)
