"""Losses of next-title prediction against weighted sets of titles, such as all plays of the next days.

Multi-token targets (Foundation Model for Personalized Recommendation, Netflix TechBlog 2025; PinnerFormer,
arXiv 2205.04507). A position has up to J targets with weights w. With the log normaliser Z of the position,
the loss of a softmax is sum_j w_j (Z - s_j) / sum_j w_j: one normaliser for all targets. In the sampled forms
Z has the targets and the sampled negatives, of which no target counts as a negative.

Arguments, for R rows of L positions:
  h [R, L, D], titles [V, D], temperature: as in `losses.full_softmax`.
  target [R, L, J]: ids of the targets, the nearest first; below FIRST_TITLE: none.
  weight [R, L, J]: weights, at least 0; those of absent targets do not matter.

The values [R, L] are in at least float32, and 0 at a position without a first target.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.core.ids import FIRST_TITLE, PAD
from jaxrec.losses.chunks import chunk_size, sum_dtype, to_chunks
from jaxrec.losses.full_softmax import softmax
from jaxrec.losses.sampled_losses import chunk_bytes


def shares(target: jax.Array, weight: jax.Array) -> jax.Array:
    """Return the weights [R, L, J] of targets, 0 for absent ones, that add to 1 at every position with one.

    Weights that are all 0 give the first target 1.
    """
    present = target >= FIRST_TITLE
    weight = jnp.where(present, weight, 0.0)
    total = weight.sum(-1, keepdims=True)
    only_first = (jnp.arange(target.shape[-1]) == 0) & present
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), only_first.astype(weight.dtype))


def set_softmax(
    h, titles, target, weight, temperature: float, budget_bytes: int, candidates=None
) -> jax.Array:
    """Softmax cross-entropy over all titles with several targets [R, L].

    The loss is that of the first target, plus its score less the mean score of the targets: the logits of all
    titles are computed once, by `softmax`. The difference is added to one target at a time, so that no array
    [R, L, J, D] exists.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D].
        target: ids [R, L, J].
        weight: [R, L, J].
        temperature: divisor of the scores.
        budget_bytes: as for `softmax`.
        candidates: as for `softmax`.
    """
    first = target[..., 0]
    has_target = first >= FIRST_TITLE
    value = softmax(h, titles, first, temperature, budget_bytes, candidates=candidates)
    h = jnp.where(has_target[..., None], h, 0)
    share = shares(target, weight)
    wide = sum_dtype(h, titles)
    difference = jnp.zeros(first.shape, wide)
    for j in range(target.shape[-1]):
        part = share[..., j] - (1.0 if j == 0 else 0.0)
        score = jnp.einsum("rld,rld->rl", h, titles[target[..., j]], preferred_element_type=wide)
        difference = difference + jnp.where(has_target, part, 0.0) * score
    return value - difference / temperature


def set_sampled_softmax(h, titles, target, weight, negatives, log_q, temperature: float) -> jax.Array:
    """Softmax cross-entropy over the targets and sampled negatives [R, L].

    With the logQ correction, log_q is subtracted from all scores; see `sampled_softmax`.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D].
        target: ids [R, L, J].
        weight: [R, L, J].
        negatives: ids [R, L, N], or [R, N] shared by the positions of a row.
        log_q: [V]; None: no correction.
        temperature: divisor of the scores.
    """
    return _sampled(_softmax_term, h, titles, target, weight, negatives, log_q, temperature)


def set_bce(h, titles, target, weight, negatives, temperature: float, beta: float = 1.0) -> jax.Array:
    """Binary cross-entropy [R, L]: the mean over targets of the positive term, and the sum over negatives.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D].
        target: ids [R, L, J].
        weight: [R, L, J].
        negatives: ids [R, L, N] or [R, N].
        temperature: divisor of the scores.
        beta: factor of the positive term, as in `gbce`.
    """
    return _sampled(partial(_bce_term, beta=beta), h, titles, target, weight, negatives, None, temperature)


def _softmax_term(positive, negative, share, is_target, is_negative) -> jax.Array:
    scores = jnp.concatenate([positive, negative], -1)
    counted = jnp.concatenate([is_target, is_negative], -1)
    scores = jnp.where(counted, scores, -jnp.inf)
    largest = lax.stop_gradient(scores.max(-1, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jnp.where(counted, jnp.exp(scores - largest), 0.0).sum(-1)
    log_normalizer = jnp.log(jnp.where(total > 0, total, 1.0)) + largest[..., 0]
    return log_normalizer - (share * positive).sum(-1)


def _bce_term(positive, negative, share, is_target, is_negative, *, beta: float) -> jax.Array:
    negatives_loss = jnp.where(is_negative, jax.nn.softplus(negative), 0.0).sum(-1)
    positives_loss = beta * (share * jax.nn.softplus(-positive)).sum(-1)
    return (positives_loss + negatives_loss) / (1 + is_negative.sum(-1))


def _sampled(term: Callable, h, titles, target, weight, negatives, log_q, temperature) -> jax.Array:
    """Values [R, L] of `term`, in chunks of positions that are computed again for the gradient."""
    (R, L, D), has_target = h.shape, target[..., 0] >= FIRST_TITLE
    share = shares(target, weight)
    h = jnp.where(has_target[..., None], h, 0).reshape(R * L, D)
    target = jnp.where(target >= FIRST_TITLE, target, PAD)
    if negatives.ndim == 2:
        negatives = jnp.broadcast_to(negatives[:, None], (R, L, negatives.shape[-1]))
    if log_q is not None:
        log_q = lax.stop_gradient(jnp.where(jnp.arange(len(log_q)) < FIRST_TITLE, 0, log_q))
    wide, J = sum_dtype(h, titles), target.shape[-1]

    @jax.checkpoint
    def chunk(inputs):
        h, target, share, negatives = inputs
        ids = jnp.concatenate([target, negatives], -1)
        scores = jnp.einsum("pd,pnd->pn", h, titles[ids], preferred_element_type=wide) / temperature
        if log_q is not None:
            scores = scores - log_q[ids]
        is_other = (negatives[..., None] != target[:, None]).all(-1)
        is_negative = (negatives >= FIRST_TITLE) & is_other
        return term(scores[:, :J], scores[:, J:], share, target >= FIRST_TITLE, is_negative)

    inputs = (h, *(x.reshape(R * L, -1) for x in (target, share, negatives)))
    size = chunk_size(R * L, chunk_bytes() // ((J + negatives.shape[-1]) * D * wide.itemsize))
    values = lax.map(chunk, tuple(to_chunks(x, size) for x in inputs)).reshape(-1)[: R * L]
    return jnp.where(has_target, values.reshape(R, L), 0.0)
