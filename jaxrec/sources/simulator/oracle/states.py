"""Tables over all states that a user of the simulated service can be in at a play.

A state is an ordered triple of liked genres (T = 4,896 of them), the genre of the week's interest, and the
mood of the sitting. A table of the slate's Laplace transform makes the
probability of one title in one state cost 13 terms in place of a sum over the catalogue. The tables are of
one country, whose taste and licences are known. Choices may depend on nothing else: `check_states` refuses
the knobs that add to them.
"""

import itertools
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.change import taste_of_countries
from jaxrec.sources.simulator.draws import on_grid
from jaxrec.sources.simulator.oracle.choices import ALMOST_ALL, FIRST_NODE, NODES, NODES_BELOW
from jaxrec.sources.simulator.plays import attraction
from jaxrec.sources.simulator.world import (
    GENRES,
    INTEREST,
    MOOD,
    PATIENCE,
    SimulatedCatalogue,
    abandon_probability,
    stay_probability,
    taste_of_genres,
)

_ADDING = ("regimes", "launches", "novelty", "trend", "search", "similar")
PATIENCES = 5  # nodes of patience


class StateTables(NamedTuple):
    """Tables over T triples of genres and S distinct pairs (interest, mood).

    Attributes:
        genres: [T, 3] int64 liked genres, most liked first.
        prior: [T] float64 probability of the triple; sums to 1.
        taste: [T, 18] float32 nats per genre, with those of the country.
        arrival: [V] float32 exposure of the titles that the country has a licence for; 0 for the others.
        pair_of: [324] int64 distinct pair of each pair 18 * interest + mood.
        pairs: [S, V] float32 nats that a distinct pair adds to a title.
        top: [T, S] float32 largest utility of a title.
        first: [T, S] float32 first node t of the integral over slates.
        taken: [T, S, 13] float32, sum over titles j of arrival_j (1 - e^(-w_j t)) at each node.
        lost: [T, S, R] float32 probability that a play is abandoned, by patience.
        kept: [T, V] float32 mean probability per play that the title is chosen and not abandoned.
        abandoned: [T, V] float32 mean probability per play that the title is chosen and abandoned.
    """

    genres: np.ndarray
    prior: np.ndarray
    taste: np.ndarray
    arrival: np.ndarray
    pair_of: np.ndarray
    pairs: np.ndarray
    top: np.ndarray
    first: np.ndarray
    taken: np.ndarray
    lost: np.ndarray
    kept: np.ndarray
    abandoned: np.ndarray


def check_states(c: Simulator) -> None:
    """Check that choices depend on taste, interest, mood and country alone.

    Raises:
        InputError: A knob adds to the choices of a play; the message names the knob.
    """
    for name in _ADDING:
        if getattr(c, name):
            raise InputError(
                f"source.{name}={getattr(c, name)}: the reachable bound covers taste, interest, mood and "
                "country alone; allowed: 0"
            )


def triples() -> tuple[np.ndarray, np.ndarray]:
    """Return all ordered triples of genres [T, 3], and their probabilities [T].

    Liked genres are drawn by `world.make_latents`: they are the first three arrivals of a race, in which
    genre g arrives at rate 1 / (g + 12).
    """
    genres = np.array(list(itertools.permutations(range(len(GENRES)), 3)))
    rate = 1.0 / (np.arange(len(GENRES)) + 12.0)
    first, second, third = rate[genres].T
    rest = rate.sum()
    return genres, first / rest * second / (rest - first) * third / (rest - first - second)


def patience_nodes(c: Simulator) -> np.ndarray:
    """Return `PATIENCES` equally probable values of the patience of a user: midpoints of its quantiles."""
    quantile = [NormalDist().inv_cdf((n + 0.5) / PATIENCES) for n in range(PATIENCES)]
    return c.patience * PATIENCE * np.array(quantile)


def make_tables(c: Simulator, catalogue: SimulatedCatalogue, country: int = 0) -> StateTables:
    """Compute the tables of a service in a country; some 15 seconds for 1,000 titles on one core.

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        country: Row of `change.COUNTRIES`, below `c.countries`.

    Raises:
        InputError: As `check_states`.
    """
    check_states(c)
    genres, prior = triples()
    taste = on_grid(c.taste * taste_of_genres(genres)) + taste_of_countries(c, len(GENRES))[country]
    arrival = (catalogue.exposure * catalogue.change.licensed[country]).astype(np.float32)
    # Triples and pairs that give the same utilities are computed once: (i, m) and (m, i) are such pairs.
    distinct, triple_of = np.unique(taste, axis=0, return_inverse=True)
    interest = on_grid(np.asarray(c.interest * INTEREST)) * catalogue.taste.T
    mood = on_grid(np.asarray(c.mood * MOOD)) * catalogue.taste.T
    pairs = (interest[:, None] + mood).reshape(-1, c.titles)
    pairs, pair_of = np.unique(pairs, axis=0, return_inverse=True)
    share = np.bincount(pair_of, minlength=len(pairs)) / len(pair_of)
    own = _integrals(c, catalogue, arrival, distinct, pairs, share.astype(np.float32))
    return StateTables(genres, prior, taste, arrival, pair_of, pairs, *(table[triple_of] for table in own))


def _integrals(
    c: Simulator, catalogue: SimulatedCatalogue, arrival: np.ndarray, taste: np.ndarray, pairs: np.ndarray,
    share: np.ndarray,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the fields of StateTables from `top` on for tastes [t, 18].

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        arrival: [V] float32 as of StateTables.
        taste: [t, 18] nats per genre.
        pairs: [S, V] nats that pairs of interest and mood add to titles.
        share: [S] float32 share of the pairs; sums to 1.
    """
    shape = len(taste), len(pairs)
    patience = patience_nodes(c).astype(np.float32)
    top, first, taken = (np.empty((*shape, *more), np.float32) for more in ((), (), (NODES,)))
    lost = np.empty((*shape, len(patience)), np.float32)
    kept, abandoned = (np.empty((len(taste), c.titles), np.float32) for _ in range(2))
    match_of, nats = taste @ catalogue.taste.T, attraction(c, catalogue)
    for t in range(len(taste)):
        match = match_of[t] + pairs
        utility = match + nats
        top[t] = utility.max(axis=1)
        weight = np.exp(utility - top[t, :, None])
        first[t] = FIRST_NODE / (1 + c.slate * (weight @ arrival))
        absent, chosen = np.exp(-weight * first[t, :, None]), np.zeros_like(weight)
        step = np.float32(np.log(3.0)) * first[t]
        for node in range(NODES):
            taken[t, :, node] = (1 - absent) @ arrival
            others = np.exp((c.slate - 1) * np.log1p(-np.minimum(taken[t, :, node], ALMOST_ALL)))
            chosen += absent * (others * step * np.float32(NODES_BELOW if node == 0 else 1.0))[:, None]
            absent *= absent * absent  # the next node is three times as far
            step = 3 * step
        chosen *= weight * arrival
        chosen /= chosen.sum(axis=1, keepdims=True)
        abandoned[t] = 0
        for node, value in enumerate(patience):
            left = abandon_probability(c, stay_probability(c, catalogue.satisfaction, value, match))
            lost[t, :, node] = np.einsum("sv,sv->s", chosen, left)
            abandoned[t] += share @ (chosen * left) / len(patience)
        kept[t] = share @ chosen - abandoned[t]
    return top, first, taken, lost, kept, abandoned
