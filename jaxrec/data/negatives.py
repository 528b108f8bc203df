"""The four negative pools (Table 2 of the paper): uniform draws without replacement, by counter hash.

Pools draw popularity *ranks*: the trending titles are the first `trending` ranks, the tailing ones the
rest. A user's *universe* is the catalogue less every title of the user's whole log, in rank order, so
its first `n_trending` places are the trending pool, the others the tailing pool, and all of them the
random pool. A draw is a place in the universe, from a keyed permutation: distinct by construction, a
function of (seed, user, position, slot) alone, and exact however little of a pool is left.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.hashing import mix

_ROUNDS = 4
TRENDING, TAILING, RANDOM = 1, 2, 3


def permute(slot: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Image of `slot` under a pseudo-random permutation of range(size), keyed by uint64 `key`.

    A balanced Feistel network on the smallest even number of bits that holds `size`, walked until
    the image falls in range (Black & Rogaway, CT-RSA 2002). All arguments broadcast; wherever
    slot >= size the result is meaningless but defined.
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
    for r in range(_ROUNDS):
        left, right = right, left ^ (mix(key, r, right) & mask)
    return (left << half) | right


class Universe(NamedTuple):
    """Which ranks each user of a partition never interacted with."""

    titles: int  # catalogue size, ids 0 and 1 not counted
    trending: int  # how many first ranks are trending
    shifted: np.ndarray  # sorted: user * (titles + 1) + (rank - how many seen ranks come before it)
    start: np.ndarray  # [users + 1] each user's range in `shifted`
    seen_trending: np.ndarray  # [users] interacted titles that are trending

    @property
    def n_trending(self) -> np.ndarray:
        return self.trending - self.seen_trending

    @property
    def n_all(self) -> np.ndarray:
        return self.titles - np.diff(self.start)

    def rank(self, user: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The rank at a place of the user's universe: `place` plus the seen ranks at or before it."""
        before = np.searchsorted(self.shifted, user * (self.titles + 1) + place, side="right")
        return place + before - self.start[user]


def universe(user: np.ndarray, rank: np.ndarray, users: int, titles: int, trending: int) -> Universe:
    """From the distinct (user, rank) pairs of a partition, sorted by user then rank."""
    start = np.searchsorted(user, np.arange(users + 1))
    order_within = np.arange(len(user)) - start[user]
    shifted = user.astype(np.int64) * (titles + 1) + (rank - order_within)
    seen = np.bincount(user[rank < trending], minlength=users)
    return Universe(titles, trending, shifted, start, seen)


class Drawn(NamedTuple):
    """Columns of each pool as ranks; hard, trending, tailing, random."""

    ranks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # each [Q, width]
    enough: np.ndarray  # [Q] bool: False where the catalogue had too few titles left
    hard_filled: np.ndarray  # [Q, hard] bool
    fills: dict[str, int]  # how many columns were filled, by "<pool> from <pool>"


def draw(
    world: Universe,
    user: np.ndarray,
    key: np.ndarray,
    hard: np.ndarray,
    n_hard: np.ndarray,
    widths: tuple[int, int, int, int],
) -> Drawn:
    """Fills the columns of all pools for Q queries, every column of a query a different title.

    user [Q] local user number; key [Q] uint64; hard [Q, >= widths[0]] ranks of hard negatives of which
    the first n_hard are real. A short pool is filled from trending, then from random.
    """
    w_hard, w_trend, w_tail, w_random = widths
    n_trend, n_all = world.n_trending[user][:, None], world.n_all[user][:, None]
    n_tail = n_all - n_trend

    # Columns in the order trending | tailing | hard | random; `kind` is the pool each really draws from.
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

    place = np.full(kind.shape, -1, np.int64)
    for pool, size, first in ((TRENDING, n_trend, 0), (TAILING, n_tail, n_trend)):
        at = kind == pool
        whole = np.broadcast_to(size, kind.shape)[at]
        keys = mix(np.broadcast_to(key[:, None], kind.shape)[at], pool)
        place[at] = permute(slot[at], whole, keys) + np.broadcast_to(first, kind.shape)[at]
    taken = np.sort(np.where(place >= 0, place, np.iinfo(np.int64).max), axis=1)
    n_taken = (place >= 0).sum(axis=1, keepdims=True)
    left = n_all - n_taken
    enough = (is_random.sum(axis=1, keepdims=True) <= left)[:, 0]
    # Random columns are places among those not taken yet: the x-th of them is x + #{i: taken_i - i <= x}.
    row, column = np.nonzero(is_random)
    x = permute(slot[row, column], left[row, 0], mix(key[row], RANDOM))
    shifted = taken - np.arange(taken.shape[1])[None]
    place[row, column] = x + (shifted[row] <= x[:, None]).sum(axis=1)

    ranks = np.zeros(kind.shape, np.int64)
    row, column = np.nonzero((kind > 0) & enough[:, None])
    ranks[row, column] = world.rank(user[row], place[row, column])
    ends = np.cumsum([w_trend, w_tail, w_hard])
    trend, tail, filled, rand = np.split(ranks, ends, axis=1)
    hard_filled = short[:, ends[1] : ends[2]]
    columns = np.where(hard_filled, filled, hard[:, :w_hard])
    return Drawn((columns, trend, tail, rand), enough, hard_filled, _count_fills(kind, short, enough, ends))


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


def densities(
    world: Universe, user: np.ndarray, rank: np.ndarray, abandoned: np.ndarray, n_hard: np.ndarray,
    widths: tuple[int, int, int, int],
) -> np.ndarray:  # fmt: skip
    """q [Q, C]: the expected number of times a list of these widths holds each candidate as a negative.

    rank [Q, C] candidates, the target in column 0; abandoned [Q, C] the truth's density of hard
    negatives; n_hard [Q] real hard columns. Pool sizes count the target as not interacted with, for
    under each other hypothesis of who is the target it is a negative.
    """
    w_hard, w_trend, w_tail, w_random = widths
    target_trending = rank[:, :1] < world.trending
    n_trend = world.n_trending[user][:, None] + target_trending
    n_tail = (world.n_all - world.n_trending)[user][:, None] + ~target_trending
    n_hard = np.minimum(n_hard, w_hard)[:, None]
    in_trend = (w_trend + w_hard - n_hard) / np.maximum(n_trend, 1)
    in_tail = w_tail / np.maximum(n_tail, 1)
    everywhere = w_random / np.maximum(n_trend + n_tail, 1)
    return n_hard * abandoned + np.where(rank < world.trending, in_trend, in_tail) + everywhere
