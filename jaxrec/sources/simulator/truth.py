"""Oracle of the simulated service: densities of next titles and abandoned titles.

The oracle uses the latent state of each example (taste, the week's interest, the sitting's mood) and the
inputs of a model (titles played and not abandoned before the example). Of the plays abandoned before the
example, the oracle uses the number and the latent states, not the titles. (Approximation: where the replay of
an abandoned title succeeded, the first play of that title still counts as a play of an unknown title. One
play in a hundred is affected.)
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.plays import NEVER, make_plays
from jaxrec.sources.simulator.world import (
    APPEAL,
    EPOCH_MS,
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
_ROWS, _NODES, _FIRST = 64, 13, 0.03  # integral over slates: rows processed at once, nodes, the first node
_TINY = np.float32(1e-37)
_USER_BITS = 44  # composite keys: user row in the high bits, milliseconds since EPOCH_MS in the low 44 bits


def choice_density(weight: np.ndarray, arrival: np.ndarray, slate: int) -> np.ndarray:
    """Return the probability of choosing each title from a random slate.

    The relative error is about one in a thousand. For title i in one slot, with X the sum of the weights in
    the other slots,

        P(i) = slate * arrival_i * E[w_i / (w_i + X)]
             = slate * arrival_i * w_i * integral over t > 0 of e^(-w_i t) L(t),
        L(t) = E[e^(-t X)] = (1 - sum_j arrival_j (1 - e^(-w_j t)))^(slate - 1).

    The integral is computed by the trapezoid rule over log t, in steps of log 3, whose error falls as
    e^(-pi^2 / step). The approximation w_i / (w_i + E[X]) is off by tens of percent.

    Args:
        weight: [N, V] in [0, 1], proportional to e^utility.
        arrival: [N, V] probability of a title in each slot of the slate. A title that may not be chosen has
            arrival 0, and the slot taken by the title is ignored.
        slate: Number of slots.

    Returns:
        [N, V] float32.
    """
    out = np.empty(weight.shape, np.float32)
    for first in range(0, len(weight), _ROWS):
        block = slice(first, first + _ROWS)
        w, pi = weight[block], arrival[block]
        t = np.float32(_FIRST) / (1 + slate * np.einsum("nv,nv->n", w, pi))
        step = np.float32(np.log(3.0)) * t
        total = np.zeros_like(w)
        absent = 1 - pi.sum(axis=1)
        for node in range(_NODES):
            e = np.exp(np.maximum(-w * t[:, None], -80))  # e^-80 is negligible, and not a slow subnormal
            laplace = (absent + np.einsum("nv,nv->n", pi, e)) ** (slate - 1)
            # The first node includes all nodes below, where the integrand is flat: 1 + 1/3 + 1/9 + ...
            total += e * (laplace * step * (1.5 if node == 0 else 1.0))[:, None].astype(np.float32)
            t, step = 3 * t, 3 * step
        out[block] = slate * pi * w * total
    return out


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
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        c, out = self.config, np.empty(len(user), np.float32)
        for examples, row, latents, plays in self._user_blocks(user):
            at = _play_index(latents, plays, row, time[examples])
            for first in range(0, len(at), most := max(1, _CELLS // c.titles)):
                ids = at[first : first + most]
                state = latents, plays.row[ids], plays.week[ids], plays.mood[ids]
                with_mood, without = (
                    self._density(preference(config, *state))
                    for config in (c, dataclasses.replace(c, mood=0.0))
                )
                out[examples[first : first + most]] = 0.5 * np.abs(with_mood - without).sum(axis=1)
        return out

    def _density(self, wish: np.ndarray) -> np.ndarray:
        """Return Luce's choice probabilities among all titles, by exposure and utility.

        Args:
            wish: [N, 18] preference vectors.

        Returns:
            [N, V] float32.
        """
        utility = (
            wish @ self.catalogue.taste.T + np.float32(self.config.appeal * APPEAL) * self.catalogue.appeal
        )
        weight = np.exp(utility - utility.max(axis=1, keepdims=True)) * self.catalogue.exposure
        return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)

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
        stamp = _composite(plays.row, plays.time)
        at = _play_index(latents, plays, row, time)
        # A title with a successful replay is a model input from the first play after the replay.
        late = np.nonzero((plays.seen_from > plays.time) & (plays.seen_from < NEVER))[0]
        shown = np.searchsorted(stamp, _composite(plays.row[late], plays.seen_from[late]), side="right")
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
            p[examples] = _take_normalised(
                chosen[index] * (1 - final_abandon_probability(self.config, abandoned[index])),
                title[examples],
            )
            taken = not_shown[row[examples]] - free[row[examples]]
            a[examples] = _take_normalised(
                np.where(taken.any(axis=1, keepdims=True), taken, not_shown[row[examples]]), title[examples]
            )

            kept = plays.seen_from[play] == plays.time[play]
            chosen *= np.where(kept[:, None], 1 - abandoned, abandoned)
            free[users] = _update_free(free[users], chosen, kept)
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
        c, catalogue = self.config, self.catalogue
        row = plays.row[ids]
        match = preference(c, latents, row, plays.week[ids], plays.mood[ids]) @ catalogue.taste.T
        stay = stay_probability(c, catalogue.satisfaction, latents.patience[row, None], match)
        utility = match + np.float32(c.appeal * APPEAL) * catalogue.appeal
        utility = np.where(free > 0, utility, -np.inf)
        weight = np.exp(utility - utility.max(axis=1, keepdims=True))
        arrival = free * catalogue.exposure.astype(np.float32)
        return choice_density(weight, arrival, c.slate), abandon_probability(c, stay)


def _play_index(
    latents: LatentStates, plays: SimulatedPlays, row: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Return the [N] indices of the last first play at or before each time.

    Raises:
        InputError: A user has no play at or before the time.
    """
    at = np.searchsorted(_composite(plays.row, plays.time), _composite(row, time), side="right") - 1
    missing = (at < 0) | (plays.row[at] != row)
    if missing.any():
        n = np.nonzero(missing)[0][0]
        raise InputError(f"user {latents.key[row[n]]}, time {time[n]}: no play at or before this time")
    return at


def _update_free(free: np.ndarray, joint: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Apply Bayes' rule for one play of each user to the titles that can be chosen.

    The title of a play that was not abandoned is known. Any other title was not chosen, which makes it more
    likely that the other title was the title of an earlier play. An abandoned play may have been a play of
    any title.

    Args:
        free: [N, V] probability before the play that a title can be chosen.
        joint: [N, V], proportional to the probability that the title could be chosen and is the title played.
        kept: [N] True for a play that was not abandoned.

    Returns:
        [N, V] probability after the play that a title can be chosen.
    """
    hazard = joint / np.maximum(free, _TINY)  # conditional on the title being free
    hazard /= np.maximum(hazard + joint.sum(axis=1, keepdims=True) - joint, _TINY)
    remaining = free * (1 - hazard)
    return np.where(kept[:, None], remaining / np.maximum(1 - free * hazard, _TINY), remaining)


def _take_normalised(density: np.ndarray, title: np.ndarray) -> np.ndarray:
    """Normalise densities [N, V] to a sum of 1, and return those of titles [N, C]."""
    density = density / np.maximum(density.sum(axis=1, keepdims=True), _TINY)
    return np.take_along_axis(density, title, axis=1)


def _composite(row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return whole numbers in the order of (row, time)."""
    return (row << _USER_BITS) + np.clip(time - EPOCH_MS, 0, (1 << _USER_BITS) - 1)
