"""Reachable bound: densities of the next title by Bayes' rule, from what is visible to a model.

The law of the service and its catalogue are known. Of a user are visible: the country, the segments, the last
plays that were not abandoned with their completions, the sittings and weeks of these plays and of the
request, and the number of abandoned plays. Taste, interest, mood and patience are latent. With z = (triple of
genres, patience, interest, mood), and x_n the title and the completion of play n,

    P(z_n | x_1..x_n) ~ P(x_n | z_n) sum over z_(n-1) of P(z_n | z_(n-1)) P(z_(n-1) | x_1..x_(n-1)),

where P(x_n | z_n) is that of the next play that is not abandoned.

The sums over interest, mood and patience (`PATIENCES` nodes) are exact. The triples, 4,896 in number, are a
stratified sample from an approximate posterior, corrected by importance weights: a particle filter in which
all but the triple is summed out (Rao-Blackwellised; Doucet et al., UAI 2000). The density of the next title
is the mean over a stratified sample of final states. Nothing is drawn at random.

Approximations: the number of abandoned plays is no evidence about the user, and their titles are left out of
the slates of later plays at the request alone.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator.oracle.choices import ALMOST_ALL, NODES, NODES_BELOW, choice_density
from jaxrec.sources.simulator.oracle.observations import (
    Observations,
    completion_density,
    patience_likelihood,
    segment_likelihood,
)
from jaxrec.sources.simulator.oracle.states import PATIENCES, StateTables, patience_nodes
from jaxrec.sources.simulator.plays import attraction
from jaxrec.sources.simulator.world import (
    GENRES,
    SimulatedCatalogue,
    abandon_probability,
    final_abandon_probability,
    stay_probability,
)

_TEMPER = 0.8  # exponent of the approximate likelihood that triples are drawn by: below 1, wider
_GOLDEN = (5**0.5 - 1) / 2
_LEAST = 1e-30  # of probabilities whose logarithm is taken


class Particles(NamedTuple):
    """States of N users, K of each, of equal weight.

    Attributes:
        triple: [N, K] int64 row of the tables.
        pair: [N, K] int64 row of `StateTables.pairs`.
        patience: [N, K] float32.
    """

    triple: np.ndarray
    pair: np.ndarray
    patience: np.ndarray


class StateFilter:
    """Particle filter of the states of users.

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        tables: Tables over its states in the country of the users.
        particles: K, number of triples and of final states of each user.
    """

    def __init__(self, c: Simulator, catalogue: SimulatedCatalogue, tables: StateTables, particles: int):
        self._config, self._catalogue, self._tables, self._particles = c, catalogue, tables, particles
        self._match = tables.taste @ catalogue.taste.T
        self._log_kept = np.log(np.maximum(tables.kept.T, _LEAST))  # [V, T]
        self._nats = attraction(c, catalogue)
        self._patience = patience_nodes(c).astype(np.float32)

    def states(self, seen: Observations) -> Particles:
        """Return equally weighted states [N, K] at the requests."""
        triple = self._triples(seen)
        weight = self._filter(seen, triple)
        flat = weight.reshape(len(weight), -1)
        state = stratified(flat, self._particles)
        place, patience, pair = np.unravel_index(state, weight.shape[1:])
        return Particles(
            np.take_along_axis(triple, place, axis=1), self._tables.pair_of[pair], self._patience[patience]
        )

    def densities(self, states: Particles, free: np.ndarray) -> np.ndarray:
        """Return the probabilities [N, V] that titles are played next and not abandoned at the end.

        Args:
            states: States of N users.
            free: [N, V] probability that the title was not played before.
        """
        c, catalogue = self._config, self._catalogue
        match = self._match[states.triple] + self._tables.pairs[states.pair]  # [N, K, V]
        utility = np.where(free[:, None] > 0, match + self._nats, -np.inf)
        weight = np.exp(utility - utility.max(axis=2, keepdims=True))
        arrival = np.broadcast_to((free * self._tables.arrival)[:, None], weight.shape)
        slates = weight.reshape(-1, c.titles), arrival.reshape(-1, c.titles)
        chosen = choice_density(*slates, c.slate).reshape(weight.shape)
        stay = stay_probability(c, catalogue.satisfaction, states.patience[..., None], match)
        kept = chosen * (1 - final_abandon_probability(c, abandon_probability(c, stay)))
        density = (kept / kept.sum(axis=2, keepdims=True)).mean(axis=1)
        return density / density.sum(axis=1, keepdims=True)

    def unseen(self, seen: Observations, states: Particles) -> tuple[np.ndarray, np.ndarray]:
        """Return two densities of titles that were not seen to be kept, if abandoned ones are unknown.

        Each abandoned play took a title by the mean density of such plays over the states.

        Returns:
            The probability [N, V] that the title was in no earlier play; and that an abandoned title, drawn
            uniformly, is this one: uniform where no play was abandoned.
        """
        density = self._tables.abandoned[states.triple].mean(axis=1)
        density /= density.sum(axis=1, keepdims=True)
        not_kept = np.ones_like(density)
        n, place = np.nonzero(seen.title >= 0)
        not_kept[n, seen.title[n, place]] = 0
        free = not_kept * (1 - density) ** seen.hidden[:, None]
        taken = np.where(seen.hidden[:, None] > 0, not_kept - free, not_kept)
        return free, taken / taken.sum(axis=1, keepdims=True)

    def _triples(self, seen: Observations) -> np.ndarray:
        """Return triples [N, K] drawn from the approximate posterior."""
        logs = np.log(self._tables.prior * segment_likelihood(seen, self._tables.genres))
        return stratified(_softmax(logs + _TEMPER * self._approximate(seen).sum(axis=1)), self._particles)

    def _approximate(self, seen: Observations) -> np.ndarray:
        """Return the logarithms [N, L, T] of the mean probabilities of plays; 0 for padding."""
        return np.where(seen.title[..., None] >= 0, self._log_kept[seen.title], 0)

    def _filter(self, seen: Observations, triple: np.ndarray) -> np.ndarray:
        """Return the weights [N, K, R, 324] of the states at the requests."""
        c, tables, genres = self._config, self._tables, len(GENRES)
        num_users, number = triple.shape
        weight = np.ones((num_users, number, PATIENCES, genres, genres), np.float32)
        weight *= patience_likelihood(seen, self._patience).astype(np.float32)[:, None, :, None, None]
        taken, length = tables.taken[triple], seen.title.shape[1]
        for place in range(length):
            title = seen.title[:, place]
            at = np.flatnonzero(title >= 0)
            if not len(at):
                continue  # padding, before which no state has moved
            weight = self._move(seen, place, weight)
            chosen, taken[at], match = self._choose(triple[at], taken[at], title[at])
            proposed = tables.kept[triple[at], title[at][:, None]] ** np.float32(_TEMPER)
            stay = stay_probability(
                c, self._catalogue.satisfaction[title[at]][:, None, None, None],
                self._patience[:, None], match[:, :, None],
            )  # fmt: skip
            ends = completion_density(c, seen.completion[at, place][:, None, None, None], stay)
            # Given that the play was kept: plays in between that were not are summed out.
            ends /= 1 - np.moveaxis(tables.lost[triple[at]], 3, 2)
            likelihood = (ends * (chosen / proposed[..., None])[:, :, None])[..., tables.pair_of]
            updated = weight[at] * likelihood.reshape(-1, number, PATIENCES, genres, genres)
            weight[at] = updated / updated.sum(axis=(1, 2, 3, 4), keepdims=True)
        return self._move(seen, length, weight).reshape(num_users, number, PATIENCES, -1)

    def _move(self, seen: Observations, place: int, weight: np.ndarray) -> np.ndarray:
        """Apply the moves of interest and mood before a play to weights [N, K, R, 18, 18]."""
        c, shape = self._config, (-1, 1, 1, 1, 1)
        same = ((1 - c.interest_moves) ** seen.weeks[:, place]).astype(np.float32).reshape(shape)
        weight = same * weight + (1 - same) * weight.mean(axis=3, keepdims=True)
        lasts = np.where(seen.is_new[:, place], 0.0, (1 - c.mood_moves) ** seen.moves[:, place])
        lasts = lasts.astype(np.float32).reshape(shape)
        return lasts * weight + (1 - lasts) * weight.mean(axis=4, keepdims=True)

    def _choose(
        self, triple: np.ndarray, taken: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the probabilities of choosing titles in each state, as `choices.choice_density`.

        Args:
            triple: [N, K] rows of the tables.
            taken: [N, K, S, 13] integrand of the slate without the titles played before.
            title: [N] titles.

        Returns:
            Probabilities [N, K, S], `taken` without the titles too, and the match [N, K, S].
        """
        c, tables = self._config, self._tables
        arrival = tables.arrival[title][:, None, None]
        match = self._match[triple, title[:, None]][..., None] + tables.pairs[:, title].T[:, None]
        nats = match + self._nats[title][:, None, None] - tables.top[triple]
        first, weight = tables.first[triple], np.exp(nats)
        absent, step = np.exp(-weight * first), np.float32(np.log(3.0)) * first
        total, left = np.zeros_like(weight), np.empty_like(taken)
        for node in range(NODES):
            others = np.exp((c.slate - 1) * np.log1p(-np.minimum(taken[..., node], ALMOST_ALL)))
            total += absent * others * step * np.float32(NODES_BELOW if node == 0 else 1.0)
            left[..., node] = taken[..., node] - arrival * (1 - absent)
            absent, step = absent * absent * absent, 3 * step
        return c.slate * arrival * weight * total, left, match


def stratified(weight: np.ndarray, number: int) -> np.ndarray:
    """Return a stratified sample [N, number] of the columns of weights [N, M], in order.

    Each of `number` equal shares of the weight gives one column. The places within the shares are a Weyl
    sequence: with the middle of each share, columns that repeat in step with the shares would never be taken.
    """
    ends = np.cumsum(weight, axis=1, dtype=np.float64)
    share, row = np.arange(number), np.arange(len(weight))[:, None]
    points = (share + (share * _GOLDEN + 0.5) % 1.0) / number
    # Of all rows at once: row n has the interval from n to n + 1.
    flat = np.searchsorted((row + ends / ends[:, -1:]).ravel(), (row + points).ravel(), side="right")
    return np.minimum(flat.reshape(-1, number) - row * weight.shape[1], weight.shape[1] - 1)


def _softmax(x: np.ndarray) -> np.ndarray:
    """Return e^x over its sum along axis 1."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
