"""Tests of the simulator's closed forms and oracle against the simulated plays."""

import dataclasses

import numpy as np
import pytest
from test_simulator import SMALL, has_genre, make_service

from jaxrec.core.errors import InputError
from jaxrec.core.tables import Truth
from jaxrec.sources.simulator import world
from jaxrec.sources.simulator.oracle.choices import choice_density
from jaxrec.sources.simulator.oracle.following import follow
from jaxrec.sources.simulator.plays import NEVER, make_plays
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.source import SimulatorSource

# ---------------------------------------------------------------- closed forms


def test_choice_density_agrees_with_monte_carlo():
    rng = np.random.default_rng(0)
    titles, slate, draws = 60, 30, 400_000
    arrival = rng.dirichlet(np.full(titles, 2.0))
    weight = np.exp(1.5 * rng.normal(size=titles))
    weight /= weight.max()
    weight[:5] = 0.0  # titles played before take slots but cannot be chosen
    slots = rng.choice(titles, p=arrival, size=(draws, slate)).astype(np.uint8)
    race = np.zeros((draws, slate), np.float32)
    np.divide(rng.exponential(size=race.shape), weight[slots], out=race, where=weight[slots] > 0)
    race[weight[slots] == 0] = np.inf
    frequency = np.bincount(slots[np.arange(draws), race.argmin(axis=1)], minlength=titles) / draws
    density = choice_density(weight[None].astype(np.float32), arrival[None].astype(np.float32), slate)[0]
    assert (density[:5] == 0).all() and density.sum() == pytest.approx(1, abs=0.002)
    error = np.sqrt(frequency / draws)
    assert (abs(density - frequency) <= 4 * error + 0.002 * frequency).all()
    # The first-order approximation would fail this test.
    first_order = slate * arrival * weight / (weight + (slate - 1) * (arrival * weight).sum())
    assert (abs(first_order - frequency) > 4 * error + 0.05 * frequency).any()


@pytest.mark.parametrize("habit", [0.0, 0.3])
def test_abandonment_agrees_with_its_closed_form(habit):
    knobs = dict(interruptions=0.3, replay_abandoned=0.3, habit=habit)
    c, catalogue, latents, plays = make_service(4000 if not habit else 2000, **knobs)
    match = np.einsum(
        "pd,pd->p",
        world.preference(c, latents, plays.row, plays.week, plays.mood),
        catalogue.taste[plays.title],
    )
    stay = world.stay_probability(c, catalogue.satisfaction[plays.title], latents.patience[plays.row], match)
    first_play = world.abandon_probability(c, stay)
    for probability, outcome in (
        (first_play, plays.seen_from > plays.time),
        (world.final_abandon_probability(c, first_play), plays.seen_from == NEVER),
    ):
        bins = np.digitize(probability, np.quantile(probability, np.linspace(0, 1, 9)[1:-1]))
        for b in range(8):
            n = (bins == b).sum()
            assert outcome[bins == b].mean() == pytest.approx(
                probability[bins == b].mean(), abs=3.5 * 0.5 / n**0.5
            )


# ---------------------------------------------------------------- oracle densities


def make_targets(c, users, most=None):
    """Return (truth, catalogue, latents, plays, rows of target plays) of first users."""
    catalogue = world.make_catalogue(c)
    latents = world.make_latents(c, np.arange(users))
    plays = make_plays(c, catalogue, latents)
    later = np.r_[False, plays.row[1:] == plays.row[:-1]]
    at = np.nonzero(later & (plays.seen_from < NEVER))[0]
    return SimulatorSource(c).truth(), catalogue, latents, plays, at[:most]


@pytest.mark.parametrize(("habit", "users"), [(0.0, 1200), (0.4, 400)])
def test_densities_agree_with_the_log(habit, users):
    truth, catalogue, _, plays, at = make_targets(dataclasses.replace(SMALL, habit=habit), users)
    all_titles = np.broadcast_to(np.arange(1000), (len(at), 1000))
    p, a = truth.densities(plays.row[at], plays.time[at], all_titles)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-4)
    assert p.min() >= 0 and a.min() >= 0

    # Means of functions of the title agree between the log and the densities.
    mood = has_genre(catalogue, plays.mood[at][:, None], all_titles)
    functions = [catalogue.satisfaction, catalogue.appeal, np.log(catalogue.exposure), catalogue.film]
    before = (plays.row == plays.row[at][:, None]) & (plays.time < plays.time[at][:, None])
    hidden = before & (plays.seen_from >= plays.time[at][:, None])
    assert (np.take_along_axis(p, plays.title[at][:, None], axis=1) > 0).all()
    n, played = np.nonzero(before & ~hidden)
    assert (p[n, plays.title[played]] == 0).all() and (a[n, plays.title[played]] == 0).all()
    none = ~(before & (plays.seen_from > plays.time)).any(axis=1)  # nothing abandoned, not even for a time
    uniform = np.ones_like(a)
    uniform[n, plays.title[played]] = 0
    uniform /= uniform.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(a[none], uniform[none], rtol=1e-4)

    n, abandoned = np.nonzero(hidden)
    any_hidden = hidden.any(axis=1)
    weight = 1 / hidden.sum(axis=1)[n]
    for f in (np.asarray(x, float) for x in functions):
        expected, deviation = p @ f, f.std()
        assert f[plays.title[at]].mean() == pytest.approx(expected.mean(), abs=4 * deviation / len(at) ** 0.5)
        observed = np.bincount(n, f[plays.title[abandoned]] * weight, minlength=len(at))[any_hidden]
        assert observed.mean() == pytest.approx(
            (a @ f)[any_hidden].mean(), abs=6 * deviation / len(at) ** 0.5
        )
    expected = (p * mood).sum(axis=1).mean()
    assert mood[np.arange(len(at)), plays.title[at]].mean() == pytest.approx(expected, abs=0.02)


def test_densities_do_not_use_the_titles_of_abandoned_plays():
    _, catalogue, latents, plays, at = make_targets(SMALL, 60)
    title = np.random.default_rng(0).integers(0, 1000, (len(at), 30))
    row = plays.row[at]
    service = SimulatedService(SMALL, catalogue, latents, plays)
    expected = follow(service, row, plays.time[at], title)
    swapped = np.where(plays.seen_from == NEVER, (plays.title + 1) % 1000, plays.title)
    # A swapped title must not be a title that the user watched.
    clash = np.isin(plays.row * 1000 + swapped, plays.row * 1000 + plays.title)
    swapped = np.where(clash, plays.title, swapped)
    assert (swapped != plays.title).sum() > 100
    other = service._replace(plays=dataclasses.replace(plays, title=swapped))
    again = follow(other, row, plays.time[at], title)
    np.testing.assert_array_equal(expected, again)


def test_densities_do_not_depend_on_other_examples():
    truth, _, _, plays, at = make_targets(SMALL, 300)
    title = np.random.default_rng(0).integers(0, 1000, (len(at), 7))
    shuffle = np.random.default_rng(1).permutation(len(at))
    user, time = plays.row[at], plays.time[at]
    p, a = truth.densities(user, time, title)
    p2, a2 = truth.densities(user[shuffle], time[shuffle], title[shuffle])
    np.testing.assert_array_equal((p[shuffle], a[shuffle]), (p2, a2))
    one = truth.densities(user[50:51], time[50:51], title[50:51])
    np.testing.assert_array_equal((p[50:51], a[50:51]), one)


def test_error_names_an_unknown_user_or_time():
    truth: Truth = SimulatorSource(SMALL).truth()
    with pytest.raises(InputError, match="user 7, time 5: no play at or before this time"):
        truth.densities(np.array([7]), np.array([5]), np.zeros((1, 1), int))
    with pytest.raises(InputError, match="users 3000 to 3000: some are not users of the simulator"):
        truth.densities(np.array([3000]), np.array([5]), np.zeros((1, 1), int))


def make_lists(plays, at, users, rng):
    """Build candidate lists of 21 titles with the target first.

    The negatives are 6 titles abandoned before (filled up with trending titles), 6 trending, 4 tailing and 4
    random titles.

    Returns:
        The lists [N, 21], the number of abandoned titles in each [N], free titles [N, 1000], trending titles
        [1000] and counts of plays [1000].
    """
    count = np.bincount(plays.title, minlength=1000).astype(float)
    rank = np.argsort(-count)
    trending = np.zeros(1000, bool)
    trending[rank[: np.searchsorted(np.cumsum(count[rank]), count.sum() / 2) + 1]] = True
    free = np.ones((users, 1000), bool)
    free[plays.row, plays.title] = False
    free = free[plays.row[at]]
    hard = np.zeros_like(free)
    before = (plays.row == plays.row[at][:, None]) & (plays.time < plays.time[at][:, None])
    n, abandoned = np.nonzero(before & (plays.seen_from >= plays.time[at][:, None]))
    hard[n, plays.title[abandoned]] = True
    hard[np.arange(len(at)), plays.title[at]] = False

    def take(pool, most):  # the first columns of a random order of each pool, members first
        return np.argsort(rng.random(pool.shape) + 2.0 * ~pool, axis=1)[:, :most]

    hard_titles, trending_titles, tailing_titles, random_titles = (
        take(x, k) for x, k in ((hard, 6), (free & trending, 12), (free & ~trending, 4), (free, 4))
    )
    num_hard = np.minimum(hard.sum(axis=1), 6)
    slot = np.arange(12)
    from_hard = slot < num_hard[:, None]
    hard_and_trending = np.where(from_hard, np.pad(hard_titles, ((0, 0), (0, 6))), trending_titles)
    return (
        np.concatenate([plays.title[at][:, None], hard_and_trending, tailing_titles, random_titles], axis=1),
        num_hard,
        free,
        trending,
        count,
    )


def ndcg1(score):
    """Return the fraction of rows whose first column has the strictly highest score."""
    return (~(score[:, 1:] < score[:, :1])).sum(axis=1).__eq__(0).mean()


def test_ranking_by_p_over_q_is_the_upper_bound():
    users = 1200
    truth, _, _, plays, at = make_targets(dataclasses.replace(SMALL, seed=3), users, most=4000)
    rng = np.random.default_rng(0)
    lists, num_hard, free, trending, count = make_lists(plays, at, users, rng)
    p, a = truth.densities(plays.row[at], plays.time[at], lists)
    num_trending, num_tailing = (
        (free & trending).sum(axis=1)[:, None],
        (free & ~trending).sum(axis=1)[:, None],
    )
    q = num_hard[:, None] * a + 4 / (num_trending + num_tailing)
    q += np.where(trending[lists], (12 - num_hard[:, None]) / num_trending, 4 / num_tailing)
    oracle = ndcg1(p / q)
    assert 0.45 < oracle < 0.60
    assert 0.08 < ndcg1(count[lists]) < 0.20
    assert oracle > ndcg1(p) + 0.08 and oracle > ndcg1(1 / q) + 0.1
    for noise in (0.5, 1.0):
        assert ndcg1(p / q * np.exp(noise * rng.normal(size=p.shape))) < oracle - 0.01
    # The normalised ratio is a calibrated posterior.
    posterior = (p / q) / (p / q).sum(axis=1, keepdims=True)
    assert posterior.max(axis=1).mean() == pytest.approx(oracle, abs=0.03)


def test_mood_is_the_total_variation_due_to_the_sittings_genre():
    c, catalogue, latents, plays = make_service(300)
    truth = SimulatorSource(c).truth()
    at = np.arange(0, len(plays.row), 7)
    influence = truth.mood(latents.key[plays.row[at]], plays.time[at])
    # Expected value of one play, computed directly.
    n = at[3]
    preference = c.taste * latents.taste[plays.row[n]].astype(np.float64)
    preference[latents.interest[plays.row[n], plays.week[n]]] += c.interest * world.INTEREST
    weight = np.empty((2, c.titles))
    for i, mood in enumerate((c.mood, 0.0)):
        with_mood = preference.copy()
        with_mood[plays.mood[n]] += mood * world.MOOD
        weight[i] = catalogue.exposure * np.exp(
            catalogue.taste @ with_mood + c.appeal * world.APPEAL * catalogue.appeal
        )
    p = weight / weight.sum(1, keepdims=True)
    # The tolerance allows for the rounding of preferences to a grid.
    assert influence[3] == pytest.approx(0.5 * abs(p[0] - p[1]).sum(), abs=0.003)
    assert (influence > 0).all() and (influence < 1).all() and influence.std() > 0.05
    liked = latents.genres[plays.row[at], 0] == plays.mood[at]
    assert influence[liked].mean() > influence[~liked].mean()  # a liked genre has more weight to multiply
    without = dataclasses.replace(c, mood=0.0)
    assert not SimulatorSource(without).truth().mood(plays.row[at], plays.time[at]).any()
    with pytest.raises(InputError, match="no play at or before this time"):
        truth.mood(np.array([7]), np.array([5]))
