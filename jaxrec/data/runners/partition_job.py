"""What becomes of a partition's events: pure functions of them and of what is known of all users and titles.

Every user is whole in one partition, so nothing here asks where, or beside how many others, it is done.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, LISTS, SPLITS, UNKNOWN
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.tables import Truth
from jaxrec.data.events import splits
from jaxrec.data.events.cleaning import drop_copies
from jaxrec.data.events.event_log import Log, TitleStats, event_states
from jaxrec.data.events.users import HeldOut, UserTable
from jaxrec.data.events.vocabulary import FeatureColumns
from jaxrec.data.examples import negatives, next_item, ranking
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.storage.dataset import Arrays


class PreparationInputs(NamedTuple):
    """What is known before plays are counted. V titles, by their rows in the source's catalogue."""

    config: Config
    runtime: np.ndarray  # [V] minutes
    key_hash: np.ndarray  # [V] uint64 of the titles' keys
    context: FeatureColumns  # finished
    users: UserTable  # of the partition's users at least


class RankedTitles(NamedTuple):
    """What is known once they are."""

    order: np.ndarray  # [V] the row at each rank
    rank_of_row: np.ndarray  # [V]
    rank_of_id: np.ndarray  # [V + FIRST_TITLE]
    catalogue: TitleStats
    layout: Layout


class SortedPartition(NamedTuple):
    """A partition whose copies are gone."""

    records: np.ndarray  # by user, time and title
    plays: np.ndarray  # the titles' rows, once for each user who played one where training may count it
    copies: int  # how many were dropped


def sort(records: np.ndarray, tables: PreparationInputs) -> SortedPartition:
    """Sorts a partition's records (`partitions.record_dtype`, in any order), without copies."""
    # Final ids, not the provisional codes: those know in which order the rows came.
    ties = tables.context.encode(records["categories"], records["numbers"])
    kept = drop_copies(*(records[name] for name in ("user", "title", "time", "viewed")), *ties)
    copies, records = len(records) - len(kept), records[kept]
    log = _events(records, np.arange(len(tables.runtime)), tables)
    counted = _training_events(log, tables)
    pairs = np.unique(log.user[counted] * np.int64(2**31) + log.rank[counted])
    return SortedPartition(records, pairs % 2**31, copies)


def build(
    records: np.ndarray, tables: PreparationInputs, ranked: RankedTitles, held: HeldOut, truth: Truth | None
) -> Examples:
    """All rows of a partition, from its sorted records. `held` knows the keys of its held-out users at
    least; `truth` is the source's."""
    log, data = _log(records, tables, ranked), tables.config.data
    if ranked.layout.examples == "sequences":
        return next_item.build(log, ranked.catalogue, ranked.layout, data)
    made, world = ranking.build(log, ranked.catalogue, ranked.layout, data)
    _oracle(made, log, world, held, ranked, truth)
    return made


def popularity(plays: np.ndarray) -> tuple[np.ndarray, int]:
    """From plays [V]: the row at each rank, and how many first ranks make up half of all plays. Raises
    InputError where there are none."""
    if not plays.sum():
        raise InputError("source: no play of a training user is left; allowed: at least one")
    order = np.argsort(-plays, kind="stable")
    running = np.cumsum(plays[order])
    return order, int(np.searchsorted(running, running[-1] / 2) + 1)


def rank(
    order: np.ndarray, trending: int, arrays: Arrays, key_hash: np.ndarray, layout: Layout
) -> RankedTitles:
    """What rows are built with; order and trending as `popularity` gives them, key_hash [V] by row."""
    rank_of_row = np.empty(len(order), np.int64)
    rank_of_row[order] = np.arange(len(order))
    catalogue = TitleStats(arrays.title_runtime, arrays.id_of_rank, trending, key_hash[order])
    return RankedTitles(order, rank_of_row, arrays.rank_of_id, catalogue, layout)


def layout_of(config: Config, titles: int, *groups: tuple[FeatureSpec, ...]) -> Layout:
    """The rows' layout: the features of `groups`, a group a table, in the order declared."""
    data, features = config.data, config.features
    given = tuple(FeatureSpec(f.name, f.kind, f.where, f.width) for f in features if f.where == "interaction")
    found = {(s.where, s.name): s for specs in (*groups, given) for s in specs}
    ids, declared = titles + FIRST_TITLE, tuple(found[f.where, f.name] for f in features)
    if data.examples == "sequences":
        return Layout(ids, data.history, 1, (0, 0, 0, 0), 0, declared, "sequences")
    pools = (data.hard, data.trending, data.tailing, data.random)
    return Layout(ids, data.history, data.next_k, pools, data.negatives, declared)


def _training_events(log: Log, tables: PreparationInputs) -> np.ndarray:
    """[N] bool: what training may count of a log whose ranks are still rows of the catalogue."""
    data = tables.config.data
    target = split = np.empty(0, np.int64)
    if data.split == "last":
        then = event_states(log, tables.runtime)
        if data.examples == "sequences":
            target = next_item.targets(log, then, tables.key_hash, data)
            user, time = log.user[target], log.time[target]
            split = splits.of_targets(data, log.split, log.hash, user, time, next_item.LEAST)
        else:
            target = ranking.targets(log, then, data)
            split = ranking.of_targets(log, target, tables.key_hash, data)
    return splits.training_events(data, log.split, log.user, log.time, target, split)


def _events(records: np.ndarray, rank_of_row: np.ndarray, tables: PreparationInputs) -> Log:
    """A partition's events, sorted by user, without features."""
    new = np.diff(records["user"], prepend=~records["user"][:1]) != 0
    hashes, none = records["user"][new], np.empty((0, 0))
    return Log(
        hashes,
        tables.users.splits(hashes, tables.config),
        np.cumsum(new) - 1,
        rank_of_row[records["title"]],
        records["time"],
        records["viewed"],
        *(none, none, none, none),
    )


def _log(records: np.ndarray, tables: PreparationInputs, ranked: RankedTitles) -> Log:
    log, layout, users = _events(records, ranked.rank_of_row, tables), ranked.layout, tables.users
    at, known = users.find(log.hash)
    categories = np.full((len(log.hash), layout.columns("user", "category")), UNKNOWN, np.int32)
    numbers = np.zeros((len(log.hash), layout.columns("user", "number")), np.float32)
    categories[known], numbers[known] = users.categories[at[known]], users.numbers[at[known]]
    context = tables.context.encode(records["categories"], records["numbers"])
    return log._replace(
        context_categories=context[0],
        context_numbers=context[1],
        user_categories=categories,
        user_numbers=numbers,
    )


def _oracle(
    made: Examples,
    log: Log,
    world: negatives.NegativeUniverse,
    held: HeldOut,
    ranked: RankedTitles,
    truth: Truth | None,
) -> None:
    """The truth's columns of the held-out rows: p/q and p of the K=1 lists, the mood; NaN without one."""
    layout = ranked.layout
    for split in SPLITS[1:]:
        rows = made.rows[split]
        if truth is None:
            for name in LISTS:
                rows[f"oracle_{name}"] = rows[f"truth_{name}"] = np.nan
            rows["mood"] = np.nan
            continue
        user, time = made.requests[split]
        lists = [
            np.concatenate([rows["target"][:, :1], rows[f"list_{name}"][:, 0]], axis=1) for name in LISTS
        ]
        rank = ranked.rank_of_id[np.concatenate(lists, axis=1)]
        keys = held.keys(log.hash[user])
        rows["mood"] = truth.mood(keys, time)
        p, abandoned = truth.densities(keys, time, ranked.order[rank])
        for l, name in enumerate(LISTS):
            part = slice(l * (layout.negatives + 1), (l + 1) * (layout.negatives + 1))
            q = negatives.densities(
                world, user, rank[:, part], abandoned[:, part], rows["list_hard"][:, 0],
                ranking.list_widths(name, layout.negatives),
            )  # fmt: skip
            rows[f"oracle_{name}"], rows[f"truth_{name}"] = p[:, part] / q, p[:, part]
