"""Terms of declared heads: losses of labels, rewards and features, with one value per example.

The term of a head is its labelled sum over the share of its entries that are known, which is a constant of
the dataset. So a label that is known for a tenth of the targets weighs in the mean as one that is always
known, and sums over devices divide by one count. Unknown entries are removed with `where` before any
arithmetic.

Axis letters: B examples, K positives, N negatives, O outputs of a state head, M values of a feature.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrec.core.registry import RANKING_LOSSES, resolve
from jaxrec.losses.ranking import HeadInputs


def _example_means(loss: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Return the term [B] of losses [B, K + N] of candidates; [B, K] without negatives.

    The term of a positive is its weight times the mean over its own entry and those of the negatives. Entries
    that are not known count as 0, and the mean is divided by the share of known entries.
    """
    c, known = inputs.candidates, inputs.labels.known
    K = c.present.shape[1]
    negative = c.negative[:, : loss.shape[1] - K]
    there = jnp.concatenate([c.present, negative], axis=1) & known[:, : loss.shape[1]]
    loss = jnp.where(there, loss, 0.0)
    of_negatives, terms = loss[:, K:].sum(-1, keepdims=True), 1 + negative.sum(-1, keepdims=True)
    value = jnp.where(c.present, (loss[:, :K] + of_negatives) / terms * inputs.weight * inputs.label, 0.0)
    return value.sum(-1) / jnp.maximum(c.present.sum(-1), 1) / inputs.head.share


def pair_bce(logits: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Binary cross-entropy [B] of a label in [0, 1]; `logits` [B, K + N], or [B, K]."""
    y, known = (x[:, : logits.shape[1]] for x in inputs.labels)
    loss = optax.sigmoid_binary_cross_entropy(jnp.where(known, logits, 0.0), jnp.where(known, y, 0.0))
    return _example_means(loss, inputs)


def pair_mse(predicted: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Squared error [B] of a label or a reward; `predicted` [B, K + N], or [B, K]."""
    y, known = (x[:, : predicted.shape[1]] for x in inputs.labels)
    return _example_means(jnp.square(jnp.where(known, predicted - y, 0.0)), inputs)


def _pair_ranking(loss: str, scores: jax.Array, inputs: HeadInputs) -> jax.Array:
    c, K = inputs.candidates, inputs.candidates.present.shape[1]
    y, known = (x[:, :K] for x in inputs.labels)
    weight = inputs.weight * inputs.label * jnp.where(known, y, 0.0) / inputs.head.share
    return resolve(RANKING_LOSSES[loss])(scores[:, :K], scores[:, K:], weight, c, inputs.config.margin)


def pair_hinge(scores: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Hinge loss [B] of Eq. 12, in which a positive weighs as much as its label; `scores` [B, K + N]."""
    return _pair_ranking("hinge", scores, inputs)


def pair_softmax(scores: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Softmax loss [B] over the candidates, in which a positive weighs as much as its label."""
    return _pair_ranking("softmax", scores, inputs)


def _first(inputs: HeadInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the label [B, ...] of the first positive, where it is known [B], and its weight [B]."""
    y, known = inputs.labels
    there = inputs.candidates.present[:, 0] & known[:, 0]
    return y[:, 0], there, inputs.weight[:, 0] / inputs.head.share


def state_bce(logits: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Binary cross-entropy [B] of the first positive's label; `logits` [B, 1]."""
    y, there, weight = _first(inputs)
    logit = jnp.where(there, logits[:, 0], 0.0)
    loss = optax.sigmoid_binary_cross_entropy(logit, jnp.where(there, y, 0.0))
    return jnp.where(there, loss * weight, 0.0)


def state_mse(predicted: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Squared error [B] of the first positive's label; `predicted` [B, 1]."""
    y, there, weight = _first(inputs)
    return jnp.square(jnp.where(there, predicted[:, 0] - y, 0.0)) * weight


def state_softmax(scores: jax.Array, inputs: HeadInputs) -> jax.Array:
    """Cross-entropy [B] of the first positive's category; `scores` [B, O], one for each category.

    A title with several categories, [B, K, M] int32 with 0 for none, is their mean.
    """
    category_BxM, there, weight = _first(inputs)
    log_p_BxO = jax.nn.log_softmax(jnp.where(there[:, None], scores, 0.0))
    listed_BxM = category_BxM > 0
    log_p_BxM = jnp.take_along_axis(log_p_BxO, category_BxM, axis=1)
    mean = jnp.where(listed_BxM, log_p_BxM, 0.0).sum(-1) / jnp.maximum(listed_BxM.sum(-1), 1)
    return jnp.where(there, -mean * weight, 0.0)
