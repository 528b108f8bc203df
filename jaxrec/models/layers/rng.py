"""Dropout masks, gate noise and whole numbers as functions of (seed, step, example, layer, element).

A draw is the 32-bit finaliser "lowbias32" (Wellons, prospecting for hash functions, 2018) of a
counter, keyed per example. Nothing depends on how many devices the batch is split over, and on a
CPU it costs a fraction of `jax.random.bernoulli`.
"""

import math
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = 0x9E3779B9
_LONG = 2**16  # draws past which their numbers are counted by the program, not held in it as a constant


@partial(jax.jit, inline=True)  # traced once for a shape: of a step's operations every third is one of these
def _finalise(x: Any) -> jax.Array:
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


def layer_id(path: tuple[str, ...]) -> int:
    """A module's own number, from its path: the same in every process and every run."""
    return zlib.crc32("/".join(path).encode())


def fold_in(key: jax.Array, number: jax.Array) -> jax.Array:
    """Keys [..., 2] of the parts `number` [...] of what has the keys `key` [..., 2]."""
    word = _finalise(jnp.asarray(number).astype(jnp.uint32) + np.uint32(_GOLDEN))
    return jnp.stack([_finalise(key[..., 0] ^ word), _finalise(key[..., 1] + word)], axis=-1)


def _bits(key: jax.Array, layer: int, width: int) -> jax.Array:
    """uint32 draws [..., width], `width` of each of `key` [..., 2]."""
    count: Any = jnp if width > _LONG else np
    place = count.arange(width, dtype=np.uint32)
    return _bits_at(place, key[..., None, :], layer)


def _bits_at(place: Any, key: jax.Array, layer: int) -> jax.Array:
    """uint32 draws number `place` [...] of `key` [..., 2]."""
    return _keyed(place * np.uint32(_GOLDEN), key, np.uint32(layer))


@partial(jax.jit, inline=True)
def _keyed(counter: Any, key: jax.Array, layer: Any) -> jax.Array:
    start = _finalise(key[..., 0] ^ layer)
    other = _finalise(key[..., 1] + start)
    # Two words a key: were `start` alone, two keys a few counts apart would share a run of draws.
    return _finalise((counter + start) ^ other)


def dropout_mask(key: jax.Array, layer: int, width: int, rate: float) -> tuple[jax.Array, jax.Array]:
    """Two dropout masks [..., width] bool, independent, from one draw of `key` [..., 2]: half a word each.

    An element is False with a probability of `rate` to the nearest 2**-16.
    """
    bits, least = _bits(key, layer, width), np.uint32(round(rate * 2**16))
    return (bits & np.uint32(0xFFFF)) >= least, (bits >> 16) >= least


def dropout(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    """x where `keep`, divided by the probability of that, and 0 elsewhere: its mean over masks is x."""
    kept = 1.0 - round(rate * 2**16) / 2**16
    return jnp.where(keep, x * jnp.asarray(1.0 / kept, x.dtype), jnp.zeros((), x.dtype))


def uniform(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Draws [..., *shape] of `key` [..., 2], in (0, 1), never 0 or 1; 23 bits each."""
    return _uniform(_bits(key, layer, math.prod(shape)).reshape(*key.shape[:-1], *shape), dtype)


def uniform_at(place: jax.Array, key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Those of the draws `uniform` that have the numbers `place` [...] uint32, of `key` [..., 2]."""
    return _uniform(_bits_at(place, key, layer), dtype)


def _uniform(bits: jax.Array, dtype: Any) -> jax.Array:
    return ((bits >> 9).astype(dtype) + 0.5) * 2.0**-23


def randint(n: jax.Array | int, shape: tuple[int, ...], key: jax.Array, layer: int) -> jax.Array:
    """Whole numbers [..., *shape] int32 of `key` [..., 2], in [0, n), each as likely to within 2**-32.

    `n` is at most 2**31, a Python number or a scalar array; 0 gives 0. A draw is the high word of 32 random
    bits times n (Lemire 2019, without the rejection), in halves of 16 bits: there are no 64-bit numbers.
    """
    bits = _bits(key, layer, math.prod(shape)).reshape(*key.shape[:-1], *shape)
    n = jnp.asarray(n, jnp.uint32)
    high, low, n_high, n_low = bits >> 16, bits & 0xFFFF, n >> 16, n & 0xFFFF
    middle, other = high * n_low, low * n_high
    carry = (low * n_low >> 16) + (middle & 0xFFFF) + (other & 0xFFFF)
    return (high * n_high + (middle >> 16) + (other >> 16) + (carry >> 16)).astype(jnp.int32)


def normal(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Standard normal draws [..., *shape] of `key` [..., 2], none beyond 5.3 in size."""
    draws = 2.0 * uniform(shape, key, layer, dtype) - 1.0
    return 2.0**0.5 * jax.scipy.special.erfinv(draws)
