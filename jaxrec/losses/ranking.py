"""Ranking objective (Eq. 10 and 12 to 15): loss terms with one value per example.

The candidates of an example are its K positives (the next titles, absent ones masked) and its N negatives.
Each positive is compared with the same negatives, with a weight of its own. The term of an example is the
mean over the positives that are present. Masked entries are removed with `where` before any arithmetic, so
that a masked entry adds neither value nor gradient, not even a NaN. The caller sums and divides once.

Axis letters: B examples, K positives, N negatives, E experts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrec.config.heads import HeadSpec, paper_head
from jaxrec.config.schema import Objective, Sampling
from jaxrec.core.batch import Batch
from jaxrec.core.registry import HEADS, RANKING_LOSSES, resolve
from jaxrec.losses.gate import entropy, load_balancing_loss

Sums = dict[str, tuple[jax.Array, jax.Array]]  # metric -> (sum, count); the reader divides once


Moving = tuple[Mapping[str, jax.Array], jax.Array]  # weights of terms, and the addend of each example's total


class HeadLabels(NamedTuple):
    """Labels of the candidates for a declared head.

    Attributes:
        y: [B, K + N] labels, the positives first. For a head of a title feature: [B, K, M] int32 categories.
        known: [B, K + N] bool, False where a label is unknown; [B, K] for a head of a title feature.
    """

    y: Any
    known: Any


class CandidateLoss(NamedTuple):
    """Masks, completions and labels of the candidates, which the loss needs besides scores.

    Attributes:
        present: [B, K] bool, True if the positive exists.
        completion: [B, K] completion of each positive, in [0, 1].
        negative: [B, N] bool, True if the negative exists.
        hard: [B, N] bool, True if the user abandoned the negative.
        declared: Declared heads, each with the labels of the candidates.
    """

    present: Any
    completion: Any
    negative: Any
    hard: Any
    declared: tuple[tuple[HeadSpec, HeadLabels], ...] = ()


def engagement_weight(completion: jax.Array, alpha: float, threshold: float | jax.Array) -> jax.Array:
    """Weight of the personalised loss (Eq. 13): 1 + alpha (completion - threshold), at least 0.

    Args:
        completion: [...] in [0, 1].
        alpha: strength of the weight; 0 gives 1.
        threshold: mean completion of the training targets, in [0, 1].

    Returns:
        [...], at least 0.
    """
    return jnp.maximum(1.0 + alpha * (completion - threshold), 0.0)


def _masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x over the last axis where mask; 0 where the mask is empty."""
    return jnp.where(mask, x, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def hinge(positive, negative, weight, c: CandidateLoss, margin: float) -> jax.Array:
    """Eq. 12 [B]: hinge loss of each positive against its negatives.

    The value of a positive is its weight times the mean over negatives of max(0, margin - (s+ - s-)).

    Args:
        positive: scores [B, K].
        negative: scores [B, N].
        weight: weights [B, K].
        c: masks of the candidates.
        margin: score difference from which a pair has no loss.
    """
    pair = c.present[:, :, None] & c.negative[:, None, :]  # [B, K, N]
    gap = jnp.where(pair, positive[:, :, None] - negative[:, None, :], 0.0)
    return _masked_mean(_masked_mean(jnp.maximum(margin - gap, 0.0), pair) * weight, c.present)


def softmax(positive, negative, weight, c: CandidateLoss, margin: float) -> jax.Array:
    """Softmax alternative to Eq. 12 [B]: cross-entropy of each positive.

    The value of a positive is its weight times -log(exp(s+) / (exp(s+) + sum of exp(s-))). There is no logQ
    correction (Bengio & Senecal 2008): the pools of negatives are sampled this way by design. Arguments are
    those of `hinge`; `margin` is not used.
    """
    negative = jnp.where(c.negative, negative, -jnp.inf)[:, None, :]
    positive = jnp.where(c.present, positive, 0.0)
    negatives = jnp.broadcast_to(negative, (*positive.shape, negative.shape[-1]))
    log_normalizer = jax.nn.logsumexp(jnp.concatenate([positive[..., None], negatives], axis=-1), axis=-1)
    return _masked_mean((log_normalizer - positive) * weight, c.present)


def cross_entropy(positive, negative, label, negative_label, weight, c: CandidateLoss) -> jax.Array:
    """Eq. 14 [B]: binary cross-entropy of logits.

    The value of a positive is its weight times the mean over 1 + N terms: its own and those of the negatives.

    Args:
        positive: logits [B, K].
        negative: logits [B, N].
        label: labels [K] of the positives.
        negative_label: labels [B, N] of the negatives.
        weight: weights [B, K].
        c: masks of the candidates.
    """
    positive_loss = optax.sigmoid_binary_cross_entropy(jnp.where(c.present, positive, 0.0), label)
    negative_loss = optax.sigmoid_binary_cross_entropy(jnp.where(c.negative, negative, 0.0), negative_label)
    negatives_loss = jnp.where(c.negative, negative_loss, 0.0).sum(-1, keepdims=True)  # [B, 1]
    terms = 1 + c.negative.sum(-1, keepdims=True)
    return _masked_mean((positive_loss + negatives_loss) / terms * weight, c.present)


def retrieval(scores: Any, weight, c: CandidateLoss) -> jax.Array:
    """Retrieval loss [B]: softmax over each positive and random titles.

    The titles are drawn uniformly from the whole catalogue. The logQ correction (Bengio & Senecal 2008;
    Covington et al. 2016; Yi et al. 2019) is therefore one constant and cancels. At the optimum the score is
    log p(title | example), popularity included, up to a constant of the example.

    Args:
        scores: the `RetrievalScores` of the model.
        weight: weights [B, K].
        c: masks of the candidates.
    """
    return softmax(
        scores.positive_BxK, scores.negative_BxN, weight, c._replace(negative=scores.there_BxN), 0.0
    )


def regression(predicted, c: CandidateLoss) -> jax.Array:
    """L_Reg [B]: squared error of the positives' completion, not personalised.

    Args:
        predicted: completions [B, K], in (0, 1).
        c: completions and masks of the candidates.
    """
    return _masked_mean(jnp.square(jnp.where(c.present, predicted - c.completion, 0.0)), c.present)


class HeadInputs(NamedTuple):
    """Inputs of the term of a head, besides the head's scores."""

    candidates: CandidateLoss
    weight: jax.Array  # [B, K] of Eq. 13
    label: jax.Array  # [K] of the next titles
    config: Objective
    head: HeadSpec
    labels: Any = None  # `HeadLabels` of a declared head


class HeadTerm(Protocol):
    """Term of a head, one value [B] per example.

    The scores are [B, K + N], the positives first; [B, at least K] for a head that is not `drawn`, and
    [B, outputs] for a head of the state.
    """

    def __call__(self, scores: jax.Array, inputs: HeadInputs, /) -> jax.Array: ...


def ctr_term(s: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Term [B] of the click head: `cross_entropy`."""
    c, K, config = inputs.candidates, len(inputs.label), inputs.config
    soft = soft_labels(c.hard, config.soft_negative, config.soft_on)
    return cross_entropy(s[:, :K], s[:, K:], inputs.label, soft, inputs.weight, c)


def ranking_term(s: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Term [B] of the ranking head: the loss `config.ranking_loss`."""
    K, config = len(inputs.label), inputs.config
    loss = resolve(RANKING_LOSSES[config.ranking_loss])
    return loss(s[:, :K], s[:, K:], inputs.weight * inputs.label, inputs.candidates, config.margin)


def completion_term(predicted: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Term [B] of the completion head: `regression`."""
    return regression(predicted[:, : len(inputs.label)], inputs.candidates)


def _example_mean(value: jax.Array, c: CandidateLoss) -> jax.Array:
    """Gate value [B], or the mean of [B, K + N] over present candidates."""
    return value if value.ndim == 1 else _masked_mean(value, jnp.concatenate([c.present, c.negative], axis=1))


def soft_labels(hard: jax.Array, value: float, soft_on: str) -> jax.Array:
    """BCE labels [B, N] of negatives: `value` for the selected negatives, else 0.

    Args:
        hard: [B, N] bool.
        value: label of the selected negatives, in [0, 1].
        soft_on: "hard", "all" or "none": the selected negatives.
    """
    on = {"hard": hard, "all": jnp.ones_like(hard), "none": jnp.zeros_like(hard)}[soft_on]
    return jnp.where(on, value, 0.0)


def _check_shapes(
    heads: tuple[HeadSpec, ...], scores: dict[str, jax.Array], c: CandidateLoss, clean_gate: jax.Array
) -> None:
    chex.assert_rank(clean_gate, {2, 3}, custom_message="clean_gate [B, E] or [B, K + N, E]")
    chex.assert_equal_shape([c.present, c.completion], custom_message="candidates.completion [B, K]")
    chex.assert_equal_shape([c.negative, c.hard], custom_message="candidates.hard [B, N]")
    chex.assert_type([c.present, c.negative], bool, custom_message="candidates.present, candidates.negative")
    every = (len(c.present), c.present.shape[1] + c.negative.shape[1])
    for head in heads:
        if head.on == "pair" and head.drawn:
            chex.assert_shape(scores[head.name], every, custom_message=f"scores[{head.name!r}] [B, K + N]")


def paper_heads(config: Objective) -> tuple[HeadSpec, ...]:
    """Return the paper's heads whose weight in the objective is not 0."""
    weights = {name: getattr(config, entry.weight) for name, entry in HEADS.items()}
    return tuple(paper_head(name, weight) for name, weight in weights.items() if weight)


def per_example(
    outputs: Any,
    candidates: CandidateLoss,
    config: Objective,
    labels: tuple[float, ...],
    threshold: float | jax.Array,
    target_entropy: float | None,
    weights: Mapping[str, jax.Array] | None = None,
    expert_load: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Eq. 15: the total and its unweighted terms for each example.

    Args:
        outputs: the `RankingOutput` of the model. A score is read if its weight is not 0: "ctr" and "ranking"
            [B, K + N], "completion" [B, at least K]. The gate without noise is [B, E], or [B, K + N, E] with
            one gate per candidate. Retrieval scores add the term of `retrieval`.
        candidates: masks, completions and labels of the candidates. Their declared heads add a term each.
        config: weights and settings of the terms.
        labels: for each of the K next titles, the label of the BCE and the weight of the ranking loss.
        threshold: that of Eq. 13.
        target_entropy: that of Eq. 10, in nats; None, or a single expert: no entropy term.
        weights: weights of terms that replace those of `config` and of the declared heads.
        expert_load: [E], adds the term of `load_balancing_loss`.

    Returns:
        The total [B] and a dict from term to values [B].

    Raises:
        ValueError: the number of labels is not K.
    """
    c, K = candidates, candidates.present.shape[1]
    heads = {head: None for head in paper_heads(config)} | dict(c.declared)
    scores, clean_gate = outputs.scores, outputs.clean_gate_BxE
    if len(labels) != K:
        raise ValueError(f"{len(labels)} labels for {K} positives")
    _check_shapes(tuple(heads), scores, c, clean_gate)
    label = jnp.asarray(labels, clean_gate.dtype)
    plain = weight = jnp.ones_like(c.completion)
    if config.personalised or any(head.personalised for head, _ in c.declared):
        weight = engagement_weight(jnp.where(c.present, c.completion, 0.0), config.alpha, threshold)
    weighted = []  # (term, its weight in the total, its values)
    for head, of_head in heads.items():
        personalised = head.personalised if head.loss else config.personalised
        inputs = HeadInputs(c, weight if personalised else plain, label, config, head, of_head)
        value = resolve(head.target)(scores[head.name], inputs)
        weighted.append((head.term, (weights or {}).get(head.term, head.weight), value))
    if config.entropy and target_entropy is not None and clean_gate.shape[-1] > 1:
        deviation = _example_mean(jnp.square(entropy(clean_gate) - target_entropy), c)
        weighted.append(("entropy", config.entropy, deviation))
    if expert_load is not None:
        balance = _example_mean(load_balancing_loss(clean_gate, expert_load), c)
        weighted.append(("balance", config.balance, balance))
    if outputs.retrieved is not None:
        weighted.append(("retrieval", config.retrieval, retrieval(outputs.retrieved, weight * label, c)))
    total = sum((w * value for _, w, value in weighted), jnp.zeros(len(c.present), clean_gate.dtype))
    return total, {name: value for name, _, value in weighted}


def objective(
    outputs: Any,
    batch: Batch,
    config: Objective,
    sampling: Sampling,
    threshold: float | jax.Array,
    target_entropy: float | None,
    moving_weights: Moving | None = None,
    expert_load: jax.Array | None = None,
) -> tuple[jax.Array, Sums]:
    """Sum the objective and its metrics over the valid examples of a batch.

    The weight of an example multiplies its total and each of its terms.

    Args:
        outputs: the `RankingOutput` of the model on `batch`.
        batch: the decoded batch, with the labels of the declared heads.
        config: weights and settings of the terms.
        sampling: its `labels` are those of `per_example`.
        threshold: that of Eq. 13.
        target_entropy: that of Eq. 10, in nats; None: no entropy term.
        moving_weights: weights that replace those of `config`, and an addend of each example's total.
        expert_load: [E], adds the term of `load_balancing_loss`.

    Returns:
        The sum of the total, and (sum, count) of each metric: "loss", each term ("loss_ctr", ...), and with a
        gate "gate_0", "gate_1", ... and "gate_entropy", the inputs of `gate_statistics`.
    """
    chex.assert_rank([batch.positive, batch.negative, batch.valid], [2, 2, 1], custom_message="batch")
    chex.assert_type(batch.valid, bool, custom_message="batch.valid")
    weights, addend = moving_weights or (None, 0.0)
    gate = outputs.clean_gate_BxE
    outcome = batch.outcome
    candidates = CandidateLoss(
        batch.positive > 0, outcome.completion, batch.negative > 0, batch.hard, outcome.declared
    )
    labels = sampling.target_weights[: batch.positive.shape[1]]
    total, terms = per_example(
        outputs, candidates, config, labels, threshold, target_entropy, weights, expert_load
    )
    if batch.weight is not None:
        total, terms = jax.tree.map(lambda value: value * batch.weight, (total, terms))
    metrics = {"loss": total + addend} | {f"loss_{name}": value for name, value in terms.items()}
    if gate.shape[-1] > 1:
        by_gate = {f"gate_{e}": gate[..., e] for e in range(gate.shape[-1])} | {"gate_entropy": entropy(gate)}
        metrics |= {name: _example_mean(value, candidates) for name, value in by_gate.items()}
    count = batch.valid.sum()
    sums = {name: (jnp.where(batch.valid, value, 0.0).sum(), count) for name, value in metrics.items()}
    return sums["loss"][0], sums
