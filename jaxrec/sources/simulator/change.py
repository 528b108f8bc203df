"""Change of the simulated service: launches, novelty, trends of appeal, countries and licences.

A title that is launched on a day has no weight on slates of earlier days. Its novelty is worth
`novelty` e^(-age / 7 days) nats. Each week, the appeal of each title takes a step of a random walk. A user
belongs to a country, whose taste is added to the user's taste, and whose slates have no titles that the
country lacks a licence for. Every quantity is a function of (day, country, title), so that the truth of the
service stays exact. With every knob at its default, no value of the service differs from that without it.

Days are whole days since the start of the service.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.sources.simulator.draws import Draw, normal, on_grid

COUNTRIES = np.array(["US", "BR", "GB", "MX", "IN", "NZ"])  # most users first
COUNTRY_SHARES = np.array([55.0, 20.0, 10.0, 7.0, 5.0, 3.0])  # percent of users
TENURES = np.array(["new", "year", "years"])  # joined within the log; a year before it; longer before
NOVELTY_DAYS = 7.0  # age at which novelty has fallen to 1 / e
_OLDEST, _YOUNGEST = 730, 60  # ages in days, at the start, of titles that were launched before it
_LAST_JOIN = 2 / 3  # fraction of the log's days after which no user joins


class Change(NamedTuple):
    """Change of a catalogue of V titles.

    Attributes:
        launch: [V] int64 day of the launch; negative for titles of before the start.
        trend: [weeks, V] float32 nats added to the utility of titles; no row without trends.
        licensed: [countries, V] bool.
        fading: [ages] float32 nats that novelty adds at an age in days; empty without novelty.
    """

    launch: np.ndarray
    trend: np.ndarray
    licensed: np.ndarray
    fading: np.ndarray

    def utility(self, day: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return the nats [N, C] that novelty and trend add to titles [N, C] or [C] on days [N]."""
        added = np.zeros(1, np.float32)
        if len(self.trend):
            added = added + self.trend[day[:, None] // 7, title]
        if len(self.fading):
            age = np.maximum(day[:, None] - self.launch[title], 0)
            added = added + self.fading[np.minimum(age, len(self.fading) - 1)]
        return added

    def is_offered(self, day: np.ndarray, country: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return whether titles [N, C] or [C] are launched and licensed on days [N], in countries [N]."""
        return (self.launch[title] <= day[:, None]) & self.licensed[country[:, None], title]


def can_lack_titles(c: Simulator) -> bool:
    """Return whether some titles are unavailable on some day or in some country."""
    return c.launches > 0 or c.unlicensed > 0


def make_change(c: Simulator) -> Change:
    """Generate the change of the catalogue of a config; V = config.titles."""
    row, days = np.arange(c.titles), 7 * c.weeks
    order = np.argsort(hashing.mix(c.seed, Draw.LAUNCHED, row), kind="stable")
    launched = order[: round(c.launches * c.titles)]
    launch = -_YOUNGEST - hashing.randint(_OLDEST - _YOUNGEST, c.seed, Draw.LAUNCH_AGE, row)
    launch[launched] = (1 + np.arange(len(launched))) * days // (1 + len(launched))
    fading = c.novelty * np.exp(-np.arange(days + _OLDEST) / NOVELTY_DAYS)
    weeks = np.arange(c.weeks)[:, None]
    steps = normal(c.seed, Draw.TREND, weeks, row) * (weeks > 0) if c.trend else np.zeros((0, c.titles))
    country = np.arange(c.countries)[:, None]
    return Change(
        launch=launch,
        trend=(c.trend * np.cumsum(steps, axis=0)).astype(np.float32),
        licensed=hashing.uniform(c.seed, Draw.LICENCE, country, row) >= c.unlicensed,
        fading=(fading if c.novelty else fading[:0]).astype(np.float32),
    )


# ---------------------------------------------------------------- users


def countries_of(c: Simulator, key: np.ndarray) -> np.ndarray:
    """Return the country [U] int64 of users by key, a row of COUNTRIES."""
    ends = np.cumsum(COUNTRY_SHARES[: c.countries])
    drawn = hashing.uniform(c.seed, Draw.COUNTRY, key) * ends[-1]
    return np.minimum(np.searchsorted(ends, drawn, side="right"), c.countries - 1)


def taste_of_countries(c: Simulator, genres: int) -> np.ndarray:
    """Return the nats [countries, genres] that the taste of each country adds, on the grid."""
    country = np.arange(c.countries)[:, None]
    return on_grid(c.country_taste * normal(c.seed, Draw.COUNTRY_TASTE, country, np.arange(genres)))


def tenures_of(c: Simulator, key: np.ndarray) -> np.ndarray:
    """Return the tenure [U] int64 of users by key, a row of TENURES; a third of the users has each."""
    return hashing.randint(len(TENURES), c.seed, Draw.TENURE, key)


def joining_days(c: Simulator, key: np.ndarray) -> np.ndarray:
    """Return the first day [U] int64 on which users by key play.

    It is 0, and later for new users of a service with several countries.
    """
    last = int(_LAST_JOIN * 7 * c.weeks)
    day = hashing.randint(last, c.seed, Draw.JOINED, key)
    return np.where((c.countries > 1) & (tenures_of(c, key) == 0), day, 0)
