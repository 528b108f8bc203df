"""Regimes of the simulated service: opposite transitions between genres, and their exact truth."""

import numpy as np
import pytest
from scipy.stats import chi2
from test_simulator import assert_equal, make_service, select_users

from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator import world
from jaxrec.sources.simulator.plays import make_plays
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.source import SimulatorSource

GENRES = 18


@pytest.fixture(scope="module")
def service():
    """Return the plays of a small service whose regimes have twice their default strength."""
    return SimulatedService(*make_service(1500, titles=200, slate=30, regimes=2.0))


def steps_of(service, play):
    """Return the regime of plays, and the step from the main genre before to that of every title."""
    genre = world.main_genre(service.catalogue, np.arange(service.config.titles))
    before = genre[service.plays.title[play - 1]]
    return service.latents.regime[service.plays.row[play]], (genre - before[:, None]) % GENRES


def test_choices_agree_with_frequencies_by_regime_and_step(service):
    """Chi-squared of 36 cells: two regimes, and 18 steps from the genre of the title before."""
    play = np.flatnonzero(service.plays.row[1:] == service.plays.row[:-1]) + 1
    regime, step = steps_of(service, play)
    density = SimulatorSource(service.config).truth().choice(service.key[play], service.plays.time[play])
    cell = GENRES * regime[:, None] + step
    expected = np.bincount(cell.ravel(), density.ravel(), minlength=2 * GENRES)
    chosen = cell[np.arange(len(play)), service.plays.title[play]]
    observed = np.bincount(chosen, minlength=2 * GENRES)
    assert expected.min() > 50
    assert chi2.sf(((observed - expected) ** 2 / expected).sum(), 2 * GENRES - 1) > 0.001
    ahead, back = (observed.reshape(2, GENRES)[:, s] / observed.reshape(2, GENRES).sum(1) for s in (1, 17))
    assert ahead[0] > 3 * ahead[1] and back[1] > 3 * back[0]


def test_a_transition_adds_its_nats_to_one_genre(service):
    c, _, latents, plays = service
    at = np.arange(200)
    state = latents, plays.row[at], plays.week[at], plays.mood[at]
    before = np.where(at % 2, 17, -1)
    added = world.preference(c, *state, before) - world.preference(c, *state, np.full(200, -1))
    expected = np.zeros((200, GENRES), np.float32)
    expected[at, np.where(latents.regime[plays.row[at]] == 0, 0, 16)] = np.where(before >= 0, 4.4, 0)
    np.testing.assert_allclose(added, expected, atol=0.003)


def test_a_user_does_not_depend_on_the_batch(service):
    rows = sorted([3, 77, 512, int(np.argmax(service.latents.plays))])
    alone = world.make_latents(service.config, np.array(rows))
    plays = make_plays(service.config, service.catalogue, alone)
    assert_equal(plays, select_users(service.plays, rows))


def test_users_have_the_feature_where_there_are_regimes():
    c = Simulator(users=300, test_only_users=0, titles=50, regimes=1.0)
    values = next(SimulatorSource(c).users()).features["regime"]
    assert set(values) == {"ahead", "back"} and np.mean(values == "back") == pytest.approx(0.5, abs=0.1)
    assert "regime" not in next(SimulatorSource(Simulator(users=300)).users()).features
