"""Closed forms of the simulated service: choices given all plays, and expectations of labels.

A label is that of a title if it is played at the request, with the user's latent state and leniency known.

- play: completion, at_least, quick. First plays are the only anchors, so not with data.targets="any".
  Approximation: a later session and a replay begin after the mean length of the sessions before, in place of
  their own length. A replay of an abandoned title that fails is left out.
- thumb: happened, count, and last, which is exact. Approximation: the length of the first session is left out
  for the thumbs that come days later.
- rating: happened and count, with the approximation of plays, and last, exact to 1e-7.
- list_add: happened, count, of the request alone: adds at the user's later requests within the hours are left
  out. The relative error is that of `second_density`, one in a thousand.
- impression: happened, count; exact.

The list add of a title is that of any title of the catalogue, whether it is played or not. All other labels
have no closed form here and are NaN, and so are thumbs and ratings within less than `SETTLED` hours, in which
a first session may be still under way.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Label, Simulator
from jaxrec.sources.simulator.enjoyment import RATING_NOISE, STARS, sigmoid, thumb_probability
from jaxrec.sources.simulator.plays import FIRST_SHARES, HABIT_FROM, SESSION_RATES
from jaxrec.sources.simulator.signals import THUMB_DAYS, THUMB_LATER
from jaxrec.sources.simulator.world import ABANDON_BELOW, abandon_probability

SETTLED = 3.0  # hours: more than any first session
_LISTED = ("happened", "count")
_WAIT, _MEAN_WAIT = 6.0, 24.0  # hours before a later session: the least, and the mean beyond
_SESSIONS_FROM = 0.2  # least completion of a play of several sessions
_REPLAY_FROM = 0.1  # least completion of a replay that succeeds
_LEAVES, _LEAVES_MOST = 0.002, 0.024  # completions of a user who leaves
# Bounds of the pieces of the integral of a completion, and Gauss-Legendre nodes of a piece.
_PIECES, _NODES = (0.0, _LEAVES, _LEAVES_MOST, ABANDON_BELOW, _SESSIONS_FROM, 0.5, HABIT_FROM, 1.0), 6


class Candidates(NamedTuple):
    """Titles that may be played at requests; all arrays are [N, C].

    Attributes:
        stay: Probability of staying.
        opinion_odds: Log-odds of e'.
        second: Probability of each candidate as the second draw from the slate; None where no label reads it.
        film: Bool.
        runtime: Hours.
        remaining: [N, 1] hours from the request to the end of the service, in which a title is played again.
    """

    stay: np.ndarray
    opinion_odds: np.ndarray
    second: np.ndarray | None
    film: np.ndarray
    runtime: np.ndarray
    remaining: np.ndarray


def expectations(c: Simulator, candidates: Candidates, labels: Sequence[Label]) -> np.ndarray:
    """Return the expectation of each label, [N, C, labels] float64; NaN without a closed form.

    Args:
        c: Settings of the simulator.
        candidates: Titles that may be played.
        labels: Declared labels of plays and of the simulator's signals.
    """
    out = np.full((*candidates.stay.shape, len(labels)), np.nan)
    for i, label in enumerate(labels):
        values = _expectation(c, candidates, label)
        if values is not None:
            out[..., i] = values
    return out


def _expectation(c: Simulator, candidates: Candidates, label: Label) -> np.ndarray | float | None:
    """Return the expectation [N, C] of a label, or None without a closed form."""
    rule, hours, is_settled = label.rule, label.hours, label.hours >= SETTLED
    match label.signal:
        case "play" if rule == "completion":
            return _mean_completion(c, candidates, hours) + _mean_of_replay(c, candidates, hours)
        case "play" if rule in ("at_least", "quick"):
            at = label.at
            return _reaches(c, candidates, at, hours) + _reaches_by_replay(c, candidates, at, hours)
        case "thumb" if rule in _LISTED and is_settled:
            return _thumbs(c, candidates, hours)
        case "thumb" if rule == "last":
            return 2.0 * sigmoid(candidates.opinion_odds) - 1.0
        case "thumb" if rule == "positive":
            return sigmoid(candidates.opinion_odds)
        case "rating" if rule in _LISTED and is_settled:
            return c.ratings * _ends_within(c, candidates, hours)
        case "rating" if rule == "last":
            return _mean_rating(candidates.opinion_odds)
        case "list_add" if rule in _LISTED and candidates.second is not None:
            return c.lists * candidates.second
        case "impression" if rule in _LISTED:
            return c.impressions_logged
    return None


# ---------------------------------------------------------------- completion


def _reaches_finally(c: Simulator, stay: np.ndarray, at: np.ndarray | float) -> np.ndarray:
    """Return the probability [N, C] that the completion of a whole play is at least `at`, [...] in [0, 1]."""
    at = np.asarray(at, np.float64)
    power = 1.0 / (0.6 - 0.4 * stay)
    stays = 1.0 - np.clip((at - _SESSIONS_FROM) / (1 - _SESSIONS_FROM), 0, 1) ** power
    leaves = np.clip((_LEAVES_MOST - at) / (_LEAVES_MOST - _LEAVES), 0, 1)
    chosen = (stay * stays + (1 - stay) * leaves) * (1 - c.interruptions * np.sqrt(at))
    running = np.clip((1 - at) / (1 - HABIT_FROM), 0, 1)
    return (1 - c.habit) * chosen + c.habit * running


def _reaches(c: Simulator, candidates: Candidates, at: float, hours: float) -> np.ndarray:
    """Return the probability [N, C] that the sessions of the first hours reach the completion `at`."""
    stay = candidates.stay
    low = _reaches_finally(c, stay, min(at, _SESSIONS_FROM)) - _reaches_finally(c, stay, _SESSIONS_FROM)
    total = low  # plays of less than a fifth are one session
    for fraction, probability in _parts(candidates, hours):
        needed = at / fraction
        if needed <= 1:
            total = total + probability * _reaches_finally(c, stay, max(needed, _SESSIONS_FROM))
    return total


def _mean_completion(c: Simulator, candidates: Candidates, hours: float) -> np.ndarray:
    """Return the mean completion [N, C] of the sessions of the first hours: the integral of `_reaches`."""
    stay = candidates.stay

    def reaches(at: float) -> np.ndarray:
        return _reaches_finally(c, stay, at)

    at_fifth = _reaches_finally(c, stay, _SESSIONS_FROM)
    short = _integral(reaches, 0, _SESSIONS_FROM) - _SESSIONS_FROM * at_fifth  # E[C; C < .2]
    long = _integral(reaches, _SESSIONS_FROM, 1) + _SESSIONS_FROM * at_fifth  # E[C; C >= .2]
    return short + long * sum(fraction * probability for fraction, probability in _parts(candidates, hours))


def _integral(function: Callable[[float], np.ndarray], low: float, high: float) -> np.ndarray | float:
    """Integrate a function between two bounds in [0, 1], piece by piece."""
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    total: np.ndarray | float = 0.0
    for first, last in itertools.pairwise(_PIECES):
        first, last = max(first, low), min(last, high)
        for x, w in zip(node, weight, strict=True):
            if first < last:
                total = total + w * (last - first) / 2 * function(first + (last - first) * (x + 1) / 2)
    return total


# ---------------------------------------------------------------- replays
# A replay adds M, uniform in [.1, 1], to the completion C of a play. It follows all sessions of the play.


def _replayed(candidates: Candidates, hours: float) -> np.ndarray:
    """Return the probability [N, C] that a replay, if there is one, begins within some hours.

    It begins two waits and a uniform share of the remaining time after the first session: with the sum G of
    two exponential variables of mean m, E[(x - G)+] = x - 2 m + (x + 2 m) e^(-x / m).
    """

    def mean_beyond(x: np.ndarray) -> np.ndarray:
        x = np.maximum(x, 0)
        return x - 2 * _MEAN_WAIT + (x + 2 * _MEAN_WAIT) * np.exp(-x / _MEAN_WAIT)

    x, remaining = hours - 2 * _WAIT - _mean_length(candidates), candidates.remaining
    return (mean_beyond(x) - mean_beyond(x - remaining)) / remaining


def _reaches_by_replay(c: Simulator, candidates: Candidates, at: float, hours: float) -> np.ndarray:
    """Return the probability [N, C] that a replay within the hours reaches `at` and the play does not."""

    def watched(share: float) -> np.ndarray:
        return _reaches_finally(c, candidates.stay, max(share, ABANDON_BELOW))

    alone = min((1 - at) / (1 - _REPLAY_FROM), 1.0)  # probability of M >= at
    both = alone * watched(0) + _integral(watched, 0, at - _REPLAY_FROM) / (1 - _REPLAY_FROM)
    rescued = _rescued(c, candidates) * alone if at > ABANDON_BELOW else 0.0
    return _replayed(candidates, hours) * (c.replay_watched * (both - watched(at)) + rescued)


def _mean_of_replay(c: Simulator, candidates: Candidates, hours: float) -> np.ndarray:
    """Return the mean completion [N, C] that replays within the hours add, up to a completion of 1."""

    def room(share: float) -> np.ndarray:
        """Return P(C >= share) times the probability that M exceeds 1 - share."""
        reached = _reaches_finally(c, candidates.stay, max(share, ABANDON_BELOW))
        return reached * min(share / (1 - _REPLAY_FROM), 1.0)

    mean = (1 + _REPLAY_FROM) / 2
    watched = mean * _reaches_finally(c, candidates.stay, ABANDON_BELOW) - _integral(room, 0, 1)
    return _replayed(candidates, hours) * (c.replay_watched * watched + mean * _rescued(c, candidates))


def _rescued(c: Simulator, candidates: Candidates) -> np.ndarray:
    """Return the probability [N, C] that a play is abandoned and its replay succeeds."""
    abandoned = abandon_probability(c, candidates.stay)
    return c.replay_abandoned * abandoned * (1 - abandoned)


# ---------------------------------------------------------------- sessions


def _session_rates(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities [N, C] of two and of three sessions of a play of at least a fifth."""
    often = np.where(candidates.film, SESSION_RATES[True], SESSION_RATES[False])
    return 0.7 * often, 0.3 * often


def _parts(candidates: Candidates, hours: float) -> list[tuple[float, np.ndarray | float]]:
    """Return fractions of a play that are watched within hours, with the probability [N, C] of each."""
    two, three = _session_rates(candidates)
    _, half, least = FIRST_SHARES
    third = (1 - least) / 2
    second_of_two = _begins_within(hours - half * _mean_length(candidates), 1)
    first_hours = hours - least * _mean_length(candidates)
    second, last = _begins_within(first_hours, 1), _begins_within(first_hours, 2)
    return [
        (1.0, 1 - two - three + two * second_of_two + three * last),
        (half, two * (1 - second_of_two)),
        (least + third, three * (second - last)),
        (least, three * (1 - second)),
    ]


def _mean_length(candidates: Candidates) -> np.ndarray:
    """Return the mean hours [N, C] of a play of a user who stays, without interruptions."""
    return candidates.runtime * (0.2 + 0.8 / (1.6 - 0.4 * candidates.stay))


def _begins_within(hours: np.ndarray, waits: int) -> np.ndarray:
    """Return the probability [...] that one or two waits together last at most some hours."""
    x = np.maximum(hours - waits * _WAIT, 0) / _MEAN_WAIT
    return 1 - np.exp(-x) * (1.0 if waits == 1 else 1 + x)


def _ends_within(c: Simulator, candidates: Candidates, hours: float) -> np.ndarray:
    """Return the probability [N, C] that the last session of a play ends within some hours."""
    two, three = _session_rates(candidates)
    shown = hours - _mean_length(candidates)
    late = two * (1 - _begins_within(shown, 1)) + three * (1 - _begins_within(shown, 2))
    return 1 - _reaches_finally(c, candidates.stay, _SESSIONS_FROM) * late


# ---------------------------------------------------------------- thumbs and ratings


def _thumbs(c: Simulator, candidates: Candidates, hours: float) -> np.ndarray:
    """Return the probability [N, C] of a thumb within some hours."""
    first, last = THUMB_DAYS
    late = np.clip((hours / 24 - first) / (last - first), 0, 1)
    kept = 1 - abandon_probability(c, candidates.stay)
    drawn = thumb_probability(c, sigmoid(candidates.opinion_odds))
    return kept * drawn * (1 - THUMB_LATER + THUMB_LATER * late)


def _mean_rating(odds: np.ndarray) -> np.ndarray:
    """Return the mean rating [N, C]: 1 and the probabilities of 2 or more, 3 or more, and so on."""
    steps = (np.arange(1, STARS) - 0.5) / (STARS - 1)
    above = [_normal_cdf((odds - np.log(step / (1 - step))) / RATING_NOISE) for step in steps]
    return 1.0 + np.sum(above, axis=0)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return the standard normal distribution function to 1e-7 (Abramowitz & Stegun 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = series * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(x > 0, 1 - upper, upper)
