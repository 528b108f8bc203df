"""From the sorted log of a partition's users to example rows: a vectorised function, no loop over users."""

from dataclasses import dataclass, field

import numpy as np

from jaxrec.config.schema import LIST_MIXES, Data
from jaxrec.core.hashing import mix
from jaxrec.core.ids import LISTS, POOLS, SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import (
    EventState,
    Log,
    TitleStats,
    event_states,
    has_watch_time,
    last_plays,
    ranges,
)
from jaxrec.data.examples import negatives

_TRAIN_DRAW, _HARD_DRAW = 0, 1000  # salts of the draws; list l of next title k has 1 + l * next_k + k
_CHUNK = 16_384  # queries worked on at once, which bounds memory
_MOST_ABANDONED = 512  # the latest this many abandoned plays are a request's hard pool


@dataclass
class Examples:
    """A partition's rows, users numbered from 0 within each split of the partition."""

    rows: dict[str, np.ndarray]  # of each split: Layout.row_dtype of "train", else Layout.query_dtype
    requests: dict[str, tuple[np.ndarray, np.ndarray]]  # (user in [0, U), time) of each row
    users: dict[str, np.ndarray]  # hashes of each split's users, in the order of their numbers
    counts: dict[str, int] = field(default_factory=dict)
    completion_sum: int = 0  # of training targets, in 2**-32, whole so that its order cannot matter
    completions: int = 0  # how many they are


def targets(log: Log, then: EventState, data: Data) -> np.ndarray:
    """[Q] events whose title is asked for: something is strictly before them, they are not abandoned in the
    end, and with data.targets="new" they are first plays."""
    past = then.start > then.user_start
    new = then.first if data.targets == "new" else True
    return np.flatnonzero(past & (then.total >= data.abandon_below) & new)


def of_targets(log: Log, query: np.ndarray, key_hash: np.ndarray, data: Data) -> np.ndarray:
    """[Q] int8 split of each target, of which a user keeps one at least for training."""
    user, time = log.user[query], log.time[query]
    order = splits.in_order(data, log.hash, user, time, key_hash[log.rank[query]])
    out = np.empty(len(query), np.int8)
    out[order] = splits.of_targets(data, log.split, log.hash, user, time[order], least=1)
    return out


def build(
    log: Log, catalogue: TitleStats, layout: Layout, data: Data
) -> tuple["Examples", negatives.NegativeUniverse]:
    """All rows of a partition's users. The universe comes back for the oracle's densities.

    What a training row says of titles after its own time, it may know from held-out days where data.split
    is not "users": how far its target was seen in the end, hence which are targets. Its next titles and
    its negatives do not.
    """
    then = event_states(log, catalogue.runtime)
    world = _universe(log, catalogue)
    query = targets(log, then, data)
    position = np.arange(len(query)) - np.searchsorted(log.user[query], log.user[query])
    split = of_targets(log, query, catalogue.hash, data)
    upcoming = _upcoming(log.user[query], split, query, layout.next_k)
    out = Examples({}, {}, {})
    for s, name in enumerate(SPLITS):
        mine = np.flatnonzero(split == s)
        users = log.split == s
        within = world
        if data.split != "users":
            users = np.isin(np.arange(len(log.hash)), log.user[query[mine]])
            if name == "train":  # a title that is never a negative would be known to be held out
                seen = splits.training_events(data, log.split, log.user, log.time, query, split)
                within = _universe(log, catalogue, seen)
        number = np.cumsum(users) - 1
        rows = np.zeros(len(mine), layout.row_dtype() if name == "train" else layout.query_dtype())
        enough = np.ones(len(mine), bool)
        for i in range(0, len(mine), _CHUNK):
            c, part = mine[i : i + _CHUNK], slice(i, i + _CHUNK)
            enough[part] = _rows(
                log, then, within, catalogue.id_of_rank, query[c], position[c], upcoming[c], number, layout,
                data, name, out.counts, rows[part],
            )  # fmt: skip
        rows, kept = (rows, query[mine]) if enough.all() else (rows[enough], query[mine[enough]])
        out.users[name] = log.hash[users]
        out.rows[name], out.requests[name] = rows, (log.user[kept], log.time[kept])
    exact = out.rows["train"]["target_completion"][:, 0] * 2.0**32  # a power of two rounds nothing
    out.completion_sum, out.completions = int(np.rint(exact).astype(np.int64).sum()), len(exact)
    return out, world


def _universe(
    log: Log, catalogue: TitleStats, seen: np.ndarray | slice = slice(None)
) -> negatives.NegativeUniverse:
    """What no user met in the events of `seen`."""
    titles = len(catalogue.runtime)
    pair = np.unique(log.user[seen] * titles + log.rank[seen])
    return negatives.negative_universe(
        pair // titles, pair % titles, len(log.hash), titles, catalogue.trending
    )


def _upcoming(user: np.ndarray, split: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """[Q, k] events of the user's next k targets in the split, this query's own first, -1 where there are
    fewer."""
    ahead = np.arange(len(query))[:, None] + np.arange(k)
    inside = np.minimum(ahead, max(len(query) - 1, 0))
    same = (ahead < len(query)) & (user[inside] == user[:, None]) & (split[inside] == split[:, None])
    return np.where(same, query[inside], -1)


def _rows(
    log: Log, then: EventState, world: negatives.NegativeUniverse, id_of_rank: np.ndarray, query: np.ndarray,
    position: np.ndarray, upcoming: np.ndarray, number: np.ndarray, layout: Layout, data: Data,
    split: str, counts: dict[str, int], rows: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Fills `rows`, which are zeros, for one chunk of queries of one split; False where one cannot be."""
    user = log.user[query]
    key = mix(data.seed, log.hash[user], position)
    rank = np.where(upcoming >= 0, log.rank[upcoming], -1)
    hard, n_hard = _hard_pool(log, then, query, rank, key, max(data.hard, layout.negatives), data)
    if split == "train":
        drawn = negatives.draw(world, user, mix(key, _TRAIN_DRAW), hard, n_hard, layout.pools)
        for name, ranks in zip(POOLS, drawn.ranks, strict=True):
            rows[f"pool_{name}"] = id_of_rank[ranks]
        rows["pool_hard_filled"] = drawn.hard_filled
        _count(counts, {**drawn.fills, "hard columns": drawn.hard_filled.size,
                        "hard columns filled": int(drawn.hard_filled.sum())})  # fmt: skip
        enough = drawn.enough
    else:
        enough = _fill_lists(rows, world, id_of_rank, user, key, rank, hard, n_hard, layout)
    _count(counts, {f"{split} examples with too few titles left": int((~enough).sum())})

    rows["user"], rows["position"] = number[user], position
    rows["target"] = np.where(rank >= 0, id_of_rank[rank], 0)
    rows["target_completion"] = np.where(rank >= 0, then.total[upcoming], 0)
    _fill_history(rows, log, then, id_of_rank, query, layout.history, data.abandon_below)
    for name, values in (
        ("user_categories", log.user_categories[user]),
        ("user_numbers", log.user_numbers[user]),
        ("context_categories", log.context_categories[query]),
        ("context_numbers", log.context_numbers[query]),
    ):
        if name in (rows.dtype.names or ()):
            rows[name] = values
    return enough


def _fill_history(
    rows: np.ndarray,
    log: Log,
    then: EventState,
    id_of_rank: np.ndarray,
    query: np.ndarray,
    width: int,
    below: float,
) -> None:
    """What each query may look back on; rows come as zeros, and most histories are far from full."""
    row, event, back = last_plays(then.start[query], then.user_start[query], then.next, width)
    at = row, width - back
    age = (log.time[query[row]] - log.time[event]) / 1000.0
    rows["history_title"][at] = id_of_rank[log.rank[event]]
    rows["history_completion"][at] = then.completion[event]
    rows["history_age"][at] = np.log1p(age)
    rows["history_sessions"][at] = np.minimum(then.sessions[event], 255)
    rows["history_abandoned"][at] = then.completion[event] < below


def _count(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n


def _hard_pool(
    log: Log,
    then: EventState,
    query: np.ndarray,
    targets: np.ndarray,
    key: np.ndarray,
    width: int,
    data: Data,
) -> tuple[np.ndarray, np.ndarray]:
    """[Q, width] ranks of titles the user had abandoned before the query, uniformly drawn, and how many."""
    if not has_watch_time(log):  # nothing is known to be abandoned
        return np.zeros((len(query), width), np.int64), np.zeros(len(query), np.int64)
    abandoned = np.nonzero(then.completion < data.abandon_below)[0]
    low = np.searchsorted(abandoned, then.user_start[query])
    high = np.searchsorted(abandoned, then.start[query])
    low = np.maximum(low, high - _MOST_ABANDONED)
    row, at = ranges(low, high - low)
    event = abandoned[at]
    live = then.next[event] >= then.start[query][row]
    live &= ~(log.rank[event][:, None] == targets[row]).any(axis=1)
    row, rank = row[live], log.rank[event[live]]
    order = np.lexsort((mix(key[row], _HARD_DRAW, rank), row))
    row, rank = row[order], rank[order]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    out = np.zeros((len(query), width), np.int64)
    inside = column < width
    out[row[inside], column[inside]] = rank[inside]
    return out, np.minimum(np.bincount(row, minlength=len(query)), width)


def list_widths(name: str, negatives_in_list: int) -> tuple[int, int, int, int]:
    """How many of each pool a frozen list holds (Table 2, lower half)."""
    m = LIST_MIXES[name]
    h, t, l, r = (round(share * negatives_in_list) for share in (m.hard, m.trending, m.tailing, m.random))
    return h, t, l, r


def _fill_lists(
    rows: np.ndarray,
    world: negatives.NegativeUniverse,
    id_of_rank: np.ndarray,
    user: np.ndarray,
    key: np.ndarray,
    rank: np.ndarray,
    hard: np.ndarray,
    n_hard: np.ndarray,
    layout: Layout,
) -> np.ndarray:
    """Draws the frozen lists of each query and its next titles; False where too few titles are left."""
    enough = np.ones(len(rows), bool)
    row, k = np.nonzero(rank >= 0)  # the first title of every query is there
    for l, name in enumerate(LISTS):
        widths = list_widths(name, layout.negatives)
        salt = 1 + l * layout.next_k + k
        mine, count = hard[row, : widths[0]], np.minimum(n_hard[row], widths[0])
        if widths[0]:  # each list draws its own hard negatives, uniformly from those drawn for the query
            mine = _reorder(hard[row], n_hard[row], mix(key[row], salt, _HARD_DRAW))
        drawn = negatives.draw(world, user[row], mix(key[row], salt), mine, count, widths)
        rows[f"list_{name}"][row, k] = id_of_rank[np.concatenate(drawn.ranks, axis=1)]
        if name == "enabled":
            rows["list_hard"][row, k] = count
        enough &= drawn.enough[k == 0]  # it is the same for every next title
    return enough


def _reorder(hard: np.ndarray, n_hard: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The real hard columns in a keyed order, still first."""
    draws = mix(key[:, None], hard) >> np.uint64(1)
    draws[np.arange(hard.shape[1])[None] >= n_hard[:, None]] = np.iinfo(np.uint64).max
    return np.take_along_axis(hard, np.argsort(draws, axis=1, kind="stable"), axis=1)
