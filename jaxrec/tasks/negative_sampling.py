"""Negatives of sequences, drawn on the device, and the log density of each draw.

A draw is a function of (seed, step, row, position, number) and of the pool, not of the devices.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.registry import NEGATIVE_SAMPLERS, resolve
from jaxrec.models.layers import rng
from jaxrec.models.outputs import TitlesByRank

_NUMBER = rng.layer_id(("sampled",))  # unlike any layer's, so that dropout is independent of these draws


class NegativePool(NamedTuple):
    """The titles that negatives are drawn from; each sampler reads what it needs.

    Attributes:
        titles: Number of titles V, with padding and unknown.
        ids: [M] int32 targets of the batch, 0 for none; for "in_batch" only.
        ranked: The titles; None: all ids from FIRST_TITLE on.
    """

    titles: int
    ids: Any = None
    ranked: TitlesByRank | None = None


class NegativeSampler(NamedTuple):
    """One entry of `registry.NEGATIVE_SAMPLERS`.

    `draw(keys [R, 2], shape, pool)` returns ids [R, *shape] int32; `log_q(pool)` returns the log of each
    title's probability in one draw, [V] float32, undefined below FIRST_TITLE.
    """

    draw: Callable[[jax.Array, tuple[int, ...], NegativePool], jax.Array]
    log_q: Callable[[NegativePool], jax.Array]


def _draw_uniform(keys_Rx2: jax.Array, shape: tuple[int, ...], pool: NegativePool) -> jax.Array:
    """Draw each title with the same probability."""
    if pool.ranked is not None:
        return pool.ranked.id_V[rng.randint(pool.ranked.number, shape, keys_Rx2, _NUMBER)]
    return FIRST_TITLE + rng.randint(pool.titles - FIRST_TITLE, shape, keys_Rx2, _NUMBER)


def _draw_in_batch(keys_Rx2: jax.Array, shape: tuple[int, ...], pool: NegativePool) -> jax.Array:
    """Draw each title of `pool.ids` with the probability of its share of them.

    Ids below FIRST_TITLE are absent and not drawn; where all are, the draws are 0.
    """
    present = pool.ids >= FIRST_TITLE
    (positions,) = jnp.nonzero(present, size=len(pool.ids), fill_value=0)
    drawn = pool.ids[positions][rng.randint(present.sum(), shape, keys_Rx2, _NUMBER)]
    return jnp.where(present.any(), drawn, 0).astype(jnp.int32)


def _uniform_log_q(pool: NegativePool) -> jax.Array:
    if pool.ranked is not None:
        return jnp.full(pool.titles, -jnp.log(pool.ranked.number.astype(jnp.float32)))
    return jnp.full(pool.titles, -math.log(pool.titles - FIRST_TITLE), jnp.float32)


def _in_batch_log_q(pool: NegativePool) -> jax.Array:
    """Count a title that cannot be drawn but may be a target as once in the batch: its score stays finite."""
    ids = jnp.where(pool.ids >= FIRST_TITLE, pool.ids, pool.titles)
    counts = jnp.zeros(pool.titles, jnp.int32).at[ids].add(1, mode="drop")
    total = jnp.maximum(counts.sum(), 1).astype(jnp.float32)
    return jnp.log(jnp.maximum(counts, 1).astype(jnp.float32) / total)


UNIFORM = NegativeSampler(_draw_uniform, _uniform_log_q)
IN_BATCH = NegativeSampler(_draw_in_batch, _in_batch_log_q)


def draw(
    keys_Rx2: jax.Array, distribution: str, shared_by: str, length: int, negatives: int, pool: NegativePool
) -> jax.Array:
    """Draw the negatives of rows.

    A title may be drawn more than once, or be the target.

    Args:
        keys_Rx2: Keys of the rows, from `rng.row_keys`.
        distribution: A name of `registry.NEGATIVE_SAMPLERS`.
        shared_by: "position" (each position has its own) or "sequence".

    Returns:
        [R, length, negatives] int32 ids, or [R, negatives] where all positions of a row share them.
    """
    chex.assert_shape(keys_Rx2, (None, 2), custom_message="keys_Rx2")
    sampler: NegativeSampler = resolve(NEGATIVE_SAMPLERS[distribution])
    shape = {"position": (length, negatives), "sequence": (negatives,)}[shared_by]
    return sampler.draw(keys_Rx2, shape, pool)


def log_q(distribution: str, pool: NegativePool) -> jax.Array:
    """Return the log probability of each title in one draw, [V] float32.

    Values of ids below FIRST_TITLE are undefined.

    Args:
        distribution: A name of `registry.NEGATIVE_SAMPLERS`.
        pool: The titles that negatives are drawn from.
    """
    sampler: NegativeSampler = resolve(NEGATIVE_SAMPLERS[distribution])
    return sampler.log_q(pool)
