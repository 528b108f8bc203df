"""Draws from the negative pools: exact, distinct, uniform, filled in order."""

import numpy as np
import plain_negatives  # beside this file
import pytest

from jaxrec.core.hashing import extend, mix
from jaxrec.data.examples import negatives


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_permute_is_a_permutation(size):
    image = negatives.permute(np.arange(size), np.zeros(size, int), np.array([size]), mix(1, [size]))
    assert sorted(image.tolist()) == list(range(size))


def test_permute_is_uniform_over_keys():
    jobs = np.arange(50_000)
    image = negatives.permute(np.zeros(50_000, int), jobs, np.full(50_000, 5), mix(jobs))
    counts = np.bincount(image, minlength=5)
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000 * 0.8)


def example_universe():
    # User 0 played ranks 0, 3 and 7 of 20, of which the first five are trending; user 1 played nothing.
    return negatives.negative_universe(np.array([0, 0, 0]), np.array([0, 3, 7]), 2, 20, 5)


def test_a_universe_skips_the_titles_seen():
    universe = example_universe()
    assert universe.rank(np.zeros(1, int), np.arange(17)[:, None]).ravel().tolist() == [
        1,
        2,
        4,
        5,
        6,
        *range(8, 20),
    ]
    assert universe.rank(np.ones(1, int), np.arange(20)[:, None]).ravel().tolist() == list(range(20))
    assert universe.n_trending.tolist() == [3, 5] and universe.n_all.tolist() == [17, 20]


def draw(user, widths, n_hard=0, queries=400):
    hard = np.tile([7, 3, 0], (queries, 1))
    return negatives.draw(
        example_universe(),
        np.full(queries, user),
        mix(np.arange(queries)),
        hard,
        np.full(queries, n_hard),
        widths,
    )


def test_extend_equals_mix_with_one_more_argument():
    key, argument = mix(np.arange(50)), np.arange(50, dtype=np.uint64)
    np.testing.assert_array_equal(extend(mix(key, 3), argument), mix(key, 3, argument))


def test_a_full_draw_takes_each_pool_from_the_pools_ranks():
    d = draw(1, (0, 2, 3, 4))
    hard, trending, tailing, random = d.ranks
    assert hard.shape == (400, 0) and (trending < 5).all() and (tailing >= 5).all()
    ranks = np.concatenate(d.ranks, axis=1)
    assert all(len(set(row)) == 9 for row in ranks.tolist())
    assert d.enough.all() and not any(d.fills.values())
    # Remaining titles are equally likely in the random columns: 3/5 of trending and 12/15 of tailing remain.
    rate = np.bincount(random.ravel(), minlength=20) / 400
    assert abs(rate[:5].mean() - 4 * 3 / 15 / 5) < 0.03 and abs(rate[5:].mean() - 4 * 12 / 15 / 15) < 0.03


def test_a_short_hard_pool_is_filled_from_trending_then_random():
    d = draw(0, (3, 2, 1, 0), n_hard=1)
    assert (d.ranks[0][:, 0] == 7).all() and d.hard_filled.tolist() == [[False, True, True]] * 400
    # Two trending columns and one fill use the three remaining trending titles; the other fill is random.
    assert d.fills["hard from trending"] == 400 and d.fills["hard from random"] == 400
    assert all(len(set(row)) == 6 for row in np.concatenate(d.ranks, axis=1).tolist())


def test_an_exhausted_universe_is_flagged():
    assert draw(0, (0, 3, 14, 0)).enough.all()
    assert not draw(0, (0, 3, 14, 1)).enough.any()


@pytest.mark.parametrize("widths", [(0, 5, 3, 4), (6, 6, 4, 4), (4, 0, 0, 2), (16, 32, 20, 8), (3, 2, 1, 0)])
@pytest.mark.parametrize("titles, trending", [(30, 8), (300, 40), (300, 0), (300, 300)])
def test_the_fast_draw_equals_the_plain_one(widths, titles, trending, monkeypatch):
    """Users who played no title up to nearly all titles, in small blocks."""
    monkeypatch.setattr(negatives, "_BLOCK", 1000)
    monkeypatch.setattr(negatives, "_MAX_COUNTED", 20)
    rng = np.random.default_rng(0)
    seen = [np.sort(rng.permutation(titles)[:n]) for n in rng.integers(0, titles, 40)]
    counts = [len(s) for s in seen]
    universe = negatives.negative_universe(
        np.repeat(np.arange(40), counts), np.concatenate(seen), 40, titles, trending
    )
    user, key = rng.integers(0, 40, 200), mix(rng.integers(0, 2**60, 200))
    hard = np.argsort(rng.random((200, titles)), axis=1)[:, :20]
    arguments = (universe, user, key, hard, rng.integers(0, 21, 200), widths)
    fast, plain = negatives.draw(*arguments), plain_negatives.draw(*arguments)
    for a, b in zip(fast.ranks, plain.ranks, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(fast.enough, plain.enough)
    np.testing.assert_array_equal(fast.hard_filled, plain.hard_filled)
    assert fast.fills == plain.fills


def test_densities_worked_by_hand():
    universe = example_universe()
    rank = np.array([[0, 1, 9, 7]])  # the target was a trending title; 7 is a hard negative
    abandoned = np.array([[0.1, 0.2, 0.0, 0.5]])
    q = negatives.densities(universe, np.array([0]), rank, abandoned, np.array([2]), (6, 6, 4, 4))
    # Trending 3 + the target = 4, tailing 14, all 18; two hard negatives, so four hard columns are filled.
    trending, tailing, everywhere = 10 / 4, 4 / 14, 4 / 18
    expected = [0.2 + trending, 0.4 + trending, tailing, 1.0 + tailing]
    np.testing.assert_allclose(q, np.array([expected]) + everywhere)
