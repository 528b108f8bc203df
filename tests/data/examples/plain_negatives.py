"""Plain implementation of negatives.py, which the fast one equals bit for bit."""

import numpy as np

from jaxrec.core.hashing import mix
from jaxrec.data.examples.negatives import RANDOM, TAILING, TRENDING, DrawnNegatives, NegativeUniverse


def permute(slot: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Map `slot` through a keyed pseudo-random permutation of range(size).

    A balanced Feistel network on the smallest even number of bits that holds `size`, walked until the image
    is in range (Black & Rogaway, CT-RSA 2002). All arguments broadcast. Where slot >= size the result is
    meaningless but defined.
    """
    slot, size, key = np.broadcast_arrays(slot, size, key)
    half = np.zeros(slot.shape, np.uint64)
    bits = np.ceil(np.log2(np.maximum(size, 2))).astype(np.int64)
    half[...] = (bits + 1) // 2
    out = np.minimum(slot, np.maximum(size - 1, 0)).astype(np.uint64)
    pending = np.ones(slot.shape, bool)
    while pending.any():
        at = np.nonzero(pending)
        out[at] = _feistel(out[at], half[at], key[at])
        pending[at] = out[at] >= np.maximum(size[at], 1).astype(np.uint64)
    return out.astype(np.int64)


def _feistel(x: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for r in range(4):
        left, right = right, left ^ (mix(key, r, right) & mask)
    return (left << half) | right


def rank(universe: NegativeUniverse, user: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the rank at an index of the user's universe.

    The rank is the index plus the number of seen ranks at or before it.
    """
    skipped = np.searchsorted(universe.shifted, user * (universe.titles + 1) + index, side="right")
    return index + skipped - universe.start[user]


def draw(
    universe: NegativeUniverse,
    user: np.ndarray,
    key: np.ndarray,
    hard: np.ndarray,
    n_hard: np.ndarray,
    widths: tuple[int, int, int, int],
) -> DrawnNegatives:
    """Draw the columns of all pools for Q queries, distinct within a query.

    A pool with too few titles is filled from trending, then from random.

    Args:
        universe: Universes of the partition's users.
        user: [Q] user's number in the partition.
        key: [Q] uint64 keys of the draws.
        hard: [Q, >= widths[0]] ranks of hard negatives.
        n_hard: [Q] number of real columns of `hard`, which come first.
        widths: Columns of each pool: hard, trending, tailing, random.
    """
    w_hard, w_trend, w_tail, w_random = widths
    n_trend, n_all = universe.n_trending[user][:, None], universe.n_all[user][:, None]
    n_tail = n_all - n_trend

    # Columns in the order trending | tailing | hard | random; `kind` is the pool that a column draws from.
    queries = len(user)
    c_trend, c_tail = np.arange(w_trend)[None], np.arange(w_tail)[None]
    kind = np.concatenate(
        [
            np.where(c_trend < n_trend, TRENDING, 0),
            np.where(c_tail < n_tail, TAILING, 0),
            np.where(np.arange(w_hard)[None] < n_hard[:, None], -1, 0),
            np.full((queries, w_random), RANDOM),
        ],
        axis=1,
    )
    slot = np.zeros_like(kind)
    slot[:, :w_trend], slot[:, w_trend : w_trend + w_tail] = c_trend, c_tail
    short = kind == 0
    fill_slot = w_trend + np.cumsum(short[:, w_trend:], axis=1) - 1
    from_trend = short[:, w_trend:] & (fill_slot < n_trend)
    kind[:, w_trend:][from_trend] = TRENDING
    slot[:, w_trend:][from_trend] = fill_slot[from_trend]
    kind[kind == 0] = RANDOM
    is_random = kind == RANDOM
    slot = np.where(is_random, np.cumsum(is_random, axis=1) - 1, slot)

    index = np.full(kind.shape, -1, np.int64)
    for pool, size, first in ((TRENDING, n_trend, 0), (TAILING, n_tail, n_trend)):
        at = kind == pool
        whole = np.broadcast_to(size, kind.shape)[at]
        keys = mix(np.broadcast_to(key[:, None], kind.shape)[at], pool)
        index[at] = permute(slot[at], whole, keys) + np.broadcast_to(first, kind.shape)[at]
    taken = np.sort(np.where(index >= 0, index, np.iinfo(np.int64).max), axis=1)
    n_taken = (index >= 0).sum(axis=1, keepdims=True)
    remaining = n_all - n_taken
    enough = (is_random.sum(axis=1, keepdims=True) <= remaining)[:, 0]
    # A random column is an index x among the remaining titles: universe index x + #{i: taken_i - i <= x}.
    row, column = np.nonzero(is_random)
    x = permute(slot[row, column], remaining[row, 0], mix(key[row], RANDOM))
    shifted = taken - np.arange(taken.shape[1])[None]
    index[row, column] = x + (shifted[row] <= x[:, None]).sum(axis=1)

    ranks = np.zeros(kind.shape, np.int64)
    row, column = np.nonzero((kind > 0) & enough[:, None])
    ranks[row, column] = rank(universe, user[row], index[row, column])
    ends = np.cumsum([w_trend, w_tail, w_hard])
    trend, tail, filled, rand = np.split(ranks, ends, axis=1)
    hard_filled = short[:, ends[1] : ends[2]]
    columns = np.where(hard_filled, filled, hard[:, :w_hard])
    return DrawnNegatives(
        (columns, trend, tail, rand), enough, hard_filled, _count_fills(kind, short, enough, ends)
    )


def _count_fills(kind: np.ndarray, short: np.ndarray, enough: np.ndarray, ends: np.ndarray) -> dict[str, int]:
    names = {TRENDING: "trending", RANDOM: "random"}
    pools = np.split(np.arange(kind.shape[1]), ends)[:3]
    short = short & enough[:, None]
    return {
        f"{pool} from {name}": int((short[:, columns] & (kind[:, columns] == source)).sum())
        for pool, columns in zip(("trending", "tailing", "hard"), pools, strict=True)
        for source, name in names.items()
        if pool != name
    }
