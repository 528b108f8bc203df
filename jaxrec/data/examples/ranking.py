"""Ranking examples: rows built without a loop over users.

The input is the sorted log of a partition's users.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import LIST_MIXES, Data
from jaxrec.core.hashing import mix
from jaxrec.core.ids import DRAWN_LISTS, DRAWN_POOLS, LISTS, SERVED, SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import EventState, Log, TitleStats, event_states
from jaxrec.data.examples import negatives
from jaxrec.data.examples.histories import BesidePlays, Past, fill_features, fill_history, fill_session
from jaxrec.data.examples.user_pools import HardPool, ShownTitles, hard_pool, served_pool, shuffle_hard
from jaxrec.data.increments.selection import TargetSelection
from jaxrec.data.labels.of_targets import PartitionLabels, TargetLabels
from jaxrec.data.sessions.events import SessionEvents
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.text.named_titles import NamedTitles

_TRAIN_DRAW = 0  # salts of the draws; list l of next title k has 1 + l * num_targets + k
TOO_FEW = "{split} examples with too few titles left"  # a count
_CHUNK = 16_384  # queries processed at once, which bounds memory


@dataclass
class Examples:
    """Rows of a partition by split.

    Users are numbered from 0 within each split of the partition.

    Attributes:
        rows: Split -> rows [N] of `Layout.row_dtype` for "train", else of `Layout.query_dtype`.
        user_time: Split -> (user in [0, U), time in milliseconds) of each row, [N] each.
        users: Split -> uint64 hashes [U] of its users, in the order of their numbers.
        counts: Name -> number of rows, for the manifest.
        completion_sum: Sum of the completions of training targets, in units of 2**-32. The sum is a whole
            number, so the order of addition is irrelevant.
        completions: Number of completions in the sum.
        query: Held-out split -> event of each row; empty for exposures, which are no events of the log.
    """

    rows: dict[str, np.ndarray]
    user_time: dict[str, tuple[np.ndarray, np.ndarray]]
    users: dict[str, np.ndarray]
    counts: dict[str, int] = field(default_factory=dict)
    completion_sum: int = 0
    completions: int = 0
    query: dict[str, np.ndarray] = field(default_factory=dict)


class _Partition(NamedTuple):
    """Log of a partition's users with what the rows of all splits are built from."""

    log: Log
    states: EventState
    id_of_rank: np.ndarray
    layout: Layout
    data: Data
    signals: PastSignals | None
    shown: ShownTitles | None
    sessions: SessionEvents | None
    names: NamedTitles | None


class _SplitUsers(NamedTuple):
    """Users of a split, and the titles that may be negatives of these users."""

    name: str  # of the split
    number: np.ndarray  # of each user of the partition, within the split
    universe: negatives.NegativeUniverse


class _Queries(NamedTuple):
    """Targets of a split, by query."""

    event: np.ndarray  # [Q]
    position: np.ndarray  # [Q] among the targets of the user
    upcoming: np.ndarray  # [Q, next k] events of the next targets, -1 where there are fewer

    def at(self, indices: np.ndarray) -> "_Queries":
        return _Queries(*(column[indices] for column in self))


def targets(log: Log, states: EventState, data: Data) -> np.ndarray:
    """Return the events that are targets, in the order of the log.

    A target has a strictly earlier event of the same user, and its final completion is at least
    data.abandon_threshold. With data.targets="new" a target is also the first play of its title. With "every"
    all first plays are targets, whatever their completion.

    Args:
        log: Log of the partition, with N events.
        states: States [N] of its events.
        data: Settings of the targets.

    Returns:
        [Q] int64 indices of events.
    """
    past = states.start > states.user_start
    return np.flatnonzero(past & states.may_be_target(data))


def target_splits(log: Log, query: np.ndarray, key_hash: np.ndarray, data: Data) -> np.ndarray:
    """Return the split of each target; at least one target of a user is for training.

    Args:
        log: Log of the partition.
        query: [Q] events that are targets.
        key_hash: [V] uint64 hash of the key of each rank's title.
        data: Settings of the split.

    Returns:
        [Q] int8 index into SPLITS.
    """
    user, time = log.user[query], log.time[query]
    order = splits.sort_order(data, log.hash, user, time, key_hash[log.rank[query]])
    split = np.empty(len(query), np.int8)
    split[order] = splits.target_splits(data, log.split, log.hash, user, time[order], least=1)
    return split


def build(
    log: Log, catalogue: TitleStats, layout: Layout, data: Data, labels: PartitionLabels | None = None,
    beside: BesidePlays | None = None, selection: TargetSelection | None = None,
) -> tuple["Examples", negatives.NegativeUniverse]:  # fmt: skip
    """Build all rows of a partition's users.

    Where data.split is not "users", one fact of a training row may come from held-out days: the final
    completion of its target, which also decides which events are targets. The next titles and the negatives
    of a training row use no held-out event.

    Args:
        log: Log of the partition.
        catalogue: Titles in the order of rank.
        layout: Layout of the rows.
        data: Settings of the targets, the split and the pools.
        labels: Labels of the partition, where the layout has some.
        beside: What rows read beside the plays; None: nothing.
        selection: Targets that become rows; None: all.

    Returns:
        The rows, and the universe of negatives of the whole log, for the densities of the oracle.
    """
    states = event_states(log, catalogue.runtime)
    full_universe = negatives.universe_of(log, catalogue)
    query = targets(log, states, data)
    position = np.arange(len(query)) - np.searchsorted(log.user[query], log.user[query])
    split = target_splits(log, query, catalogue.hash, data)
    upcoming = _upcoming_targets(log.user[query], split, query, layout.num_targets)
    queries = _Queries(query, position, upcoming)
    own = beside or BesidePlays()
    partition = _Partition(
        log, states, catalogue.id_of_rank, layout, data, own.signals, own.shown, own.sessions, own.names
    )
    label_values = labels.at(query, split) if labels and layout.labels else None
    out, (kept_target, kept_user) = Examples({}, {}, {}), _selected(log, query, split, catalogue, selection)
    for s, name in enumerate(SPLITS):
        selected = np.flatnonzero((split == s) & kept_target)
        users = (log.split == s) & kept_user
        universe = full_universe
        if data.split != "users":
            users = np.isin(np.arange(len(log.hash)), log.user[query[selected]])
            if name == "train":  # a title that is never a negative would reveal that it is held out
                training = splits.training_events(data, log.split, log.user, log.time, query, split)
                universe = negatives.universe_of(log, catalogue, training)
        split_users = _SplitUsers(name, np.cumsum(users) - 1, universe)
        rows = np.zeros(len(selected), layout.row_dtype() if name == "train" else layout.query_dtype())
        enough = np.ones(len(selected), bool)
        for i in range(0, len(selected), _CHUNK):
            chunk, span = selected[i : i + _CHUNK], slice(i, i + _CHUNK)
            enough[span] = _fill_rows(rows[span], partition, split_users, queries.at(chunk), out.counts)
        if label_values:
            _fill_labels(rows, label_values, query, upcoming[selected])
        rows, kept = (rows, query[selected]) if enough.all() else (rows[enough], query[selected[enough]])
        out.users[name] = log.hash[users]
        out.rows[name], out.user_time[name] = rows, (log.user[kept], log.time[kept])
        out.query[name] = kept
    exact = out.rows["train"]["target_completion"][:, 0] * 2.0**32  # exact: a power of two
    out.completion_sum, out.completions = int(np.rint(exact).astype(np.int64).sum()), len(exact)
    return out, full_universe


def _selected(
    log: Log, query: np.ndarray, split: np.ndarray, catalogue: TitleStats, selection: TargetSelection | None
) -> tuple[np.ndarray | bool, np.ndarray | bool]:
    """Return masks of the targets [Q] and of the users [U] that may have rows."""
    if selection is None:
        return True, True
    user, context = log.user[query], log.context_categories[query]
    title_hash = catalogue.hash[log.rank[query]]
    return selection.targets(log, user, log.time[query], split, title_hash, context), selection.users(log)


def _fill_labels(rows: np.ndarray, labels: TargetLabels, query: np.ndarray, upcoming: np.ndarray) -> None:
    """Fill the labels of next titles; those of absent ones stay 0 and unknown.

    Args:
        rows: [N] rows of a split, changed in place.
        labels: Labels of the partition's targets.
        query: [Q] their events, ascending.
        upcoming: [N, next k] events of the next titles, -1 where there are fewer.
    """
    row, k = np.nonzero(upcoming >= 0)
    at = np.searchsorted(query, upcoming[row, k])
    rows["label"][row, k], rows["label_known"][row, k] = labels.y[at], labels.known[at]


def _upcoming_targets(user: np.ndarray, split: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Return the user's next k targets of each query's split, as events [Q, k].

    The query's own target is first; -1 where there are fewer than k.
    """
    ahead = np.arange(len(query))[:, None] + np.arange(k)
    inside = np.minimum(ahead, max(len(query) - 1, 0))
    same = (ahead < len(query)) & (user[inside] == user[:, None]) & (split[inside] == split[:, None])
    return np.where(same, query[inside], -1)


def _fill_rows(
    rows: np.ndarray, partition: _Partition, users: _SplitUsers, queries: _Queries, counts: dict[str, int]
) -> np.ndarray:
    """Fill the rows of a chunk of queries of one split.

    The rows are initially zero. The result [Q] is False where too few titles remain.
    """
    log, states, id_of_rank, layout, data, signals, _, sessions, names = partition
    query, position, upcoming = queries
    user = log.user[query]
    key = mix(data.seed, log.hash[user], position)
    rank = np.where(upcoming >= 0, log.rank[upcoming], -1)
    hard = hard_pool(log, states, query, rank, key, max(data.hard, layout.negatives), data)
    if users.name == "train":
        drawn = negatives.draw(users.universe, user, mix(key, _TRAIN_DRAW), *hard, layout.drawn_pools)
        for name, ranks in zip(DRAWN_POOLS, drawn.ranks, strict=True):
            rows[f"pool_{name}"] = id_of_rank[ranks]
        rows["pool_hard_filled"] = drawn.hard_filled
        if partition.shown:
            rows["pool_served"] = _served_ids(partition, query, rank, key, layout.pools[-1])
        if names is not None:
            ranks = names.best(log.context_categories[query], user, users.universe, layout.matching)
            rows["pool_matching"] = np.where(ranks >= 0, id_of_rank[ranks], 0)
        _add_counts(counts, {**drawn.fills, "hard columns": drawn.hard_filled.size,
                        "hard columns filled": int(drawn.hard_filled.sum())})  # fmt: skip
        enough = drawn.enough
    else:
        enough = _fill_lists(rows, partition, users.universe, user, key, rank, hard)
        if partition.shown:
            _fill_served_list(rows, partition, upcoming, rank, key)
    _add_counts(counts, {TOO_FEW.format(split=users.name): int((~enough).sum())})

    rows["user"], rows["position"] = users.number[user], position
    rows["target"] = np.where(rank >= 0, id_of_rank[rank], 0)
    rows["target_completion"] = np.where(rank >= 0, states.total[upcoming], 0)
    past = Past(states.start[query], states.user_start[query], log.time[query])
    if sessions is not None:
        past = fill_session(rows, sessions, log, states, past, user)
    width = layout.max_history
    fill_history(rows, log, states, id_of_rank, past, width, data.abandon_threshold, signals)
    context = log.context_categories[query], log.context_numbers[query]
    fill_features(rows, (log.user_categories[user], log.user_numbers[user]), context)
    return enough


def _add_counts(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n


def list_widths(name: str, negatives_in_list: int) -> tuple[int, int, int, int]:
    """Return the number of columns of a frozen list by pool (Table 2).

    The pools are hard, trending, tailing and random; the numbers are those of the lower half of the table.

    Args:
        name: "enabled" or "disabled".
        negatives_in_list: Number of negatives of the list.
    """
    m = LIST_MIXES[name]
    h, t, l, r = (
        round(fraction * negatives_in_list) for fraction in (m.hard, m.trending, m.tailing, m.random)
    )
    return h, t, l, r


def _fill_lists(
    rows: np.ndarray,
    partition: _Partition,
    universe: negatives.NegativeUniverse,
    user: np.ndarray,
    key: np.ndarray,
    rank: np.ndarray,
    hard: HardPool,
) -> np.ndarray:
    """Draw the frozen lists of each query and next title.

    The result [Q] is False where too few titles remain.
    """
    layout, id_of_rank = partition.layout, partition.id_of_rank
    enough = np.ones(len(rows), bool)
    row, k = np.nonzero(rank >= 0)  # every query has a first title (k = 0)
    for l, name in enumerate(DRAWN_LISTS):
        widths = list_widths(name, layout.negatives)
        salt = 1 + l * layout.num_targets + k
        list_hard, count = hard.rank[row, : widths[0]], np.minimum(hard.filled[row], widths[0])
        if widths[0]:  # each list draws its hard negatives uniformly from the hard pool of the query
            list_hard = shuffle_hard(hard.rank[row], hard.filled[row], key[row], salt)
        drawn = negatives.draw(universe, user[row], mix(key[row], salt), list_hard, count, widths)
        rows[f"list_{name}"][row, k] = id_of_rank[np.concatenate(drawn.ranks, axis=1)]
        if name == "enabled":
            rows["num_hard"][row, k] = count
        enough &= drawn.enough[k == 0]  # equal for all next titles of a query
    return enough


def _fill_served_list(
    rows: np.ndarray, partition: _Partition, upcoming: np.ndarray, rank: np.ndarray, key: np.ndarray
) -> None:
    """Fill the list of each next title with titles that were shown at the request of that title.

    Args:
        rows: [Q] rows of held-out queries, changed in place.
        partition: The partition.
        upcoming: [Q, K] events of the next titles, -1 where there are fewer.
        rank: [Q, K] their ranks.
        key: [Q] uint64 keys of the queries.
    """
    layout = partition.layout
    row, k = np.nonzero(upcoming >= 0)
    salt = 1 + LISTS.index(SERVED) * layout.num_targets + k
    width = min(layout.pools[-1], layout.negatives)
    listed = _served_ids(partition, upcoming[row, k], rank[row], mix(key[row], salt), width)
    rows[f"list_{SERVED}"][row, k, :width] = listed


def _served_ids(
    partition: _Partition, query: np.ndarray, targets: np.ndarray, key: np.ndarray, width: int
) -> np.ndarray:
    """Return the ids [Q, width] of `served_pool`, 0 where fewer titles were shown."""
    assert partition.shown is not None
    ranks = served_pool(partition.shown, partition.log, partition.states, query, targets, key, width)
    return np.where(ranks >= 0, partition.id_of_rank[ranks], 0)
