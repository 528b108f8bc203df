"""What the oracle may know of the simulated service: the density of the next title, and of abandoned ones.

It knows each request's latent state (taste, the week's interest, the sitting's mood) and what a model is
shown (titles played and not abandoned as of then). Of the plays abandoned before, it knows that they took
place and in which state, not of which titles. (Of a title given a second chance that succeeded, the first
play goes on counting as one that may have taken any: a matter of one play in a hundred.)
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
    abandoning,
    make_latents,
    never_seen,
    staying,
    wishes,
)

_USERS, _CELLS = (
    2048,
    1 << 20,
)  # most users followed at once; most cells of their dense [users, titles] arrays
_ROWS, _NODES, _FIRST = 64, 13, 0.03  # of the integral over slates: rows at once, nodes, the first of them
_TINY = np.float32(1e-37)
_USER_BITS = 44  # composite keys: the user's row above, milliseconds since the simulation's epoch below


def choice_density(weight: np.ndarray, arrival: np.ndarray, slate: int) -> np.ndarray:
    """Probability of each title's being chosen, [N, V] float32, right to a part in a thousand or so.

    weight [N, V] in [0, 1], e^utility; arrival [N, V] the chance of a title at each place of the slate
    (a title that may not be chosen has arrival 0, and the place it takes counts for nothing). Given the
    title at one place, X being the sum of the weights at the others,

        P(i) = slate * arrival_i * E[w_i / (w_i + X)]
             = slate * arrival_i * w_i * integral over t > 0 of e^(-w_i t) L(t),
        L(t) = E[e^(-t X)] = (1 - sum_j arrival_j (1 - e^(-w_j t)))^(slate - 1).

    The integral is the trapezoid rule over log t, in steps of log 3: its error falls as e^(-pi^2 / step).
    w_i / (w_i + E[X]) alone is off by tens of percent.
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
            e = np.exp(np.maximum(-w * t[:, None], -80))  # e^-80 is nothing, and not a slow subnormal
            laplace = (absent + np.einsum("nv,nv->n", pi, e)) ** (slate - 1)
            # the first node stands for all below it too, where the integrand is flat: 1 + 1/3 + 1/9 + ...
            total += e * (laplace * step * (1.5 if node == 0 else 1.0))[:, None].astype(np.float32)
            t, step = 3 * t, 3 * step
        out[block] = slate * pi * w * total
    return out


class SimulatorTruth:
    """A schema.Truth. It follows each user it is asked about from play to play, keeping for every title
    the probability that it is still free to be chosen, given what is shown: titles watched are not;
    others may have been taken by one of the plays abandoned so far."""

    def __init__(self, config: Simulator, catalogue: SimulatedCatalogue):
        self.config, self.catalogue = config, catalogue

    def densities(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As schema.Truth, in float32: user [N], time [N] ms, title [N, C] rows of Titles -> p, a [N, C].

        p sums to 1 over the catalogue. Both are 0 for titles played and not abandoned before the request.
        Where nothing was abandoned yet, a is uniform over the others. A request at a time which is no first
        play's is taken for that of the last one before; raises InputError where there is none.
        """
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        p, a = np.empty(title.shape, np.float32), np.empty(title.shape, np.float32)
        for asked, row, latents, plays in self._some_users(user):
            p[asked], a[asked] = self.follow(latents, plays, row, time[asked], title[asked])
        return p, a

    def mood(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """As schema.Truth, of the sitting's mood, where all titles are on the slate and none was played.

        It multiplies what a genre would have had: one that is seldom chosen anyway moves little.
        """
        user, time = np.asarray(user, np.int64), np.asarray(time, np.int64)
        c, out = self.config, np.empty(len(user), np.float32)
        for asked, row, latents, plays in self._some_users(user):
            at = _play(latents, plays, row, time[asked])
            for first in range(0, len(at), most := max(1, _CELLS // c.titles)):
                ids = at[first : first + most]
                known = latents, plays.row[ids], plays.week[ids], plays.mood[ids]
                with_it, without = (
                    self._density(wishes(of, *known)) for of in (c, dataclasses.replace(c, mood=0.0))
                )
                out[asked[first : first + most]] = 0.5 * np.abs(with_it - without).sum(axis=1)
        return out

    def _density(self, wish: np.ndarray) -> np.ndarray:
        """[N, V]: Luce's choice among all titles by exposure and utility, of who is after `wish` [N, 18]."""
        utility = (
            wish @ self.catalogue.taste.T + np.float32(self.config.appeal * APPEAL) * self.catalogue.appeal
        )
        weight = np.exp(utility - utility.max(axis=1, keepdims=True)) * self.catalogue.exposure
        return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)

    def _some_users(
        self, user: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, LatentStates, SimulatedPlays]]:
        """A bounded number of users at a time: which requests are theirs, each one's row of the latents, the
        latents, and what they play. Raises InputError for a user that there is not."""
        order = np.argsort(user, kind="stable")
        keys, begins = np.unique(user[order], return_index=True)
        if len(keys) and not 0 <= keys[0] <= keys[-1] < self.config.users + self.config.test_only_users:
            raise InputError(f"users {keys[0]} to {keys[-1]}: the simulator has not all of these")
        begins = np.append(begins, len(user))
        most = max(1, min(_USERS, _CELLS // self.config.titles))
        for first in range(0, len(keys), most):
            last = min(first + most, len(keys))
            asked = order[begins[first] : begins[last]]
            latents = make_latents(self.config, keys[first:last])
            plays = make_plays(self.config, self.catalogue, latents)
            yield asked, np.searchsorted(latents.key, user[asked]), latents, plays

    def follow(
        self,
        latents: LatentStates,
        plays: SimulatedPlays,
        row: np.ndarray,
        time: np.ndarray,
        title: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """densities() for requests by users at `row` [N] of latents, whose plays these are."""
        first = np.searchsorted(plays.row, np.arange(len(latents.key)))
        stamp = _composite(plays.row, plays.time)
        at = _play(latents, plays, row, time)
        # a title given a second chance is shown from the first play after it succeeded
        late = np.nonzero((plays.seen_from > plays.time) & (plays.seen_from < NEVER))[0]
        shown = np.searchsorted(stamp, _composite(plays.row[late], plays.seen_from[late]), side="right")
        shown -= first[plays.row[late]]

        final = np.zeros(len(first), np.int64)  # plays to follow of each user: to the last one asked about
        np.maximum.at(final, row, at - first[row] + 1)
        nth = at - first[row]
        free = np.ones((len(first), self.config.titles), np.float32)
        unseen = np.ones_like(free)
        p, a = np.empty(title.shape, np.float32), np.empty(title.shape, np.float32)
        for n in range(final.max(initial=0)):
            again = late[shown == n]
            unseen[plays.row[again], plays.title[again]] = free[plays.row[again], plays.title[again]] = 0
            who = np.nonzero(final > n)[0]
            play = first[who] + n
            chosen, abandoned = self._state(latents, plays, play, free[who])
            asked = np.nonzero(nth == n)[0]
            here = np.searchsorted(who, row[asked])
            p[asked] = _of(chosen[here] * (1 - never_seen(self.config, abandoned[here])), title[asked])
            taken = unseen[row[asked]] - free[row[asked]]
            a[asked] = _of(
                np.where(taken.any(axis=1, keepdims=True), taken, unseen[row[asked]]), title[asked]
            )

            kept = plays.seen_from[play] == plays.time[play]
            chosen *= np.where(kept[:, None], 1 - abandoned, abandoned)
            free[who] = _still_free(free[who], chosen, kept)
            free[who[kept], plays.title[play[kept]]] = unseen[who[kept], plays.title[play[kept]]] = 0
        return p, a

    def _state(
        self, latents: LatentStates, plays: SimulatedPlays, ids: np.ndarray, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """At the states of plays `ids` [N]: the probability of choosing each title, and of abandoning it if
        chosen, [N, V]; `free` [N, V] is the probability that the title may be chosen."""
        c, catalogue = self.config, self.catalogue
        row = plays.row[ids]
        match = wishes(c, latents, row, plays.week[ids], plays.mood[ids]) @ catalogue.taste.T
        stay = staying(c, catalogue.satisfaction, latents.patience[row, None], match)
        utility = match + np.float32(c.appeal * APPEAL) * catalogue.appeal
        utility = np.where(free > 0, utility, -np.inf)
        weight = np.exp(utility - utility.max(axis=1, keepdims=True))
        arrival = free * catalogue.exposure.astype(np.float32)
        return choice_density(weight, arrival, c.slate), abandoning(c, stay)


def _play(latents: LatentStates, plays: SimulatedPlays, row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """[N] the first play that each request is, or else the last before it. Raises InputError without one."""
    at = np.searchsorted(_composite(plays.row, plays.time), _composite(row, time), side="right") - 1
    wrong = (at < 0) | (plays.row[at] != row)
    if wrong.any():
        n = np.nonzero(wrong)[0][0]
        raise InputError(f"user {latents.key[row[n]]}, time {time[n]}: no play at or before it")
    return at


def _still_free(free: np.ndarray, joint: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Bayes' rule for one play of each user: the probability [N, V] that a title is free after it.

    joint [N, V] is proportional to the probability that the title was free and is the one played. A play
    that was kept [N] shows its title, so that another is known not to have been chosen, which speaks for
    its having been taken before; a play that was abandoned may have taken any.
    """
    hazard = joint / np.maximum(free, _TINY)  # given that the title is free
    hazard /= np.maximum(hazard + joint.sum(axis=1, keepdims=True) - joint, _TINY)
    left = free * (1 - hazard)
    return np.where(kept[:, None], left / np.maximum(1 - free * hazard, _TINY), left)


def _of(density: np.ndarray, title: np.ndarray) -> np.ndarray:
    """[N, C] of densities [N, V] made to sum to 1."""
    density = density / np.maximum(density.sum(axis=1, keepdims=True), _TINY)
    return np.take_along_axis(density, title, axis=1)


def _composite(row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of (row, time)."""
    return (row << _USER_BITS) + np.clip(time - EPOCH_MS, 0, (1 << _USER_BITS) - 1)
