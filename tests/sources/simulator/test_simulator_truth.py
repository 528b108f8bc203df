"""The simulator's closed forms and its oracle, against what its users did."""

import dataclasses

import numpy as np
import pytest
from test_simulator import SMALL, has_genre, made

from jaxrec.core.errors import InputError
from jaxrec.core.tables import Truth
from jaxrec.sources.simulator import world
from jaxrec.sources.simulator.plays import NEVER, make_plays
from jaxrec.sources.simulator.source import SimulatorSource
from jaxrec.sources.simulator.truth import choice_density

# ---------------------------------------------------------------- closed forms


def test_choice_density_against_monte_carlo():
    rng = np.random.default_rng(0)
    titles, slate, draws = 60, 30, 400_000
    arrival = rng.dirichlet(np.full(titles, 2.0))
    weight = np.exp(1.5 * rng.normal(size=titles))
    weight /= weight.max()
    weight[:5] = 0.0  # played before: they take places but cannot be chosen
    places = rng.choice(titles, p=arrival, size=(draws, slate)).astype(np.uint8)
    race = np.zeros((draws, slate), np.float32)
    np.divide(rng.exponential(size=race.shape), weight[places], out=race, where=weight[places] > 0)
    race[weight[places] == 0] = np.inf
    counted = np.bincount(places[np.arange(draws), race.argmin(axis=1)], minlength=titles) / draws
    density = choice_density(weight[None].astype(np.float32), arrival[None].astype(np.float32), slate)[0]
    assert (density[:5] == 0).all() and density.sum() == pytest.approx(1, abs=0.002)
    error = np.sqrt(counted / draws)
    assert (abs(density - counted) <= 4 * error + 0.002 * counted).all()
    # the first-order form would not pass
    plain = slate * arrival * weight / (weight + (slate - 1) * (arrival * weight).sum())
    assert (abs(plain - counted) > 4 * error + 0.05 * counted).any()


def test_abandonment_follows_its_closed_form():
    c, catalogue, latents, plays = made(4000, interruptions=0.3, replay_abandoned=0.3)
    match = np.einsum(
        "pd,pd->p",
        world.wishes(c, latents, plays.row, plays.week, plays.mood),
        catalogue.taste[plays.title],
    )
    stay = world.staying(c, catalogue.satisfaction[plays.title], latents.patience[plays.row], match)
    said = world.abandoning(c, stay)
    for claim, happened in (
        (said, plays.seen_from > plays.time),
        (world.never_seen(c, said), plays.seen_from == NEVER),
    ):
        bins = np.digitize(claim, np.quantile(claim, np.linspace(0, 1, 9)[1:-1]))
        for b in range(8):
            n = (bins == b).sum()
            assert happened[bins == b].mean() == pytest.approx(
                claim[bins == b].mean(), abs=3.5 * 0.5 / n**0.5
            )


# ---------------------------------------------------------------- what the oracle knows


def requests(c, users, most=None):
    """Targets of a service's first users: (truth, catalogue, latents, plays, rows of plays)."""
    catalogue = world.make_catalogue(c)
    latents = world.make_latents(c, np.arange(users))
    plays = make_plays(c, catalogue, latents)
    later = np.r_[False, plays.row[1:] == plays.row[:-1]]
    at = np.nonzero(later & (plays.seen_from < NEVER))[0]
    return SimulatorSource(c).truth(), catalogue, latents, plays, at[:most]


def test_densities_are_those_of_the_log():
    truth, catalogue, _, plays, at = requests(SMALL, 1200)
    everything = np.broadcast_to(np.arange(1000), (len(at), 1000))
    p, a = truth.densities(plays.row[at], plays.time[at], everything)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-4)
    assert p.min() >= 0 and a.min() >= 0

    # what happened agrees with what was claimed, over functions of the title
    mood = has_genre(catalogue, plays.mood[at][:, None], everything)
    functions = [catalogue.satisfaction, catalogue.appeal, np.log(catalogue.exposure), catalogue.film]
    before = (plays.row == plays.row[at][:, None]) & (plays.time < plays.time[at][:, None])
    hidden = before & (plays.seen_from >= plays.time[at][:, None])
    assert (np.take_along_axis(p, plays.title[at][:, None], axis=1) > 0).all()
    n, played = np.nonzero(before & ~hidden)
    assert (p[n, plays.title[played]] == 0).all() and (a[n, plays.title[played]] == 0).all()
    none = ~(before & (plays.seen_from > plays.time)).any(axis=1)  # nor given a second chance
    uniform = np.ones_like(a)
    uniform[n, plays.title[played]] = 0
    uniform /= uniform.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(a[none], uniform[none], rtol=1e-4)

    n, gone = np.nonzero(hidden)
    some = hidden.any(axis=1)
    each = 1 / hidden.sum(axis=1)[n]
    for f in (np.asarray(x, float) for x in functions):
        claimed, spread = p @ f, f.std()
        assert f[plays.title[at]].mean() == pytest.approx(claimed.mean(), abs=4 * spread / len(at) ** 0.5)
        happened = np.bincount(n, f[plays.title[gone]] * each, minlength=len(at))[some]
        assert happened.mean() == pytest.approx((a @ f)[some].mean(), abs=6 * spread / len(at) ** 0.5)
    claimed = (p * mood).sum(axis=1).mean()
    assert mood[np.arange(len(at)), plays.title[at]].mean() == pytest.approx(claimed, abs=0.02)


def test_densities_do_not_use_which_titles_were_abandoned():
    truth, _, latents, plays, at = requests(SMALL, 60)
    title = np.random.default_rng(0).integers(0, 1000, (len(at), 30))
    row = plays.row[at]
    known = truth.follow(latents, plays, row, plays.time[at], title)
    swapped = np.where(plays.seen_from == NEVER, (plays.title + 1) % 1000, plays.title)
    # a swapped title must not be one that the user watched
    clash = np.isin(plays.row * 1000 + swapped, plays.row * 1000 + plays.title)
    swapped = np.where(clash, plays.title, swapped)
    assert (swapped != plays.title).sum() > 100
    again = truth.follow(latents, dataclasses.replace(plays, title=swapped), row, plays.time[at], title)
    np.testing.assert_array_equal(known, again)


def test_densities_depend_on_no_other_request():
    truth, _, _, plays, at = requests(SMALL, 300)
    title = np.random.default_rng(0).integers(0, 1000, (len(at), 7))
    shuffle = np.random.default_rng(1).permutation(len(at))
    user, time = plays.row[at], plays.time[at]
    p, a = truth.densities(user, time, title)
    p2, a2 = truth.densities(user[shuffle], time[shuffle], title[shuffle])
    np.testing.assert_array_equal((p[shuffle], a[shuffle]), (p2, a2))
    one = truth.densities(user[50:51], time[50:51], title[50:51])
    np.testing.assert_array_equal((p[50:51], a[50:51]), one)


def test_a_request_the_service_never_had_is_named():
    truth: Truth = SimulatorSource(SMALL).truth()
    with pytest.raises(InputError, match="user 7, time 5: no play at or before it"):
        truth.densities(np.array([7]), np.array([5]), np.zeros((1, 1), int))
    with pytest.raises(InputError, match="users 3000 to 3000: the simulator has not all of these"):
        truth.densities(np.array([3000]), np.array([5]), np.zeros((1, 1), int))


def toy_lists(plays, at, users, rng):
    """Lists of 21 with the target first: 6 abandoned before (what lacks is trending), 6 trending, 4
    tailing, 4 random; and the counts of abandoned ones, [N], pools [N, 1000] and counts of plays [1000]."""
    count = np.bincount(plays.title, minlength=1000).astype(float)
    rank = np.argsort(-count)
    trend = np.zeros(1000, bool)
    trend[rank[: np.searchsorted(np.cumsum(count[rank]), count.sum() / 2) + 1]] = True
    free = np.ones((users, 1000), bool)
    free[plays.row, plays.title] = False
    free = free[plays.row[at]]
    hard = np.zeros_like(free)
    mine = (plays.row == plays.row[at][:, None]) & (plays.time < plays.time[at][:, None])
    n, gone = np.nonzero(mine & (plays.seen_from >= plays.time[at][:, None]))
    hard[n, plays.title[gone]] = True
    hard[np.arange(len(at)), plays.title[at]] = False

    def take(pool, most):  # the first columns of a random order of each pool, members first
        return np.argsort(rng.random(pool.shape) + 2.0 * ~pool, axis=1)[:, :most]

    short, fill, tail, uniform = (
        take(x, k) for x, k in ((hard, 6), (free & trend, 12), (free & ~trend, 4), (free, 4))
    )
    hards = np.minimum(hard.sum(axis=1), 6)
    slot = np.arange(12)
    from_hard = slot < hards[:, None]
    twelve = np.where(from_hard, np.pad(short, ((0, 0), (0, 6))), fill)
    return (
        np.concatenate([plays.title[at][:, None], twelve, tail, uniform], axis=1),
        hards,
        free,
        trend,
        count,
    )


def ndcg1(score):
    return (~(score[:, 1:] < score[:, :1])).sum(axis=1).__eq__(0).mean()


def test_ranking_by_p_over_q_is_the_bound():
    users = 1200
    truth, _, _, plays, at = requests(dataclasses.replace(SMALL, seed=3), users, most=4000)
    rng = np.random.default_rng(0)
    lists, hards, free, trend, count = toy_lists(plays, at, users, rng)
    p, a = truth.densities(plays.row[at], plays.time[at], lists)
    trends, tails = (free & trend).sum(axis=1)[:, None], (free & ~trend).sum(axis=1)[:, None]
    q = hards[:, None] * a + 4 / (trends + tails)
    q += np.where(trend[lists], (12 - hards[:, None]) / trends, 4 / tails)
    oracle = ndcg1(p / q)
    assert 0.45 < oracle < 0.60
    assert 0.08 < ndcg1(count[lists]) < 0.20
    assert oracle > ndcg1(p) + 0.08 and oracle > ndcg1(1 / q) + 0.1
    for noise in (0.5, 1.0):
        assert ndcg1(p / q * np.exp(noise * rng.normal(size=p.shape))) < oracle - 0.01
    # and it is a posterior: as often right as it says
    posterior = (p / q) / (p / q).sum(axis=1, keepdims=True)
    assert posterior.max(axis=1).mean() == pytest.approx(oracle, abs=0.03)


def test_mood_is_how_far_the_sittings_genre_moves_what_is_chosen():
    c, catalogue, latents, plays = made(300)
    truth = SimulatorSource(c).truth()
    at = np.arange(0, len(plays.row), 7)
    found = truth.mood(latents.key[plays.row[at]], plays.time[at])
    # by hand, of one play
    n = at[3]
    wish = c.taste * latents.taste[plays.row[n]].astype(np.float64)
    wish[latents.interest[plays.row[n], plays.week[n]]] += c.interest * world.INTEREST
    weight = np.empty((2, c.titles))
    for i, mood in enumerate((c.mood, 0.0)):
        own = wish.copy()
        own[plays.mood[n]] += mood * world.MOOD
        weight[i] = catalogue.exposure * np.exp(
            catalogue.taste @ own + c.appeal * world.APPEAL * catalogue.appeal
        )
    p = weight / weight.sum(1, keepdims=True)
    assert found[3] == pytest.approx(0.5 * abs(p[0] - p[1]).sum(), abs=0.003)  # wishes lie on a grid
    assert (found > 0).all() and (found < 1).all() and found.std() > 0.05
    liked = latents.genres[plays.row[at], 0] == plays.mood[at]
    assert found[liked].mean() > found[~liked].mean()  # it has more to multiply
    without = dataclasses.replace(c, mood=0.0)
    assert not SimulatorSource(without).truth().mood(plays.row[at], plays.time[at]).any()
    with pytest.raises(InputError, match="no play at or before it"):
        truth.mood(np.array([7]), np.array([5]))
