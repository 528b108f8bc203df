"""Popularity over the catalogue by brute force: with each protocol of seen titles, and of 7 days."""

import copy
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.data.loading import left_out as left_out_module
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.evaluation import popularity
from jaxrec.sources import open_source

DAY = 86_400


def by_brute_force(order, target, left_out, top):
    """Return the rank of a target and the recommended titles, from a list of all titles in order."""
    eligible = [title for title in order if title == target or title not in left_out]
    return 1 + eligible.index(target), (eligible + [0] * top)[:top]


def left_out_sets(left_out, queries):
    sets = [set() for _ in range(queries)]
    for row, title in zip(*left_out.pairs(np.arange(queries)), strict=True):
        sets[row].add(title)
    return sets


@pytest.mark.parametrize("pairs", [2**18, 100])
@pytest.mark.parametrize("seen", ["kept", "stored", "all"])
def test_popularity_over_all_titles_by_brute_force(tiny, seen, pairs, monkeypatch):
    monkeypatch.setattr(left_out_module, "_PAIRS", pairs)
    rows, arrays = tiny.rows("test").all(), tiny.arrays
    rows["history_title"][:, 0] = rows["history_title"][:, -1]  # a sequence may contain a title twice
    left_out, target = left_out_titles(tiny, "test", rows, seen), rows["target"][:, 0]
    titles = len(arrays.id_of_rank)
    sets = left_out_sets(left_out, len(rows))
    for top in (4, titles):  # users with titles left out are not shown all titles
        ranks, shown = popularity.popularity_ranks(target, arrays, left_out, top)
        expected = [
            by_brute_force(list(arrays.id_of_rank), *query, top) for query in zip(target, sets, strict=True)
        ]
        assert [(r, list(s)) for r, s in zip(ranks, shown, strict=True)] == expected


def test_more_titles_left_out_give_better_ranks(tiny):
    rows = tiny.rows("test").all()
    kept, stored, everything = (
        popularity.popularity_ranks(
            rows["target"][:, 0], tiny.arrays, left_out_titles(tiny, "test", rows, seen), 1
        )[0]
        for seen in ("kept", "stored", "all")
    )
    assert (everything <= stored).all() and (stored <= kept).all()
    assert (everything < stored).any() and (stored < kept).any()


def test_popularity_of_7_days_by_hand():
    """Titles 2 to 5, in this order of popularity; plays of days 1, 3, 8 and 9."""
    arrays = SimpleNamespace(rank_of_id=np.array([6, 6, 0, 1, 2, 3]), id_of_rank=np.array([2, 3, 4, 5]))
    daily = DailyPlays(*map(np.array, ([1, 3, 3, 8, 9], [5, 4, 5, 3, 2], [2, 1, 1, 2, 9])))
    times = np.array([9 * DAY, 9 * DAY + 5, 8 * DAY, DAY, 8 * DAY - 1])
    target = np.array([3, 5, 5, 5, 3])
    ranks, top = popularity.recent_popularity_ranks(target, times, daily, arrays, LeftOutTitles.nothing(5), 4)
    # Day 9 counts days 2 to 8: title 3 twice, 4 and 5 once. Day 8 counts days 1 to 7. Day 1 counts nothing.
    assert top.tolist() == [[3, 4, 5, 2], [3, 4, 5, 2], [5, 4, 2, 3], [2, 3, 4, 5], [5, 4, 2, 3]]
    assert ranks.tolist() == [1, 3, 1, 4, 4]
    history = np.array([[4, 2], [3, 4], [5, 0], [2, 3], [5, 4]])
    left_out = LeftOutTitles.of_histories(history)
    ranks, top = popularity.recent_popularity_ranks(target, times, daily, arrays, left_out, 3)
    assert top.tolist() == [[3, 5, 0], [5, 2, 0], [5, 4, 2], [4, 5, 0], [2, 3, 0]]
    assert ranks.tolist() == [1, 1, 1, 2, 2]


def test_popularity_of_7_days_of_a_time_split_counts_earlier_days_only(tiny_config, tmp_path):
    """From the source: no play of a query's own day or of a later day counts, whoever played."""
    config = copy.deepcopy(tiny_config)
    source = open_source(config.source, config.features)
    keys, first_plays = source.titles().key, {}
    for chunk in source.interactions():
        pairs = zip(chunk.user.tolist(), keys[chunk.title].tolist(), strict=True)
        for pair, time in zip(pairs, (chunk.time // 1000).tolist(), strict=True):
            first_plays[pair] = min(time, first_plays.get(pair, time))
    days = np.quantile(np.array([*first_plays.values()]), [0.5, 0.75]).astype("datetime64[s]")
    config.data.split = "time"
    config.data.validation_from, config.data.test_from = (str(d.astype("datetime64[D]")) for d in days)
    prepare(source, config, str(tmp_path / "d"))
    dataset = Dataset(tmp_path / "d")
    rows, arrays, seen = dataset.rows("test").all(), dataset.arrays, dataset.seen_titles("test")
    assert (seen.query_time >= np.datetime64(config.data.test_from, "s").astype(int)).all()
    left_out, target = left_out_titles(dataset, "test", rows, "all"), rows["target"][:, 0]
    ranks, shown = popularity.recent_popularity_ranks(
        target, seen.query_time, dataset.daily_plays(), arrays, left_out, 5
    )
    popular = popularity.popularity_ranks(target, arrays, left_out, 5)[0]
    assert (ranks != popular).mean() > 0.5
    sets, id_of_key, orders = left_out_sets(left_out, len(rows)), {}, {}
    for i, key in enumerate(arrays.title_key.tolist()):
        id_of_key[key] = i + 2
    for i, time in enumerate(seen.query_time.tolist()):
        day = time // DAY
        if day not in orders:
            plays = Counter(
                id_of_key[title]
                for (_, title), played in first_plays.items()
                if day - popularity.RECENT_DAYS <= played // DAY < day
            )
            orders[day] = sorted(arrays.id_of_rank.tolist(), key=lambda t: (-plays[t], arrays.rank_of_id[t]))
        expected = by_brute_force(orders[day], target[i], sets[i], 5)
        assert (ranks[i], shown[i].tolist()) == expected
    assert len(orders) > 5


def test_memory_is_linear_in_the_titles_left_out(monkeypatch):
    """64 histories of 2,000 titles took 64 * 2,000 * 2,010 bytes, 257 MB, when compared title by title."""
    titles, history, top = 3_000, 2_000, 8
    rng = np.random.default_rng(0)
    rank_of_id = np.concatenate([[titles + 2] * 2, rng.permutation(titles)]).astype(np.int32)
    arrays = SimpleNamespace(
        rank_of_id=rank_of_id, id_of_rank=np.argsort(rank_of_id, kind="stable")[:titles].astype(np.int32)
    )
    target = rng.integers(2, titles + 2, 64)
    histories = rng.integers(0, titles + 2, (64, history)).astype(np.int32)
    monkeypatch.setattr(left_out_module, "_PAIRS", 2**15)
    tracemalloc.start()
    left_out = LeftOutTitles.of_histories(histories)
    ranks, shown = popularity.popularity_ranks(target, arrays, left_out, top)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * histories.nbytes
    for i, own in enumerate(target):
        expected = by_brute_force(arrays.id_of_rank.tolist(), own, set(histories[i].tolist()) - {0, 1}, top)
        assert (ranks[i], shown[i].tolist()) == expected
