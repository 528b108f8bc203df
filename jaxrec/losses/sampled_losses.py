"""Losses of next-title prediction over the target and sampled titles.

Arguments, for R rows of L positions:
  h [R, L, D]: the output of a causal model at each position.
  titles [V, D]: the vectors of all titles by id. Ids below FIRST_TITLE are never candidates.
  target [R, L]: the id of the next title. An id below FIRST_TITLE means "no target".
  temperature: the score of a title is h . title / temperature.

Each loss has one value per position [R, L], in at least float32. A position without a target has the value 0
and contributes no gradient, not even a NaN.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.core.ids import FIRST_TITLE, PAD
from jaxrec.losses.chunks import chunk_size, sum_dtype, to_chunks

# Terms: values [...] of a target's score [...], negatives' scores [..., N] and the negatives' mask [..., N].


def _softmax_term(positive, negative, mask) -> jax.Array:
    negative = jnp.where(mask, negative, -jnp.inf)
    largest = lax.stop_gradient(jnp.maximum(positive, negative.max(-1)))
    total = jnp.exp(positive - largest) + jnp.exp(negative - largest[..., None]).sum(-1)
    return jnp.log(total) + largest - positive


def _bce_term(positive, negative, mask, *, beta: float) -> jax.Array:
    negatives_loss = jnp.where(mask, jax.nn.softplus(negative), 0.0).sum(-1)
    return (beta * jax.nn.softplus(-positive) + negatives_loss) / (1 + mask.sum(-1))


def _sampled_loss(term: Callable, h, titles, target, negatives, temperature, log_q=None) -> jax.Array:
    """Values [R, L] of `term`, with negatives [R, N] of a row or [R, L, N]."""
    (R, L, D), has_target = h.shape, target >= FIRST_TITLE
    h, target = jnp.where(has_target[..., None], h, 0), jnp.where(has_target, target, PAD)
    if log_q is not None:  # entries below FIRST_TITLE must not matter, even if they are not finite
        log_q = lax.stop_gradient(jnp.where(jnp.arange(len(log_q)) < FIRST_TITLE, 0, log_q))

    def values(positive, negative, target, negatives, log_q):
        positive, negative = positive / temperature, negative / temperature
        if log_q is not None:
            positive, negative = positive - log_q[target], negative - log_q[negatives]
        # Meta's generative-recommenders also excludes a negative that equals the position's own target.
        return term(positive, negative, (negatives >= FIRST_TITLE) & (negatives != target[..., None]))

    if negatives.ndim == 2:  # few vectors, one matrix product per row
        positive = jnp.einsum("rld,rld->rl", h, titles[target], preferred_element_type=sum_dtype(h, titles))
        negative = jnp.einsum("rld,rnd->rln", h, titles[negatives], preferred_element_type=positive.dtype)
        losses = values(positive, negative, target, negatives[:, None], log_q)
    else:
        ids = jnp.concatenate([target[..., None], negatives], axis=-1).reshape(R * L, -1)
        implementation = _dense_loss if len(titles) <= _DENSE_UP_TO * ids.shape[-1] else _gathered_loss
        width = len(titles) if implementation is _dense_loss else ids.shape[-1] * D
        size = chunk_size(R * L, chunk_bytes() // (width * sum_dtype(h, titles).itemsize))
        losses = implementation(size, values, h.reshape(R * L, D), titles, ids, log_q).reshape(R, L)
    return jnp.where(has_target, losses, 0.0)


# If each position has negatives of its own, the loss reads P (1 + N) title vectors. The two implementations
# below work on chunks of positions, so that the intermediate arrays stay in the cache of a core, and compute
# the derivatives [P, 1 + N] of the values by the scores together with the values. Value and gradients,
# measured on 2 CPU cores in milliseconds of core time (jax 0.10.2, P = 25,600, N = 128, D = 50):
#   gathered: 265 to 315, for any number of titles, a quarter of it on the second core;
#   dense: 165 for 1,000 titles, 295 for 2,000 and 450 for 3,708, half of it on the second core.
# With N = 256 and 3,708 titles: gathered 690, dense 610. The plain implementation (autodiff of one gather)
# takes 950. Up to the threshold, dense finishes earlier on 2 cores.
_DENSE_UP_TO = 16  # titles for each candidate of a position
_CHUNK_BYTES = {"cpu": 2**21}
_CHUNK_BYTES_ELSEWHERE = 2**28


def _values_and_derivatives(values: Callable, scores, ids, log_q) -> tuple[jax.Array, jax.Array]:
    """Values [C] and their derivatives [C, 1 + N] by the scores of the position."""

    def values_of(scores):
        return values(scores[:, 0], scores[:, 1:], ids[:, 0], ids[:, 1:], log_q)

    losses, pullback = jax.vjp(values_of, scores)
    return losses, pullback(jnp.ones_like(losses))[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered_loss(size: int, values: Callable, h, titles, ids, log_q) -> jax.Array:
    """Values [P] of h [P, D] and ids [P, 1 + N], the target first, in chunks.

    Title vectors are gathered once: the derivative by h is computed with the value. Backward is a scatter.
    """
    return _gathered_loss_forward(size, values, h, titles, ids, log_q)[0]


def _gathered_loss_forward(size, values, h, titles, ids, log_q):
    wide, dtype = sum_dtype(h, titles), h.dtype

    def chunk(inputs):
        h, ids = inputs
        vectors = titles.at[ids].get(mode="promise_in_bounds")
        scores = jnp.einsum("pd,pnd->pn", h, vectors, preferred_element_type=wide)
        losses, by_scores = _values_and_derivatives(values, scores, ids, log_q)
        by_h = jnp.einsum("pn,pnd->pd", by_scores.astype(dtype), vectors, preferred_element_type=wide)
        return losses, by_scores, by_h

    P, h, ids = len(h), to_chunks(h, size), to_chunks(ids, size)
    losses, by_scores, by_h = lax.map(chunk, (h, ids))
    return losses.reshape(-1)[:P], (titles, h, ids, by_scores, by_h)


def _gathered_loss_backward(size, values, residuals, cotangent):
    titles, h, ids, by_scores, by_h = residuals
    P, cotangent = len(cotangent), to_chunks(cotangent, size)

    def chunk(d_titles, inputs):
        h, ids, by_scores, cotangent = inputs
        d_vectors = (by_scores * cotangent[:, None])[..., None] * h[:, None].astype(by_scores.dtype)
        return d_titles.at[ids].add(d_vectors, mode="promise_in_bounds"), None

    d_titles, _ = lax.scan(chunk, jnp.zeros(titles.shape, by_scores.dtype), (h, ids, by_scores, cotangent))
    d_h = (by_h * cotangent[..., None]).reshape(-1, by_h.shape[-1])[:P]
    return d_h.astype(h.dtype), d_titles.astype(titles.dtype), None, None


_gathered_loss.defvjp(_gathered_loss_forward, _gathered_loss_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense_loss(size: int, values: Callable, h, titles, ids, log_q) -> jax.Array:
    """Values [P] as in `_gathered_loss`, selected from all scores [size, V].

    The backward pass scatters derivatives into [size, V]; two products of that array give both gradients.
    """
    return _dense_loss_forward(size, values, h, titles, ids, log_q)[0]


def _dense_loss_forward(size, values, h, titles, ids, log_q):
    def chunk(inputs):
        h, ids = inputs
        all_scores = jnp.matmul(h, titles.T, preferred_element_type=sum_dtype(h, titles))
        scores = jnp.take_along_axis(all_scores, ids, axis=1, mode="promise_in_bounds")
        return _values_and_derivatives(values, scores, ids, log_q)

    P, h, ids = len(h), to_chunks(h, size), to_chunks(ids, size)
    losses, by_scores = lax.map(chunk, (h, ids))
    return losses.reshape(-1)[:P], (titles, h, ids, by_scores)


def _dense_loss_backward(size, values, residuals, cotangent):
    titles, h, ids, by_scores = residuals
    P, wide = len(cotangent), by_scores.dtype

    def chunk(d_titles, inputs):
        h, ids, by_scores, cotangent = inputs
        positions = jnp.arange(size)[:, None]
        d_scores = jnp.zeros((size, len(titles)), wide)
        d_scores = d_scores.at[positions, ids].add(by_scores * cotangent[:, None], mode="promise_in_bounds")
        d_scores = d_scores.astype(h.dtype)
        d_h = jnp.matmul(d_scores, titles, preferred_element_type=wide)
        return d_titles + jnp.matmul(h.T, d_scores, preferred_element_type=wide), d_h

    chunks = (h, ids, by_scores, to_chunks(cotangent, size))
    d_titles, d_h = lax.scan(chunk, jnp.zeros(titles.T.shape, wide), chunks)
    return d_h.reshape(-1, h.shape[-1])[:P].astype(h.dtype), d_titles.T.astype(titles.dtype), None, None


_dense_loss.defvjp(_dense_loss_forward, _dense_loss_backward)


def sampled_softmax(h, titles, target, negatives, log_q, temperature: float) -> jax.Array:
    """Softmax cross-entropy over the target and sampled negatives [R, L].

    The value of a position is -log(exp(s+) / (exp(s+) + sum of exp(s-))). With the logQ correction
    (Bengio & Senecal 2008; Yi et al. 2019), log_q is subtracted from all scores, the target's included, to
    correct the bias against popular titles, which are drawn more often. No gradient goes to log_q.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D] of all titles.
        target: ids [R, L]; below FIRST_TITLE: no target, value 0.
        negatives: ids [R, L, N], or [R, N] shared by all positions of a row. Ids below FIRST_TITLE and the
            position's own target are left out.
        log_q: [V], the log of the sampling frequency of each title, up to a constant; None: no correction.
        temperature: divisor of the scores.
    """
    return _sampled_loss(_softmax_term, h, titles, target, negatives, temperature, log_q)


def bce(h, titles, target, negatives, temperature: float) -> jax.Array:
    """Binary cross-entropy of SASRec (Kang & McAuley 2018) [R, L].

    The value of a position is (-log sigmoid(s+) - sum of log(1 - sigmoid(s-))) / (1 + N), where N counts the
    negatives that are not left out: a mean over terms, as in torch's BCEWithLogitsLoss and in the code of
    gSASRec. For one negative, the code of SASRec adds the two terms, which is twice this value. The authors'
    code keeps a negative that equals the target. The arguments are those of `sampled_softmax`.
    """
    return _sampled_loss(partial(_bce_term, beta=1.0), h, titles, target, negatives, temperature)


def gbce(h, titles, target, negatives, temperature: float, calibration: float) -> jax.Array:
    """Generalized binary cross-entropy of gSASRec (Petrov & Macdonald 2023) [R, L].

    The value is that of `bce` with the positive term multiplied by beta. With alpha = N / (titles - 1), the
    fraction of a position's possible negatives that are drawn (ids without a title count, so that alpha stays
    while titles are added), and the calibration t,
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha). t = 0 is `bce`; t = 1 gives the
    probabilities that BCE against all negatives would lead to.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D] of all titles.
        target: ids [R, L]; below FIRST_TITLE: no target, value 0.
        negatives: ids [R, L, N] or [R, N], as for `sampled_softmax`.
        temperature: divisor of the scores.
        calibration: t, in [0, 1].
    """
    term = partial(_bce_term, beta=gbce_beta(negatives.shape[-1], len(titles), calibration))
    return _sampled_loss(term, h, titles, target, negatives, temperature)


def chunk_bytes() -> int:
    """Return the bytes of the gathered vectors of a chunk of positions on this backend."""
    return _CHUNK_BYTES.get(jax.default_backend(), _CHUNK_BYTES_ELSEWHERE)


def gbce_beta(negatives: int, titles: int, calibration: float) -> float:
    """Return the factor beta of the positive term of `gbce`.

    Args:
        negatives: Number N of sampled negatives.
        titles: Number of ids V.
        calibration: t, in [0, 1].
    """
    alpha = negatives / (titles - FIRST_TITLE - 1)
    return 1 - calibration * (1 - alpha)
