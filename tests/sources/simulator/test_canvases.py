"""Canvases of the simulated service: names, queries, pages of titles, and the exact truth of each."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chi2
from test_simulator import assert_equal, make_service, select_users

from jaxrec.config.schema import Simulator
from jaxrec.core.ids import MISSING
from jaxrec.sources.simulator import world
from jaxrec.sources.simulator.canvases.queries import (
    GENRE_QUERIES,
    HOME,
    SEARCH,
    SIMILAR,
    TYPOS,
    queries,
    query_probability,
)
from jaxrec.sources.simulator.canvases.titles import WORDS, _words
from jaxrec.sources.simulator.plays import make_plays
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.signals import make_signals
from jaxrec.sources.simulator.source import SimulatorSource

KNOBS = dict(search=0.3, similar=0.4, kinship=2.0)
CELLS = 24  # by canvas: eight


@pytest.fixture(scope="module")
def service():
    """Return the plays of a small service with three canvases."""
    return SimulatedService(*make_service(1500, titles=200, slate=30, **KNOBS))


def searches(service):
    """Return the plays that were searched for, their queries, and the probability of the query by title."""
    play = np.flatnonzero(service.plays.canvas == SEARCH)
    of_plays = service.key[play], service.plays.index[play], service.plays.title[play]
    titles = service.catalogue.canvases
    text = queries(service.config, titles, world.GENRES, *of_plays)
    return play, text, query_probability(service.config, titles, *of_plays)


# ---------------------------------------------------------------- the truth


def chi_squared(plays, seed):
    """Return the p-values of the titles of plays, and of those that are kept, in cells of each canvas.

    A cell is a canvas, the title's exposure and appeal, and its likeness to the page or to the user's wish.
    """
    c = Simulator(
        seed=seed,
        users=plays // 12,
        test_only_users=0,
        titles=120,
        slate=20,
        weeks=6,
        **KNOBS | {"search": 0.4},
    )
    catalogue, latents = world.make_catalogue(c), world.make_latents(c, np.arange(c.users))
    service = SimulatedService(c, catalogue, latents, make_plays(c, catalogue, latents))
    truth, every = SimulatorSource(c).truth(), np.arange(c.titles)
    of_titles = (catalogue.exposure > np.median(catalogue.exposure)) + 2 * (catalogue.appeal > 0)
    observed, expected = np.zeros((2, 2, CELLS))
    for play in np.array_split(np.arange(len(service.key)), max(1, plays // 2000)):
        source, canvas = service.plays.source[play], service.plays.canvas[play].astype(np.int64)
        likeness = np.where(
            source[:, None] >= 0, catalogue.canvases.kinship(source, every) - 0.3, service.matches(play) - 2
        )
        cell = 8 * canvas[:, None] + 4 * (likeness > 0) + of_titles
        key, time, title = service.key[play], service.plays.time[play], service.plays.title[play]
        kept = service.plays.seen_from[play] != np.iinfo(np.int64).max
        p, _ = truth.densities(key[kept], time[kept], np.broadcast_to(every, (kept.sum(), c.titles)))
        for n, (rows, density) in enumerate(((slice(None), truth.choice(key, time)), (kept, p))):
            expected[n] += np.bincount(cell[rows].ravel(), density.ravel(), minlength=CELLS)
            chosen = cell[rows][np.arange(len(density)), title[rows]]
            observed[n] += np.bincount(chosen, minlength=CELLS)
    assert (expected > 5).all()
    return chi2.sf(((observed - expected) ** 2 / expected).sum(axis=1), CELLS - 3)


def test_densities_agree_with_frequencies_on_each_canvas():
    assert min(chi_squared(20_000, seed=0)) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_densities_agree_with_the_frequencies_of_200_000_plays_on_canvases(seed):
    assert min(chi_squared(205_000, seed)) > 0.001


def test_the_choice_of_a_search_is_restricted_to_the_titles_that_match(service):
    play, _, probability = searches(service)
    play, probability = play[:300], probability[:300]
    choice = service_truth(service).choice(service.key[play], service.plays.time[play])
    assert (choice[probability == 0] == 0).all()
    matching = (choice > 0).sum(axis=1)
    assert matching.min() >= 1 and np.median(matching) < 40
    # Without the query, the density over the same titles has the same ratios as among those of one weight.
    at_home = SimulatedService(
        *service[:3], dataclasses.replace(service.plays, canvas=np.full_like(service.plays.canvas, HOME))
    )
    unrestricted = at_home.restricted(np.ones_like(probability), play)
    assert (unrestricted == 1).all()
    restricted = service.restricted(np.ones_like(probability), play)
    np.testing.assert_array_equal(restricted, probability)


def service_truth(service):
    """Return the truth of a service."""
    return SimulatorSource(service.config).truth()


def test_the_mood_matters_less_where_few_titles_match(service):
    play = np.arange(2000)
    influence = service_truth(service).mood(service.key[play], service.plays.time[play])
    searched = service.plays.canvas[play] == SEARCH
    assert influence.min() >= 0 and influence.max() <= 1
    assert influence[searched].mean() < 0.6 * influence[~searched].mean()


# ---------------------------------------------------------------- names and queries


def test_names_have_words_that_collide():
    c = Simulator(titles=1000, search=0.1)
    titles, words = world.make_catalogue(c).canvases, _words(c)
    assert len(set(words)) == WORDS and all(4 <= len(word) <= 6 and word.isalpha() for word in words)
    parts = [name.split() for name in titles.name]
    counts = np.bincount([len(p) for p in parts], minlength=4) / 1000
    np.testing.assert_allclose(counts, [0, 0.3, 0.45, 0.25], atol=0.05)
    assert {word for p in parts for word in p} <= set(words)
    same = (titles.prefix[:, :, None] == titles.prefix[:, None, :]).sum(axis=2)
    assert same[0].mean() > 8  # titles with the same two letters
    assert same[-1].mean() > 1.1  # with the same eight characters
    by_hand = np.array([name[:5].rstrip() for name in titles.name])
    np.testing.assert_array_equal(titles.prefix[3] == titles.prefix[3, 7], by_hand == by_hand[7])


def test_queries_are_prefixes_or_genres_with_one_wrong_letter_in_twenty(service):
    play, text, probability = searches(service)
    # Each genre of a title is drawn with the same probability.
    np.testing.assert_allclose(service.catalogue.canvases.genre.sum(axis=1), 1)
    name, title = service.catalogue.canvases.name, service.plays.title[play]
    is_genre = np.isin(probability.max(axis=1), [1 / 2, 1 / 3]) | np.isin(text, world.GENRES)
    is_prefix = np.array([n.startswith(q) for n, q in zip(name[title], text, strict=True)])
    right = is_prefix | np.isin(text, world.GENRES)
    assert 1 - right.mean() == pytest.approx(TYPOS, abs=0.01)
    assert np.isin(text, world.GENRES).mean() == pytest.approx(GENRE_QUERIES * (1 - TYPOS), abs=0.02)
    lengths = np.bincount(np.char.str_len(text[is_prefix & ~is_genre]), minlength=9)
    assert set(np.flatnonzero(lengths)) <= set(range(2, 9)) and lengths[2:4].min() > 0.12 * lengths.sum()
    assert (probability[np.arange(len(play)), title] > 0).all()
    wrong = np.flatnonzero(~right)
    for q, n in zip(text[wrong], name[title[wrong]], strict=True):
        if not any(
            len(q) == len(g) and sum(a != b for a, b in zip(q, g, strict=True)) == 1 for g in world.GENRES
        ):
            assert sum(a != b for a, b in zip(q, n, strict=False)) == 1, (q, n)


# ---------------------------------------------------------------- pages of titles


def test_a_page_is_that_of_the_last_title_watched_and_not_abandoned(service):
    plays = service.plays
    kept = plays.seconds / (60 * service.catalogue.runtime[plays.title]) >= world.ABANDON_BELOW
    for user in range(60):
        last = -1
        for p in np.flatnonzero(plays.row == user):
            assert plays.source[p] == (last if plays.canvas[p] == SIMILAR else -1)
            last = plays.title[p] if kept[p] else last
    liked_before = np.ones(len(plays.row), bool)
    liked_before[np.flatnonzero(np.diff(plays.row, prepend=-1))] = False
    share = np.bincount(plays.canvas, minlength=3) / len(plays.canvas)
    assert share[SEARCH] == pytest.approx(KNOBS["search"], abs=0.015)
    assert share[SIMILAR] == pytest.approx(KNOBS["similar"] * liked_before.mean(), abs=0.05)


def test_kinship_is_the_cosine_of_tastes_and_draws_plays(service):
    titles, taste = service.catalogue.canvases, service.catalogue.taste.astype(np.float64)
    unit = taste / np.linalg.norm(taste, axis=1, keepdims=True)
    source, title = np.array([3, -1]), np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(titles.kinship(source, title)[0], unit[3] @ unit[[1, 2, 3]].T, atol=0.02)
    assert not titles.kinship(source, title)[1].any()
    near = []
    for kinship in (0.0, 2.0):
        other = SimulatedService(*make_service(400, titles=200, slate=30, **KNOBS | {"kinship": kinship}))
        at = np.flatnonzero(other.plays.canvas == SIMILAR)
        near.append(titles.kinship(other.plays.source[at], other.plays.title[at][:, None]).mean())
    assert near[1] > near[0] + 0.05


# ---------------------------------------------------------------- tables


def test_a_user_of_several_canvases_does_not_depend_on_the_batch(service):
    c, catalogue, latents, plays = service
    rows = sorted([3, 77, 512, int(np.argmax(latents.plays))])
    alone = world.make_latents(c, np.array(rows))
    assert_equal(make_plays(c, catalogue, alone), select_users(plays, rows))


def test_searches_change_no_play_and_no_signal():
    """A query is for what would have been chosen, so that search alone adds columns."""
    knobs = dict(titles=200, slate=30)
    plain, with_queries = (SimulatedService(*make_service(300, **knobs, search=s)) for s in (0.0, 0.5))
    for name in ("title", "time", "seconds", "replay"):
        np.testing.assert_array_equal(getattr(plain.plays, name), getattr(with_queries.plays, name))
    names = ("thumb", "list_add", "impression")
    for a, b in zip(*(vars(make_signals(*s, names)).values() for s in (plain, with_queries)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_columns_of_canvases_exist_where_their_knobs_are_on():
    c = Simulator(users=200, test_only_users=0, titles=200, **KNOBS)
    source = SimulatorSource(c)
    titles, log = source.titles(), next(source.interactions())
    assert set(titles.features) == {"genres", "runtime", "form", "launch_day", "name"}
    canvas, query, page = (log.context[name] for name in ("canvas", "query", "source"))
    assert set(canvas) == {"home", "similar", "search"}
    np.testing.assert_array_equal(query != "", canvas == "search")
    np.testing.assert_array_equal(page != MISSING, canvas == "similar")
    assert np.isin(page[canvas == "similar"], titles.key).all()
    for knobs, more in (
        ({}, set()),
        ({"search": 0.2}, {"canvas", "query"}),
        ({"similar": 0.2}, {"canvas", "source"}),
    ):
        other = SimulatorSource(Simulator(users=200, test_only_users=0, titles=200, **knobs))
        assert set(next(other.interactions()).context) == {"device", "hour"} | more
        assert ("name" in other.titles().features) == bool(knobs)
