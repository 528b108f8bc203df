"""Tests of the simulated service: tables, reproducibility, effect of each knob."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Source
from jaxrec.sources.simulator import world
from jaxrec.sources.simulator.plays import NEVER, make_plays
from jaxrec.sources.simulator.source import BLOCK, SimulatorSource

SMALL = Simulator(users=2500, test_only_users=500)


def make_service(users=2500, **knobs):
    """Return (config, catalogue, latents, plays) of a service's first users."""
    c = Simulator(**knobs)
    catalogue = world.make_catalogue(c)
    latents = world.make_latents(c, np.arange(users))
    return c, catalogue, latents, make_plays(c, catalogue, latents)


def read_log(source):
    """Return the users, titles, times and seconds of all interactions."""
    chunks = list(source.interactions())
    return [np.concatenate([getattr(x, f) for x in chunks]) for f in ("user", "title", "time", "seconds")]


@pytest.fixture(scope="module")
def small_log():
    return read_log(SimulatorSource(SMALL))


def assert_equal(a, b):
    """Assert that all fields of two dataclasses are equal."""
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def select_users(plays, rows):
    """Return the plays of the users at `rows`, renumbered 0, 1, ..."""
    kept = np.concatenate([np.nonzero(plays.row == r)[0] for r in rows])
    fields = {f.name: getattr(plays, f.name)[kept] for f in dataclasses.fields(plays)}
    fields["row"] = np.searchsorted(np.asarray(rows), fields["row"])
    return type(plays)(**fields)


def has_genre(catalogue, genre, title):
    """Return whether genre [N] is among the genres of title [N]."""
    of_title = np.zeros((len(catalogue.film), len(world.GENRES)), bool)
    name = {g: n for n, g in enumerate(world.GENRES)}
    rows = np.repeat(np.arange(len(catalogue.film)), np.diff(catalogue.genres.offsets))
    of_title[rows, [name[g] for g in catalogue.genres.values]] = True
    return of_title[title, genre]


# ---------------------------------------------------------------- the three tables


def test_tables_have_the_documented_types_and_ranges(small_log):
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
    assert np.unique(rows, axis=1).shape[1] == len(user)  # all events are distinct
    assert seconds.min() > 0 and time.min() >= world.EPOCH_MS and set(user) == set(range(3000))
    for chunk in source.interactions():
        np.testing.assert_array_equal(chunk.context["hour"], chunk.time // 3_600_000 % 24)
        assert set(chunk.context["device"]) == {"tv", "phone", "tablet", "web"}
        evening = chunk.context["hour"] == 20
        tv = chunk.context["device"] == "tv"
        assert tv[evening].mean() > 0.6 > 0.4 > tv[~evening].mean()
    assert source.drops.counts == {} and source.has_completion


def test_titles_are_not_ordered_by_popularity(small_log):
    plays = np.bincount(small_log[1], minlength=1000)
    assert abs(np.corrcoef(np.arange(1000), plays)[0, 1]) < 0.1


def test_default_service_has_the_documented_statistics(small_log):
    source = SimulatorSource(SMALL)
    c, _, latents, plays = make_service(3000)
    user, title, time, seconds = small_log
    pair, pair_of_row = np.unique(user * 1000 + title, return_inverse=True)
    completion = np.bincount(pair_of_row, seconds) / (60 * source.titles().runtime[pair % 1000])
    abandoned = completion < 0.05
    assert 0.30 < abandoned.mean() < 0.40
    assert np.median(np.bincount(pair[abandoned] // 1000, minlength=3000)) == 3
    assert len(pair) / 3000 == pytest.approx(12, rel=0.05)
    first = np.full(len(pair), NEVER)
    np.minimum.at(first, pair_of_row, time)
    start = np.full(3000, NEVER)
    np.minimum.at(start, pair // 1000, first)
    targets = ~abandoned & (first > start[pair // 1000])
    assert 6.5 < targets.sum() / 3000 < 7.5
    assert 0 < (completion > 1).mean() < 0.05
    # The abandoned titles according to the plays are those of the log.
    order = np.argsort(latents.key[plays.row] * 1000 + plays.title)
    np.testing.assert_array_equal((plays.seen_from == NEVER)[order], abandoned)
    np.testing.assert_array_equal(plays.time[order], first)
    assert c == dataclasses.replace(SMALL, users=c.users, test_only_users=c.test_only_users)


def test_abandonment_at_a_time_agrees_with_the_log_up_to_that_time():
    c, catalogue, _, plays = make_service(1500, replay_abandoned=0.5)
    user, title, time, seconds = read_log(
        SimulatorSource(dataclasses.replace(c, users=1500, test_only_users=0))
    )
    pair = user * 1000 + title
    for cut in np.quantile(time, [0.3, 0.6, 0.9]).astype(np.int64):
        before = time < cut
        spent = np.bincount(pair[before], seconds[before], minlength=1500 * 1000)
        earlier = plays.time < cut
        completion = spent[(plays.row * 1000 + plays.title)[earlier]] / (
            60 * catalogue.runtime[plays.title[earlier]]
        )
        np.testing.assert_array_equal(completion >= 0.05, plays.seen_from[earlier] < cut)


# ---------------------------------------------------------------- reproducibility


def test_the_seed_determines_the_log(small_log):
    for a, b in zip(read_log(SimulatorSource(SMALL)), small_log, strict=True):
        np.testing.assert_array_equal(a, b)
    other = read_log(SimulatorSource(dataclasses.replace(SMALL, seed=1, users=300)))
    titles = small_log[1][small_log[0] < 300]
    assert not np.array_equal(other[1][other[0] < 300], titles)


def test_a_user_does_not_depend_on_the_batch():
    c, catalogue, latents, plays = make_service(700)
    rows = [3, 77, 512, int(np.argmax(latents.plays))]
    rows.sort()
    for subset in (rows, rows[1:2]):
        alone = world.make_latents(c, np.array(subset))
        for field in dataclasses.fields(alone):
            np.testing.assert_array_equal(getattr(alone, field.name), getattr(latents, field.name)[subset])
        assert_equal(make_plays(c, catalogue, alone), select_users(plays, subset))


def test_adding_users_does_not_change_the_earlier_ones():
    few = SimulatorSource(dataclasses.replace(SMALL, users=100, test_only_users=0))
    many = SimulatorSource(dataclasses.replace(SMALL, users=BLOCK, test_only_users=300))
    a, b = read_log(few), read_log(many)
    kept = b[0] < 100
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y[kept])
    assert len(list(many.interactions())) == 2


# ---------------------------------------------------------------- knobs


def test_mood_interest_and_taste_at_zero_do_not_favour_their_genres():
    for knob in ("mood", "interest", "taste"):
        chosen = {}
        for strength in (0.0, 1.0):
            _, catalogue, latents, plays = make_service(2500, **{knob: strength})
            genre = {
                "mood": plays.mood,
                "interest": latents.interest[plays.row, plays.week],
                "taste": latents.genres[plays.row, 0],
            }[knob]
            hit = has_genre(catalogue, genre, plays.title).mean()
            shuffled = np.random.default_rng(0).permutation(genre)
            chosen[strength] = hit - has_genre(catalogue, shuffled, plays.title).mean()
        assert abs(chosen[0.0]) < 0.006, knob  # three standard errors of about 30,000 plays
        assert chosen[1.0] > 0.1, knob


def test_mood_lasts_a_sitting_and_interest_lasts_weeks():
    _, _, latents, plays = make_service(2500)
    same = (plays.row[1:] == plays.row[:-1]) & (plays.mood[1:] == plays.mood[:-1])
    # One play in four opens a sitting, whose mood is the previous one's with probability 1/18.
    assert same[plays.row[1:] == plays.row[:-1]].mean() == pytest.approx(0.75 + 0.25 / 18, abs=0.01)
    moved = (latents.interest[:, 1:] != latents.interest[:, :-1]).mean()
    assert moved == pytest.approx(0.15 * 17 / 18, abs=0.01)


def test_without_clickbait_appeal_equals_satisfaction():
    plain, baited = (world.make_catalogue(Simulator(clickbait=x)) for x in (0.0, 1.0))
    np.testing.assert_array_equal(plain.appeal, plain.satisfaction)
    bait = baited.appeal - baited.satisfaction > 2
    assert 0.1 < bait.mean() < 0.4
    _, catalogue, _, plays = make_service(2500)
    abandoned = plays.seen_from == NEVER
    bait_rate, other_rate = abandoned[bait[plays.title]].mean(), abandoned[~bait[plays.title]].mean()
    assert bait_rate > 2 * other_rate and (catalogue.appeal == baited.appeal).all()


def test_popularity_is_the_zipf_exponent_of_exposure():
    flat, zipf = (world.make_catalogue(Simulator(popularity=x)) for x in (0.0, 1.0))
    np.testing.assert_allclose(flat.exposure, 1e-3, rtol=2e-3)  # exposure is a multiple of 2**-20
    exposure = np.sort(zipf.exposure)[::-1]
    np.testing.assert_allclose(exposure[:100] * np.arange(1, 101), exposure[0], rtol=0.02)
    for catalogue in (flat, zipf):
        assert catalogue.exposure.sum() == pytest.approx(1)
        frequency = np.bincount(catalogue.shelf, minlength=1000) / len(catalogue.shelf)
        np.testing.assert_array_equal(frequency, catalogue.exposure)


def test_with_all_strengths_at_zero_only_exposure_matters():
    knobs = dict.fromkeys(("taste", "interest", "mood", "appeal", "satisfaction", "match", "patience"), 0.0)
    _, catalogue, _, plays = make_service(
        2500, popularity=0.5, interruptions=0.0, replay_abandoned=0.0, **knobs
    )
    first = plays.title[np.unique(plays.row, return_index=True)[1]]
    top = catalogue.exposure > np.quantile(catalogue.exposure, 0.8)
    assert top[first].mean() == pytest.approx(catalogue.exposure[top].sum(), abs=0.03)
    abandoned = plays.seen_from == NEVER
    stay = 1 / (1 + np.exp(-world.STAY))
    assert abandoned.mean() == pytest.approx(1 - stay, abs=0.01)
    better = catalogue.satisfaction[plays.title] > 0
    assert abandoned[better].mean() == pytest.approx(abandoned[~better].mean(), abs=0.015)


def test_replay_rates_equal_their_knobs():
    _, _, _, plays = make_service(2500, replay_watched=0.3, replay_abandoned=0.1)
    low = plays.seen_from > plays.time
    assert (plays.replay[~low] > 0).mean() == pytest.approx(0.3, abs=0.015)
    assert (plays.replay[low] > 0).mean() == pytest.approx(0.1, abs=0.015)
    assert (plays.replay_time > plays.later_time[:, 1]).all() and (plays.later_time[:, 0] > plays.time).all()
    _, _, _, plays = make_service(300, replay_watched=0.0, replay_abandoned=0.0)
    assert not plays.replay.any()


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("titles", 10, "source.titles=10 is not within 20 to 1000000"),
        ("mood", -1.0, "source.mood=-1.0 is not within 0 to 10"),
        ("interruptions", 1.5, "source.interruptions=1.5 is not within 0 to 1"),
        ("slate", 1, "source.slate=1 is not within 2 to 1000"),
        ("habit", 1.5, "source.habit=1.5 is not within 0 to 1"),
        ("ratings", 2.0, "source.ratings=2.0 is not within 0 to 1"),
        ("trailers", 11.0, "source.trailers=11.0 is not within 0 to 10"),
        ("surprise", -1.0, "source.surprise=-1.0 is not within 0 to 10"),
        ("launches", 0.95, "source.launches=0.95 is not within 0 to 0.9"),
        ("novelty", -1.0, "source.novelty=-1.0 is not within 0 to 5"),
        ("trend", 3.0, "source.trend=3.0 is not within 0 to 2"),
        ("countries", 7, "source.countries=7 is not within 1 to 6"),
        ("country_taste", 1.0, "source.country_taste=1.0 must be 0 with source.countries=1"),
        ("unlicensed", 0.2, "source.unlicensed=0.2 must be 0 with source.countries=1"),
        ("regimes", 11.0, "source.regimes=11.0 is not within 0 to 10"),
        ("mood_moves", 1.5, "source.mood_moves=1.5 is not within 0 to 1"),
        ("clickbait", float("nan"), "source.clickbait=nan is not within 0 to 5"),
    ],
)
def test_error_names_a_knob_out_of_range(knob, value, message):
    with pytest.raises(InputError, match=message):
        SimulatorSource(Simulator(**{knob: value}))


def test_the_simulator_imports_only_numpy():
    code = (
        "import sys, jaxrec.sources.simulator.source; "
        "bad = {'polars', 'jax', 'tensorflow_datasets', 'pyarrow', 'scipy'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
