"""Value of policies under the truth of a simulated service: value, KL, entropy, efficiency.

A policy pi gives each title a probability at a request. The truth gives the probability c of each title as
the next play, and the reward r in [0, 1] of each title if it is played. Titles with c = 0 were played before:
no policy may choose them. Axis letters: Q queries, V titles.

    V(pi) = mean over queries of sum_a pi(a) r(a)

The policies of the highest value at a mean KL(pi || c) are the tilts c exp(r / temperature) of one common
temperature, normalised for each query: V* of a KL is the value of the tilt with that KL.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import TRUTH

TOPS = (1, 10)  # numbers of best titles whose mean reward is a value
# Names of the columns of per-user and per-query results.
COLUMNS = tuple(f"{TRUTH}/{name}" for name in ("value", *(f"value@{k}" for k in TOPS), "kl", "entropy"))
_QUERIES = 512  # queries whose tilts are computed at a time, which bounds memory
_COLDEST, _WARMEST = 1e-4, 1e4  # temperatures between which V* is searched
_TOLERANCE = 1e-7  # nats
_STILL = 1e-6  # nats of KL, and difference of values, below which an efficiency is noise


class PolicyValues(NamedTuple):
    """Values of a policy at Q queries.

    Attributes:
        value: [Q] sum of pi r.
        value_at: Number k -> [Q] mean reward of the k titles of the highest probability.
        kl: [Q] KL(pi || c) in nats.
        entropy: [Q] entropy of pi in nats.
    """

    value: np.ndarray
    value_at: dict[int, np.ndarray]
    kl: np.ndarray
    entropy: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """Return the values [Q] by the name of the metric."""
        tops = {f"value@{k}": values for k, values in self.value_at.items()}
        return {"value": self.value, **tops, "kl": self.kl, "entropy": self.entropy}


class Tilt(NamedTuple):
    """Mean value and mean KL, over all queries, of the tilts of one temperature."""

    value: float
    kl: float


def normalise(logits_QxV: np.ndarray, choice_QxV: np.ndarray) -> np.ndarray:
    """Return log probabilities [Q, V] in float64, -inf where the choice is 0.

    Args:
        logits_QxV: Log probabilities up to a constant of each query.
        choice_QxV: Probabilities of the true choice.
    """
    logits = np.where(choice_QxV > 0, logits_QxV.astype(np.float64), -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def policy_values(log_pi_QxV: np.ndarray, choice_QxV: np.ndarray, reward_QxV: np.ndarray) -> PolicyValues:
    """Return the values of a policy at queries.

    Args:
        log_pi_QxV: Log probabilities, from `normalise`.
        choice_QxV: Probabilities of the true choice; they sum to 1.
        reward_QxV: Rewards.
    """
    pi, reward = np.exp(log_pi_QxV), reward_QxV.astype(np.float64)
    possible = choice_QxV > 0
    own = np.where(possible, log_pi_QxV, 0.0)
    ratio = own - np.log(np.where(possible, choice_QxV, 1.0), dtype=np.float64)
    best = np.argsort(-log_pi_QxV, axis=1, kind="stable")[:, : max(TOPS)]
    of_best = np.take_along_axis(np.where(possible, reward, np.nan), best, axis=1)
    return PolicyValues(
        (pi * reward).sum(axis=1),
        {k: np.nanmean(of_best[:, :k], axis=1) for k in TOPS},
        (pi * ratio).sum(axis=1),
        -(pi * own).sum(axis=1),
    )


def tilt_values(choice_QxV: np.ndarray, reward_QxV: np.ndarray, temperature: float) -> Iterator[PolicyValues]:
    """Yield the values of the tilts choice * exp(reward / temperature), for blocks of queries in order."""
    for start in range(0, len(choice_QxV), _QUERIES):
        choice, reward = (x[start : start + _QUERIES] for x in (choice_QxV, reward_QxV))
        with np.errstate(divide="ignore"):
            logits = np.log(choice, dtype=np.float64) + reward.astype(np.float64) / temperature
        yield policy_values(normalise(logits, choice), choice, reward)


class Frontier:
    """V*, the highest mean value of a policy at a mean KL to the true choice.

    Args:
        choice_QxV: Probabilities of the true choice.
        reward_QxV: Rewards.
    """

    def __init__(self, choice_QxV: np.ndarray, reward_QxV: np.ndarray) -> None:
        # float32: the sums over titles below are of products that numpy adds pairwise.
        self._choice = np.asarray(choice_QxV, np.float32)
        self._reward = np.asarray(reward_QxV, np.float32)

    def tilt(self, temperature: float) -> Tilt:
        """Return mean value and mean KL of the tilts of a temperature above 0."""
        value = kl = 0.0
        for start in range(0, len(self._choice), _QUERIES):
            choice, reward = (x[start : start + _QUERIES] for x in (self._choice, self._reward))
            raised = np.where(choice > 0, reward, -np.inf)
            raised = (raised - raised.max(axis=1, keepdims=True)) / np.float32(temperature)
            weight = choice * np.exp(raised)
            total = weight.sum(axis=1, dtype=np.float64)
            mean = (weight * np.where(choice > 0, raised, 0)).sum(axis=1, dtype=np.float64) / total
            value += float(((weight * reward).sum(axis=1, dtype=np.float64) / total).sum())
            kl += float((mean - np.log(total)).sum())
        return Tilt(value / len(self._choice), kl / len(self._choice))

    def value_at(self, kl: float) -> float:
        """Return V* at a mean KL in nats, by bisection on the logarithm of the temperature.

        A KL above that of the coldest tilt has the value of that tilt, which chooses the best titles alone.
        """
        low, high = math.log(_COLDEST), math.log(_WARMEST)
        coldest = self.tilt(_COLDEST)
        if kl >= coldest.kl:
            return coldest.value
        middle = self.tilt(math.exp((low + high) / 2))
        while high - low > 1e-9 and abs(middle.kl - kl) > _TOLERANCE:
            centre = (low + high) / 2
            low, high = (centre, high) if middle.kl > kl else (low, centre)
            middle = self.tilt(math.exp((low + high) / 2))
        return middle.value


def efficiency(value: float, kl: float, choice_value: float, frontier: Frontier) -> float | None:
    """Return (value - choice_value) / (V*(kl) - choice_value); None where the KL is too small to divide by.

    Args:
        value: Mean value of the policy.
        kl: Mean KL of the policy.
        choice_value: Mean value of the true choice.
        frontier: V*.
    """
    gain = frontier.value_at(kl) - choice_value
    return (value - choice_value) / gain if kl > _STILL and gain > _STILL else None
