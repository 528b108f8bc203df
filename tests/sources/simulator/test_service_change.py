"""Change of the simulated service: launches, novelty, trends, countries, licences, moods; its exact truth."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chi2
from test_simulator import assert_equal, make_service, select_users

from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator import change, world
from jaxrec.sources.simulator.plays import make_plays
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.signals import make_signals
from jaxrec.sources.simulator.source import SimulatorSource

KNOBS = dict(
    launches=0.3, novelty=2.0, trend=0.3, countries=6, country_taste=1.0, unlicensed=0.2, mood_moves=0.3
)
CELLS = 40


@pytest.fixture(scope="module")
def service():
    """Return the plays of a small changing service."""
    return SimulatedService(*make_service(1500, titles=200, slate=30, **KNOBS))


# ---------------------------------------------------------------- the truth


def chi_squared_of(service, truth, play):
    """Return chi-squared p-values of the titles of plays, and of those that are kept, in 40 cells.

    A cell is a group of countries, of the title's age on the day, and of the sign of its trend.
    """
    catalogue, c = service.catalogue, service.config
    country = np.minimum(service.latents.country, 4)
    observed, expected = np.zeros((2, CELLS)), np.zeros((2, CELLS))
    every = np.arange(c.titles)
    for block in np.array_split(play, max(1, len(play) // 2000)):
        row, day, title = (getattr(service.plays, name)[block] for name in ("row", "day", "title"))
        age = day[:, None] - catalogue.change.launch
        cell = 4 * (catalogue.change.trend[day // 7] > 0) + np.digitize(age, [7, 21, 100])
        cell += 8 * country[row][:, None]
        key, time = service.key[block], service.plays.time[block]
        kept = service.plays.seen_from[block] != np.iinfo(np.int64).max
        p, _ = truth.densities(key[kept], time[kept], np.broadcast_to(every, (kept.sum(), c.titles)))
        for n, (rows, density) in enumerate(((slice(None), truth.choice(key, time)), (kept, p))):
            of_titles = cell[rows]
            expected[n] += np.bincount(of_titles.ravel(), density.ravel(), minlength=CELLS)
            chosen = of_titles[np.arange(len(of_titles)), title[rows]]
            observed[n] += np.bincount(chosen, minlength=CELLS)
    assert (expected > 5).all()
    return chi2.sf(((observed - expected) ** 2 / expected).sum(axis=1), CELLS - 1)


def chi_squared(plays, seed):
    """Return the p-values of the first plays of a service, of 12 plays a user."""
    c = Simulator(seed=seed, users=plays // 12, test_only_users=0, titles=120, slate=20, weeks=6, **KNOBS)
    catalogue, latents = world.make_catalogue(c), world.make_latents(c, np.arange(c.users))
    service = SimulatedService(c, catalogue, latents, make_plays(c, catalogue, latents))
    return chi_squared_of(service, SimulatorSource(c).truth(), np.arange(min(plays, len(service.key))))


def test_densities_agree_with_frequencies_by_country_age_and_trend():
    assert min(chi_squared(20_000, seed=0)) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_densities_agree_with_the_frequencies_of_200_000_plays(seed):
    assert min(chi_squared(205_000, seed)) > 0.001


def test_mood_and_slates_know_the_day_and_the_country(service):
    """The influence of the mood on one play, computed directly from all available titles."""
    c, catalogue, latents, plays = service
    at = np.flatnonzero(plays.day > 20)[[7]]
    title, day, row = np.arange(c.titles), plays.day[at[0]], plays.row[at[0]]
    open_titles = (catalogue.change.launch <= day) & catalogue.change.licensed[latents.country[row]]
    assert 0.5 < open_titles.mean() < 0.9
    match = service.preferences(at)[0].astype(np.float64)
    attraction = 0.6 * catalogue.appeal + catalogue.change.utility(np.array([day]), title)[0]
    densities = []
    for mood in (0.0, world.MOOD):
        wish = match.copy()
        wish[plays.mood[at[0]]] -= mood
        weight = open_titles * catalogue.exposure * np.exp(catalogue.taste @ wish + attraction)
        densities.append(weight / weight.sum())
    influence = SimulatorSource(c).truth().mood(service.key[at], plays.time[at])
    assert influence[0] == pytest.approx(0.5 * abs(densities[0] - densities[1]).sum(), abs=0.003)


# ---------------------------------------------------------------- launches and trends


def test_launches_are_even_over_the_days_and_nothing_is_played_before(service):
    _, catalogue, _, plays = service
    launch = catalogue.change.launch
    assert (launch >= 0).sum() == 60  # three tenths of 200
    assert ((launch > -730) & (launch <= -60) | (launch > 0) & (launch < 84)).all()
    by_week = np.bincount(launch[launch > 0] // 7, minlength=12)
    assert by_week.min() >= 4 and by_week.max() <= 6
    age = plays.day - launch[plays.title]
    assert age.min() == 0 and (plays.time >= world.EPOCH_MS + launch[plays.title] * world.DAY_MS).all()
    for events in (make_signals(*service, (name,)) for name in ("list_add", "impression", "trailer")):
        day = (events.time - world.EPOCH_MS) // world.DAY_MS
        assert len(events.title) > 1000 and (launch[events.title] <= day).all()


def test_novelty_and_trend_have_the_values_by_hand(service):
    added = service.catalogue.change
    title = np.array([[3, np.flatnonzero((added.launch > 20) & (added.launch < 60))[0]]])
    day = added.launch[title[0, 1]] + 7
    by_hand = 2 * np.exp(-(day - added.launch[title[0]]) / 7) + added.trend[day // 7, title[0]]
    np.testing.assert_allclose(added.utility(np.array([day]), title), [by_hand], rtol=1e-6)
    assert added.utility(np.array([day]), title)[0, 1] - added.trend[day // 7, title[0, 1]] == pytest.approx(
        2 / np.e, abs=1e-6
    )
    steps = np.diff(added.trend, axis=0)
    assert not added.trend[0].any() and steps.std() == pytest.approx(0.3, rel=0.05)
    assert abs(np.corrcoef(steps[:-1].ravel(), steps[1:].ravel())[0, 1]) < 0.06


def test_novelty_draws_plays_to_new_titles():
    plays_of_new = []
    for novelty in (0.0, 2.0):
        _, catalogue, _, plays = make_service(800, titles=200, slate=30, launches=0.3, novelty=novelty)
        plays_of_new.append((plays.day - catalogue.change.launch[plays.title] <= 7).mean())
    assert plays_of_new[1] > 1.8 * plays_of_new[0] > 0


# ---------------------------------------------------------------- countries and moods


def test_countries_have_their_shares_tastes_and_licences(service):
    c, catalogue, latents, plays = service
    shares = np.bincount(world.make_latents(c, np.arange(20_000)).country, minlength=6) / 20_000
    np.testing.assert_allclose(shares, [0.55, 0.2, 0.1, 0.07, 0.05, 0.03], atol=0.012)
    licensed = catalogue.change.licensed
    assert licensed.shape == (6, 200) and 1 - licensed.mean() == pytest.approx(0.2, abs=0.05)
    assert licensed[latents.country[plays.row], plays.title].all()
    taste = change.taste_of_countries(c, 18)
    assert taste.std() == pytest.approx(1, abs=0.2)
    other = dataclasses.replace(c, country_taste=0.0)
    at = np.arange(300)
    state = latents, plays.row[at], plays.week[at], plays.mood[at]
    added = world.preference(c, *state) - world.preference(other, *state)
    np.testing.assert_array_equal(added, taste[latents.country[plays.row[at]]])


def test_new_users_join_within_the_log(service):
    c, _, latents, plays = service
    new = change.tenures_of(c, latents.key) == 0
    assert new.mean() == pytest.approx(1 / 3, abs=0.04) and not latents.joined[~new].any()
    assert latents.joined.min() >= 0 and latents.joined.max() < 56
    assert (plays.day >= latents.joined[plays.row]).all()
    # A user who joins after a third of the log on average has two thirds of the plays.
    assert latents.plays[new].mean() / latents.plays[~new].mean() == pytest.approx(2 / 3, abs=0.08)


def test_moods_move_within_a_sitting():
    """Three plays in four go on with a sitting; the mood stays if it neither moves nor moves to itself."""
    _, _, _, plays = make_service(1500, titles=200, slate=10, mood_moves=0.3)
    follows = plays.row[1:] == plays.row[:-1]
    same = plays.mood[1:] == plays.mood[:-1]
    assert same[follows].mean() == pytest.approx(0.75 * 0.7 + (1 - 0.75 * 0.7) / 18, abs=0.012)


# ---------------------------------------------------------------- tables


def test_a_user_of_a_changing_service_does_not_depend_on_the_batch(service):
    c, catalogue, latents, plays = service
    rows = sorted([3, 77, 512, int(np.argmax(latents.plays))])
    alone = world.make_latents(c, np.array(rows))
    assert_equal(make_plays(c, catalogue, alone), select_users(plays, rows))


def test_features_of_change_exist_where_their_knobs_are_on():
    c = Simulator(users=300, test_only_users=0, titles=200, **KNOBS)
    source, plain = (
        SimulatorSource(c),
        SimulatorSource(dataclasses.replace(c, **dict.fromkeys(KNOBS, 0) | {"countries": 1})),
    )
    launch = source.titles().features["launch_day"]
    np.testing.assert_array_equal(launch - 20_028, source.catalogue.change.launch)  # 2024-11-01
    launched = source.titles().launched
    np.testing.assert_array_equal(launched, launch * world.DAY_MS)
    assert plain.titles().launched is None
    features = next(source.users()).features
    assert set(features["country"]) == set(change.COUNTRIES)
    assert set(features["tenure"]) == {"new", "year", "years"}
    assert set(plain.titles().features) == {"genres", "runtime", "form", "launch_day"}
    assert plain.titles().features["launch_day"].max() < 20_028  # a study of launches can be run without them
    assert set(next(plain.users()).features) == {"segment", "segment2"}
