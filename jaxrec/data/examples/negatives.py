"""The four negative pools (Table 2 of the paper): uniform keyed draws.

Draws are without replacement, by counter hash.

Pools draw popularity *ranks*: the trending titles are the first `trending` ranks, the tailing titles are
the rest. The *universe* of a user is the catalogue without the titles of the user's whole log, in rank
order. The first `n_trending` titles of the universe are the trending pool, the others the tailing pool, and
all of them the random pool. A draw is an index into the universe, from a keyed permutation. Draws are
distinct by construction, a function of (seed, user, position, slot) alone, and exact even when a pool is
nearly exhausted.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.hashing import extend, mix
from jaxrec.data.events.event_log import Log, TitleStats

_ROUNDS = 4
_BLOCK = 65_536  # elements permuted at once: their working set stays in a core's cache
_MAX_COUNTED = 64  # seen titles up to which counting them beats a binary search
TRENDING, TAILING, RANDOM = 1, 2, 3


def permute(slot: np.ndarray, job: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Map slots through pseudo-random permutations of range(size).

    A permutation is a balanced Feistel network on the smallest even number of bits that holds the size,
    walked until the image is in range (Black & Rogaway, CT-RSA 2002).

    Args:
        slot: [N] slot to map. Where slot >= size the result is meaningless but defined.
        job: [N] int64 in [0, J), the permutation of each slot.
        size: [J] sizes.
        key: [J] uint64 keys.

    Returns:
        [N] int64 images.
    """
    limit = np.maximum(size, 1).astype(np.uint64)
    half = ((np.ceil(np.log2(np.maximum(size, 2))).astype(np.int64) + 1) // 2).astype(np.uint64)
    network = _Network(half, (np.uint64(1) << half) - np.uint64(1), [mix(key, r) for r in range(_ROUNDS)])
    out = np.minimum(slot.astype(np.uint64), limit[job] - np.uint64(1))
    pending: np.ndarray | None = None  # None: all elements
    while pending is None or len(pending):
        late = []
        for b in range(0, len(out) if pending is None else len(pending), _BLOCK):
            at = slice(b, b + _BLOCK) if pending is None else pending[b : b + _BLOCK]
            jobs = job[at]
            image = network.permute(out[at], jobs)
            out[at] = image
            outside = np.flatnonzero(image >= limit.take(jobs))
            late.append(outside + b if pending is None else pending[outside + b])
        pending = np.concatenate([np.empty(0, np.int64), *late])
    return out.astype(np.int64)


class _Network(NamedTuple):
    """One Feistel network per job."""

    half: np.ndarray  # [J] bits of either half
    mask: np.ndarray  # [J] ones in the low `half` bits
    rounds: list[np.ndarray]  # for each round [J]: hash of the job's key and the round's number

    def permute(self, x: np.ndarray, job: np.ndarray) -> np.ndarray:
        """Apply all rounds once to `x` [N], each element by the network of its job [N]."""
        half, mask = self.half.take(job), self.mask.take(job)
        left, right = x >> half, x & mask
        for prefix in self.rounds:
            h = extend(prefix.take(job), right)
            h &= mask
            left ^= h
            left, right = right, left
        left <<= half
        left |= right
        return left


class NegativeUniverse(NamedTuple):
    """Ranks that each user of a partition never interacted with.

    Attributes:
        titles: Catalogue size without ids 0 and 1.
        trending: Number of trending titles, which have the first ranks.
        shifted: Sorted int64: user * (titles + 1) + (seen rank - number of smaller seen ranks).
        start: [users + 1] each user's range in `shifted`.
        seen_trending: [users] number of trending titles in the user's log.
    """

    titles: int
    trending: int
    shifted: np.ndarray
    start: np.ndarray
    seen_trending: np.ndarray

    @property
    def n_trending(self) -> np.ndarray:
        """Number of titles [users] of the trending pools."""
        return self.trending - self.seen_trending

    @property
    def n_all(self) -> np.ndarray:
        """Number of titles [users] of the universes."""
        return self.titles - np.diff(self.start)

    def rank(self, user: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return the rank at indices of users' universes.

        The rank is the index plus the number of seen ranks at or before it.

        Args:
            user: [Q] users, in descending order of the number of titles seen.
            index: [C, Q] indices into the universe of each user.

        Returns:
            [C, Q] ranks.
        """
        first, seen = self.start[user], np.diff(self.start)[user]
        many = int((seen > _MAX_COUNTED).sum())
        shifted_rank = self.shifted - np.repeat(np.arange(len(self.start) - 1), np.diff(self.start)) * (
            self.titles + 1
        )
        skipped = np.zeros(index.shape, np.uint8)
        for j in range(int(seen[many:].max(initial=0))):
            rows = slice(many, int((seen > j).sum()))
            at = shifted_rank[first[rows] + j].astype(index.dtype)
            skipped[:, rows] += (at <= index[:, rows]).view(np.uint8)
        out = index + skipped
        keys = user[:many] * (self.titles + 1) + index[:, :many]
        out[:, :many] = index[:, :many] + np.searchsorted(self.shifted, keys, side="right") - first[:many]
        return out


def negative_universe(
    user: np.ndarray, rank: np.ndarray, users: int, titles: int, trending: int
) -> NegativeUniverse:
    """Build the universes of a partition's users.

    Args:
        user: [pairs] user in [0, users), of the distinct (user, rank) pairs sorted by user, then rank.
        rank: [pairs] popularity rank of the title seen.
        users: Number of users.
        titles: Catalogue size without ids 0 and 1.
        trending: Number of trending titles.
    """
    start = np.searchsorted(user, np.arange(users + 1))
    number = np.arange(len(user)) - start[user]
    shifted = user.astype(np.int64) * (titles + 1) + (rank - number)
    seen = np.bincount(user[rank < trending], minlength=users)
    return NegativeUniverse(titles, trending, shifted, start, seen)


def universe_of(
    log: Log, catalogue: TitleStats, events: np.ndarray | slice = slice(None)
) -> NegativeUniverse:
    """Return the titles that each user of a log did not meet in `events`."""
    titles = len(catalogue.runtime)
    pair = np.unique(log.user[events] * titles + log.rank[events])
    return negative_universe(pair // titles, pair % titles, len(log.hash), titles, catalogue.trending)


class DrawnNegatives(NamedTuple):
    """Drawn columns as ranks, by pool: hard, trending, tailing, random.

    Attributes:
        ranks: Popularity ranks by pool, each [Q, width of the pool], whole numbers.
        enough: [Q] bool, False where too few titles remained in the catalogue.
        hard_filled: [Q, hard] bool, True for a fill in place of a hard negative.
        fills: "<pool> from <pool>" -> number of columns filled.
    """

    ranks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    enough: np.ndarray
    hard_filled: np.ndarray
    fills: dict[str, int]


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
    order = np.argsort(-np.diff(universe.start)[user], kind="stable")  # required by NegativeUniverse.rank
    user, key, n_real = user[order], key[order], np.minimum(n_hard[order], widths[0])
    columns = _pool_columns(universe, user, n_real, widths)
    w_hard, w_trend, w_tail, _ = widths
    ends = np.cumsum([w_trend, w_tail, w_hard])
    n_trend, queries = universe.n_trending[user], len(user)

    size = np.concatenate([n_trend, universe.n_all[user] - n_trend, columns.remaining])
    keys = np.concatenate([mix(key, pool) for pool in (TRENDING, TAILING, RANDOM)])
    # The job of a real hard negative is computed too and not used.
    job = np.maximum(columns.pool - 1, 0) * np.int64(queries) + np.arange(queries)
    index = permute(columns.slot.ravel(), job.ravel(), size, keys).reshape(job.shape).astype(np.int32)
    tailing = slice(w_trend, ends[1])
    index[tailing] += np.where(columns.pool[tailing] == TAILING, n_trend, 0).astype(np.int32)
    _skip_taken(index, columns.pool, ends[2])

    ranks = np.zeros((queries, len(index)), np.int32)
    ranks[order] = np.where(columns.enough, universe.rank(user, index), 0).T
    enough = np.zeros(queries, bool)
    enough[order] = columns.enough
    trend, tail, filled, rand = np.split(ranks, ends, axis=1)
    hard_filled = np.arange(w_hard) >= n_hard[:, None]
    chosen = np.where(hard_filled, filled, hard[:, :w_hard])
    return DrawnNegatives((chosen, trend, tail, rand), enough, hard_filled, columns.fills)


class _PoolColumns(NamedTuple):
    """Source pool of each of the C columns of Q queries.

    Columns are in the order trending, tailing, hard, random.
    """

    pool: np.ndarray  # [C, Q] int8, 0 for a real hard negative
    slot: np.ndarray  # [C, Q] int32, number of the column among the query's columns of its pool
    remaining: np.ndarray  # [Q] titles that remain once the trending and tailing pools are drawn
    enough: np.ndarray  # [Q] bool
    fills: dict[str, int]


def _pool_columns(
    universe: NegativeUniverse, user: np.ndarray, n_hard: np.ndarray, widths: tuple[int, int, int, int]
) -> _PoolColumns:
    """Assign columns to pools, with fills for short pools.

    A short pool is filled from trending while titles remain, then from random.
    """
    w_hard, w_trend, w_tail, w_random = widths
    n_trend, n_tail = universe.n_trending[user], universe.n_all[user] - universe.n_trending[user]
    n_trend, n_tail, n_hard = (n.astype(np.int32) for n in (n_trend, n_tail, n_hard))
    no_trend, no_tail, no_hard = (
        np.maximum(w_trend - n_trend, 0),
        np.maximum(w_tail - n_tail, 0),
        w_hard - n_hard,
    )
    spare = np.minimum(no_tail + no_hard, np.maximum(n_trend - w_trend, 0))  # fills from trending
    beyond = no_trend + no_tail + no_hard - spare  # fills from random
    remaining = n_trend + n_tail - (np.minimum(n_trend, w_trend) + spare + np.minimum(n_tail, w_tail))
    enough = beyond + w_random <= remaining

    trend, tail, hard, rand = (
        np.arange(w, dtype=np.int32)[:, None] for w in (w_trend, w_tail, w_hard, w_random)
    )
    # Number of the fill, where the column is a fill.
    fill = np.concatenate([tail - n_tail, hard - n_hard + no_tail])
    own = np.concatenate([tail < n_tail, hard < n_hard])
    of_trend = fill < spare
    pool = np.concatenate([
        np.where(trend < n_trend, np.int8(TRENDING), np.int8(RANDOM)),
        np.where(of_trend, np.int8(TRENDING), np.int8(RANDOM)),
        np.full((w_random, len(user)), RANDOM, np.int8),
    ])  # fmt: skip
    slot = np.concatenate([
        np.where(trend < n_trend, trend, trend - n_trend),
        np.where(of_trend, fill + np.int32(w_trend), fill + (no_trend - spare)),
        rand + beyond,
    ])  # fmt: skip
    pool[w_trend : w_trend + w_tail][own[:w_tail]] = TAILING
    pool[w_trend + w_tail : w_trend + w_tail + w_hard][own[w_tail:]] = 0
    slot[w_trend : w_trend + w_tail] = np.where(own[:w_tail], tail, slot[w_trend : w_trend + w_tail])
    tail_from_trend = np.minimum(no_tail, spare)
    fills = {
        "trending from random": no_trend,
        "tailing from trending": tail_from_trend,
        "tailing from random": no_tail - tail_from_trend,
        "hard from trending": spare - tail_from_trend,
        "hard from random": no_hard - spare + tail_from_trend,
    }
    return _PoolColumns(
        pool, slot, remaining, enough, {name: int(n[enough].sum()) for name, n in fills.items()}
    )


def _skip_taken(index: np.ndarray, pool: np.ndarray, drawn: int) -> None:
    """Convert random columns from numbers among remaining titles to indices.

    The conversion is in place. Indices are into the user's universe.

    The x-th remaining index is x + #{i: taken_i - i <= x}, where `taken` are the sorted indices of the other
    pools, which are in the first `drawn` columns.

    Args:
        index: [C, Q] indices; modified.
        pool: [C, Q] pool of each column.
        drawn: Number of columns before those of the random pool.
    """
    real = (pool[:drawn] == TRENDING) | (pool[:drawn] == TAILING)
    taken = np.where(real, index[:drawn], np.iinfo(np.int32).max)
    shifted = np.sort(np.ascontiguousarray(taken.T), axis=1).T - np.arange(drawn, dtype=np.int32)[:, None]
    count = np.min_scalar_type(drawn)  # summing bytes is many times faster than summing wider numbers
    for column in index[drawn:]:
        column += (shifted <= column).view(np.uint8).sum(axis=0, dtype=count)
    at = np.nonzero(pool[:drawn] == RANDOM)
    index[at] += (shifted[:, at[1]] <= index[at]).view(np.uint8).sum(axis=0, dtype=count)


def densities(
    universe: NegativeUniverse, user: np.ndarray, rank: np.ndarray, abandoned: np.ndarray, n_hard: np.ndarray,
    widths: tuple[int, int, int, int],
) -> np.ndarray:  # fmt: skip
    """Return q, the expected count of each candidate as a negative of a list.

    Pool sizes count the target as not interacted with: under the hypothesis that another candidate is the
    target, the target is a negative.

    Args:
        universe: Universes of the partition's users.
        user: [Q] user's number in the partition.
        rank: [Q, C] ranks of the candidates, the target in column 0.
        abandoned: [Q, C] the truth's density of hard negatives.
        n_hard: [Q] number of real hard negatives.
        widths: Columns of each pool of the list: hard, trending, tailing, random.

    Returns:
        [Q, C] float64.
    """
    w_hard, w_trend, w_tail, w_random = widths
    target_trending = rank[:, :1] < universe.trending
    n_trend = universe.n_trending[user][:, None] + target_trending
    n_tail = (universe.n_all - universe.n_trending)[user][:, None] + ~target_trending
    n_hard = np.minimum(n_hard, w_hard)[:, None]
    in_trend = (w_trend + w_hard - n_hard) / np.maximum(n_trend, 1)
    in_tail = w_tail / np.maximum(n_tail, 1)
    everywhere = w_random / np.maximum(n_trend + n_tail, 1)
    return n_hard * abandoned + np.where(rank < universe.trending, in_trend, in_tail) + everywhere
