"""Negatives of sequences, drawn on the device by the keys of their rows, and the log of how often each is.

A draw is a function of (seed, step, row, place, number) and of what is drawn from, not of the devices.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.models.layers import rng

_NUMBER = rng.layer_id(("sampled",))  # unlike any layer's, so that dropout knows nothing of it


def uniform(keys_Rx2: jax.Array, shape: tuple[int, ...], titles: int) -> jax.Array:
    """Ids [R, *shape] int32, each title of the `titles` (V, with padding and unknown) as likely."""
    return FIRST_TITLE + rng.randint(titles - FIRST_TITLE, shape, keys_Rx2, _NUMBER)


def by_popularity(keys_Rx2: jax.Array, shape: tuple[int, ...], cumulative_V: jax.Array) -> jax.Array:
    """Ids [R, *shape] int32, each as likely as its share of plays; `cumulative_V` is of `store.cumulative`.

    The inverse of the cumulative counts by a binary search of log2(V) steps a draw, written out: one loop
    over draws, where `jnp.searchsorted` has one over steps and took four times as long (2 CPU cores,
    jax 0.10.2: 42 ms of a core for 3.3 million draws of 3,708 titles; uniform draws take 3).
    """
    play = rng.randint(cumulative_V[-1], shape, keys_Rx2, _NUMBER)
    found = jnp.zeros_like(play)  # how many titles are known to lie before the play
    step = 1 << (len(cumulative_V) - 1).bit_length()
    while step := step >> 1:
        more = found + step
        found = jnp.where(cumulative_V.at[more - 1].get(mode="clip") <= play, more, found)
    return found


def in_batch(keys_Rx2: jax.Array, shape: tuple[int, ...], ids_M: jax.Array) -> jax.Array:
    """Ids [R, *shape] int32 out of `ids_M`, each of its titles as likely as its share of them.

    Ids below FIRST_TITLE are absent and not drawn; where all are, the draws are 0.
    """
    there = ids_M >= FIRST_TITLE
    (places,) = jnp.nonzero(there, size=len(ids_M), fill_value=0)
    drawn = ids_M[places][rng.randint(there.sum(), shape, keys_Rx2, _NUMBER)]
    return jnp.where(there.any(), drawn, 0).astype(jnp.int32)


class NegativePool(NamedTuple):
    """What negatives are drawn from; each way of drawing reads what it needs."""

    titles: int  # V, with padding and unknown
    cumulative: Any = None  # [V] int32 of `store.cumulative`, for "popularity"
    ids: Any = None  # [M] int32, the targets of the batch, 0 where there is none, for "in_batch"


DRAWN: dict[str, Callable[[jax.Array, tuple[int, ...], NegativePool], jax.Array]] = {
    "uniform": lambda keys, shape, pool: uniform(keys, shape, pool.titles),
    "popularity": lambda keys, shape, pool: by_popularity(keys, shape, pool.cumulative),
    "in_batch": lambda keys, shape, pool: in_batch(keys, shape, pool.ids),
}
SHARED = ("place", "sequence")


def draw(
    keys_Rx2: jax.Array, drawn: str, shared: str, places: int, negatives: int, pool: NegativePool
) -> jax.Array:
    """Negatives of rows by `draws.row_keys`: [R, places, negatives] int32, or [R, negatives] where all of a
    row's places have them (`shared` "sequence"). A title may be drawn more than once, or be the target."""
    shape = {"place": (places, negatives), "sequence": (negatives,)}[shared]
    return DRAWN[drawn](keys_Rx2, shape, pool)


def log_q(drawn: str, pool: NegativePool) -> jax.Array:
    """[V] float32: the log of the probability of each title in one draw; below FIRST_TITLE it means nothing.

    One that cannot be drawn but may be a target counts as played (or in the batch) once: its score stays
    finite.
    """
    if drawn == "uniform":
        return jnp.full(pool.titles, -math.log(pool.titles - FIRST_TITLE), jnp.float32)
    if drawn == "popularity":
        counts = jnp.diff(pool.cumulative, prepend=0)
    else:
        ids = jnp.where(pool.ids >= FIRST_TITLE, pool.ids, pool.titles)
        counts = jnp.zeros(pool.titles, jnp.int32).at[ids].add(1, mode="drop")
    total = jnp.maximum(counts.sum(), 1).astype(jnp.float32)
    return jnp.log(jnp.maximum(counts, 1).astype(jnp.float32) / total)
