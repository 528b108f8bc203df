"""Stable counter hashes: every draw of preparation and simulation is a function of its coordinates.

A sequential generator would make the bytes depend on how many cores or partitions did the work.
Here a draw is `mix(seed, user, position, slot, ...)`, the SplitMix64 finaliser (Steele, Lea & Flood,
OOPSLA 2014) folded over its arguments, so any part can be drawn anywhere, in any order.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _as_u64(x) -> np.ndarray:
    """Whole numbers as uint64; negative ones wrap."""
    if isinstance(x, int | np.integer):
        return np.asarray(int(x) & 0xFFFFFFFFFFFFFFFF, np.uint64)
    x = np.asarray(x)
    return x if x.dtype == np.uint64 else x.astype(np.int64).view(np.uint64)


def finalise(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser: a bijection of uint64, elementwise."""
    return _finalise(np.array(x))


def _finalise(x: np.ndarray) -> np.ndarray:
    """In place: a new array a step would cost more than the step."""
    spare = np.empty_like(x)
    np.right_shift(x, np.uint64(30), out=spare)
    x ^= spare
    x *= _M1
    np.right_shift(x, np.uint64(27), out=spare)
    x ^= spare
    x *= _M2
    np.right_shift(x, np.uint64(31), out=spare)
    x ^= spare
    return x


def mix(*parts) -> np.ndarray:
    """Hash of whole-number arguments, broadcast together, as uint64."""
    h = np.asarray(_GOLDEN)
    for part in parts:
        h = np.asarray(h ^ _as_u64(part))  # a new array, of which a scalar is one too
        h += _GOLDEN
        h = _finalise(h)
    return h


def extend(h: np.ndarray, part: np.ndarray) -> np.ndarray:
    """mix(*parts, part) of h = mix(*parts), in the place of h; both uint64 arrays of one shape."""
    h ^= part
    h += _GOLDEN
    return _finalise(h)


def uniform(*parts) -> np.ndarray:
    """float64 in (0, 1), never 0 or 1, from the hash of whole-number arguments."""
    return ((mix(*parts) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def below(n, *parts) -> np.ndarray:
    """int64 in [0, n) from the hash of whole-number arguments; n < 2**31, broadcast with them."""
    return (uniform(*parts) * np.asarray(n)).astype(np.int64)


def of_keys(keys: np.ndarray) -> np.ndarray:
    """A stable uint64 for each user key: whole numbers (a bijection) or strings/bytes (UTF-8, no NULs).

    A whole number and its decimal string hash differently; the bytes do not depend on the array's
    item size, so chunks of one file agree.
    """
    keys = np.asarray(keys)
    with np.errstate(over="ignore"):
        if keys.dtype.kind in "iu":
            return finalise(_as_u64(keys) + _GOLDEN)
        raw = np.char.encode(keys.astype(str), "utf-8") if keys.dtype.kind != "S" else keys
        words = -(-max(raw.dtype.itemsize, 1) // 8)
        block = np.ascontiguousarray(raw.astype(f"S{words * 8}")).view(np.uint64).reshape(len(raw), words)
        h = np.full(len(raw), _M1, np.uint64)
        for w in range(words):  # trailing NUL words leave the hash alone, whatever the item size
            column = block[:, w]
            h = np.where(column == 0, h, finalise((h ^ column) + _GOLDEN))
        return h
