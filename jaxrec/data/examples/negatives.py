"""The four negative pools (Table 2 of the paper): uniform draws without replacement, by counter hash.

Pools draw popularity *ranks*: the trending titles are the first `trending` ranks, the tailing ones the
rest. A user's *universe* is the catalogue less every title of the user's whole log, in rank order, so
its first `n_trending` places are the trending pool, the others the tailing pool, and all of them the
random pool. A draw is a place in the universe, from a keyed permutation: distinct by construction, a
function of (seed, user, position, slot) alone, and exact however little of a pool is left.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.hashing import extend, mix

_ROUNDS = 4
_BLOCK = 65_536  # elements permuted at once: what they need stays in a core's cache
_FEW = 64  # seen titles up to which counting them beats a binary search
TRENDING, TAILING, RANDOM = 1, 2, 3


def permute(slot: np.ndarray, job: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """int64 images [N] of `slot` [N] under many pseudo-random permutations: job j's is of range(size[j]).

    job [N] int64 in [0, J); size [J]; key [J] uint64. A balanced Feistel network on the smallest even
    number of bits that holds the size, walked until the image falls in range (Black & Rogaway, CT-RSA
    2002). Where slot >= size the result is meaningless but defined.
    """
    limit = np.maximum(size, 1).astype(np.uint64)
    half = ((np.ceil(np.log2(np.maximum(size, 2))).astype(np.int64) + 1) // 2).astype(np.uint64)
    network = _Network(half, (np.uint64(1) << half) - np.uint64(1), [mix(key, r) for r in range(_ROUNDS)])
    out = np.minimum(slot.astype(np.uint64), limit[job] - np.uint64(1))
    pending: np.ndarray | None = None  # None: all of them
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
    """A Feistel network a job."""

    half: np.ndarray  # [J] bits of either half
    mask: np.ndarray  # [J] as many ones
    rounds: list[np.ndarray]  # [J] a round: hash of the job's key and the round's number

    def permute(self, x: np.ndarray, job: np.ndarray) -> np.ndarray:
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
        """The rank [C, Q] at places [C, Q] of the users' [Q] universes, users of most titles seen first.

        It is the place plus how many seen ranks come at or before it.
        """
        first, seen = self.start[user], np.diff(self.start)[user]
        many = int((seen > _FEW).sum())
        place_of = self.shifted - np.repeat(np.arange(len(self.start) - 1), np.diff(self.start)) * (
            self.titles + 1
        )
        before = np.zeros(place.shape, np.uint8)
        for j in range(int(seen[many:].max(initial=0))):
            rows = slice(many, int((seen > j).sum()))
            at = place_of[first[rows] + j].astype(place.dtype)
            before[:, rows] += (at <= place[:, rows]).view(np.uint8)
        out = place + before
        asked = user[:many] * (self.titles + 1) + place[:, :many]
        out[:, :many] = place[:, :many] + np.searchsorted(self.shifted, asked, side="right") - first[:many]
        return out


def negative_universe(
    user: np.ndarray, rank: np.ndarray, users: int, titles: int, trending: int
) -> NegativeUniverse:
    """From the distinct (user, rank) pairs of a partition, sorted by user then rank."""
    start = np.searchsorted(user, np.arange(users + 1))
    order_within = np.arange(len(user)) - start[user]
    shifted = user.astype(np.int64) * (titles + 1) + (rank - order_within)
    seen = np.bincount(user[rank < trending], minlength=users)
    return NegativeUniverse(titles, trending, shifted, start, seen)


class DrawnNegatives(NamedTuple):
    """Columns of each pool as ranks; hard, trending, tailing, random."""

    ranks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # each [Q, width]
    enough: np.ndarray  # [Q] bool: False where the catalogue had too few titles left
    hard_filled: np.ndarray  # [Q, hard] bool
    fills: dict[str, int]  # how many columns were filled, by "<pool> from <pool>"


def draw(
    world: NegativeUniverse,
    user: np.ndarray,
    key: np.ndarray,
    hard: np.ndarray,
    n_hard: np.ndarray,
    widths: tuple[int, int, int, int],
) -> DrawnNegatives:
    """Fills the columns of all pools for Q queries, every column of a query a different title.

    user [Q] local user number; key [Q] uint64; hard [Q, >= widths[0]] ranks of hard negatives of which
    the first n_hard are real. A short pool is filled from trending, then from random.
    """
    order = np.argsort(-np.diff(world.start)[user], kind="stable")  # as Universe.rank wants them
    user, key, n_real = user[order], key[order], np.minimum(n_hard[order], widths[0])
    columns = _pool_columns(world, user, n_real, widths)
    w_hard, w_trend, w_tail, _ = widths
    ends = np.cumsum([w_trend, w_tail, w_hard])
    n_trend, queries = world.n_trending[user], len(user)

    size = np.concatenate([n_trend, world.n_all[user] - n_trend, columns.left])
    keys = np.concatenate([mix(key, pool) for pool in (TRENDING, TAILING, RANDOM)])
    job = np.maximum(columns.pool - 1, 0) * np.int64(queries) + np.arange(queries)  # a real one's is wasted
    place = permute(columns.slot.ravel(), job.ravel(), size, keys).reshape(job.shape).astype(np.int32)
    tailing = slice(w_trend, ends[1])
    place[tailing] += np.where(columns.pool[tailing] == TAILING, n_trend, 0).astype(np.int32)
    _skip_taken(place, columns.pool, ends[2])

    ranks = np.zeros((queries, len(place)), np.int32)
    ranks[order] = np.where(columns.enough, world.rank(user, place), 0).T
    enough = np.zeros(queries, bool)
    enough[order] = columns.enough
    trend, tail, filled, rand = np.split(ranks, ends, axis=1)
    hard_filled = np.arange(w_hard) >= n_hard[:, None]
    chosen = np.where(hard_filled, filled, hard[:, :w_hard])
    return DrawnNegatives((chosen, trend, tail, rand), enough, hard_filled, columns.fills)


class _PoolColumns(NamedTuple):
    """Which pool each of the C columns of Q queries draws from: trending, tailing, hard, random, in order."""

    pool: np.ndarray  # [C, Q] int8, 0 for a real hard negative
    slot: np.ndarray  # [C, Q] int32, its number among the query's columns of that pool
    left: np.ndarray  # [Q] titles left once the trending and tailing pools are drawn
    enough: np.ndarray  # [Q] bool
    fills: dict[str, int]


def _pool_columns(
    world: NegativeUniverse, user: np.ndarray, n_hard: np.ndarray, widths: tuple[int, int, int, int]
) -> _PoolColumns:
    """A short pool's columns are filled from trending while it lasts, then from random."""
    w_hard, w_trend, w_tail, w_random = widths
    n_trend, n_tail = world.n_trending[user], world.n_all[user] - world.n_trending[user]
    n_trend, n_tail, n_hard = (n.astype(np.int32) for n in (n_trend, n_tail, n_hard))
    no_trend, no_tail, no_hard = (
        np.maximum(w_trend - n_trend, 0),
        np.maximum(w_tail - n_tail, 0),
        w_hard - n_hard,
    )
    spare = np.minimum(no_tail + no_hard, np.maximum(n_trend - w_trend, 0))  # fills that trending has
    beyond = no_trend + no_tail + no_hard - spare  # fills that random has
    left = n_trend + n_tail - (np.minimum(n_trend, w_trend) + spare + np.minimum(n_tail, w_tail))
    enough = beyond + w_random <= left

    trend, tail, hard, rand = (
        np.arange(w, dtype=np.int32)[:, None] for w in (w_trend, w_tail, w_hard, w_random)
    )
    fill = np.concatenate([tail - n_tail, hard - n_hard + no_tail])  # number of the fill, where it is one
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
    return _PoolColumns(pool, slot, left, enough, {name: int(n[enough].sum()) for name, n in fills.items()})


def _skip_taken(place: np.ndarray, pool: np.ndarray, drawn: int) -> None:
    """Turns random columns' numbers [C, Q] among the places not taken yet into places, in place.

    The x-th place left is x + #{i: taken_i - i <= x}, where taken are the places of the other pools,
    which are in the first `drawn` columns, in order.
    """
    real = (pool[:drawn] == TRENDING) | (pool[:drawn] == TAILING)
    taken = np.where(real, place[:drawn], np.iinfo(np.int32).max)
    shifted = np.sort(np.ascontiguousarray(taken.T), axis=1).T - np.arange(drawn, dtype=np.int32)[:, None]
    count = np.min_scalar_type(drawn)  # bytes add up many times faster than wider numbers
    for column in place[drawn:]:
        column += (shifted <= column).view(np.uint8).sum(axis=0, dtype=count)
    at = np.nonzero(pool[:drawn] == RANDOM)
    place[at] += (shifted[:, at[1]] <= place[at]).view(np.uint8).sum(axis=0, dtype=count)


def densities(
    world: NegativeUniverse, user: np.ndarray, rank: np.ndarray, abandoned: np.ndarray, n_hard: np.ndarray,
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
