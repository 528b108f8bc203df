"""The embedded source: a simulated streaming service whose truth is known.

Titles have one to three of 18 genres and a taste vector around them, an exposure that falls as Zipf's
law, an *appeal* (what makes one start) and a *satisfaction* (what makes one stay), so that some are
clickbait. Users have a long-term taste, an interest that moves week by week, and a mood that lasts a
sitting. A play is a choice among a slate; what is watched of it follows satisfaction and match, with
interruptions that have nothing to do with the title. `simulator_world.py` holds the catalogue and the
latent state, `simulator_plays.py` what is played, `simulator_truth.py` what the oracle may know.

numpy only.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.core.tables import Drops, Interactions, Titles, Users
from jaxrec.sources.simulator.plays import make_plays
from jaxrec.sources.simulator.truth import SimulatorTruth
from jaxrec.sources.simulator.world import (
    DEVICES,
    FORMS,
    HOUR_MS,
    Draw,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    check,
    make_catalogue,
    make_latents,
    segments,
)

BLOCK = 4096  # users a chunk; changes memory, never what they play
_FIRST_KEY, _KEY_STEP = 70_001, 13  # so that a title's key is never mistaken for its row


class SimulatorSource:
    """A schema.Source. User keys are 0 to users + test_only_users - 1, the last of them test users only.

    Title features: genres (list of names), runtime (minutes), form. User features: segment, segment2.
    Context: device, hour (0 to 23, UTC). Raises InputError for a config outside its ranges.
    """

    has_completion = True

    def __init__(self, config: Simulator):
        check(config)
        self.config = config
        self.drops = Drops()
        self._catalogue: SimulatedCatalogue | None = None

    @property
    def catalogue(self) -> SimulatedCatalogue:
        if self._catalogue is None:
            self._catalogue = make_catalogue(self.config)
        return self._catalogue

    def titles(self) -> Titles:
        catalogue = self.catalogue
        return Titles(
            key=_FIRST_KEY + _KEY_STEP * np.arange(self.config.titles, dtype=np.int64),
            runtime=catalogue.runtime,
            features={
                "genres": catalogue.genres,
                "runtime": catalogue.runtime,
                "form": FORMS[catalogue.film.astype(np.int64)],
            },
        )

    def _blocks(self) -> Iterator[np.ndarray]:
        everyone = self.config.users + self.config.test_only_users
        for first in range(0, everyone, BLOCK):
            yield np.arange(first, min(first + BLOCK, everyone), dtype=np.int64)

    def users(self) -> Iterator[Users]:
        for key in self._blocks():
            split = np.where(key < self.config.users, -1, 2).astype(np.int8)
            yield Users(key, segments(self.config, make_latents(self.config, key)), split)

    def parts(self) -> tuple[int, ...]:
        """Blocks of users, by number."""
        return tuple(range(len(list(self._blocks()))))

    def interactions(self, part: int | None = None) -> Iterator[Interactions]:
        """A chunk a block of users, each in order of time."""
        for key in itertools.islice(self._blocks(), part, None if part is None else part + 1):
            latents = make_latents(self.config, key)
            yield rows(self.config, latents, make_plays(self.config, self.catalogue, latents))

    def truth(self) -> SimulatorTruth:
        return SimulatorTruth(self.config, self.catalogue)


def rows(c: Simulator, latents: LatentStates, plays: SimulatedPlays) -> Interactions:
    """Plays as watch events: first sessions, later ones and replays, in order of time."""
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
        context={"device": DEVICES[_device(c, user, time, hour)], "hour": hour},
    )


def _device(c: Simulator, user: np.ndarray, time: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """[N] row of DEVICES: the television in the evening, the phone on the move, the web at work."""
    evening, work = (hour >= 18) | (hour < 1), (hour >= 9) & (hour < 17)
    shares = np.array([[0.15, 0.6, 0.15, 0.1], [0.65, 0.15, 0.15, 0.05], [0.2, 0.3, 0.1, 0.4]])
    ends = np.cumsum(shares, axis=1)[np.where(evening, 1, np.where(work, 2, 0))]
    draw = hashing.uniform(c.seed, Draw.DEVICE, user, time)
    return np.minimum((ends <= draw[:, None]).sum(axis=1), len(DEVICES) - 1)
