"""Signals of the simulated service: thumbs, ratings, list adds, impressions and trailers of first plays.

Every draw is a counter hash of a purpose of its own, so that a signal changes neither the plays nor another
signal, and the events of a user are the same in any chunk.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core.tables import Signals
from jaxrec.sources.simulator.draws import Draw, normal
from jaxrec.sources.simulator.enjoyment import RATING_NOISE, STARS, sigmoid, thumb_probability
from jaxrec.sources.simulator.plays import slate_titles
from jaxrec.sources.simulator.service import SimulatedService
from jaxrec.sources.simulator.world import (
    DAY_MS,
    MATCH_AT,
    MINUTE_MS,
    OTHERS,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
)

THUMB_LATER = 0.1  # fraction of thumbs that come days after the first session
THUMB_DAYS = (1, 7)  # days after which they come
_TRAILER_MINUTES = 5  # longest time from a trailer to the play
_SHORTEST, _LONGEST = 5.0, 60.0  # seconds of a trailer
_MOST_TRAILERS = 40  # beyond this number a Poisson variable of mean 10 has a probability below 1e-12
_CELLS = 1 << 22  # elements of the dense arrays of a block of plays


class _Events(NamedTuple):
    """Events of one signal: rows of the plays they belong to, titles, times and values."""

    play: np.ndarray
    title: np.ndarray
    time: np.ndarray
    value: np.ndarray


def make_signals(
    c: Simulator,
    catalogue: SimulatedCatalogue,
    latents: LatentStates,
    plays: SimulatedPlays,
    names: tuple[str, ...],
) -> Signals:
    """Generate the events of the declared signals, in order of time.

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        latents: Latent states of users.
        plays: Plays of these users.
        names: Names of the declared signals; the index of a name is the kind of its events.
    """
    service = SimulatedService(c, catalogue, latents, plays)
    made = [_GENERATORS[name](service) for name in names]
    kind = np.repeat(np.arange(len(names), dtype=np.int8), [len(events.play) for events in made])
    play, title, time, value = (np.concatenate(column) for column in zip(*made, strict=True))
    order = np.lexsort((play, time))
    return Signals(
        user=service.key[play][order],
        title=title[order].astype(np.int64),
        time=time[order],
        kind=kind[order],
        value=value[order].astype(np.float32),
    )


# ---------------------------------------------------------------- opinions of plays


def first_end(plays: SimulatedPlays) -> np.ndarray:
    """Return the end [P] of the first session of each play, in milliseconds."""
    return plays.time + np.ceil(plays.seconds * 1000).astype(np.int64)


def last_end(plays: SimulatedPlays) -> np.ndarray:
    """Return the end [P] of the last session of each play, without its replay."""
    later = plays.later_time + np.ceil(plays.later * 1000).astype(np.int64)
    return np.maximum(first_end(plays), np.where(plays.later > 0, later, 0).max(axis=1))


def _thumbs(service: SimulatedService) -> _Events:
    """Return thumbs of plays that were not abandoned, up with probability e'.

    A thumb comes at the end of the first session; one in ten comes 1 to 7 days later.
    """
    c, plays = service.config, service.plays
    opinion = sigmoid(service.opinion_odds())
    kept = plays.seen_from == plays.time
    every = np.arange(len(plays.row))
    drawn = service.uniform(Draw.THUMB, every) < thumb_probability(c, opinion)
    play = np.flatnonzero(kept & drawn)
    first, last = THUMB_DAYS
    days = first + (last - first) * service.uniform(Draw.THUMB_WAIT, play)
    is_late = service.uniform(Draw.THUMB_LATER, play) < THUMB_LATER
    time = first_end(plays)[play] + np.where(is_late, (days * DAY_MS).astype(np.int64), 0)
    value = np.where(service.uniform(Draw.THUMB_UP, play) < opinion[play], 1.0, -1.0)
    return _Events(play, plays.title[play], time, value)


def _ratings(service: SimulatedService) -> _Events:
    """Return ratings of plays, from 1 to 5, at the end of the last session."""
    c, plays = service.config, service.plays
    play = np.flatnonzero(service.uniform(Draw.RATED, np.arange(len(plays.row))) < c.ratings)
    noise = normal(c.seed, Draw.RATING_NOISE, service.key[play], plays.index[play])
    opinion = sigmoid(service.opinion_odds()[play] + RATING_NOISE * noise)
    stars = np.clip(np.round(1.0 + (STARS - 1) * opinion), 1, STARS)
    return _Events(play, plays.title[play], last_end(plays)[play], stars)


# ---------------------------------------------------------------- slates


class _Slates(NamedTuple):
    """Slates of a block of plays."""

    play: np.ndarray  # [N] rows of the plays
    title: np.ndarray  # [N, slate] titles
    is_free: np.ndarray  # [N, slate] available and not played before, as the chosen title is
    match: np.ndarray  # [N, slate] dot product of preference and title

    def draw(self, utility: np.ndarray, allowed: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Draw one slot of each slate by softmax among the allowed slots.

        Args:
            utility: [N, slate].
            allowed: [N, slate] bool.
            point: [N] uniform numbers.

        Returns:
            [N] titles, -1 where no slot is allowed.
        """
        utility = np.where(allowed, utility, -np.inf)
        top = utility.max(axis=1, keepdims=True)
        weight = np.where(allowed, np.exp(utility - np.where(np.isfinite(top), top, 0)), 0)
        ends = np.cumsum(weight, axis=1, dtype=np.float64)
        slot = (ends <= (point * ends[:, -1])[:, None]).sum(axis=1)
        slot = np.minimum(slot, self.title.shape[1] - 1)
        return np.where(ends[:, -1] > 0, self.title[np.arange(len(slot)), slot], -1)


def _slates(service: SimulatedService, chosen: np.ndarray) -> Iterator[_Slates]:
    """Yield the slates of chosen plays, by ascending rows, in blocks of bounded size."""
    c, plays = service.config, service.plays
    most = max(1, _CELLS // max(c.titles, c.slate))
    for first in range(0, len(chosen), most):
        play = chosen[first : first + most]
        title = slate_titles(c, service.catalogue.shelf, service.key[play], plays.index[play])
        is_free = service.is_unplayed(play, title) & service.is_offered(play, title)
        match = np.take_along_axis(service.matches(play), title.astype(np.int64), axis=1)
        yield _Slates(play, title, is_free, match)


def _list_adds(service: SimulatedService) -> _Events:
    """Return list adds: another title of a slate, drawn as the play was, at the time of the play."""
    c, plays = service.config, service.plays
    adding = np.flatnonzero(service.uniform(Draw.LISTED, np.arange(len(plays.row))) < c.lists)
    listed = [np.empty(0, np.int64)]
    for slates in _slates(service, adding):
        others = slates.is_free & (slates.title != plays.title[slates.play][:, None])
        point = service.uniform(Draw.LIST_CHOICE, slates.play)
        utility = slates.match + service.attraction(slates.play, slates.title)
        listed.append(slates.draw(utility, others, point))
    title = np.concatenate(listed)
    play, title = adding[title >= 0], title[title >= 0]
    return _Events(play, title, plays.time[play], np.ones(len(play)))


def _impressions(service: SimulatedService) -> _Events:
    """Return what was shown: the chosen title and the first 20 other titles of the slate.

    Titles played before or unavailable are left out: they could not be chosen. The time is that of the play.
    """
    c, plays = service.config, service.plays
    share = np.full(len(plays.row), c.impressions_logged)
    if c.test_impressions_logged is not None:
        share[service.key >= c.users] = c.test_impressions_logged
    logged = np.flatnonzero(service.uniform(Draw.LOGGED, np.arange(len(plays.row))) < share)
    shown_play, shown = [logged], [plays.title[logged]]
    for slates in _slates(service, logged):
        others = slates.is_free & (slates.title != plays.title[slates.play][:, None]) & _first(slates.title)
        others &= np.cumsum(others, axis=1) <= OTHERS
        row, slot = np.nonzero(others)
        shown_play.append(slates.play[row])
        shown.append(slates.title[row, slot].astype(np.int64))
    play = np.concatenate(shown_play)
    return _Events(play, np.concatenate(shown), plays.time[play], np.ones(len(play)))


def _first(title: np.ndarray) -> np.ndarray:
    """Return a mask [N, slots] of the first slot of each title in a slate."""
    order = np.argsort(title, axis=1, kind="stable")
    ordered = np.take_along_axis(title, order, axis=1)
    is_new = np.ones(title.shape, bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    mask = np.empty(title.shape, bool)
    np.put_along_axis(mask, order, is_new, axis=1)
    return mask


def _trailers(service: SimulatedService) -> _Events:
    """Return trailers watched before plays: titles of the slate by softmax of their match.

    Their number is Poisson. They begin after the previous play, at most 5 minutes before the play, and are
    5 to 60 seconds long, longer with the match.
    """
    c, plays = service.config, service.plays
    count = _poisson(c.trailers, service.uniform(Draw.TRAILERS, np.arange(len(plays.row))))
    gap = np.full(len(plays.row), _TRAILER_MINUTES * MINUTE_MS)
    same_user = plays.row[1:] == plays.row[:-1]
    gap[1:] = np.where(same_user, np.minimum(gap[1:], plays.time[1:] - first_end(plays)[:-1]), gap[1:])
    made = []
    for slates in _slates(service, np.flatnonzero(count > 0)):
        for k in range(count[slates.play].max(initial=0)):
            at = np.flatnonzero(count[slates.play] > k)
            some = _Slates(*(column[at] for column in slates))
            title = some.draw(some.match, some.is_free, service.uniform(Draw.TRAILER_CHOICE, some.play, k))
            slot = (some.title == title[:, None]).argmax(axis=1)
            match = some.match[np.arange(len(slot)), slot]
            noise = normal(c.seed, Draw.TRAILER_LENGTH, service.key[some.play], plays.index[some.play], k)
            seconds = _SHORTEST + (_LONGEST - _SHORTEST) * sigmoid(match - MATCH_AT + noise)
            before = gap[some.play] * service.uniform(Draw.TRAILER_AT, some.play, k)
            time = plays.time[some.play] - np.ceil(before).astype(np.int64)
            made.append(_Events(some.play, title, time, np.round(seconds, 3)))
    empty = _Events(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.int64, np.float64)))
    return _Events(*(np.concatenate(column) for column in zip(empty, *made, strict=True)))


def _poisson(mean: float, point: np.ndarray) -> np.ndarray:
    """Return Poisson counts [...] from uniform numbers."""
    n = np.arange(_MOST_TRAILERS)
    terms = np.cumprod(np.append(np.exp(-mean), mean / np.maximum(n[1:], 1)))
    return np.searchsorted(np.cumsum(terms), point)


_GENERATORS: dict[str, Callable[[SimulatedService], _Events]] = {
    "thumb": _thumbs,
    "rating": _ratings,
    "list_add": _list_adds,
    "impression": _impressions,
    "trailer": _trailers,
}
