"""Plays of some users of the simulated service, with what they come from."""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.sources.simulator.canvases.queries import SEARCH, query_probability
from jaxrec.sources.simulator.change import can_lack_titles
from jaxrec.sources.simulator.draws import Draw
from jaxrec.sources.simulator.enjoyment import enjoyment_odds, leniency
from jaxrec.sources.simulator.plays import attraction
from jaxrec.sources.simulator.world import (
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    main_genre,
    preference,
)

_NEVER = np.iinfo(np.int32).max


class SimulatedService(NamedTuple):
    """Plays of some users; methods take plays by their index among the P plays."""

    config: Simulator
    catalogue: SimulatedCatalogue
    latents: LatentStates
    plays: SimulatedPlays

    @property
    def key(self) -> np.ndarray:
        """Return the user key [P] of each play."""
        return self.latents.key[self.plays.row]

    def uniform(self, draw: Draw, play: np.ndarray, *more) -> np.ndarray:
        """Return uniform numbers in [0, 1) of plays, [N]; `more` are further coordinates."""
        key, n = self.key[play], self.plays.index[play]
        return hashing.uniform(self.config.seed, draw, key, n, *more)

    def preferences(self, play: np.ndarray) -> np.ndarray:
        """Return the preference [N, 18] of the user at the time of plays."""
        plays, row = self.plays, self.plays.row[play]
        earlier = np.where((play > 0) & (plays.row[play - 1] == row), plays.title[play - 1], -1)
        before = main_genre(self.catalogue, earlier)
        return preference(self.config, self.latents, row, plays.week[play], plays.mood[play], before)

    def matches(self, play: np.ndarray) -> np.ndarray:
        """Return the match [N, V] of every title with the user at the time of plays."""
        return self.preferences(play) @ self.catalogue.taste.T

    def attraction(self, play: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return the nats [N, C] beside the match that titles [N, C] or [C] have at the time of plays."""
        c, canvases = self.config, self.catalogue.canvases
        appeal = attraction(c, self.catalogue)[title]
        nats = appeal + self.catalogue.change.utility(self.plays.day[play], title)
        if canvases is None:
            return nats
        return nats + np.float32(c.kinship) * canvases.kinship(self.plays.source[play], title)

    def restricted(self, density: np.ndarray, play: np.ndarray) -> np.ndarray:
        """Return densities [N, V] of plays times the probabilities of their queries."""
        searched = np.flatnonzero(self.plays.canvas[play] == SEARCH)
        if self.catalogue.canvases is None or not len(searched):
            return density
        at, out = play[searched], density.copy()
        of_plays = self.key[at], self.plays.index[at], self.plays.title[at]
        out[searched] *= query_probability(self.config, self.catalogue.canvases, *of_plays)
        return out

    def is_offered(self, play: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return whether titles [N, C] or [C] are launched and licensed at plays; [N, C] or [1, 1]."""
        if not can_lack_titles(self.config):
            return np.ones((1, 1), bool)
        country = self.latents.country[self.plays.row[play]]
        return self.catalogue.change.is_offered(self.plays.day[play], country, title)

    def is_unplayed(self, play: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return whether titles [N, C] were not played before plays, which are in order of their rows."""
        if not len(play):
            return np.ones(title.shape, bool)
        plays, low, high = self.plays, self.plays.row[play].min(), self.plays.row[play].max() + 1
        everyone = slice(*np.searchsorted(plays.row, [low, high]))
        index_of = np.full((high - low, self.config.titles), _NEVER, np.int32)
        index_of[plays.row[everyone] - low, plays.title[everyone]] = plays.index[everyone]
        return index_of[(plays.row[play] - low)[:, None], title] >= plays.index[play][:, None]

    def opinion_odds(self) -> np.ndarray:
        """Return the log-odds [P] of e', the user's opinion of each play."""
        every = np.arange(len(self.plays.row))
        match = np.einsum("pd,pd->p", self.preferences(every), self.catalogue.taste[self.plays.title])
        odds = enjoyment_odds(self.config, self.catalogue, self.key, self.plays.title, match)
        return odds + leniency(self.config, self.latents.key)[self.plays.row]
