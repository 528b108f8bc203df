"""Visible part of the plays of simulated users, and the law of a completion."""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator.plays import HABIT_FROM, composite, sitting_starts
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.world import GENRES, SEGMENT_RIGHT, THIRD, segments

_STAYS_FROM = 0.2  # least completion of a user who stays and is not interrupted


class Observations(NamedTuple):
    """Plays that were not abandoned before N requests, the last L of each, oldest first; padding before.

    Attributes:
        title: [N, L] int64 rows of titles; -1 for padding.
        completion: [N, L] float32 completion of the whole play.
        weeks: [N, L + 1] int64 weeks since the play before, the request last; 0 for the first play.
        is_new: [N, L + 1] bool: the play, or the request, is in another sitting than the play before.
        moves: [N, L + 1] int64 plays since the play before, of the same sitting.
        hidden: [N] int64 number of plays that were abandoned before the request.
        segment: [N] int64 first genre, right with probability 3/4.
        segment2: [N] int64 18 * third of patience + second genre, each right with probability 3/4.
    """

    title: np.ndarray
    completion: np.ndarray
    weeks: np.ndarray
    is_new: np.ndarray
    moves: np.ndarray
    hidden: np.ndarray
    segment: np.ndarray
    segment2: np.ndarray


def observe(service: SimulatedService, at: np.ndarray, history: int) -> Observations:
    """Return what is visible of users before plays.

    Args:
        service: Plays of some users.
        at: [N] indices of the plays of requests.
        history: L, number of plays that are visible.
    """
    c, plays = service.config, service.plays
    row = plays.row[at]
    kept = np.flatnonzero(plays.seen_from == plays.time)
    end = np.searchsorted(composite(plays.row[kept], plays.time[kept]), composite(row, plays.time[at]))
    begin = np.searchsorted(plays.row[kept], row)
    place = end[:, None] + np.arange(-history, 0)
    exists = place >= begin[:, None]
    play = np.where(exists, np.append(kept, 0)[np.where(exists, place, -1)], at[:, None])

    seconds = plays.seconds + plays.later.sum(axis=1)
    completion = seconds[play] / (60.0 * service.catalogue.runtime[plays.title[play]])
    every = np.concatenate([play, at[:, None]], axis=1)
    before = np.concatenate([every[:, :1], np.where(exists, play, every[:, 1:])], axis=1)
    sitting = np.cumsum(sitting_starts(c, service.latents), axis=1)
    sitting_of = sitting[plays.row[every], plays.index[every]]
    of_users = segments(c, service.latents)
    return Observations(
        title=np.where(exists, plays.title[play], -1),
        completion=np.where(exists, np.minimum(completion, 1.0), 0.0).astype(np.float32),
        weeks=plays.week[every] - plays.week[before],
        is_new=sitting_of != sitting[plays.row[before], plays.index[before]],
        moves=plays.index[every] - plays.index[before],
        hidden=at - np.searchsorted(plays.row, row) - (end - begin),
        segment=of_users["segment"][row],
        segment2=of_users["segment2"][row],
    )


def segment_likelihood(seen: Observations, genres: np.ndarray) -> np.ndarray:
    """Return the probabilities [N, T] of the segments' genres, given triples of genres [T, 3]."""
    wrong = (1 - SEGMENT_RIGHT) / len(GENRES)
    first = wrong + SEGMENT_RIGHT * (seen.segment[:, None] == genres[:, 0])
    return first * (wrong + SEGMENT_RIGHT * (seen.segment2[:, None] % len(GENRES) == genres[:, 1]))


def patience_likelihood(seen: Observations, patience: np.ndarray) -> np.ndarray:
    """Return the probabilities [N, R] of the segment's third, given values of patience [R]."""
    third = np.searchsorted([-THIRD, THIRD], patience)
    return (1 - SEGMENT_RIGHT) / 3 + SEGMENT_RIGHT * (seen.segment2[:, None] // len(GENRES) == third)


def completion_density(c: Simulator, completion: np.ndarray, stay: np.ndarray) -> np.ndarray:
    """Return the density of completions that are not abandoned, given the probability of staying.

    A user who stays watches C = 1/5 + 4/5 u^(3/5 - 2/5 stay) of a title, u uniform. One play in
    1 / `interruptions` is cut at the square of a uniform fraction. `habit` leaves plays running.

    Args:
        c: Settings of the simulator.
        completion: [...] completions, at least .05.
        stay: [...] probability of staying; the arguments are broadcast together.

    Returns:
        [...] float32.
    """
    share = np.clip((completion - _STAYS_FROM) / (1 - _STAYS_FROM), 1e-6, 1.0).astype(np.float32)
    power = 1 / (np.float32(0.6) - np.float32(0.4) * stay)
    below = np.exp(power * np.log(share))  # probability that a stay ends before the completion
    cut = np.float32(c.interruptions) / (2 * np.sqrt(completion))
    uncut = 1 - np.float32(c.interruptions) * np.sqrt(completion)
    ends = power * below / (share * np.float32(1 - _STAYS_FROM)) * uncut + (1 - below) * cut
    chosen = stay * np.where(completion >= _STAYS_FROM, ends, cut)
    running = (completion >= HABIT_FROM) / np.float32(1 - HABIT_FROM)
    return ((1 - c.habit) * chosen + c.habit * running).astype(np.float32)
