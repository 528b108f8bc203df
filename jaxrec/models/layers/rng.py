"""Counter-based random numbers for dropout masks, gate noise and sampling.

A random number is a function of (seed, step, example, layer, element): the 32-bit finalizer "lowbias32"
(Wellons, prospecting for hash functions, 2018) of a counter, keyed per example. The numbers do not depend on
the number of devices of a batch. On a CPU they cost a fraction of `jax.random.bernoulli`.
"""

import math
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = 0x9E3779B9
_LONG = 2**16  # more counters than this are computed by the program instead of stored in it as a constant


@partial(jax.jit, inline=True)  # traced once per shape: a third of the operations of a step are here
def _finalise(x: Any) -> jax.Array:
    """Apply lowbias32, a bijection of uint32, elementwise."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def row_keys(seed: int, step: jax.Array | int, row: jax.Array) -> jax.Array:
    """Keys of the examples of a global batch.

    Args:
        seed: a Python integer; its low 64 bits are used.
        step: scalar, the training step.
        row: [B], the rows of the examples in the global batch.

    Returns:
        [B, 2] uint32.
    """
    row, step = jnp.asarray(row).astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)
    words = []
    for start in (0x243F6A88, 0x85A308D3):  # two hash chains over the same words give 64 bits
        h = jnp.uint32(start)
        for word in (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32 & 0xFFFFFFFF), step, row):
            h = _finalise((h ^ word) + np.uint32(_GOLDEN))
        words.append(h)
    return jnp.stack(words, axis=-1)


def layer_id(path: tuple[str, ...]) -> int:
    """Return the id of a module from its path, equal in all processes and runs.

    The id is a whole number below 2**32.
    """
    return zlib.crc32("/".join(path).encode())


def fold_in(key: jax.Array, number: jax.Array) -> jax.Array:
    """Derive keys from keys and integers.

    Args:
        key: [..., 2] uint32.
        number: [...] integers.

    Returns:
        [..., 2] uint32.
    """
    word = _finalise(jnp.asarray(number).astype(jnp.uint32) + np.uint32(_GOLDEN))
    return jnp.stack([_finalise(key[..., 0] ^ word), _finalise(key[..., 1] + word)], axis=-1)


def _bits(key: jax.Array, layer: int, width: int) -> jax.Array:
    """Random uint32 [..., width] of `key` [..., 2]."""
    numpy: Any = jnp if width > _LONG else np
    index = numpy.arange(width, dtype=np.uint32)
    return _bits_at(index, key[..., None, :], layer)


def _bits_at(index: Any, key: jax.Array, layer: int) -> jax.Array:
    """Random uint32 number `index` [...] of `key` [..., 2]."""
    return _keyed_bits(index * np.uint32(_GOLDEN), key, np.uint32(layer))


@partial(jax.jit, inline=True)
def _keyed_bits(counter: Any, key: jax.Array, layer: Any) -> jax.Array:
    start = _finalise(key[..., 0] ^ layer)
    mask = _finalise(key[..., 1] + start)
    # Two words per key: with `start` alone, the sequences of two keys a few counts apart would overlap.
    return _finalise((counter + start) ^ mask)


def dropout_mask(key: jax.Array, layer: int, width: int, rate: float) -> tuple[jax.Array, jax.Array]:
    """Two independent dropout masks, each from 16 bits of the same random words.

    Args:
        key: [..., 2] uint32.
        layer: id of the layer, from `layer_id`.
        width: number of elements per key.
        rate: probability of False, rounded to a multiple of 2**-16.

    Returns:
        Two arrays [..., width] bool; True keeps an element.
    """
    bits, threshold = _bits(key, layer, width), np.uint32(round(rate * 2**16))
    return (bits & np.uint32(0xFFFF)) >= threshold, (bits >> 16) >= threshold


def dropout(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    """Return x / P(keep) where `keep`, else 0; the mean over masks is x.

    Args:
        x: [...].
        keep: [...] bool, from `dropout_mask`.
        rate: probability of False, as for `dropout_mask`.
    """
    keep_probability = 1.0 - round(rate * 2**16) / 2**16
    return jnp.where(keep, x * jnp.asarray(1.0 / keep_probability, x.dtype), jnp.zeros((), x.dtype))


def uniform(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Uniform numbers [..., *shape] in (0, 1), of 23 bits.

    0 and 1 do not occur.

    Args:
        shape: shape of the numbers of one key.
        key: [..., 2] uint32.
        layer: id of the layer, from `layer_id`.
        dtype: dtype of the result.
    """
    return _uniform(_bits(key, layer, math.prod(shape)).reshape(*key.shape[:-1], *shape), dtype)


def uniform_at(index: jax.Array, key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Elements `index` of the flat result of `uniform` for `key`.

    Args:
        index: [...] uint32.
        key: [2] uint32.
        layer: id of the layer, from `layer_id`.
        dtype: dtype of the result.

    Returns:
        [...] in (0, 1).
    """
    return _uniform(_bits_at(index, key, layer), dtype)


def _uniform(bits: jax.Array, dtype: Any) -> jax.Array:
    return ((bits >> 9).astype(dtype) + 0.5) * 2.0**-23


def randint(n: jax.Array | int, shape: tuple[int, ...], key: jax.Array, layer: int) -> jax.Array:
    """Uniform integers in [0, n), with probabilities equal to within 2**-32.

    A number is the high word of 32 random bits times n (Lemire 2019, without rejection). The product is
    computed in halves of 16 bits, because 64-bit integers are not available.

    Args:
        n: at most 2**31, a Python integer or a scalar array; 0 gives 0.
        shape: shape of the numbers of one key.
        key: [..., 2] uint32.
        layer: id of the layer, from `layer_id`.

    Returns:
        [..., *shape] int32.
    """
    bits = _bits(key, layer, math.prod(shape)).reshape(*key.shape[:-1], *shape)
    n = jnp.asarray(n, jnp.uint32)
    high, low, n_high, n_low = bits >> 16, bits & 0xFFFF, n >> 16, n & 0xFFFF
    cross_high, cross_low = high * n_low, low * n_high
    carry = (low * n_low >> 16) + (cross_high & 0xFFFF) + (cross_low & 0xFFFF)
    return (high * n_high + (cross_high >> 16) + (cross_low >> 16) + (carry >> 16)).astype(jnp.int32)


def normal(shape: tuple[int, ...], key: jax.Array, layer: int, dtype=jnp.float32) -> jax.Array:
    """Standard normal numbers [..., *shape], within +-5.3.

    Args:
        shape: shape of the numbers of one key.
        key: [..., 2] uint32.
        layer: id of the layer, from `layer_id`.
        dtype: dtype of the result.
    """
    symmetric = 2.0 * uniform(shape, key, layer, dtype) - 1.0
    return 2.0**0.5 * jax.scipy.special.erfinv(symmetric)
