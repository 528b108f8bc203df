"""Objectives of post-training: of chosen and of shown titles, of titles that a policy drew, of pairs.

Each objective is a function that returns the sum over positions and the sum of their weights, so that the
loss of a batch is the first over the second, whatever the scale of the weights is.

| objective | sum over positions | weight |
|---|---|---|
| bc | -log pi(a) | 1 |
| reward | r (-log pi(a)) | r |
| exponential | w (-log pi(a)), w = min(exp((r - V) / beta), clip) | w |
| cql | (Q(a) - r)^2 / 2 + alpha (logsumexp Q - Q(a)) | 1 |
| wbc | r softplus(-z(a)) + sum over titles b shown with a of softplus(z(b)) | r + number of b |
| ppo | - mean over draws of min(rho A, clip(rho) A) + kappa KL(pi, reference) | 1 |
| dpo | -log sigmoid(beta D) + eta (-log pi(a)) | 1 |
| ipo | (D - 1 / (2 beta))^2 + eta (-log pi(a)) | 1 |

`exponential` with V = 0 is exponential reward-weighted fine-tuning (arXiv 2603.10279). With V the value of
the state it is advantage-weighted regression (AWR, arXiv 1910.00177) as Netflix applies it to generative
recommenders (A-SFT). No gradient goes through a weight. `cql` is conservative Q-learning (arXiv 2006.04779)
of one step, whose policy is softmax(Q / tau).

`wbc` is weighted binary classification of what was shown: z(b) = log pi(b) + offset are the log-odds that the
title b is chosen where it is shown, and the offset is a value of the state. A title that is chosen with
probability p where it is shown, with the mean reward R, has z = log(p R / (1 - p)) at the optimum. So the
policy is proportional to R times the odds of a choice, whatever the slates hold.

`ppo` (arXiv 1707.06347) has rho = pi(b) / old(b) of titles b that an older policy drew, and the advantage
A = r(b) - V, or that of their group (GRPO, arXiv 2402.03300). `dpo` (arXiv 2305.18290) and `ipo` (arXiv
2310.12036) learn from pairs of a winner and a loser at a state: D is the log-ratio of pi to the reference of
the winner minus that of the loser. At positions without a pair their loss is rest (-log pi(a)), and their
weight is rest.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Post
from jaxrec.core.registry import POST_OBJECTIVES, resolve

_EQUAL = 1e-6  # standard deviation of rewards that are equal but for rounding


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


class Slates(NamedTuple):
    """Slates at the positions of rows: the chosen title and n others that were shown.

    Attributes:
        log_odds: [R, L, 1 + n] log-odds that a title is chosen where it is shown; the chosen title first.
        present: [R, L, 1 + n] bool, True for titles.
        reward: [R, L] reward of the chosen title.
        known: [R, L] bool, True where a title was chosen, its reward is known, and others were shown.
    """

    log_odds: jax.Array
    present: jax.Array
    reward: jax.Array
    known: jax.Array


class Draws(NamedTuple):
    """Titles that an older policy drew at the positions of rows, n each.

    Attributes:
        log_pi: [R, L, n] log probability of each title.
        log_old: [R, L, n] the same by the policy that drew them.
        advantage: [R, L, n] advantages, from `advantages`.
        kl: [R, L] KL of the policy to the reference, in nats.
        present: [R, L] bool, True where titles count.
    """

    log_pi: jax.Array
    log_old: jax.Array
    advantage: jax.Array
    kl: jax.Array
    present: jax.Array


class Pairs(NamedTuple):
    """Pairs of a winner and a loser at the positions of rows.

    Attributes:
        margin: [R, L] D, the log-ratio of the policy to the reference of the winner minus that of the loser.
        log_pi: [R, L] log probability of the chosen title.
        present: [R, L] bool, True where there is a pair.
        chosen: [R, L] bool, True where a title was chosen; None: positions without a pair have no weight.
    """

    margin: jax.Array
    log_pi: jax.Array
    present: jax.Array
    chosen: jax.Array | None = None


class Objective(NamedTuple):
    """Sums of an objective over positions.

    Attributes:
        total: Sum of the weighted losses.
        weight: [R, L] weights, 0 where a position has none.
        clipped: [R, L] share of a position whose weight or ratio is clipped, from 0 to 1.
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


def wbc(x: Slates, post: Post) -> Objective:
    """Return weighted binary classification: the chosen title has its reward as weight, others have 1."""
    is_chosen = jnp.arange(x.log_odds.shape[-1]) == 0
    weight = jnp.where(is_chosen, jax.lax.stop_gradient(x.reward)[..., None], 1.0)
    weight = jnp.where(x.present & x.known[..., None], weight, 0.0)
    log_odds = jnp.where(weight > 0, x.log_odds, 0.0)
    loss = weight * jax.nn.softplus(jnp.where(is_chosen, -log_odds, log_odds))
    return Objective(loss.sum(), weight.sum(-1), jnp.zeros(x.known.shape, bool))


def ppo(x: Draws, post: Post) -> Objective:
    """Return proximal policy optimisation: the clipped gain of draws, and kappa times the KL."""
    advantage = jax.lax.stop_gradient(x.advantage)
    ratio = jnp.exp(jnp.where(x.present[..., None], x.log_pi - x.log_old, 0.0))
    gain = ratio * advantage
    bounded = jnp.clip(ratio, 1 - post.ratio_clip, 1 + post.ratio_clip) * advantage
    loss = -jnp.minimum(gain, bounded).mean(-1) + post.kappa * x.kl
    clipped = jnp.where(x.present, (bounded < gain).mean(-1), 0.0)
    return Objective(jnp.where(x.present, loss, 0.0).sum(), jnp.where(x.present, 1.0, 0.0), clipped)


def dpo(x: Pairs, post: Post) -> Objective:
    """Return direct preference optimisation, and eta times imitation."""
    return _of_pairs(x, -jax.nn.log_sigmoid(post.beta * x.margin), post)


def ipo(x: Pairs, post: Post) -> Objective:
    """Return identity preference optimisation, and eta times imitation: the margin goes to 1 / (2 beta)."""
    return _of_pairs(x, jnp.square(x.margin - 0.5 / post.beta), post)


def _of_pairs(x: Pairs, loss: jax.Array, post: Post) -> Objective:
    loss, weight = jnp.where(x.present, loss - post.eta * x.log_pi, 0.0), jnp.where(x.present, 1.0, 0.0)
    if post.rest and x.chosen is not None:
        is_rest = x.chosen & ~x.present
        loss = jnp.where(is_rest, -post.rest * x.log_pi, loss)
        weight = jnp.where(is_rest, post.rest, weight)
    return Objective(loss.sum(), weight, jnp.zeros(loss.shape))


def advantages(reward: jax.Array, value: jax.Array | None) -> jax.Array:
    """Return the advantages [..., n] of rewards of draws.

    Args:
        reward: [..., n] rewards of n draws at a state.
        value: [...] values of the states. None: of the group, (r - mean) / standard deviation, 0 where all
            rewards of a group are equal.
    """
    if value is not None:
        return reward - value[..., None]
    centred = reward - reward.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True))
    return jnp.where(deviation > _EQUAL, centred / jnp.maximum(deviation, _EQUAL), 0.0)


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


def preference_loss(x: Choices | Slates | Draws | Pairs, post: Post) -> Objective:
    """Return the objective `post.objective`."""
    return resolve(POST_OBJECTIVES[post.objective])(x, post)
