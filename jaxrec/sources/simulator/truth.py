"""Truth of the simulated service: densities of next and abandoned titles, choices, enjoyment, labels.

The oracle of the densities uses the latent state of each example (taste, the week's interest, the sitting's
mood) and the inputs of a model (titles played and not abandoned before the example). Of the plays abandoned
before the example, the oracle uses the number and the latent states, not the titles. (Approximation: where
the replay of an abandoned title succeeded, the first play of that title still counts as a play of an unknown
title. One play in a hundred is affected.)
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxrec.config.schema import Label, Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator import choices
from jaxrec.sources.simulator.enjoyment import enjoyment_odds, leniency, sigmoid
from jaxrec.sources.simulator.expectations import Candidates, expectations
from jaxrec.sources.simulator.plays import NEVER, composite, make_plays, play_index
from jaxrec.sources.simulator.world import (
    APPEAL,
    DAY_MS,
    EPOCH_MS,
    HOUR_MS,
    OTHERS,
    WEEK_MS,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    abandon_probability,
    final_abandon_probability,
    make_latents,
    preference,
    stay_probability,
)

# Largest number of users processed at once, and of elements in their dense [users, titles] arrays.
_USERS, _CELLS = (2048, 1 << 20)


class SimulatorTruth:
    """Ground truth of the simulated service.

    For each user, the plays are processed in order, with the probability for each title that the title can
    still be chosen. A title watched and not abandoned cannot be chosen again; another title may have been the
    title of one of the plays abandoned so far.
    """

    def __init__(self, config: Simulator, catalogue: SimulatedCatalogue):
        self.config, self.catalogue = config, catalogue

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
        for examples, row, latents, plays in self._user_blocks(user):
            p[examples], a[examples] = self.follow(latents, plays, row, time[examples], title[examples])
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
        for examples, at, latents, plays in self._plays_of(user, time):
            state = latents, plays.row[at], plays.week[at], plays.mood[at]
            with_mood, without = (
                self._density(preference(config, *state)) for config in (c, dataclasses.replace(c, mood=0.0))
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
        for examples, at, latents, plays in self._plays_of(user, time):
            out[examples] = self._choice(latents, plays, at)
        return out

    def shown(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the densities of kept plays, plays and impressions, as in `core.tables.Truth`.

        The approximation is that of `shown_density`; errors as of `choice`.
        """
        c, exposure = self.config, self.catalogue.exposure.astype(np.float32)
        kept, chosen, shown = (np.empty(title.shape, np.float32) for _ in range(3))
        for examples, at, latents, plays in self._plays_of(user, time):
            free, of = self._is_free(latents, plays, at), title[examples]
            p, abandoned = self._choice_and_abandonment(latents, plays, at, free)
            kept[examples] = choices.take_normalised(p * (1 - final_abandon_probability(c, abandoned)), of)
            chosen[examples] = choices.take_normalised(p, of)
            q = choices.shown_density(p, free * exposure, c.slate, OTHERS)
            shown[examples] = np.take_along_axis(q, of, axis=1)
        return kept, chosen, shown

    def reward(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the enjoyment of each title if it is played; arguments and errors as of `choice`.

        Returns:
            [N, V] float32 in (0, 1).
        """
        out = np.empty((len(user), self.config.titles), np.float32)
        every = np.arange(self.config.titles)
        for examples, at, latents, plays in self._plays_of(user, time):
            title = np.broadcast_to(every, (len(at), len(every)))
            out[examples] = sigmoid(self._enjoyment(latents, plays, at, title)[1])
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
        for examples, at, latents, plays in self._plays_of(user, time):
            shown, row = title[examples], plays.row[at]
            match, odds = self._enjoyment(latents, plays, at, shown)
            second = None
            if reads_slates:
                weight, arrival = self._slots(latents, plays, at, self._is_free(latents, plays, at))
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
        self, user: np.ndarray, time: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, LatentStates, SimulatedPlays]]:
        """Yield blocks of examples, with the indices of their plays, as `_user_blocks` otherwise."""
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        most = max(1, _CELLS // self.config.titles)
        for examples, row, latents, plays in self._user_blocks(user):
            at = play_index(latents, plays, row, time[examples])
            for first in range(0, len(at), most):
                part = slice(first, first + most)
                yield examples[part], at[part], latents, plays

    def _choice(self, latents: LatentStates, plays: SimulatedPlays, at: np.ndarray) -> np.ndarray:
        """Return the choice probabilities [N, V] of plays, by their indices."""
        weight, arrival = self._slots(latents, plays, at, self._is_free(latents, plays, at))
        chosen = choices.choice_density(weight, arrival, self.config.slate)
        return chosen / np.maximum(chosen.sum(axis=1, keepdims=True), choices.TINY)

    def _is_free(self, latents: LatentStates, plays: SimulatedPlays, at: np.ndarray) -> np.ndarray:
        """Return 1 for each title that was not played before a play, otherwise 0: float32 [N, V]."""
        index_of = np.full((len(latents.key), self.config.titles), np.iinfo(np.int32).max, np.int32)
        index_of[plays.row, plays.title] = plays.index
        return (index_of[plays.row[at]] >= plays.index[at][:, None]).astype(np.float32)

    def _enjoyment(
        self, latents: LatentStates, plays: SimulatedPlays, at: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return match and log-odds of enjoyment, [N, C], of titles [N, C] at plays, by their indices."""
        row = plays.row[at]
        wish = preference(self.config, latents, row, plays.week[at], plays.mood[at])
        match = np.take_along_axis(wish @ self.catalogue.taste.T, title, axis=1)
        key = latents.key[row][:, None]
        return match, enjoyment_odds(self.config, self.catalogue, key, title, match)

    def _density(self, wish: np.ndarray) -> np.ndarray:
        """Return the densities [N, V] of users with preferences [N, 18] among all titles."""
        utility = np.float32(self.config.appeal * APPEAL) * self.catalogue.appeal
        return choices.luce_density(wish @ self.catalogue.taste.T + utility, self.catalogue.exposure)

    def _user_blocks(
        self, user: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, LatentStates, SimulatedPlays]]:
        """Yield the users in blocks of bounded size.

        Yields:
            Indices of the block's examples, the row of each of these examples in the latent states, the
            latent states, and the plays.

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
            yield examples, np.searchsorted(latents.key, user[examples]), latents, plays

    def follow(
        self,
        latents: LatentStates,
        plays: SimulatedPlays,
        row: np.ndarray,
        time: np.ndarray,
        title: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the densities of examples, from latent states and plays.

        Args:
            latents: Latent states of users.
            plays: Plays of these users.
            row: [N] rows of `latents`.
            time: [N] milliseconds.
            title: [N, C] rows of Titles.

        Returns:
            p and a, [N, C] float32, as `densities`.
        """
        first = np.searchsorted(plays.row, np.arange(len(latents.key)))
        stamp = composite(plays.row, plays.time)
        at = play_index(latents, plays, row, time)
        # A title with a successful replay is a model input from the first play after the replay.
        late = np.nonzero((plays.seen_from > plays.time) & (plays.seen_from < NEVER))[0]
        shown = np.searchsorted(stamp, composite(plays.row[late], plays.seen_from[late]), side="right")
        shown -= first[plays.row[late]]

        final = np.zeros(len(first), np.int64)  # plays of each user up to the last example
        np.maximum.at(final, row, at - first[row] + 1)
        nth = at - first[row]
        free = np.ones((len(first), self.config.titles), np.float32)
        not_shown = np.ones_like(free)
        p, a = np.empty(title.shape, np.float32), np.empty(title.shape, np.float32)
        for n in range(final.max(initial=0)):
            replayed = late[shown == n]
            not_shown[plays.row[replayed], plays.title[replayed]] = free[
                plays.row[replayed], plays.title[replayed]
            ] = 0
            users = np.nonzero(final > n)[0]
            play = first[users] + n
            chosen, abandoned = self._choice_and_abandonment(latents, plays, play, free[users])
            examples = np.nonzero(nth == n)[0]
            index = np.searchsorted(users, row[examples])
            p[examples] = choices.take_normalised(
                chosen[index] * (1 - final_abandon_probability(self.config, abandoned[index])),
                title[examples],
            )
            taken = not_shown[row[examples]] - free[row[examples]]
            a[examples] = choices.take_normalised(
                np.where(taken.any(axis=1, keepdims=True), taken, not_shown[row[examples]]), title[examples]
            )

            kept = plays.seen_from[play] == plays.time[play]
            chosen *= np.where(kept[:, None], 1 - abandoned, abandoned)
            free[users] = choices.update_free(free[users], chosen, kept)
            free[users[kept], plays.title[play[kept]]] = not_shown[users[kept], plays.title[play[kept]]] = 0
        return p, a

    def _choice_and_abandonment(
        self, latents: LatentStates, plays: SimulatedPlays, ids: np.ndarray, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of choosing each title, and of abandoning it then.

        Args:
            latents: Latent states of users.
            plays: Plays of these users.
            ids: [N] indices of plays, whose states are used.
            free: [N, V] probability that the title can be chosen.

        Returns:
            Two arrays [N, V].
        """
        c, row = self.config, plays.row[ids]
        match = preference(c, latents, row, plays.week[ids], plays.mood[ids]) @ self.catalogue.taste.T
        stay = stay_probability(c, self.catalogue.satisfaction, latents.patience[row, None], match)
        weight, arrival = self._slots(latents, plays, ids, free)
        return choices.choice_density(weight, arrival, c.slate), abandon_probability(c, stay)

    def _slots(
        self, latents: LatentStates, plays: SimulatedPlays, ids: np.ndarray, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of titles and their probabilities in a slot, [N, V], for `choice_density`."""
        c, catalogue, row = self.config, self.catalogue, plays.row[ids]
        match = preference(c, latents, row, plays.week[ids], plays.mood[ids]) @ catalogue.taste.T
        utility = match + np.float32(c.appeal * APPEAL) * catalogue.appeal
        utility = np.where(free > 0, utility, -np.inf)
        weight = np.exp(utility - utility.max(axis=1, keepdims=True))
        return weight, free * catalogue.exposure.astype(np.float32)
