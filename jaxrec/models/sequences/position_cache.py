"""Cached keys and values of a sequence, so that one position more costs one position.

A causal encoder computes a new position from the keys and values of the earlier ones, which do not change
(Vaswani et al. 2017; the cached inference of HSTU, Zhai et al. 2024). The columns of a cache are those of the
array that was encoded, and the next position is the next column. Rows of different lengths are padded on the
left, as in windows.

With block-local attention the chunks are those of the columns: chunk c has the columns c w to c w + w - 1.
The cache holds the keys of the last two chunks, and the summaries of all older ones. A pass over a whole
window counts chunks from its newest position; both have the same chunks where the length of the window is a
multiple of w.

Axis letters: B rows, C columns of a dense cache or the 2w columns of two chunks, n chunks, w columns of a
chunk, M keys, H heads, d width of a head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.models.layers.attention import EarlierKeys, KeysValues


class Keys(NamedTuple):
    """Keys and values of columns, with what attention reads of their positions.

    Attributes:
        layers: Keys and values [B, C, H, d] of each block.
        present_BxC: Bool, False at padding and at columns that are not filled yet.
        time_BxC: uint32 seconds since 1970.
    """

    layers: tuple[KeysValues, ...]
    present_BxC: jax.Array
    time_BxC: jax.Array


class PositionCache(NamedTuple):
    """Cache of the first `length` columns of sequences.

    Attributes:
        recent: Keys of all columns, or of the last two chunks.
        summaries: Keys of the summaries of older chunks; None with dense attention.
        length: Scalar int32, number of columns.
    """

    recent: Keys
    summaries: Keys | None
    length: jax.Array


def _padded(keys: Keys, columns: int) -> Keys:
    """Return the keys with empty columns at the end, `columns` in all."""
    more = columns - keys.present_BxC.shape[1]
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, more), *[(0, 0)] * (x.ndim - 2))), keys)


def dense_cache(keys: Keys, length: int, capacity: int) -> PositionCache:
    """Return the cache of the first `length` columns of dense attention, with room for `capacity`."""
    first = jax.tree.map(lambda x: x[:, :length], keys)
    return PositionCache(_padded(first, capacity), None, jnp.int32(length))


def block_local_cache(
    keys: Keys, means: Sequence[KeysValues], length: int, span: int, capacity: int
) -> PositionCache:
    """Return the cache of the first `length` columns of block-local attention, with room for `capacity`.

    Args:
        keys: Keys of columns whose number is a multiple of `span`, empty from `length` on.
        means: Summaries [B, n, H, d] of all chunks, of each block.
        length: Number of columns, at least 1.
        span: Columns w of a chunk.
        capacity: Largest number of columns, a multiple of `span`.
    """
    chunk = (length - 1) // span  # of the last column
    before = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (span, 0), *[(0, 0)] * (x.ndim - 2))), keys)
    recent = jax.tree.map(lambda x: x[:, chunk * span : (chunk + 2) * span], before)
    old = max(chunk - 1, 0)
    present_Bxn = keys.present_BxC.reshape(len(keys.present_BxC), -1, span).any(2)
    summaries = Keys(tuple(means), present_Bxn, keys.time_BxC[:, span - 1 :: span])
    summaries = jax.tree.map(lambda x: x[:, :old], summaries)
    return PositionCache(recent, _padded(summaries, capacity // span), jnp.int32(length))


def begin_chunk(cache: PositionCache, means: Sequence[KeysValues], span: int) -> PositionCache:
    """Return the cache for the next column, which may begin a chunk.

    Where it begins one, the current chunk becomes the chunk before, whose place gets free.

    Args:
        cache: Cache of `length` columns.
        means: Summaries [B, H, d] of the chunk before, of each block.
        span: Columns w of a chunk.
    """
    assert cache.summaries is not None
    begins = (cache.length % span == 0) & (cache.length > 0)
    index = jnp.maximum(cache.length // span - 2, 0)  # chunk of `means`
    moves = begins & (cache.length >= 2 * span)
    recent = cache.recent
    made = Keys(tuple(means), recent.present_BxC[:, :span].any(1), recent.time_BxC[:, span - 1])
    summaries = jax.tree.map(
        lambda of_all, x: jnp.where(moves, of_all.at[:, index].set(x), of_all), cache.summaries, made
    )
    moved = jax.tree.map(lambda x: jnp.concatenate([x[:, span:], jnp.zeros_like(x[:, span:])], 1), recent)
    recent = jax.tree.map(lambda new, old: jnp.where(begins, new, old), moved, recent)
    return PositionCache(recent, summaries, cache.length)


def earlier_keys(cache: PositionCache, present_Bx1: jax.Array, time_Bx1: jax.Array, span: int) -> EarlierKeys:
    """Return the keys that the next column reads.

    Args:
        cache: Cache, from `begin_chunk` with block-local attention.
        present_Bx1: Bool, False where the column is padding.
        time_Bx1: uint32 seconds since 1970 of the column.
        span: Columns w of a chunk; 0: dense attention.
    """
    recent, length, groups = cache.recent, cache.length, [cache.recent]
    columns = jnp.arange(recent.present_BxC.shape[1])
    if cache.summaries is not None:
        groups = [cache.summaries, recent]
        ends = (jnp.arange(cache.summaries.present_BxC.shape[1]) + 1) * span - 1
        columns = jnp.concatenate([ends, (length // span - 1) * span + columns])
    layers = tuple(
        (jnp.concatenate([k for k, _ in pairs], 1), jnp.concatenate([v for _, v in pairs], 1))
        for pairs in zip(*(group.layers for group in groups), strict=True)
    )
    seen = jnp.concatenate([*(group.present_BxC for group in groups), present_Bx1], 1) & present_Bx1
    time = jnp.concatenate([*(group.time_BxC for group in groups), time_Bx1], 1)
    apart = jnp.append(jnp.abs(length - columns), 0)[None]
    return EarlierKeys(layers, seen[:, None], time, apart)


def with_column(
    cache: PositionCache, own: Sequence[KeysValues], present_Bx1: jax.Array, time_Bx1: jax.Array, span: int
) -> PositionCache:
    """Return the cache with one column more.

    Args:
        cache: Cache that the column has read.
        own: Keys and values [B, 1, H, d] of the column, of each block.
        present_Bx1: As for `earlier_keys`; so are the others.
    """
    at = cache.length if cache.summaries is None else span + cache.length % span
    column = Keys(tuple(own), present_Bx1, time_Bx1)
    recent = jax.tree.map(
        lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new.astype(x.dtype), at, axis=1),
        cache.recent,
        column,
    )
    return PositionCache(recent, cache.summaries, cache.length + 1)
