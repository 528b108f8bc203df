"""Stable counter-based hashes for every random draw of preparation and simulation.

A sequential generator would make the bytes depend on the number of cores or partitions that did the work.
Here a draw is `mix(seed, user, position, slot, ...)`, the SplitMix64 finaliser (Steele, Lea & Flood,
OOPSLA 2014) folded over its arguments. Any subset of the draws can therefore be computed anywhere, in any
order.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _as_u64(x) -> np.ndarray:
    """Convert whole numbers to uint64; negative numbers wrap."""
    if isinstance(x, int | np.integer):
        return np.asarray(int(x) & 0xFFFFFFFFFFFFFFFF, np.uint64)
    x = np.asarray(x)
    return x if x.dtype == np.uint64 else x.astype(np.int64).view(np.uint64)


def finalise(x: np.ndarray) -> np.ndarray:
    """Apply the SplitMix64 finaliser, a bijection of uint64, elementwise.

    Args:
        x: [...] uint64; not modified.

    Returns:
        [...] uint64.
    """
    return _finalise_in_place(np.array(x))


def _finalise_in_place(x: np.ndarray) -> np.ndarray:
    """Finalise `x` in place.

    A new array for each operation would cost more than the operation.
    """
    buffer = np.empty_like(x)
    np.right_shift(x, np.uint64(30), out=buffer)
    x ^= buffer
    x *= _M1
    np.right_shift(x, np.uint64(27), out=buffer)
    x ^= buffer
    x *= _M2
    np.right_shift(x, np.uint64(31), out=buffer)
    x ^= buffer
    return x


def mix(*parts) -> np.ndarray:
    """Return the uint64 hash [...] of whole-number arguments, broadcast together.

    Args:
        *parts: Whole numbers of any integer dtype; negative numbers wrap to uint64.
    """
    h = np.asarray(_GOLDEN)
    for part in parts:
        h = np.asarray(h ^ _as_u64(part))  # a new array, also where the result is a scalar
        h += _GOLDEN
        h = _finalise_in_place(h)
    return h


def extend(h: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return mix(*parts, part) from h = mix(*parts), overwriting h.

    Args:
        h: [...] uint64; modified in place and returned.
        part: [...] uint64, the shape of `h`.
    """
    h ^= part
    h += _GOLDEN
    return _finalise_in_place(h)


def uniform(*parts) -> np.ndarray:
    """Return float64 [...] in (0, 1), never 0 or 1, from the hash of whole numbers.

    Args:
        *parts: Whole numbers, broadcast together, as for `mix`.
    """
    return ((mix(*parts) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def randint(n, *parts) -> np.ndarray:
    """Return int64 in [0, n) from the hash of whole-number arguments.

    Args:
        n: Upper bounds below 2**31, broadcast with the hash.
        *parts: Whole numbers, as for `mix`.
    """
    return (uniform(*parts) * np.asarray(n)).astype(np.int64)


def of_keys(keys: np.ndarray) -> np.ndarray:
    """Return a stable uint64 hash [N] of each user key.

    A whole number and its decimal string hash differently. The hash of a string does not depend on the
    item size of its array, so that all chunks of a file agree.

    Args:
        keys: [N] whole numbers, whose hash is a bijection, or strings or bytes (UTF-8, no NULs).
    """
    keys = np.asarray(keys)
    with np.errstate(over="ignore"):
        if keys.dtype.kind in "iu":
            return finalise(_as_u64(keys) + _GOLDEN)
        raw = np.char.encode(keys.astype(str), "utf-8") if keys.dtype.kind != "S" else keys
        words = -(-max(raw.dtype.itemsize, 1) // 8)
        block = np.ascontiguousarray(raw.astype(f"S{words * 8}")).view(np.uint64).reshape(len(raw), words)
        h = np.full(len(raw), _M1, np.uint64)
        for w in range(words):  # trailing NUL words leave the hash unchanged, whatever the item size
            column = block[:, w]
            h = np.where(column == 0, h, finalise((h ^ column) + _GOLDEN))
        return h
