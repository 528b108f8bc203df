"""Choices from random slates, and what plays reveal of the titles that can still be chosen."""

import numpy as np

_ROWS = 64  # rows processed at once
# Integral over slates by the trapezoid rule over log t, in steps of log 3: nodes, the first node where the
# mean weight of a slate is 0, and the weight of the first, which includes all nodes below, where the
# integrand is flat: 1 + 1/3 + 1/9 + ...
NODES, FIRST_NODE, NODES_BELOW = 13, 0.03, 1.5
ALMOST_ALL = np.float32(1 - 1e-6)  # largest share of a slot that is taken: its complement has a logarithm
_HALVINGS = 12  # of the number of slots; 100 slots are right to .03
TINY = np.float32(1e-37)  # least divisor


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
        t = np.float32(FIRST_NODE) / (1 + slate * np.einsum("nv,nv->n", w, pi))
        step = np.float32(np.log(3.0)) * t
        total = np.zeros_like(w)
        absent = 1 - pi.sum(axis=1)
        for node in range(NODES):
            e = np.exp(np.maximum(-w * t[:, None], -80))  # e^-80 is negligible, and not a slow subnormal
            laplace = (absent + np.einsum("nv,nv->n", pi, e)) ** (slate - 1)
            total += e * (laplace * step * (NODES_BELOW if node == 0 else 1.0))[:, None].astype(np.float32)
            t, step = 3 * t, 3 * step
        out[block] = slate * pi * w * total
    return out


def shown_density(chosen: np.ndarray, arrival: np.ndarray, slate: int, others: int) -> np.ndarray:
    """Return the probability that each title is among the titles shown beside the chosen one.

    Shown are the first `others` distinct titles of the slate without the chosen one. They are approximated by
    the titles of the first m slots, where m gives `others` distinct titles on average, at most the slate:

        Q(i) = (1 - (1 - arrival_i)^m) (1 - P(i) / (1 - (1 - arrival_i)^slate)).

    Args:
        chosen: [N, V] of `choice_density`.
        arrival: [N, V] probability of a title in each slot.
        slate: Number of slots.
        others: Number of titles shown beside the chosen one, at most.

    Returns:
        [N, V] float32, at least 1e-37.
    """
    absent = np.log1p(-np.minimum(arrival, 1 - 1e-6).astype(np.float64))
    not_chosen = 1 - np.minimum(chosen / np.maximum(-np.expm1(slate * absent), TINY), 1)
    low, high = np.zeros((len(chosen), 1)), np.full((len(chosen), 1), float(slate))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        many = (-np.expm1(middle * absent) * not_chosen).sum(axis=1, keepdims=True) > others
        low, high = np.where(many, low, middle), np.where(many, middle, high)
    return np.maximum(-np.expm1(high * absent) * not_chosen, TINY).astype(np.float32)


def luce_density(utility: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Return Luce's choice probabilities among all titles, by exposure and utility.

    Args:
        utility: [N, V].
        exposure: [V] weight of each title.

    Returns:
        [N, V] float32.
    """
    weight = np.exp(utility - utility.max(axis=1, keepdims=True)) * exposure
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def second_density(weight: np.ndarray, arrival: np.ndarray, slate: int) -> np.ndarray:
    """Return the probability of each title as the second choice from a random slate, without the first.

    Arguments, and the error of the integral, are those of `choice_density`. Titles race: title i of n_i slots
    arrives at rate n_i w_i, and is second where one title came before it. With x_u(t) = arrival_u
    (1 - e^(-w_u t)), and l(t) = 1 - sum_u x_u(t) of one slot,

        P(i) = slate * arrival_i * w_i * integral over t > 0 of e^(-w_i t) (A(t) - a_i(t)),
        a_u(t) = (l(t) + x_u(t))^(slate - 1) - l(t)^(slate - 1),  A(t) = sum_u a_u(t).

    Returns:
        [N, V] float32. The sum over titles is the probability that the slate has a second title.
    """
    out = np.empty(weight.shape, np.float32)
    for first in range(0, len(weight), _ROWS):
        block = slice(first, first + _ROWS)
        w, pi = weight[block].astype(np.float64), arrival[block].astype(np.float64)
        t = FIRST_NODE / (1 + slate * (w * pi).sum(axis=1, keepdims=True))
        total = np.zeros_like(w)
        for _ in range(NODES):
            e = np.exp(np.maximum(-w * t, -80))
            x = pi * (1 - e)
            absent = 1 - x.sum(axis=1, keepdims=True)
            before = (absent + x) ** (slate - 1) - absent ** (slate - 1)
            total += e * (before.sum(axis=1, keepdims=True) - before) * t
            t = 3 * t
        out[block] = slate * pi * w * total * np.log(3.0)
    return out


def update_free(free: np.ndarray, joint: np.ndarray, kept: np.ndarray) -> np.ndarray:
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
    hazard = joint / np.maximum(free, TINY)  # conditional on the title being free
    hazard /= np.maximum(hazard + joint.sum(axis=1, keepdims=True) - joint, TINY)
    remaining = free * (1 - hazard)
    return np.where(kept[:, None], remaining / np.maximum(1 - free * hazard, TINY), remaining)


def take_normalised(density: np.ndarray, title: np.ndarray) -> np.ndarray:
    """Normalise densities [N, V] to a sum of 1, and return those of titles [N, C]."""
    density = density / np.maximum(density.sum(axis=1, keepdims=True), TINY)
    return np.take_along_axis(density, title, axis=1)
