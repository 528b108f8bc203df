"""Source of a simulated streaming service with a known truth.

Titles have one to three of 18 genres, a taste vector around their genres, and an exposure that follows
Zipf's law. The *appeal* of a title raises the probability of a start, the *satisfaction* that of staying, so
that some titles are clickbait. Users have a long-term taste, an interest that moves week by week, and a mood
that lasts a sitting. A play is a choice from a slate. The completion of a play depends on satisfaction and
match, with interruptions that are independent of the title.

`world.py` has the catalogue and the latent states, `change.py` what differs by day and country, `canvases/`
names, queries and pages of titles, `plays.py` the plays, `enjoyment.py` what users like, `signals.py` the
events beside plays, `truth.py` the truth, `oracle/` the densities and expectations of the truth. No
dependency other than NumPy is imported.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxrec.config.schema import Feature, Signal, Simulator
from jaxrec.core import hashing
from jaxrec.core.ids import MISSING
from jaxrec.core.tables import Drops, Interactions, Lists, Signals, Titles, Users
from jaxrec.sources.simulator.canvases.queries import CANVASES, HOME, SEARCH, queries
from jaxrec.sources.simulator.change import COUNTRIES, TENURES, tenures_of
from jaxrec.sources.simulator.draws import Draw
from jaxrec.sources.simulator.plays import make_plays
from jaxrec.sources.simulator.settings import check
from jaxrec.sources.simulator.signals import make_signals
from jaxrec.sources.simulator.truth import SimulatorTruth
from jaxrec.sources.simulator.world import (
    DAY_MS,
    DEVICES,
    EPOCH_MS,
    FORMS,
    GENRES,
    HOUR_MS,
    REGIMES,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    make_catalogue,
    make_latents,
    segments,
)

BLOCK = 4096  # users per chunk; affects memory use, never the plays
_FIRST_KEY, _KEY_STEP = 70_001, 13  # keys of titles differ from rows, so that a mix-up shows


class SimulatorSource:
    """Source over the simulated service.

    User keys are 0 to users + test_only_users - 1; the last `test_only_users` users are in the test split.
    Title features: genres (list of names), runtime (minutes), form, and launch_day (days since 1970), which
    lies before the log without `launches`. User features: segment, segment2, regime where `regimes` is
    above 0, and country and tenure where there are several countries. Context features: device, hour (0 to
    23, UTC). With `search` or `similar` above 0, titles have the feature name, and the context has canvas
    (home, similar or search), query (text) with `search`, and source (key of a title) with `similar`.
    """

    has_completion = True

    def __init__(self, config: Simulator, signals: tuple[Signal, ...] = ()):
        """Check the config.

        Args:
            config: Settings of the simulator.
            signals: Declared signals, which config validation has passed.

        Raises:
            InputError: A config value is out of range.
        """
        check(config)
        self.config, self.names = config, tuple(signal.name for signal in signals)
        self.drops = Drops()
        self._catalogue: SimulatedCatalogue | None = None

    @property
    def catalogue(self) -> SimulatedCatalogue:
        """Return the catalogue, generated on first use."""
        if self._catalogue is None:
            self._catalogue = make_catalogue(self.config)
        return self._catalogue

    def titles(self) -> Titles:
        """Return the catalogue's keys, runtimes and features."""
        c, catalogue = self.config, self.catalogue
        features: dict[str, np.ndarray | Lists] = {
            "genres": catalogue.genres,
            "runtime": catalogue.runtime,
            "form": FORMS[catalogue.film.astype(np.int64)],
        }
        if catalogue.canvases is not None:
            features["name"] = catalogue.canvases.name
        launched = catalogue.change.launch * DAY_MS + EPOCH_MS
        features["launch_day"] = (launched // DAY_MS).astype(np.float64)
        return Titles(
            key=_keys(np.arange(c.titles, dtype=np.int64)),
            runtime=catalogue.runtime,
            features=features,
            launched=launched if c.launches or c.novelty or c.trend else None,
        )

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the user keys in blocks."""
        num_users = self.config.users + self.config.test_only_users
        for first in range(0, num_users, BLOCK):
            yield np.arange(first, min(first + BLOCK, num_users), dtype=np.int64)

    def users(self) -> Iterator[Users]:
        """Yield the users in blocks."""
        for key in self._blocks():
            split = np.where(key < self.config.users, -1, 2).astype(np.int8)
            latents = make_latents(self.config, key)
            features = segments(self.config, latents)
            if self.config.regimes:
                features["regime"] = REGIMES[latents.regime]
            if self.config.countries > 1:
                features["country"] = COUNTRIES[latents.country]
                features["tenure"] = TENURES[tenures_of(self.config, key)]
            yield Users(key, features, split)

    def parts(self) -> tuple[int, ...]:
        """Return the indices of the blocks of users."""
        return tuple(range(len(list(self._blocks()))))

    def interactions(self, part: int | None = None) -> Iterator[Interactions]:
        """Yield one chunk per block of users, in order of time within a chunk."""
        for key in itertools.islice(self._blocks(), part, None if part is None else part + 1):
            latents = make_latents(self.config, key)
            plays = make_plays(self.config, self.catalogue, latents)
            yield to_interactions(self.config, self.catalogue, latents, plays)

    def signal_parts(self) -> tuple[int, ...]:
        """Return the indices of the blocks of users; none without signals."""
        return self.parts() if self.names else ()

    def signals(self, part: int | None = None) -> Iterator[Signals]:
        """Yield the events of the declared signals, one chunk per block of users, in order of time."""
        blocks = self._blocks() if self.names else iter(())
        for key in itertools.islice(blocks, part, None if part is None else part + 1):
            latents = make_latents(self.config, key)
            plays = make_plays(self.config, self.catalogue, latents)
            yield make_signals(self.config, self.catalogue, latents, plays, self.names)

    def truth(self) -> SimulatorTruth:
        """Return the ground truth of the service."""
        return SimulatorTruth(self.config, self.catalogue)

    def files(self) -> list[str]:
        """Return no file: the rows are drawn."""
        return []


def to_interactions(
    c: Simulator, catalogue: SimulatedCatalogue, latents: LatentStates, plays: SimulatedPlays
) -> Interactions:
    """Convert plays to watch events in order of time, milliseconds since 1970.

    The events are the first sessions, the later sessions and the replays of the plays.
    """
    seconds = np.concatenate([plays.seconds, plays.later[:, 0], plays.later[:, 1], plays.replay])
    time = np.concatenate([plays.time, plays.later_time[:, 0], plays.later_time[:, 1], plays.replay_time])
    kept = np.nonzero(seconds > 0)[0]
    kept = kept[np.argsort(time[kept], kind="stable")]
    play = kept % len(plays.time)
    user, time = latents.key[plays.row[play]], time[kept]
    hour = (time // HOUR_MS) % 24
    return Interactions(
        user=user,
        title=plays.title[play],
        time=time,
        seconds=np.maximum(np.round(seconds[kept], 3), 0.001),
        context={"device": DEVICES[_device(c, user, time, hour)], "hour": hour}
        | _canvas_context(c, catalogue, plays, user, np.where(kept == play, play, -1)),
    )


def _keys(title: np.ndarray) -> np.ndarray:
    """Return the keys [...] int64 of titles by row; MISSING for the row -1."""
    return np.where(title >= 0, _FIRST_KEY + _KEY_STEP * title, MISSING)


def _canvas_context(
    c: Simulator, catalogue: SimulatedCatalogue, plays: SimulatedPlays, user: np.ndarray, first: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the canvas, the query and the source of events; those of one canvas have none.

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        plays: Plays of some users.
        user: [N] keys of the users of events.
        first: [N] play that an event is the first session of; -1 for a later session or a replay, which
            begins at home.
    """
    if catalogue.canvases is None:
        return {}
    canvas = np.where(first >= 0, plays.canvas[first], HOME)
    out = {"canvas": CANVASES[canvas]}
    if c.search:
        at, query = np.flatnonzero(canvas == SEARCH), np.full(len(first), "", GENRES.dtype)
        of_plays = user[at], plays.index[first[at]], plays.title[first[at]]
        query[at] = queries(c, catalogue.canvases, GENRES, *of_plays)
        out["query"] = query
    if c.similar:
        out["source"] = _keys(np.where(first >= 0, plays.source[first], -1))
    return out


def _device(c: Simulator, user: np.ndarray, time: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Draw the device of each event, [N] row of DEVICES.

    Television is most frequent in the evening, web during working hours, phone at other times.
    """
    evening, work = (hour >= 18) | (hour < 1), (hour >= 9) & (hour < 17)
    rates = np.array([[0.15, 0.6, 0.15, 0.1], [0.65, 0.15, 0.15, 0.05], [0.2, 0.3, 0.1, 0.4]])
    ends = np.cumsum(rates, axis=1)[np.where(evening, 1, np.where(work, 2, 0))]
    draw = hashing.uniform(c.seed, Draw.DEVICE, user, time)
    return np.minimum((ends <= draw[:, None]).sum(axis=1), len(DEVICES) - 1)


def open_simulator(
    source: Simulator, features: tuple[Feature, ...], path: str, signals: tuple[Signal, ...]
) -> SimulatorSource:
    """Open a simulated source, the reader that its config class names.

    Args:
        source: Settings of the simulator.
        features: Not used: every feature is generated.
        path: Not used.
        signals: Declared signals.

    Raises:
        InputError: A setting is out of range.
    """
    return SimulatorSource(source, signals)
