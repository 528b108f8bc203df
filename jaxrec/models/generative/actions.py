"""Actions of a policy: log probabilities of all titles, and draws.

A title stands for election if its id is not reserved and the user has not played it. All functions are of
states of any number: axis letters are P positions, V titles, D width, n draws.
"""

import math

import jax
import jax.numpy as jnp

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import at_least_float32

NEVER = -1.0e30  # log probability of a title that may not be chosen: finite, so that 0 * NEVER is 0
_BLOCK, _TITLE = rng.layer_id(("draw", "block")), rng.layer_id(("draw", "title"))


def log_pi(
    state_PxD: jax.Array, title_VxD: jax.Array, played_Pxn: jax.Array, temperature: float,
    has_title_V: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Return the log probabilities [P, V] of all titles, at least float32; NEVER where none may be chosen.

    Args:
        state_PxD: Outputs of positions.
        title_VxD: Scored vectors of all titles.
        played_Pxn: int32 ids of titles that may not be chosen, 0 for none.
        temperature: Divisor of the scores.
        has_title_V: Bool, True for ids with a title; None: all from FIRST_TITLE on.
    """
    wide = at_least_float32(state_PxD.dtype)
    logits = jnp.matmul(state_PxD, title_VxD.T, preferred_element_type=wide) / temperature
    logits = jnp.where(jnp.arange(len(title_VxD)) < FIRST_TITLE, NEVER, logits)
    if has_title_V is not None:
        logits = jnp.where(has_title_V, logits, NEVER)
    logits = logits.at[jnp.arange(len(logits))[:, None], played_Pxn].set(NEVER)
    return jax.nn.log_softmax(logits, axis=-1)


def sample(log_pi_PxV: jax.Array, key_Px2: jax.Array, draws: int) -> jax.Array:
    """Draw titles [P, n] with replacement, each a function of its key and the number of the draw.

    The maximum of log probabilities with Gumbel noise has the distribution of a draw (Gumbel-max; Maddison
    et al. 2014). It is taken twice, over blocks of about sqrt(V) titles and over the titles of the block, so
    that a draw needs 2 sqrt(V) random numbers in place of V.

    Args:
        log_pi_PxV: Log probabilities, from `log_pi`.
        key_Px2: uint32 keys of the positions.
        draws: Number of draws n.
    """
    P, V = log_pi_PxV.shape
    size = math.isqrt(V - 1) + 1
    padded = jnp.pad(log_pi_PxV, ((0, 0), (0, -V % size)), constant_values=NEVER)
    title_PxBxS = padded.reshape(P, -1, size)
    block_PxB = jax.nn.logsumexp(title_PxBxS, axis=-1)
    key_Pxnx2 = rng.fold_in(key_Px2[:, None], jnp.arange(draws))
    block_Pxn = _noisy_argmax(block_PxB[:, None], key_Pxnx2, _BLOCK)
    of_block_PxnxS = jnp.take_along_axis(title_PxBxS, block_Pxn[..., None], axis=1)
    return block_Pxn * size + _noisy_argmax(of_block_PxnxS, key_Pxnx2, _TITLE)


def _noisy_argmax(log_p: jax.Array, key: jax.Array, layer: int) -> jax.Array:
    """Return the index of the largest of log_p [..., N] with Gumbel noise of keys [..., 2]."""
    uniform = rng.uniform((log_p.shape[-1],), key, layer, log_p.dtype)
    return jnp.argmax(log_p - jnp.log(-jnp.log(uniform)), axis=-1)
