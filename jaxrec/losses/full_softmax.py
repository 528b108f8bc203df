"""Softmax loss of next-title prediction over all titles, in chunks of positions.

Arguments, for R rows of L positions:
  h [R, L, D]: the output of a causal model at each position.
  titles [V, D]: the vectors of all titles by id. Ids below FIRST_TITLE are never candidates.
  target [R, L]: the id of the next title. An id below FIRST_TITLE means "no target".
  temperature: the score of a title is h . title / temperature.

The loss has one value per position [R, L], in at least float32. A position without a target has the value 0
and contributes no gradient, not even a NaN.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.losses.chunks import positions_per_chunk, sum_dtype, to_chunks

_TITLE_GRADIENT_ROWS = 4096  # rows of the titles' gradient that are computed before they are added


def softmax(
    h, titles, target, temperature: float, budget_bytes: int, left_out=None, candidates=None
) -> jax.Array:
    """Exact softmax cross-entropy over all titles: -log p(target) [R, L].

    Logits [positions, V] are computed in chunks of positions and recomputed for the gradient, which goes to
    `h` and to `titles`. On a CPU, the compiled value and gradient have no other temporaries than 3 arrays
    like h, 2 arrays [4096, max(D, chunk size)], and 2 arrays [V] with chunks of one position. The gradient
    of the titles is accumulated in place, so neither the gradient nor the titles are copied.

    Args:
        h: outputs [R, L, D].
        titles: vectors [V, D] of all titles.
        target: ids [R, L]; below FIRST_TITLE: no target, value 0.
        temperature: divisor of the scores.
        budget_bytes: upper bound of the bytes of a chunk's logits; a chunk has at least one position.
        left_out: ids [R, L, n] of titles without a probability at a position, 0 for none; the target is not
            among them. None: all titles have one.
        candidates: mask [V] of the ids that have a title, the targets among them; None: all from FIRST_TITLE
            on.
    """
    R, L, D = h.shape
    has_target = target >= FIRST_TITLE
    h = jnp.where(has_target[..., None], h, 0).reshape(R * L, D)
    bytes_per_position = titles.shape[0] * sum_dtype(h, titles).itemsize
    size = positions_per_chunk(R * L, bytes_per_position, budget_bytes)
    if left_out is not None:
        left_out = left_out.reshape(R * L, -1)
    inputs = h, titles, target.reshape(R * L), left_out, candidates
    values = _chunked_softmax(size, float(temperature), *inputs)
    return jnp.where(has_target, values.reshape(R, L), 0.0)


def _logits(
    h: jax.Array, titles: jax.Array, temperature: float, left_out: jax.Array | None,
    candidates: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """Logits [C, V] of h [C, D]; -inf for ids that are not candidates, and for `left_out` [C, n]."""
    logits = jnp.matmul(h, titles.T, preferred_element_type=sum_dtype(h, titles)) / temperature
    if candidates is None:
        logits = jnp.where(jnp.arange(len(titles)) < FIRST_TITLE, -jnp.inf, logits)
    else:
        logits = jnp.where(candidates, logits, -jnp.inf)
    if left_out is None:
        return logits
    return logits.at[jnp.arange(len(h))[:, None], left_out].set(-jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_softmax(size: int, temperature: float, h, titles, target, left_out, candidates) -> jax.Array:
    """Softmax losses [P] of h [P, D], target [P] and left_out [P, n], in chunks of `size` positions."""
    return _chunked_softmax_forward(size, temperature, h, titles, target, left_out, candidates)[0]


def _chunked_softmax_forward(size, temperature, h, titles, target, left_out, candidates):
    def chunk(inputs):
        h, target, left_out = inputs
        logits = _logits(h, titles, temperature, left_out, candidates)
        log_normalizer = jax.nn.logsumexp(logits, axis=-1)
        positive = jnp.einsum("pd,pd->p", h, titles[target], preferred_element_type=log_normalizer.dtype)
        return log_normalizer - positive / temperature, log_normalizer

    chunks = (to_chunks(h, size), to_chunks(target, size), _chunks_of_left_out(left_out, size))
    values, log_normalizer = lax.map(chunk, chunks)
    return values.reshape(-1)[: len(h)], (h, titles, target, left_out, candidates, log_normalizer)


def _chunks_of_left_out(left_out: jax.Array | None, size: int) -> jax.Array | None:
    return None if left_out is None else to_chunks(left_out, size)


def _chunked_softmax_backward(size, temperature, residuals, cotangent):
    h, titles, target, left_out, candidates, log_normalizer = residuals
    wide = log_normalizer.dtype

    def chunk(d_titles, inputs):
        h, target, left_out, log_normalizer, cotangent = inputs
        logits = _logits(h, titles, temperature, left_out, candidates)
        probability = jnp.exp(logits - log_normalizer[:, None])
        is_target = jnp.arange(len(titles)) == target[:, None]
        d_logits = ((probability - is_target) * (cotangent / temperature)[:, None]).astype(h.dtype)
        d_h = jnp.matmul(d_logits, titles, preferred_element_type=wide)
        return _add_matmul(d_titles, d_logits, h), d_h

    chunks = (
        to_chunks(h, size), to_chunks(target, size), _chunks_of_left_out(left_out, size), log_normalizer,
        to_chunks(cotangent, size),
    )  # fmt: skip
    d_titles, d_h = lax.scan(chunk, jnp.zeros(titles.shape, wide), chunks)
    d_h = d_h.reshape(-1, h.shape[1])[: len(h)]
    return d_h.astype(h.dtype), d_titles.astype(titles.dtype), None, None, None


_chunked_softmax.defvjp(_chunked_softmax_forward, _chunked_softmax_backward)


def _add_matmul(total: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Add x [C, V]^T y [C, D] to total [V, D] in blocks, not to hold two totals."""
    V, D = total.shape
    rows = min(V, _TITLE_GRADIENT_ROWS)
    if rows == V:
        return total + jnp.matmul(x.T, y, preferred_element_type=total.dtype)

    def add_block(i, total):
        start = jnp.minimum(i * rows, V - rows)  # the last block overlaps the block before
        x_block = lax.dynamic_slice(x, (0, start), (len(x), rows))
        x_block = jnp.where(start + jnp.arange(rows) >= i * rows, x_block, 0)
        product = jnp.matmul(x_block.T, y, preferred_element_type=total.dtype)
        return lax.dynamic_update_slice(
            total, lax.dynamic_slice(total, (start, 0), (rows, D)) + product, (start, 0)
        )

    return lax.fori_loop(0, -(-V // rows), add_block, total)
