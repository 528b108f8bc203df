"""Losses of the next title among all, a value at every place of a causal model: all titles, or sampled ones.

Inputs everywhere, R rows of L places: h [R, L, D], the model's output at each place; titles [V, D], the
vectors of all titles by id, of which those below FIRST_TITLE are never candidates; target [R, L], the id
of the next title, where an id below FIRST_TITLE means none. A score is h . title / temperature. Each loss
gives values [R, L], in float32 at least, and 0 where there is no target, from where no gradient comes
either, not even a NaN. Weighting, summing and dividing is the caller's.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.config import NextTitle
from jaxrec.schema import FIRST_TITLE

_TITLES_AT_A_TIME = 16384  # rows of the titles' gradient that are made anew before they are added


def _wide(*arrays: jax.Array) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


# ---------------------------------------------------------------- over all titles


def softmax(h, titles, target, temperature: float, budget_bytes: int) -> jax.Array:
    """-log of the target's share of exp(score) over all titles [R, L], exact.

    Logits [places, V] are made for some places at a time, so that they take `budget_bytes` at most, but
    never for less than one place (4 V bytes in float32). They are made again for the gradient, which goes
    to `h` and to `titles`. On a CPU the compiled value and gradient have temporaries of no more than the
    budget (or that one place), 4 arrays as h, and 3 of [16384, D], whatever V is: the gradient of the
    titles is added to in place, and no second copy of it, or of the titles, is made.
    """
    R, L, D = h.shape
    there = target >= FIRST_TITLE
    h = jnp.where(there[..., None], h, 0).reshape(R * L, D)
    row = titles.shape[0] * _wide(h, titles).itemsize
    chunks = -(-R * L // max(1, budget_bytes // row))
    values = _softmax(-(-R * L // chunks), float(temperature), h, titles, target.reshape(R * L))
    return jnp.where(there, values.reshape(R, L), 0.0)


def _chunks(x: jax.Array, size: int) -> jax.Array:
    """[P, ...] as [chunks, size, ...], filled up with 0."""
    chunks = -(-len(x) // size)
    filled = jnp.pad(x, [(0, chunks * size - len(x)), *[(0, 0)] * (x.ndim - 1)])
    return filled.reshape(chunks, size, *x.shape[1:])


def _logits(h: jax.Array, titles: jax.Array, temperature: float) -> jax.Array:
    """[C, V] of h [C, D]: -inf for what is no candidate."""
    found = jnp.matmul(h, titles.T, preferred_element_type=_wide(h, titles)) / temperature
    return jnp.where(jnp.arange(len(titles)) < FIRST_TITLE, -jnp.inf, found)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _softmax(size: int, temperature: float, h, titles, target) -> jax.Array:
    """Values [P] of h [P, D] and target [P], `size` places at a time."""
    return _softmax_forward(size, temperature, h, titles, target)[0]


def _softmax_forward(size, temperature, h, titles, target):
    def chunk(given):
        h, target = given
        total = jax.nn.logsumexp(_logits(h, titles, temperature), axis=-1)
        positive = jnp.einsum("pd,pd->p", h, titles[target], preferred_element_type=total.dtype)
        return total - positive / temperature, total

    values, total = lax.map(chunk, (_chunks(h, size), _chunks(target, size)))
    return values.reshape(-1)[: len(h)], (h, titles, target, total)


def _softmax_backward(size, temperature, kept, cotangent):
    h, titles, target, total = kept
    wide = total.dtype

    def chunk(d_titles, given):
        h, target, total, cotangent = given
        share = jnp.exp(_logits(h, titles, temperature) - total[:, None])
        wanted = jnp.arange(len(titles)) == target[:, None]
        d_logits = ((share - wanted) * (cotangent / temperature)[:, None]).astype(h.dtype)
        d_h = jnp.matmul(d_logits, titles, preferred_element_type=wide)
        return _add_product(d_titles, d_logits, h), d_h

    given = (_chunks(h, size), _chunks(target, size), total, _chunks(cotangent, size))
    d_titles, d_h = lax.scan(chunk, jnp.zeros(titles.shape, wide), given)
    d_h = d_h.reshape(-1, h.shape[1])[: len(h)]
    return d_h.astype(h.dtype), d_titles.astype(titles.dtype), None


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _add_product(total: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """total [V, D] + x [C, V]^T y [C, D], some rows at a time: the product whole would be a second total."""
    V, D = total.shape
    rows = min(V, _TITLES_AT_A_TIME)
    if rows == V:
        return total + jnp.matmul(x.T, y, preferred_element_type=total.dtype)

    def part(i, total):
        start = jnp.minimum(i * rows, V - rows)  # the last part begins among the rows of the one before
        of_part = lax.dynamic_slice(x, (0, start), (len(x), rows))
        of_part = jnp.where(start + jnp.arange(rows) >= i * rows, of_part, 0)
        more = jnp.matmul(of_part.T, y, preferred_element_type=total.dtype)
        return lax.dynamic_update_slice(
            total, lax.dynamic_slice(total, (start, 0), (rows, D)) + more, (start, 0)
        )

    return lax.fori_loop(0, -(-V // rows), part, total)


# ---------------------------------------------------------------- over sampled titles


def _scores(h, titles, target, negatives, temperature):
    """Scores of the target [R, L] and of negatives [R, L, N], and which of them count, of each shape.

    Negatives are ids [R, L, N], or [R, N] for all of a row's places. One that is the target of the place,
    or no title, does not count: Meta's generative-recommenders leaves out the first so too.
    """
    there = target >= FIRST_TITLE
    ids = negatives if negatives.ndim == 3 else negatives[:, None, :]
    counts = there[..., None] & (ids >= FIRST_TITLE) & (ids != target[..., None])
    h, wide = jnp.where(there[..., None], h, 0), _wide(h, titles)
    positive = jnp.einsum("rld,rld->rl", h, titles[target], preferred_element_type=wide)
    how = "rld,rlnd->rln" if negatives.ndim == 3 else "rld,rnd->rln"
    negative = jnp.einsum(how, h, titles[negatives], preferred_element_type=wide)
    return positive / temperature, negative / temperature, there, counts


def sampled_softmax(h, titles, target, negatives, log_q, temperature: float) -> jax.Array:
    """-log(exp(s+) / (exp(s+) + sum of exp(s-))) [R, L], over the target and the place's negatives.

    Negatives are ids [R, L, N], or [R, N] which all of a row's places share; 0 and the place's own target
    are left out. With `log_q` [V], the log of how often each title is drawn, up to a constant, scores are
    less by it, the target's too, so that what popular titles lose by being drawn is made up (Bengio &
    Senecal 2008; Yi et al. 2019).
    """
    positive, negative, there, counts = _scores(h, titles, target, negatives, temperature)
    if log_q is not None:
        of_negative = log_q[negatives]
        positive = positive - jnp.where(there, log_q[target], 0.0)
        negative = negative - (of_negative if negatives.ndim == 3 else of_negative[:, None, :])
    negative = jnp.where(counts, negative, -jnp.inf)
    total = jax.nn.logsumexp(jnp.concatenate([positive[..., None], negative], axis=-1), axis=-1)
    return jnp.where(there, total - positive, 0.0)


def bce(h, titles, target, negatives, temperature: float) -> jax.Array:
    """SASRec's (Kang & McAuley 2018) [R, L]: -log sigmoid(s+) - the sum of log(1 - sigmoid(s-)), by 1 + N.

    A mean over the terms there are, as of torch's BCEWithLogitsLoss and in gSASRec's code (for one negative
    SASRec's own adds the two, which is twice as much). Negatives as of `sampled_softmax`.
    """
    return gbce(h, titles, target, negatives, temperature, calibration=0.0)


def gbce(h, titles, target, negatives, temperature: float, calibration: float) -> jax.Array:
    """gSASRec's (Petrov & Macdonald 2023) [R, L]: `bce` with the positive term times beta.

    alpha = N / (titles - 1), the share of a place's negatives that are drawn, and with t the calibration
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha): t = 0 is bce; with t = 1 the
    probabilities are those that BCE against all negatives would lead to.
    """
    positive, negative, there, counts = _scores(h, titles, target, negatives, temperature)
    alpha = negatives.shape[-1] / (titles.shape[0] - FIRST_TITLE - 1)
    of_positive = (1 - calibration * (1 - alpha)) * jax.nn.softplus(-positive)
    of_negatives = jnp.where(counts, jax.nn.softplus(negative), 0.0).sum(-1)
    return jnp.where(there, (of_positive + of_negatives) / (1 + counts.sum(-1)), 0.0)


# ---------------------------------------------------------------- as a config has it

# Each of (h, titles, target, negatives, log_q, config); `softmax` reads neither negatives nor log_q, and
# log_q is of `sampled_softmax` alone.
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "softmax": lambda h, titles, target, _, __, c: softmax(
        h, titles, target, c.temperature, c.budget * 2**20
    ),
    "sampled_softmax": lambda h, titles, target, negatives, log_q, c: sampled_softmax(
        h, titles, target, negatives, log_q, c.temperature
    ),
    "bce": lambda h, titles, target, negatives, _, c: bce(h, titles, target, negatives, c.temperature),
    "gbce": lambda h, titles, target, negatives, _, c: gbce(
        h, titles, target, negatives, c.temperature, c.calibration
    ),
}


def next_title(h, titles, target, negatives, log_q, config: NextTitle) -> jax.Array:
    """The loss that `config` names [R, L]; `negatives` and `log_q` may be None where it reads none."""
    return LOSSES[config.loss](h, titles, target, negatives, log_q, config)
