"""The steps of preparation spread over machines: plain functions of what travels, for an engine to run.

    open_titles  the source's titles read, by one worker; they go to all
    read         a part of the source to cleaned records, and a tally of it
    settle       all tallies to the partitions of users and the context's numbering
    share_users  the users' table, read by one worker, to each partition its users
    route        a chunk's records and users' keys, to each partition its own
    sort         a partition brought together, and its plays
    rank         all plays to the titles' ranks and the layout of rows
    build        a partition to its rows, and how many they are
    place        rows to the shards they stand in, once it is known how many come before them
    write        a shard brought together, to its file
    finish       what all of it comes to, for who writes the manifest

Steps yield pairs, the name of an output and a value. They may be run again, or twice at once: they change
nothing that they are given, their results know no order but that of hashes, and files appear whole. What
travels is counted where it sets out and where it arrives: an engine that loses some raises RuntimeError.
"""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.ids import SPLITS
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.cleaning import check_dropped, clean
from jaxrec.data.events.partitions import gather, partition_of, record_dtype, records_of
from jaxrec.data.events.users import HeldOut, UserTable, read_users
from jaxrec.data.events.vocabulary import FeatureColumns, title_columns
from jaxrec.data.runners import partition_job
from jaxrec.data.runners.manifest import PreparationResult, SplitSizes
from jaxrec.data.runners.messages import (
    ByPartition,
    CatalogueMessage,
    EventChunk,
    GlobalStats,
    OutputOffsets,
    PartitionMessage,
    PlayCounts,
    RowSums,
    Tally,
    TitlesMessage,
    UserShare,
)
from jaxrec.data.storage.dataset import SHARD_ROWS
from jaxrec.data.storage.writer import catalogue_arrays, write_shard

Output = tuple[str, Any]  # the name of an output, a value of it
RANGES = 2**16  # of hashes, of which partitions are made
PIECE = 4096  # rows that travel together


def _arrived(what: str, found: int, sent: int) -> None:
    if found != sent:
        raise RuntimeError(f"the engine gave {found} {what} where {sent} were sent: it lost or doubled some")


def open_titles(source: Source, config: Config) -> Iterator[Output]:
    source = copy.copy(source)
    titles = source.titles()
    yield "features", title_columns(titles.features, config.features, len(titles.key))
    yield "titles", TitlesMessage(source, of_keys(titles.key))


def read(part: tuple[int, Any], titles: TitlesMessage, config: Config) -> Iterator[Output]:
    """`part` is its number, and what the source knows it by."""
    number, share = part
    source = copy.copy(titles.source)
    source.drops = Drops()  # others may be reading beside
    tally, dropped, dtype = Tally(), Drops(), record_dtype(config.features)
    ranges = max(RANGES, config.data.partitions)
    for chunk in source.interactions(share):
        good = clean(chunk, source.titles(), config.data, dropped, source.has_completion)
        context = FeatureColumns(config.features, "context")
        records = records_of(good, *context.add(good.context, len(good.user_hash)), dtype)
        hashes, first = np.unique(of_keys(chunk.user), return_index=True)
        tally.seen.add(context.seen((number, tally.chunks)))
        tally.chunks += 1
        tally.rows += len(chunk.user)
        tally.events += np.bincount(partition_of(good.user_hash, ranges), minlength=ranges)
        yield "chunks", EventChunk(records, context, hashes, chunk.user[first])
    tally.rows += sum(source.drops.counts.values())
    tally.drops[number] = (dropped, source.drops)
    yield "tallies", tally


def settle(tally: Tally, parts: int, config: Config) -> Iterator[Output]:
    """Raises InputError where too many rows were left out, or there are none. `parts` were to be read."""
    _arrived("tallies", len(tally.drops), parts)
    drops = Drops()
    for which in range(2):
        for _, of_part in sorted(tally.drops.items(), key=lambda item: item[0]):
            for reason, count in of_part[which].counts.items():
                drops.add(reason, count, of_part[which].examples[reason])
    check_dropped(drops, tally.rows, config.data)
    if not tally.chunks:
        raise InputError("source: no interactions; allowed: at least one")
    context = FeatureColumns(config.features, "context")
    context.finish_seen(tally.seen)
    partition = gather(tally.events, config.data.partitions)
    some = partition >= 0
    events = np.bincount(partition[some], tally.events[some]).astype(np.int64)
    yield "settled", GlobalStats(context, partition, events, tally.rows, drops)


def share_users(_: Any, titles: TitlesMessage, settled: GlobalStats, config: Config) -> Iterator[Output]:
    columns = FeatureColumns(config.features, "user")
    table = read_users(titles.source, columns)
    yield "columns", columns
    where = settled.of(table.hash)
    table, where = table.part(where >= 0), where[where >= 0]
    ends = np.searchsorted(where, np.arange(settled.partitions() + 1))
    for p in range(settled.partitions()):
        yield "users", (p, table.part(slice(ends[p], ends[p + 1])))


def route(chunk: EventChunk, settled: GlobalStats) -> Iterator[Output]:
    records = chunk.records.copy()
    records["categories"] = settled.context.recode(chunk.context, records["categories"])
    where = settled.of(records["user"])
    order = np.argsort(where, kind="stable")
    records, where = records[order], where[order]
    of_user = settled.of(chunk.hash)
    for p in np.unique(of_user[of_user >= 0]).tolist():
        mine = of_user == p
        cut = slice(*np.searchsorted(where, [p, p + 1]))
        yield "shares", (p, UserShare(records[cut], chunk.hash[mine], chunk.key[mine]))


def sort(
    partition: tuple[int, dict[str, Iterable]], titles: TitlesMessage, settled: GlobalStats, config: Config
) -> Iterator[Output]:
    """`partition` is its number, its "shares" and its "users"."""
    number, groups = partition
    shares, tables = list(groups["shares"]), list(groups["users"])
    sent = int(settled.events[number])
    _arrived(f"events of partition {number}", sum(len(s.records) for s in shares), sent)
    _arrived(f"users' tables of partition {number}", len(tables), 1)
    [users] = tables
    records = np.concatenate([s.records for s in shares])
    hashes, first = np.unique(np.concatenate([s.hash for s in shares]), return_index=True)
    held = HeldOut(hashes, np.concatenate([s.key for s in shares])[first])
    records, plays, copies = partition_job.sort(records, _tables(titles, settled, users, config))
    yield "sorted", (number, PartitionMessage(records, users, held))
    yield "plays", PlayCounts(np.bincount(plays).astype(np.int64), copies, 1)


def _tables(
    titles: TitlesMessage, settled: GlobalStats, users: UserTable, config: Config
) -> partition_job.PreparationInputs:
    return partition_job.PreparationInputs(
        config, titles.source.titles().runtime, titles.key_hash, settled.context, users
    )


def rank(
    plays: PlayCounts,
    titles: TitlesMessage,
    features: tuple,
    settled: GlobalStats,
    users: FeatureColumns,
    config: Config,
) -> Iterator[Output]:
    """`features` are what `title_columns` gives, `users` the columns of the users' table."""
    _arrived("partitions' plays", plays.partitions, settled.partitions())
    table = titles.source.titles()
    categories, numbers, specs, values = features
    all_plays = plays.padded(len(table.key))
    order, trending = partition_job.popularity(all_plays)
    arrays = catalogue_arrays(table.key, table.runtime, all_plays, order, categories, numbers)
    layout = partition_job.layout_of(config, len(order), specs, users.specs, settled.context.specs)
    yield "ranked", partition_job.rank(order, trending, arrays, titles.key_hash, layout)
    values = {**values, **users.values, **settled.context.values}
    yield "catalogue", CatalogueMessage(arrays, values, trending, int(all_plays.sum()), plays.copies)


def build(
    partition: tuple[int, PartitionMessage],
    titles: TitlesMessage,
    settled: GlobalStats,
    ranked: partition_job.RankedTitles,
    config: Config,
) -> Iterator[Output]:
    number, (records, users, held) = partition
    truth = titles.source.truth()
    made = partition_job.build(records, _tables(titles, settled, users, config), ranked, held, truth)
    yield "sizes", ByPartition({number: SplitSizes.of(made)})
    yield "keys", ByPartition({number: {s: held.keys(made.users[s]) for s in SPLITS[1:]}})
    for split in SPLITS:
        for first in range(0, len(made.rows[split]), PIECE):
            yield "rows", (number, split, first, made.rows[split][first : first + PIECE])


def places(sizes: ByPartition, settled: GlobalStats) -> Iterator[Output]:
    """Raises InputError where a split has no row."""
    _arrived("partitions' sizes", len(sizes.of), settled.partitions())
    total, in_order = SplitSizes(), [sizes.of[p] for p in range(len(sizes.of))]
    for one in in_order:
        total.add(one)
    total.check()
    rows = {s: np.cumsum([0] + [one.examples[s] for one in in_order]) for s in SPLITS}
    users = {s: np.cumsum([0] + [one.users[s] for one in in_order]) for s in SPLITS}
    yield "places", OutputOffsets(rows, users, total)


def place(piece: tuple[int, str, int, np.ndarray], places: OutputOffsets) -> Iterator[Output]:
    """`piece` is of a partition, a split, from which of their rows on, and the rows."""
    number, split, first, rows = piece
    rows = rows.copy()
    rows["user"] += places.users[split][number].astype(np.uint32)
    start = int(places.rows[split][number]) + first
    while len(rows):
        shard = start // SHARD_ROWS
        cut = (shard + 1) * SHARD_ROWS - start
        yield "placed", ((split, shard), (start, rows[:cut]))
        start, rows = start + cut, rows[cut:]


def write(shard: tuple[tuple[str, int], Iterable], directory: str) -> Iterator[Output]:
    """`shard` is its split and number, and pieces of its rows with where they stand in the split."""
    (split, number), pieces = shard
    in_order = [rows for _, rows in sorted(pieces, key=lambda piece: piece[0])]
    sums = write_shard(Path(directory), split, number, in_order[0].dtype, in_order)
    out = RowSums()
    out.of[split], out.rows[split] = sums, sum(map(len, in_order))
    yield "sums", out


def finish(
    sums: RowSums,
    titles: TitlesMessage,
    settled: GlobalStats,
    ranked: partition_job.RankedTitles,
    catalogue: CatalogueMessage,
    places: OutputOffsets,
    keys: ByPartition,
) -> Iterator[Output]:
    """The catalogue's arrays, the keys of held-out users by split, and what the manifest is made of."""
    for split in SPLITS:
        _arrived(f"{split} rows", sums.rows[split], places.total.examples[split])
    _arrived("partitions' keys", len(keys.of), settled.partitions())
    users = {s: np.concatenate([keys.of[p][s] for p in range(len(keys.of))]) for s in SPLITS[1:]}
    found = PreparationResult(
        has_completion=titles.source.has_completion,
        has_truth=titles.source.truth() is not None,
        layout=ranked.layout,
        values=catalogue.values,
        titles=len(ranked.order),
        trending=catalogue.trending,
        plays=catalogue.plays,
        rows=settled.rows,
        copies=catalogue.copies,
        drops=settled.drops,
        sizes=places.total,
        row_sums={s: f.value() for s, f in sums.of.items()},
    )
    yield "found", (catalogue.arrays, users, found)
