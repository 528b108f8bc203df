"""Objectives of post-training: weights on log pi of the titles that users chose.

Each objective is a function of logged choices that returns the sum over positions and the sum of their
weights, so that the loss of a batch is the first over the second, whatever the scale of the weights is.

| objective | sum over positions | weight |
|---|---|---|
| bc | -log pi(a) | 1 |
| reward | r (-log pi(a)) | r |
| exponential | w (-log pi(a)), w = min(exp((r - V) / beta), clip) | w |
| cql | (Q(a) - r)^2 / 2 + alpha (logsumexp Q - Q(a)) | 1 |

`exponential` with V = 0 is exponential reward-weighted fine-tuning (arXiv 2603.10279). With V the value of
the state it is advantage-weighted regression (AWR, arXiv 1910.00177) as Netflix applies it to generative
recommenders (A-SFT). No gradient goes through a weight. `cql` is conservative Q-learning (arXiv 2006.04779)
of one step, whose policy is softmax(Q / tau).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Post
from jaxrec.core.registry import POST_OBJECTIVES, resolve


class Choices(NamedTuple):
    """Logged choices at the positions of rows.

    Attributes:
        log_pi: [R, L] log probability of the chosen title.
        chosen: [R, L] bool, True where a title was chosen.
        reward: [R, L] reward of the chosen title.
        known: [R, L] bool, True where a title was chosen and its reward is known.
        baseline: [R, L] baseline V of the reward.
        q: [R, L] value Q of the chosen title; for "cql" alone.
        log_softmax_q: [R, L] Q minus logsumexp of Q over the titles that may be chosen; for "cql" alone.
    """

    log_pi: jax.Array
    chosen: jax.Array
    reward: jax.Array
    known: jax.Array
    baseline: jax.Array
    q: Any = None
    log_softmax_q: Any = None


class Objective(NamedTuple):
    """Sums of an objective over positions.

    Attributes:
        total: Sum of the weighted losses.
        weight: [R, L] weights, 0 where a position has none.
        clipped: [R, L] bool, True where `clip` is the weight.
    """

    total: jax.Array
    weight: jax.Array
    clipped: jax.Array


def bc(x: Choices, post: Post) -> Objective:
    """Return behaviour cloning: the weight 1 for each choice."""
    return _weighted(x.log_pi, jnp.where(x.chosen, 1.0, 0.0))


def reward(x: Choices, post: Post) -> Objective:
    """Return reward-weighted behaviour cloning: the weight is the reward, at least 0."""
    return _weighted(x.log_pi, jnp.where(x.known, x.reward, 0.0))


def exponential(x: Choices, post: Post) -> Objective:
    """Return exponentially weighted behaviour cloning: the weight is min(exp((r - V) / beta), clip)."""
    exponent = jnp.where(x.known, x.reward - x.baseline, 0.0) / post.beta
    most = math.log(post.clip)
    weight = jnp.where(x.known, jnp.exp(jnp.minimum(exponent, most)), 0.0)
    return _weighted(x.log_pi, weight, x.known & (exponent >= most))


def cql(x: Choices, post: Post) -> Objective:
    """Return conservative Q-learning: squared errors of Q, and alpha times imitation by softmax(Q)."""
    loss = 0.5 * jnp.square(x.q - x.reward) - post.alpha * x.log_softmax_q
    weight = jnp.where(x.known, 1.0, 0.0)
    return Objective(jnp.where(x.known, loss, 0.0).sum(), weight, jnp.zeros(weight.shape, bool))


def _weighted(log_pi: jax.Array, weight: jax.Array, clipped: jax.Array | None = None) -> Objective:
    weight = jax.lax.stop_gradient(weight)
    total = (weight * jnp.where(weight > 0, -log_pi, 0.0)).sum()
    return Objective(total, weight, jnp.zeros(weight.shape, bool) if clipped is None else clipped)


def value_loss(value: jax.Array, x: Choices) -> jax.Array:
    """Return (value - r)^2 / 2 [R, L], 0 where no reward is known; its minimum is the mean reward."""
    return jnp.where(x.known, 0.5 * jnp.square(value - x.reward), 0.0)


def soft_value_loss(value: jax.Array, x: Choices, beta: float) -> jax.Array:
    """Return exp(u) - exp(r / beta - c) (u - c) [R, L] up to scale, u the value over beta.

    The minimum is at u = log E exp(r / beta): it is the loss of a Poisson mean. The constant c is the value
    itself without its gradient, so that no exponential overflows where the value is near the reward.
    """
    u = value / beta
    c = jax.lax.stop_gradient(u)
    target = jnp.exp(jnp.minimum(x.reward / beta - c, 10.0))
    return jnp.where(x.known, jnp.exp(u - c) - target * (u - c), 0.0)


def preference_loss(x: Choices, post: Post) -> Objective:
    """Return the objective `post.objective`."""
    return resolve(POST_OBJECTIVES[post.objective])(x, post)
