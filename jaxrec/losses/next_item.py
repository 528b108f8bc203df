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

from jaxrec.config.schema import NextTitle
from jaxrec.core.ids import FIRST_TITLE, PAD

_TITLES_AT_A_TIME = 4096  # rows of the titles' gradient that are made anew before they are added
# At a time on a CPU, whatever the budget: the logits of more leave its caches. In ms of a core (jax 0.10.2):
# 25,600 places, 3,708 titles 655, with 18,000 at a time 820; 800 of 100,000 titles 1090, all at once 1430.
_CPU_PLACES = 256


def _wide(*arrays: jax.Array) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


# ---------------------------------------------------------------- over all titles


def softmax(h, titles, target, temperature: float, budget_bytes: int) -> jax.Array:
    """-log of the target's share of exp(score) over all titles [R, L], exact.

    Logits [places, V] are made for some places at a time, so that they take `budget_bytes` at most, but
    for one place at least. They are made again for the gradient, which goes to `h` and to `titles`. On a
    CPU the compiled value and gradient have no other temporaries than 3 arrays as h and 2 of
    [4096, max(D, places at a time)], and with one place at a time 2 more of [V]: the gradient of the titles
    is added to in place, so neither of it nor of the titles is there a second copy.
    """
    R, L, D = h.shape
    there = target >= FIRST_TITLE
    h = jnp.where(there[..., None], h, 0).reshape(R * L, D)
    row = titles.shape[0] * _wide(h, titles).itemsize
    most = budget_bytes // row
    if jax.default_backend() == "cpu":
        most = min(most, _CPU_PLACES)
    size = _even(R * L, most)
    values = _softmax(size, float(temperature), h, titles, target.reshape(R * L))
    return jnp.where(there, values.reshape(R, L), 0.0)


def _even(places: int, most: int) -> int:
    """The size of chunks of `places`, at most `most` but at least 1, as even as they can be."""
    chunks = -(-places // max(1, most))
    return -(-places // chunks)


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


# Values [...] of a place by its scores: the target's [...], negatives' [..., N], and which of these count.


def _softmax_term(positive, negative, counts) -> jax.Array:
    negative = jnp.where(counts, negative, -jnp.inf)
    most = lax.stop_gradient(jnp.maximum(positive, negative.max(-1)))
    total = jnp.exp(positive - most) + jnp.exp(negative - most[..., None]).sum(-1)
    return jnp.log(total) + most - positive


def _bce_term(positive, negative, counts, *, beta: float) -> jax.Array:
    of_negatives = jnp.where(counts, jax.nn.softplus(negative), 0.0).sum(-1)
    return (beta * jax.nn.softplus(-positive) + of_negatives) / (1 + counts.sum(-1))


def _over_sampled(term: Callable, h, titles, target, negatives, temperature, log_q=None) -> jax.Array:
    """Values [R, L] of `term`, whichever shape negatives have."""
    (R, L, D), there = h.shape, target >= FIRST_TITLE
    h, target = jnp.where(there[..., None], h, 0), jnp.where(there, target, PAD)
    if log_q is not None:  # what is no candidate has no say, whatever stands there
        log_q = lax.stop_gradient(jnp.where(jnp.arange(len(log_q)) < FIRST_TITLE, 0, log_q))

    def values(positive, negative, target, negatives, log_q):
        positive, negative = positive / temperature, negative / temperature
        if log_q is not None:
            positive, negative = positive - log_q[target], negative - log_q[negatives]
        # Meta's generative-recommenders leaves out a negative that is the place's own target, too.
        return term(positive, negative, (negatives >= FIRST_TITLE) & (negatives != target[..., None]))

    if negatives.ndim == 2:  # few vectors, and one product a row
        positive = jnp.einsum("rld,rld->rl", h, titles[target], preferred_element_type=_wide(h, titles))
        negative = jnp.einsum("rld,rnd->rln", h, titles[negatives], preferred_element_type=positive.dtype)
        found = values(positive, negative, target, negatives[:, None], log_q)
    else:
        ids = jnp.concatenate([target[..., None], negatives], axis=-1).reshape(R * L, -1)
        form = _dense if len(titles) <= _DENSE_UP_TO * ids.shape[-1] else _gathered
        row = len(titles) if form is _dense else ids.shape[-1] * D
        part = _PART_BYTES.get(jax.default_backend(), _PART_BYTES_ELSEWHERE)
        size = _even(R * L, part // (row * _wide(h, titles).itemsize))
        found = form(size, values, h.reshape(R * L, D), titles, ids, log_q).reshape(R, L)
    return jnp.where(there, found, 0.0)


# Where every place has negatives of its own, P (1 + N) vectors are asked of the titles. Both forms below go
# some places at a time, so that what they make stays in a core's cache, and find the slopes [P, 1 + N] of a
# place's value together with it. On 2 CPU cores (jax 0.10.2, P = 25,600, N = 128, D = 50) value and gradients
# took of a core, in ms: gathered 265 to 315, however many titles; dense 165 of 1,000 titles, 295 of 2,000 and
# 450 of 3,708, half of it on the second core (gathered: a quarter). With N = 256, of 3,708 titles: 690, 610.
# The plain form takes 950: autodiff of one gather. The threshold is where dense is done earlier on 2 cores.
_DENSE_UP_TO = 16  # titles for each candidate of a place
_PART_BYTES = {"cpu": 2**21}
_PART_BYTES_ELSEWHERE = 2**28


def _slopes(values: Callable, scores, ids, log_q) -> tuple[jax.Array, jax.Array]:
    """Values [C], and how each changes with its place's scores [C, 1 + N]; it knows of no other's."""

    def of(scores):
        return values(scores[:, 0], scores[:, 1:], ids[:, 0], ids[:, 1:], log_q)

    found, back = jax.vjp(of, scores)
    return found, back(jnp.ones_like(found))[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(size: int, values: Callable, h, titles, ids, log_q) -> jax.Array:
    """Values [P] of h [P, D] and ids [P, 1 + N], the target first, `size` places at a time.

    Vectors are gathered once, for the slope by h is found with the value; to the titles' gradient the
    slopes are scattered.
    """
    return _gathered_forward(size, values, h, titles, ids, log_q)[0]


def _gathered_forward(size, values, h, titles, ids, log_q):
    wide, dtype = _wide(h, titles), h.dtype

    def chunk(given):
        h, ids = given
        vectors = titles.at[ids].get(mode="promise_in_bounds")
        scores = jnp.einsum("pd,pnd->pn", h, vectors, preferred_element_type=wide)
        found, slopes = _slopes(values, scores, ids, log_q)
        of_h = jnp.einsum("pn,pnd->pd", slopes.astype(dtype), vectors, preferred_element_type=wide)
        return found, slopes, of_h

    P, h, ids = len(h), _chunks(h, size), _chunks(ids, size)
    found, slopes, of_h = lax.map(chunk, (h, ids))
    return found.reshape(-1)[:P], (titles, h, ids, slopes, of_h)


def _gathered_backward(size, values, kept, cotangent):
    titles, h, ids, slopes, of_h = kept
    P, cotangent = len(cotangent), _chunks(cotangent, size)

    def chunk(d_titles, given):
        h, ids, slopes, cotangent = given
        more = (slopes * cotangent[:, None])[..., None] * h[:, None].astype(slopes.dtype)
        return d_titles.at[ids].add(more, mode="promise_in_bounds"), None

    d_titles, _ = lax.scan(chunk, jnp.zeros(titles.shape, slopes.dtype), (h, ids, slopes, cotangent))
    d_h = (of_h * cotangent[..., None]).reshape(-1, of_h.shape[-1])[:P]
    return d_h.astype(h.dtype), d_titles.astype(titles.dtype), None, None


_gathered.defvjp(_gathered_forward, _gathered_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense(size: int, values: Callable, h, titles, ids, log_q) -> jax.Array:
    """As `_gathered`, by the scores of all titles [size, V], of which a place's are taken; the slopes are
    scattered among as many, from where products lead to both gradients."""
    return _dense_forward(size, values, h, titles, ids, log_q)[0]


def _dense_forward(size, values, h, titles, ids, log_q):
    def chunk(given):
        h, ids = given
        every = jnp.matmul(h, titles.T, preferred_element_type=_wide(h, titles))
        scores = jnp.take_along_axis(every, ids, axis=1, mode="promise_in_bounds")
        return _slopes(values, scores, ids, log_q)

    P, h, ids = len(h), _chunks(h, size), _chunks(ids, size)
    found, slopes = lax.map(chunk, (h, ids))
    return found.reshape(-1)[:P], (titles, h, ids, slopes)


def _dense_backward(size, values, kept, cotangent):
    titles, h, ids, slopes = kept
    P, wide = len(cotangent), slopes.dtype

    def chunk(d_titles, given):
        h, ids, slopes, cotangent = given
        places = jnp.arange(size)[:, None]
        every = jnp.zeros((size, len(titles)), wide)
        every = every.at[places, ids].add(slopes * cotangent[:, None], mode="promise_in_bounds")
        every = every.astype(h.dtype)
        d_h = jnp.matmul(every, titles, preferred_element_type=wide)
        return d_titles + jnp.matmul(h.T, every, preferred_element_type=wide), d_h

    given = (h, ids, slopes, _chunks(cotangent, size))
    d_titles, d_h = lax.scan(chunk, jnp.zeros(titles.T.shape, wide), given)
    return d_h.reshape(-1, h.shape[-1])[:P].astype(h.dtype), d_titles.T.astype(titles.dtype), None, None


_dense.defvjp(_dense_forward, _dense_backward)


def sampled_softmax(h, titles, target, negatives, log_q, temperature: float) -> jax.Array:
    """-log(exp(s+) / (exp(s+) + sum of exp(s-))) [R, L], over the target and the place's negatives.

    Negatives are ids [R, L, N], or [R, N] which all of a row's places share; 0 and the place's own target
    are left out. With `log_q` [V], the log of how often each title is drawn, up to a constant,
    scores are less by it, the target's too, so that what popular titles lose by being drawn is made up
    (Bengio & Senecal 2008; Yi et al. 2019). It takes no gradient.
    """
    return _over_sampled(_softmax_term, h, titles, target, negatives, temperature, log_q)


def bce(h, titles, target, negatives, temperature: float) -> jax.Array:
    """SASRec's (Kang & McAuley 2018) [R, L]: -log sigmoid(s+) - the sum of log(1 - sigmoid(s-)), by 1 + N.

    A mean over the terms there are, as of torch's BCEWithLogitsLoss and in gSASRec's code (for one negative
    SASRec's own adds the two, which is twice as much). Negatives as of `sampled_softmax`: their own code
    keeps a draw that is the target.
    """
    return _over_sampled(partial(_bce_term, beta=1.0), h, titles, target, negatives, temperature)


def gbce(h, titles, target, negatives, temperature: float, calibration: float) -> jax.Array:
    """gSASRec's (Petrov & Macdonald 2023) [R, L]: `bce` with the positive term times beta.

    alpha = N / (titles - 1), the share of a place's negatives that are drawn, and with t the calibration
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha): t = 0 is bce; with t = 1 the
    probabilities are those that BCE against all negatives would lead to.
    """
    alpha = negatives.shape[-1] / (titles.shape[0] - FIRST_TITLE - 1)
    term = partial(_bce_term, beta=1 - calibration * (1 - alpha))
    return _over_sampled(term, h, titles, target, negatives, temperature)


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
