"""Dropout masks and gate noise as functions of (seed, step, example, layer, element).

A draw is the 32-bit finaliser "lowbias32" (Wellons, prospecting for hash functions, 2018) of a
counter, keyed per example. Nothing depends on how many devices the batch is split over, and on a
CPU it costs a fraction of `jax.random.bernoulli`.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = 0x9E3779B9


def _finalise(x: jax.Array) -> jax.Array:
    """lowbias32: a bijection of uint32, elementwise."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def row_keys(seed: int, step: jax.Array | int, row: jax.Array) -> jax.Array:
    """Keys [B, 2] uint32 of the examples at rows `row` [B] of the global batch of `step`.

    `seed` is a Python whole number, of which the low 64 bits count.
    """
    row, step = jnp.asarray(row).astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)
    words = []
    for start in (0x243F6A88, 0x85A308D3):  # two chains over the same words make 64 bits
        h = jnp.uint32(start)
        for part in (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32 & 0xFFFFFFFF), step, row):
            h = _finalise((h ^ part) + np.uint32(_GOLDEN))
        words.append(h)
    return jnp.stack(words, axis=-1)


def layer_number(path: tuple[str, ...]) -> int:
    """A module's own number, from its path: the same in every process and every run."""
    return zlib.crc32("/".join(path).encode())


def _bits(key: jax.Array, layer: int, shape: tuple[int, ...], axis: int) -> jax.Array:
    """uint32 draws of `shape`, of which dimension `axis` runs over the examples of `key` [B, 2]."""
    axis %= len(shape)
    one = [1 if d == axis else size for d, size in enumerate(shape)]
    place = np.arange(np.prod(one), dtype=np.uint32).reshape(one) * np.uint32(_GOLDEN)
    start = _finalise(key[:, 0] ^ np.uint32(layer))
    other = _finalise(key[:, 1] + start)
    along = tuple(-1 if d == axis else 1 for d in range(len(shape)))
    # Two words a row: were `start` alone, two rows a few counts apart would share a run of draws.
    return _finalise((jnp.asarray(place) + start.reshape(along)) ^ other.reshape(along))


def dropout(x: jax.Array, rate: float, key: jax.Array | None, layer: int, axis: int = 0) -> jax.Array:
    """Zeroes a share `rate` in [0, 1) of x and scales the rest by 1 / (1 - rate); x itself without a key.

    `axis` is x's example dimension, as long as `key` [B, 2]. 32 bits decide an element, so the share
    is exact to 2**-32.
    """
    if key is None or rate == 0.0:
        return x
    keep = _bits(key, layer, x.shape, axis) >= np.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def uniform(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Draws [B, *shape] in (0, 1), never 0 or 1; 23 bits each."""
    bits = _bits(key, layer, (key.shape[0], *shape), 0)
    return ((bits >> 9).astype(dtype) + 0.5) * 2.0**-23


def normal(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Standard normal draws [B, *shape], none beyond 5.3 in size."""
    draws = 2.0 * uniform(shape, key, layer, dtype) - 1.0
    return 2.0**0.5 * jax.scipy.special.erfinv(draws)
