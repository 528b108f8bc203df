"""The objective (Eq. 10 and 12 to 15), one value an example, to be summed and divided once by the caller.

A row's candidates are its K positives (the next titles, absent ones masked) and then its N negatives.
Each positive meets the same negatives under its own weight; a row's term is the mean over the
positives it has. What is masked is taken out with `where` before any arithmetic, so that it gives
neither value nor gradient, not even a NaN.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.config.schema import Objective, Sampling
from jaxrec.core.batch import Batch

Sums = dict[str, tuple[jax.Array, jax.Array]]  # figure -> (sum, count), divided once by who reads them


Moving = tuple[Mapping[str, jax.Array], jax.Array]  # weights of TASKS, and what joins each example's total
_LEAST_USAGE = 1e-6  # an expert that nobody chose is wanted much, not without end
TASKS = ("ctr", "ranking", "regression")  # the terms of Eq. 15 that are weighed against one another


class CandidateLoss(NamedTuple):
    """What the objective knows of a row's candidates besides their scores."""

    present: Any  # [B, K] bool: the positive exists
    completion: Any  # [B, K] in [0, 1], of each positive
    negative: Any  # [B, N] bool: the negative exists
    hard: Any  # [B, N] bool: the user abandoned it


def engagement_weight(completion: jax.Array, alpha: float, threshold: float | jax.Array) -> jax.Array:
    """Eq. 13: 1 + alpha (c - threshold), not below 0."""
    return jnp.maximum(1.0 + alpha * (completion - threshold), 0.0)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over the last axis of x where mask; 0 where there is nothing."""
    return jnp.where(mask, x, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def hinge(positive, negative, weight, c: CandidateLoss, margin: float) -> jax.Array:
    """Eq. 12 [B]: max(0, margin - (positive - negative)), the mean over negatives, times weight [B, K]."""
    pair = c.present[:, :, None] & c.negative[:, None, :]  # [B, K, N]
    gap = jnp.where(pair, positive[:, :, None] - negative[:, None, :], 0.0)
    return _mean(_mean(jnp.maximum(margin - gap, 0.0), pair) * weight, c.present)


def softmax(positive, negative, weight, c: CandidateLoss, margin: float) -> jax.Array:
    """In place of Eq. 12 [B]: -log(exp(positive) / (exp(positive) + sum of exp(negatives))), times weight
    [B, K]: a softmax over each positive and the negatives, which `margin` does not enter.

    No logQ correction (Bengio & Senecal 2008): the pools that negatives come from are drawn so by design.
    """
    negative = jnp.where(c.negative, negative, -jnp.inf)[:, None, :]
    positive = jnp.where(c.present, positive, 0.0)
    every = jnp.broadcast_to(negative, (*positive.shape, negative.shape[-1]))
    total = jax.nn.logsumexp(jnp.concatenate([positive[..., None], every], axis=-1), axis=-1)
    return _mean((total - positive) * weight, c.present)


RANKING_LOSSES: dict[str, Callable[..., jax.Array]] = {"hinge": hinge, "softmax": softmax}


def cross_entropy(positive, negative, label, negative_label, weight, c: CandidateLoss) -> jax.Array:
    """Eq. 14 [B]: BCE of logits, the mean over 1 + N terms, times weight [B, K].

    Labels are [K] of the positives, [B, N] of the negatives.
    """
    of_positive = optax.sigmoid_binary_cross_entropy(jnp.where(c.present, positive, 0.0), label)
    of_negative = optax.sigmoid_binary_cross_entropy(jnp.where(c.negative, negative, 0.0), negative_label)
    negatives = jnp.where(c.negative, of_negative, 0.0).sum(-1, keepdims=True)  # [B, 1]
    terms = 1 + c.negative.sum(-1, keepdims=True)
    return _mean((of_positive + negatives) / terms * weight, c.present)


def retrieval(found: Any, weight, c: CandidateLoss) -> jax.Array:
    """[B]: the softmax over each positive and titles drawn from the whole catalogue, times weight [B, K].

    `found` is the recommender's `Retrieved`. Titles are drawn uniformly, so that the correction by log Q
    (Bengio & Senecal 2008; Covington et al. 2016; Yi et al. 2019) is one constant and cancels: at its best
    the score is log p(title | request), popularity included, up to a constant of the request.
    """
    return softmax(found.positive_BxK, found.negative_BxN, weight, c._replace(negative=found.there_BxN), 0.0)


def regression(predicted, c: CandidateLoss) -> jax.Array:
    """L_Reg [B]: the squared error of the positives' completion, not personalised."""
    return _mean(jnp.square(jnp.where(c.present, predicted - c.completion, 0.0)), c.present)


def entropy(gate: jax.Array) -> jax.Array:
    """H [...] in nats of gate [..., E]; a weight of 0 adds nothing, in value and in gradient."""
    safe = jnp.where(gate > 0, gate, 1.0)
    return -(safe * jnp.log(safe)).sum(-1)


def load_balancing_loss(gate: jax.Array, usage: jax.Array) -> jax.Array:
    """[...] of gate [..., E]: the sum of gate log(usage), `usage` [E] the mean gate of the step before.

    Where usage is the mean gate, its mean is -H(mean gate) and so is its gradient: it is lowered by what
    the experts that all users choose lose to the others. As the load-balancing loss of Switch Transformers
    (Fedus, Zoph & Shazeer 2022) it is one value an example, so shares of a batch need not meet before it.
    """
    return (gate * jnp.log(jnp.maximum(usage, _LEAST_USAGE))).sum(-1)


def _of_request(value: jax.Array, c: CandidateLoss) -> jax.Array:
    """[B] of a gate's figure [B], or [B, K + N] of each candidate: then the mean over those present."""
    return value if value.ndim == 1 else _mean(value, jnp.concatenate([c.present, c.negative], axis=1))


def soft_labels(hard: jax.Array, value: float, soft_on: str) -> jax.Array:
    """BCE labels [B, N] of negatives: `value` on "hard" ones, on "all" or on "none", else 0."""
    on = {"hard": hard, "all": jnp.ones_like(hard), "none": jnp.zeros_like(hard)}[soft_on]
    return jnp.where(on, value, 0.0)


def per_example(
    scores: dict[str, jax.Array],
    candidates: CandidateLoss,
    clean_gate: jax.Array,
    config: Objective,
    labels: tuple[float, ...],
    threshold: float | jax.Array,
    target_entropy: float | None,
    weights: Mapping[str, jax.Array] | None = None,
    usage: jax.Array | None = None,
    retrieved: Any = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Eq. 15: the total [B] and its unweighted terms, each [B].

    `scores` holds "ctr" and "ranking" [B, K + N] and "completion" [B, at least K], as the config's
    weights call for. `labels` has an entry for each of the K next titles: the BCE's label and the
    ranking loss's weight. `threshold` is Eq. 13's, `target_entropy` Eq. 10's in nats (None: no such
    term), on the gate without noise [B, E], or [B, K + N, E] of each candidate; one expert has no such
    term. `weights` of TASKS, where there are any, take the place of the config's. With `usage` [E] the
    term of `evenness` joins, with `retrieved` that of `retrieval`.
    """
    w = {task: getattr(config, task) for task in TASKS} | dict(weights or {})
    c, K = candidates, candidates.present.shape[1]
    if len(labels) != K:
        raise ValueError(f"{len(labels)} labels for {K} positives")
    label = jnp.asarray(labels, clean_gate.dtype)
    weight = jnp.ones_like(c.completion)
    if config.personalised:
        weight = engagement_weight(jnp.where(c.present, c.completion, 0.0), config.alpha, threshold)
    weighted = []  # (term, its weight in the total, its values)
    if config.ctr:
        s = scores["ctr"]
        soft = soft_labels(c.hard, config.soft_negative, config.soft_on)
        weighted.append(("ctr", w["ctr"], cross_entropy(s[:, :K], s[:, K:], label, soft, weight, c)))
    if config.ranking:
        s, loss = scores["ranking"], RANKING_LOSSES[config.ranking_loss]
        weighted.append(("ranking", w["ranking"], loss(s[:, :K], s[:, K:], weight * label, c, config.margin)))
    if config.regression:
        weighted.append(("regression", w["regression"], regression(scores["completion"][:, :K], c)))
    if config.entropy and target_entropy is not None and clean_gate.shape[-1] > 1:
        off = _of_request(jnp.square(entropy(clean_gate) - target_entropy), c)
        weighted.append(("entropy", config.entropy, off))
    if usage is not None:
        weighted.append(("balance", config.balance, _of_request(load_balancing_loss(clean_gate, usage), c)))
    if retrieved is not None:
        weighted.append(("retrieval", config.retrieval, retrieval(retrieved, weight * label, c)))
    total = sum((w * value for _, w, value in weighted), jnp.zeros(len(c.present), clean_gate.dtype))
    return total, {name: value for name, _, value in weighted}


def objective(
    out: Any,
    batch: Batch,
    config: Objective,
    sampling: Sampling,
    threshold: float | jax.Array,
    target_entropy: float | None,
    moving: Moving | None = None,
    usage: jax.Array | None = None,
) -> tuple[jax.Array, Sums]:
    """The total's sum over valid examples, and every figure's (sum, count) over them.

    `out` is the recommender's `Outputs` on `batch`. The figures are "loss", each term as "loss_ctr"
    and so on, and of a gate "gate_0", "gate_1", ..., "gate_entropy", from which `gate_use` tells more.
    With `moving`, weights are not the config's; `usage` is of `evenness`.
    """
    weights, joins = moving or (None, 0.0)
    gate = out.clean_gate_BxE
    candidates = CandidateLoss(batch.positive > 0, batch.completion, batch.negative > 0, batch.hard)
    labels = sampling.labels[: batch.positive.shape[1]]
    total, terms = per_example(
        out.scores, candidates, gate, config, labels, threshold, target_entropy, weights, usage, out.retrieved
    )
    figures = {"loss": total + joins} | {f"loss_{name}": value for name, value in terms.items()}
    if gate.shape[-1] > 1:
        of_gate = {f"gate_{e}": gate[..., e] for e in range(gate.shape[-1])} | {"gate_entropy": entropy(gate)}
        figures |= {name: _of_request(value, candidates) for name, value in of_gate.items()}
    count = batch.valid.sum()
    sums = {name: (jnp.where(batch.valid, value, 0.0).sum(), count) for name, value in figures.items()}
    return sums["loss"][0], sums


def gate_statistics(means: dict[str, float]) -> dict[str, float]:
    """How the experts are used, in nats, from `objective`'s figures once divided; {} without a gate.

    Eq. 10 does not stop every user from choosing one expert. "gate_information" is how much the choice
    says of the user: H of the mean gate less the mean H, 0 where all choose alike.
    """
    gate = np.array([value for name, value in means.items() if name.removeprefix("gate_").isdigit()])
    if not gate.size:
        return {}
    of_mean = float(-np.sum(gate * np.log(np.where(gate > 0, gate, 1.0))))
    return {"gate_entropy_of_mean": of_mean, "gate_information": of_mean - means["gate_entropy"]}
