"""Truth of the simulated service: densities of next and abandoned titles, choices, enjoyment, labels.

The oracle of the densities uses the latent state of each example (taste, the week's interest, the sitting's
mood) and the inputs of a model (titles played and not abandoned before the example). Of the plays abandoned
before the example, the oracle uses the number and the latent states, not the titles. (Approximation: where
the replay of an abandoned title succeeded, the first play of that title still counts as a play of an unknown
title. One play in a hundred is affected.)

Where a play was searched for, its densities are those of the titles that match the query. The queries of
earlier plays are left out, as in the inputs of a model; the canvases of earlier plays are latent states.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxrec.config.schema import Label, Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.change import countries_of
from jaxrec.sources.simulator.enjoyment import enjoyment_odds, leniency, sigmoid
from jaxrec.sources.simulator.oracle import choices
from jaxrec.sources.simulator.oracle.expectations import Candidates, expectations
from jaxrec.sources.simulator.oracle.following import choice_and_abandonment, follow, slots, unplayed
from jaxrec.sources.simulator.oracle.observations import observe
from jaxrec.sources.simulator.oracle.reachable import StateFilter
from jaxrec.sources.simulator.oracle.states import StateTables, make_tables
from jaxrec.sources.simulator.plays import make_plays, play_index
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.world import (
    DAY_MS,
    EPOCH_MS,
    HOUR_MS,
    OTHERS,
    WEEK_MS,
    SimulatedCatalogue,
    final_abandon_probability,
    make_latents,
    stay_probability,
)

# Largest number of users processed at once, and of elements in their dense [users, titles] arrays.
_USERS, _CELLS = (2048, 1 << 20)
_STATES = 2048  # particles of all examples that are filtered at once


class SimulatorTruth:
    """Ground truth of the simulated service."""

    def __init__(self, config: Simulator, catalogue: SimulatedCatalogue):
        self.config, self.catalogue = config, catalogue
        self._tables: dict[int, StateTables] = {}  # by country, computed where they are first used

    def densities(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return two densities over titles for each example, as in `core.tables.Truth`.

        An example at a time other than that of a first play takes the state of the last first play before.
        Both densities are 0 for titles played and not abandoned before the example.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            title: [N, C] rows of Titles.

        Returns:
            p: [N, C] float32; sums to 1 over the catalogue.
            a: [N, C] float32; uniform over the titles not played where no play was abandoned yet.

        Raises:
            InputError: A user does not exist, or has no play at or before the time.
        """
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        p, a = np.empty(title.shape, np.float32), np.empty(title.shape, np.float32)
        for examples, row, service in self._user_blocks(user):
            p[examples], a[examples] = follow(service, row, time[examples], title[examples])
        return p, a

    def mood(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the influence of the sitting's mood on the next choice.

        The definition is that of `core.tables.Truth`. The densities are those of a slate of all titles, none
        of which was played. The mood multiplies the weight of titles of a genre, so that the mood for a
        rarely chosen genre has little influence.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.

        Returns:
            [N] float32 in [0, 1].

        Raises:
            InputError: A user does not exist, or has no play at or before the time.
        """
        c, out = self.config, np.empty(len(user), np.float32)
        for examples, at, service in self._plays_of(user, time):
            with_mood, without = (
                self._density(service._replace(config=config), at)
                for config in (c, dataclasses.replace(c, mood=0.0))
            )
            out[examples] = 0.5 * np.abs(with_mood - without).sum(axis=1)
        return out

    def choice(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the probability of each title as the next play, whatever becomes of it.

        All titles played before are known, abandoned or not. The relative error is that of `choice_density`.
        An example at a time other than that of a first play takes the state of the last first play before.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.

        Returns:
            [N, V] float32; sums to 1.

        Raises:
            InputError: A user does not exist, or has no play at or before the time.
        """
        out = np.empty((len(user), self.config.titles), np.float32)
        for examples, at, service in self._plays_of(user, time):
            weight, arrival = slots(service, at, unplayed(service, at))
            chosen = service.restricted(choices.choice_density(weight, arrival, self.config.slate), at)
            out[examples] = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), choices.TINY)
        return out

    def shown(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the densities of kept plays, plays and impressions, as in `core.tables.Truth`.

        The approximation is that of `shown_density`; errors as of `choice`. Impressions are those of the
        slate, whatever the query.
        """
        c = self.config
        kept, chosen, shown = (np.empty(title.shape, np.float32) for _ in range(3))
        for examples, at, service in self._plays_of(user, time):
            free, of = unplayed(service, at), title[examples]
            p, abandoned = choice_and_abandonment(service, at, free)
            searched = service.restricted(p, at)
            kept[examples] = choices.take_normalised(
                searched * (1 - final_abandon_probability(c, abandoned)), of
            )
            chosen[examples] = choices.take_normalised(searched, of)
            q = choices.shown_density(p, slots(service, at, free)[1], c.slate, OTHERS)
            shown[examples] = np.take_along_axis(q, of, axis=1)
        return kept, chosen, shown

    def reachable(
        self, user: np.ndarray, time: np.ndarray, history: int, particles: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return densities of examples without the latent states: the most that a model can know.

        `oracle.reachable` defines what is visible. Errors as of `choice`.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            history: Number of plays, not abandoned, that are visible.
            particles: Number of states that stand for the posterior.

        Returns:
            kept: [N, V] float32 probability of the next title that is not abandoned, where all titles played
                before are known, abandoned or not; sums to 1.
            p, a: [N, V] float32 as of `densities`.

        Raises:
            InputError: As `choice`; or `source` has a knob that the bound does not cover.
        """
        kept, p, a = (np.empty((len(user), self.config.titles), np.float32) for _ in range(3))
        of_countries = countries_of(self.config, user)
        for country in np.unique(of_countries).tolist():
            if country not in self._tables:
                self._tables[country] = make_tables(self.config, self.catalogue, country)
            estimate = StateFilter(self.config, self.catalogue, self._tables[country], particles)
            own = np.flatnonzero(of_countries == country)
            for block, at, service in self._plays_of(user[own], time[own], max(1, _STATES // particles)):
                examples, seen = own[block], observe(service, at, history)
                states = estimate.states(seen)
                kept[examples] = estimate.densities(states, unplayed(service, at))
                free, a[examples] = estimate.unseen(seen, states)
                p[examples] = estimate.densities(states, free)
        return kept, p, a

    def reward(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the enjoyment of each title if it is played; arguments and errors as of `choice`.

        Returns:
            [N, V] float32 in (0, 1).
        """
        out = np.empty((len(user), self.config.titles), np.float32)
        every = np.arange(self.config.titles)
        for examples, at, service in self._plays_of(user, time):
            title = np.broadcast_to(every, (len(at), len(every)))
            out[examples] = sigmoid(_enjoyment(service, at, title)[1])
        return out

    def labels(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray, labels: Sequence[Label]
    ) -> np.ndarray:
        """Return the expectations of labels at requests.

        `expectations` has the rules with a closed form, and what it leaves out.

        Args:
            user: [N] keys of users.
            time: [N] milliseconds.
            title: [N, C] rows of titles that may be played.
            labels: Declared labels, of plays and of the simulator's signals.

        Returns:
            [N, C, labels] float64; NaN where a label has no closed form.

        Raises:
            InputError: A user does not exist, or has no play at or before the time.
        """
        c, catalogue = self.config, self.catalogue
        out = np.empty((*title.shape, len(labels)))
        reads_slates = any(label.signal == "list_add" for label in labels)
        for examples, at, service in self._plays_of(user, time):
            shown, row, latents = title[examples], service.plays.row[at], service.latents
            match, odds = _enjoyment(service, at, shown)
            second = None
            if reads_slates:
                weight, arrival = slots(service, at, unplayed(service, at))
                second = np.take_along_axis(choices.second_density(weight, arrival, c.slate), shown, axis=1)
            candidates = Candidates(
                stay=stay_probability(c, catalogue.satisfaction[shown], latents.patience[row, None], match),
                opinion_odds=odds + leniency(c, latents.key[row])[:, None],
                second=second,
                film=catalogue.film[shown],
                runtime=catalogue.runtime[shown] / 60.0,
                remaining=np.maximum(c.weeks * WEEK_MS + EPOCH_MS - time[examples], DAY_MS)[:, None]
                / HOUR_MS,
            )
            out[examples] = expectations(c, candidates, labels)
        return out

    def _plays_of(
        self, user: np.ndarray, time: np.ndarray, most: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, SimulatedService]]:
        """Yield blocks of `most` examples, with the indices of their plays, as `_user_blocks` otherwise."""
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        most = most or max(1, _CELLS // self.config.titles)
        for examples, row, service in self._user_blocks(user):
            at = play_index(service.latents, service.plays, row, time[examples])
            for first in range(0, len(at), most):
                part = slice(first, first + most)
                yield examples[part], at[part], service

    def _density(self, service: SimulatedService, at: np.ndarray) -> np.ndarray:
        """Return the densities [N, V] of plays, by their indices, among all available titles."""
        every = np.arange(self.config.titles)
        utility = service.matches(at) + service.attraction(at, every)
        density = choices.luce_density(utility, self.catalogue.exposure * service.is_offered(at, every))
        searched = service.restricted(density, at)
        return density if searched is density else searched / searched.sum(axis=1, keepdims=True)

    def _user_blocks(self, user: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, SimulatedService]]:
        """Yield the users in blocks of bounded size.

        Yields:
            Indices of the block's examples, the row of each of these examples in the latent states, and the
            plays of the block's users.

        Raises:
            InputError: A user does not exist.
        """
        order = np.argsort(user, kind="stable")
        keys, begins = np.unique(user[order], return_index=True)
        if len(keys) and not 0 <= keys[0] <= keys[-1] < self.config.users + self.config.test_only_users:
            raise InputError(f"users {keys[0]} to {keys[-1]}: some are not users of the simulator")
        begins = np.append(begins, len(user))
        most = max(1, min(_USERS, _CELLS // self.config.titles))
        for first in range(0, len(keys), most):
            last = min(first + most, len(keys))
            examples = order[begins[first] : begins[last]]
            latents = make_latents(self.config, keys[first:last])
            plays = make_plays(self.config, self.catalogue, latents)
            service = SimulatedService(self.config, self.catalogue, latents, plays)
            yield examples, np.searchsorted(latents.key, user[examples]), service


def _enjoyment(service: SimulatedService, at: np.ndarray, title: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return match and log-odds of enjoyment, [N, C], of titles [N, C] at plays, by their indices."""
    match = np.take_along_axis(service.matches(at), title, axis=1)
    key = service.key[at][:, None]
    return match, enjoyment_odds(service.config, service.catalogue, key, title, match)
