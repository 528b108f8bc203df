"""Oracle of the simulated service: densities of next and abandoned titles, play by play.

For each user, the plays are processed in order, with the probability for each title that the title can
still be chosen. A title watched and not abandoned cannot be chosen again; another title may have been the
title of one of the plays abandoned so far.
"""

import numpy as np

from jaxrec.sources.simulator.oracle import choices
from jaxrec.sources.simulator.plays import NEVER, composite, play_index
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.world import (
    abandon_probability,
    final_abandon_probability,
    stay_probability,
)


def follow(
    service: SimulatedService, row: np.ndarray, time: np.ndarray, title: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the densities of examples, from latent states and plays.

    Args:
        service: Plays of the users.
        row: [N] rows of the latent states.
        time: [N] milliseconds.
        title: [N, C] rows of Titles.

    Returns:
        p and a, [N, C] float32, as `core.tables.Truth.densities`.
    """
    c, latents, plays = service.config, service.latents, service.plays
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
    free = np.ones((len(first), c.titles), np.float32)
    not_shown = np.ones_like(free)
    p, a = np.empty(title.shape, np.float32), np.empty(title.shape, np.float32)
    for n in range(final.max(initial=0)):
        replayed = late[shown == n]
        not_shown[plays.row[replayed], plays.title[replayed]] = free[
            plays.row[replayed], plays.title[replayed]
        ] = 0
        users = np.nonzero(final > n)[0]
        play = first[users] + n
        chosen, abandoned = choice_and_abandonment(service, play, free[users])
        examples = np.nonzero(nth == n)[0]
        index = np.searchsorted(users, row[examples])
        kept = chosen[index] * (1 - final_abandon_probability(c, abandoned[index]))
        p[examples] = choices.take_normalised(service.restricted(kept, play[index]), title[examples])
        taken = not_shown[row[examples]] - free[row[examples]]
        a[examples] = choices.take_normalised(
            np.where(taken.any(axis=1, keepdims=True), taken, not_shown[row[examples]]), title[examples]
        )

        kept = plays.seen_from[play] == plays.time[play]
        chosen *= np.where(kept[:, None], 1 - abandoned, abandoned)
        free[users] = choices.update_free(free[users], chosen, kept)
        free[users[kept], plays.title[play[kept]]] = not_shown[users[kept], plays.title[play[kept]]] = 0
    return p, a


def choice_and_abandonment(
    service: SimulatedService, ids: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of choosing each title, and of abandoning it then.

    Args:
        service: Plays of users.
        ids: [N] indices of plays, whose states are used.
        free: [N, V] probability that the title was not played before.

    Returns:
        Two arrays [N, V].
    """
    c, row = service.config, service.plays.row[ids]
    patience = service.latents.patience[row, None]
    stay = stay_probability(c, service.catalogue.satisfaction, patience, service.matches(ids))
    weight, arrival = slots(service, ids, free)
    return choices.choice_density(weight, arrival, c.slate), abandon_probability(c, stay)


def slots(service: SimulatedService, ids: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of titles and their probabilities in a slot, for `choice_density`.

    A title that is not launched or not licensed at the play arrives with probability 0.

    Args:
        service: Service after the simulation.
        ids: [N] indices of plays.
        free: [N, V] probability that the title was not played before.

    Returns:
        Weights exp(utility - largest utility) [N, V], and unnormalised probabilities [N, V].
    """
    every = np.arange(service.config.titles)
    free = free * service.is_offered(ids, every)
    utility = service.matches(ids) + service.attraction(ids, every)
    utility = np.where(free > 0, utility, -np.inf)
    weight = np.exp(utility - utility.max(axis=1, keepdims=True))
    return weight, free * service.catalogue.exposure.astype(np.float32)


def unplayed(service: SimulatedService, ids: np.ndarray) -> np.ndarray:
    """Return 1 for each title that was not played before a play, otherwise 0: float32 [N, V]."""
    every = np.broadcast_to(np.arange(service.config.titles), (len(ids), service.config.titles))
    return service.is_unplayed(ids, every).astype(np.float32)
