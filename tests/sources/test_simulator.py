import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jaxrec.config import Simulator
from jaxrec.errors import InputError
from jaxrec.schema import Source, Truth
from jaxrec.sources import simulator_world as world
from jaxrec.sources.simulator import BLOCK, SimulatorSource
from jaxrec.sources.simulator_plays import NEVER, make_plays
from jaxrec.sources.simulator_truth import choice_density

SMALL = Simulator(users=2500, test_only_users=500)


def made(users=2500, **knobs):
    """(config, catalogue, latents, plays) of a service's first users."""
    c = Simulator(**knobs)
    catalogue = world.make_catalogue(c)
    latents = world.make_latents(c, np.arange(users))
    return c, catalogue, latents, make_plays(c, catalogue, latents)


def log_of(source):
    chunks = list(source.interactions())
    return [np.concatenate([getattr(x, f) for x in chunks]) for f in ("user", "title", "time", "seconds")]


@pytest.fixture(scope="module")
def small_log():
    return log_of(SimulatorSource(SMALL))


def equal(a, b):
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def of_users(plays, rows):
    """The plays of some users, renumbered 0, 1, ..."""
    kept = np.concatenate([np.nonzero(plays.row == r)[0] for r in rows])
    fields = {f.name: getattr(plays, f.name)[kept] for f in dataclasses.fields(plays)}
    fields["row"] = np.searchsorted(np.asarray(rows), fields["row"])
    return type(plays)(**fields)


def has_genre(catalogue, genre, title):
    """Whether genre [N] is among those of title [N]."""
    of_title = np.zeros((len(catalogue.film), len(world.GENRES)), bool)
    name = {g: n for n, g in enumerate(world.GENRES)}
    rows = np.repeat(np.arange(len(catalogue.film)), np.diff(catalogue.genres.offsets))
    of_title[rows, [name[g] for g in catalogue.genres.values]] = True
    return of_title[title, genre]


# ---------------------------------------------------------------- the three tables


def test_tables_keep_the_contract(small_log):
    source: Source = SimulatorSource(SMALL)
    titles, users = source.titles(), list(source.users())
    assert len(titles.key) == len(np.unique(titles.key)) == 1000 and titles.key.dtype == np.int64
    genres = titles.features["genres"]
    assert set(np.diff(genres.offsets)) == {1, 2, 3} and genres.offsets[-1] == len(genres.values)
    assert set(genres.values) == set(world.GENRES) and len(world.GENRES) == 18
    assert titles.runtime.min() >= 20 and titles.runtime.max() <= 150
    assert set(titles.features["form"]) == {"episode", "film"}
    key = np.concatenate([u.key for u in users])
    np.testing.assert_array_equal(key, np.arange(3000))
    np.testing.assert_array_equal(
        np.concatenate([u.split for u in users]), np.r_[np.full(2500, -1), np.full(500, 2)]
    )
    segment = np.concatenate([u.features["segment"] for u in users])
    segment2 = np.concatenate([u.features["segment2"] for u in users])
    assert set(segment) == set(range(18)) and set(segment2) <= set(range(54))

    user, title, time, seconds = small_log
    rows = np.stack([user, title, time])
    assert np.unique(rows, axis=1).shape[1] == len(user)  # no two events are one
    assert seconds.min() > 0 and time.min() >= world.EPOCH_MS and set(user) == set(range(3000))
    for chunk in source.interactions():
        np.testing.assert_array_equal(chunk.context["hour"], chunk.time // 3_600_000 % 24)
        assert set(chunk.context["device"]) == {"tv", "phone", "tablet", "web"}
        evening = chunk.context["hour"] == 20
        tv = chunk.context["device"] == "tv"
        assert tv[evening].mean() > 0.6 > 0.4 > tv[~evening].mean()
    assert source.drops.counts == {} and source.has_completion


def test_titles_are_in_no_order_of_popularity(small_log):
    plays = np.bincount(small_log[1], minlength=1000)
    assert abs(np.corrcoef(np.arange(1000), plays)[0, 1]) < 0.1


def test_default_service_has_the_shape_asked_for(small_log):
    source = SimulatorSource(SMALL)
    c, _, latents, plays = made(3000)
    user, title, time, seconds = small_log
    pair, of = np.unique(user * 1000 + title, return_inverse=True)
    completion = np.bincount(of, seconds) / (60 * source.titles().runtime[pair % 1000])
    abandoned = completion < 0.05
    assert 0.30 < abandoned.mean() < 0.40
    assert np.median(np.bincount(pair[abandoned] // 1000, minlength=3000)) == 3
    assert len(pair) / 3000 == pytest.approx(12, rel=0.05)
    first = np.full(len(pair), NEVER)
    np.minimum.at(first, of, time)
    start = np.full(3000, NEVER)
    np.minimum.at(start, pair // 1000, first)
    targets = ~abandoned & (first > start[pair // 1000])
    assert 6.5 < targets.sum() / 3000 < 7.5
    assert 0 < (completion > 1).mean() < 0.05
    # the truth's account of what is abandoned is the log's
    order = np.argsort(latents.key[plays.row] * 1000 + plays.title)
    np.testing.assert_array_equal((plays.seen_from == NEVER)[order], abandoned)
    np.testing.assert_array_equal(plays.time[order], first)
    assert c == dataclasses.replace(SMALL, users=c.users, test_only_users=c.test_only_users)


def test_abandoned_as_of_a_time_is_what_the_log_says_then():
    c, catalogue, _, plays = made(1500, replay_abandoned=0.5)
    user, title, time, seconds = log_of(
        SimulatorSource(dataclasses.replace(c, users=1500, test_only_users=0))
    )
    pair = user * 1000 + title
    for cut in np.quantile(time, [0.3, 0.6, 0.9]).astype(np.int64):
        before = time < cut
        spent = np.bincount(pair[before], seconds[before], minlength=1500 * 1000)
        mine = plays.time < cut
        share = spent[(plays.row * 1000 + plays.title)[mine]] / (60 * catalogue.runtime[plays.title[mine]])
        np.testing.assert_array_equal(share >= 0.05, plays.seen_from[mine] < cut)


# ---------------------------------------------------------------- the same service every time


def test_a_seed_is_a_service(small_log):
    for a, b in zip(log_of(SimulatorSource(SMALL)), small_log, strict=True):
        np.testing.assert_array_equal(a, b)
    other = log_of(SimulatorSource(dataclasses.replace(SMALL, seed=1, users=300)))
    theirs = small_log[1][small_log[0] < 300]
    assert not np.array_equal(other[1][other[0] < 300], theirs)


def test_a_user_is_the_same_in_any_company():
    c, catalogue, latents, plays = made(700)
    rows = [3, 77, 512, int(np.argmax(latents.plays))]
    rows.sort()
    for some in (rows, rows[1:2]):
        alone = world.make_latents(c, np.array(some))
        for field in dataclasses.fields(alone):
            np.testing.assert_array_equal(getattr(alone, field.name), getattr(latents, field.name)[some])
        equal(make_plays(c, catalogue, alone), of_users(plays, some))


def test_more_users_leave_the_earlier_ones_as_they_were():
    few = SimulatorSource(dataclasses.replace(SMALL, users=100, test_only_users=0))
    many = SimulatorSource(dataclasses.replace(SMALL, users=BLOCK, test_only_users=300))
    a, b = log_of(few), log_of(many)
    kept = b[0] < 100
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y[kept])
    assert len(list(many.interactions())) == 2


# ---------------------------------------------------------------- knobs


def test_without_mood_or_interest_or_taste_their_genres_are_not_chosen_more():
    for knob in ("mood", "interest", "taste"):
        chosen = {}
        for strength in (0.0, 1.0):
            _, catalogue, latents, plays = made(2500, **{knob: strength})
            genre = {
                "mood": plays.mood,
                "interest": latents.interest[plays.row, plays.week],
                "taste": latents.genres[plays.row, 0],
            }[knob]
            hit = has_genre(catalogue, genre, plays.title).mean()
            shuffled = np.random.default_rng(0).permutation(genre)
            chosen[strength] = hit - has_genre(catalogue, shuffled, plays.title).mean()
        assert abs(chosen[0.0]) < 0.006, knob  # three standard errors of some 30,000 plays
        assert chosen[1.0] > 0.1, knob


def test_mood_lasts_a_sitting_and_interest_weeks():
    _, _, latents, plays = made(2500)
    same = (plays.row[1:] == plays.row[:-1]) & (plays.mood[1:] == plays.mood[:-1])
    # a new sitting in one of four plays, which draws the same of 18 genres in one of 18
    assert same[plays.row[1:] == plays.row[:-1]].mean() == pytest.approx(0.75 + 0.25 / 18, abs=0.01)
    moved = (latents.interest[:, 1:] != latents.interest[:, :-1]).mean()
    assert moved == pytest.approx(0.15 * 17 / 18, abs=0.01)


def test_without_clickbait_appeal_and_satisfaction_are_one():
    plain, baited = (world.make_catalogue(Simulator(clickbait=x)) for x in (0.0, 1.0))
    np.testing.assert_array_equal(plain.appeal, plain.satisfaction)
    bait = baited.appeal - baited.satisfaction > 2
    assert 0.1 < bait.mean() < 0.4
    _, catalogue, _, plays = made(2500)
    gone = plays.seen_from == NEVER
    bait_gone, other_gone = gone[bait[plays.title]].mean(), gone[~bait[plays.title]].mean()
    assert bait_gone > 2 * other_gone and (catalogue.appeal == baited.appeal).all()


def test_popularity_is_the_exponent_of_exposure():
    flat, zipf = (world.make_catalogue(Simulator(popularity=x)) for x in (0.0, 1.0))
    np.testing.assert_allclose(flat.exposure, 1e-3, rtol=2e-3)  # parts of 2**-20
    shown = np.sort(zipf.exposure)[::-1]
    np.testing.assert_allclose(shown[:100] * np.arange(1, 101), shown[0], rtol=0.02)
    for catalogue in (flat, zipf):
        assert catalogue.exposure.sum() == pytest.approx(1)
        counted = np.bincount(catalogue.shelf, minlength=1000) / len(catalogue.shelf)
        np.testing.assert_array_equal(counted, catalogue.exposure)


def test_with_every_strength_at_nothing_exposure_alone_is_left():
    knobs = dict.fromkeys(("taste", "interest", "mood", "appeal", "satisfaction", "match", "patience"), 0.0)
    _, catalogue, _, plays = made(2500, popularity=0.5, interruptions=0.0, replay_abandoned=0.0, **knobs)
    first = plays.title[np.unique(plays.row, return_index=True)[1]]
    top = catalogue.exposure > np.quantile(catalogue.exposure, 0.8)
    assert top[first].mean() == pytest.approx(catalogue.exposure[top].sum(), abs=0.03)
    gone = plays.seen_from == NEVER
    stay = 1 / (1 + np.exp(-world.STAY))
    assert gone.mean() == pytest.approx(1 - stay, abs=0.01)
    better = catalogue.satisfaction[plays.title] > 0
    assert gone[better].mean() == pytest.approx(gone[~better].mean(), abs=0.015)


def test_replays_come_at_the_rates_of_their_knobs():
    _, _, _, plays = made(2500, replay_watched=0.3, replay_abandoned=0.1)
    low = plays.seen_from > plays.time
    assert (plays.replay[~low] > 0).mean() == pytest.approx(0.3, abs=0.015)
    assert (plays.replay[low] > 0).mean() == pytest.approx(0.1, abs=0.015)
    assert (plays.replay_time > plays.later_time[:, 1]).all() and (plays.later_time[:, 0] > plays.time).all()
    _, _, _, plays = made(300, replay_watched=0.0, replay_abandoned=0.0)
    assert not plays.replay.any()


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("titles", 10, "source.titles=10 is not within 20 to 100000"),
        ("mood", -1.0, "source.mood=-1.0 is not within 0 to 10"),
        ("interruptions", 1.5, "source.interruptions=1.5 is not within 0 to 1"),
        ("slate", 1, "source.slate=1 is not within 2 to 1000"),
        ("clickbait", float("nan"), "source.clickbait=nan is not within 0 to 5"),
    ],
)
def test_a_knob_out_of_range_is_named(knob, value, message):
    with pytest.raises(InputError, match=message):
        SimulatorSource(Simulator(**{knob: value}))


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


def test_the_simulator_brings_in_nothing_but_numpy():
    code = (
        "import sys, jaxrec.sources.simulator; "
        "bad = {'polars', 'jax', 'tensorflow_datasets', 'pyarrow', 'scipy'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
