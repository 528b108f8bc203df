"""Stages of distributed preparation: functions of messages, run by an engine.

    open_titles       one worker reads the source's titles, which go to all workers
    read              a part of the source -> cleaned records, a tally; of signals: signals/stages.py
    combine_tallies   all tallies -> the partitions of users, the ids of the context's values
    distribute_users  one worker reads the users table -> the users of each partition
    route             a chunk's records and users' keys -> their partitions
    sort              a partition's records -> sorted records, plays
    rank              all plays -> the titles' ranks, the layout of rows
    build             a partition -> its rows, their number, the seen titles of its users
    offsets           all numbers of rows -> the rows before each partition
    assign_shards     rows -> their shards
    write             a shard's rows -> its file
    finish            all results -> arrays, users' keys and seen titles, content of the manifest

A stage yields pairs of the name of an output and a value. A stage may run again, or twice concurrently: it
does not modify its inputs, its results do not depend on the order of the inputs, and files appear complete.
Messages are counted by sender and receiver: RuntimeError is raised where an engine loses or duplicates one.
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
from jaxrec.data.events.partitions import events_beside, merge_ranges, partition_of, record_dtype, records_of
from jaxrec.data.events.users import UserKeys, UserTable, read_users
from jaxrec.data.events.vocabulary import FeatureColumns
from jaxrec.data.examples.truth_queries import evaluation_arrays
from jaxrec.data.increments.earlier import EarlierDataset, known_columns
from jaxrec.data.increments.log_end import cut, end_of_log
from jaxrec.data.increments.ranking import Columns, Counted, TitleColumns, encode_titles, rank_titles
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
    check_count,
)
from jaxrec.data.runners.notes import Counts, check_splits
from jaxrec.data.signals.records import record_dtype as signal_dtype
from jaxrec.data.storage.dataset import SHARD_ROWS
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.data.storage.writer import write_shard

Output = tuple[str, Any]  # the name of an output, a value
HASH_RANGES = 2**16  # ranges of user hashes, merged into partitions
PIECE_ROWS = 4096  # rows of a message


def open_titles(source: Source, config: Config, earlier: EarlierDataset | None = None) -> Iterator[Output]:
    """Read the titles: yield "features" (`encode_titles`) and "titles"; the dataset continues `earlier`."""
    source = copy.copy(source)
    titles = source.titles()
    yield "features", encode_titles(titles, config, earlier)
    yield "titles", TitlesMessage(source, of_keys(titles.key), earlier)


def read(part: tuple[int, Any], titles: TitlesMessage, config: Config) -> Iterator[Output]:
    """Clean a part of the source: yield "chunks", and the part's tally as "tallies".

    Args:
        part: Number of the part, and the part itself (`Source.parts`).
        titles: Source with its titles.
        config: Config of the dataset.
    """
    number, part_key = part
    source = copy.copy(titles.source)
    source.drops = Drops()  # concurrent readers must not share the counts
    tally, dropped, dtype = Tally(), Drops(), record_dtype(config.features)
    ranges = max(HASH_RANGES, config.data.partitions)
    for chunk in (cut(chunk, end_of_log(config.data)) for chunk in source.interactions(part_key)):
        events = clean(chunk, source.titles(), config.data, dropped, source.has_completion)
        context = FeatureColumns(config.features, "context")
        records = records_of(events, *context.add(events.context, len(events.user_hash)), dtype)
        hashes, first = np.unique(of_keys(chunk.user), return_index=True)
        tally.fitted.add(context.fitted((number, tally.chunks)))
        tally.chunks += 1
        tally.rows += len(chunk.user)
        tally.events += np.bincount(partition_of(events.user_hash, ranges), minlength=ranges)
        tally.titles += np.bincount(events.title, minlength=len(titles.key_hash))
        yield "chunks", EventChunk(records, context, hashes, chunk.user[first])
    tally.rows += sum(source.drops.counts.values())
    tally.drops[number] = (dropped, source.drops)
    yield "tallies", tally


def combine_tallies(
    tally: Tally, parts: int, config: Config, signal_parts: int = 0, earlier: EarlierDataset | None = None
) -> Iterator[Output]:
    """Define the partitions of users and the context's ids: yield "stats".

    Args:
        tally: Sum of all tallies.
        parts: Number of parts of the source.
        config: Config.
        signal_parts: Number of parts of the signals.
        earlier: Dataset that is continued.

    Raises:
        InputError: Too many rows were left out, or the source has no interactions.
    """
    check_count("tallies", len(tally.drops), parts)
    check_count("tallies of signals", len(tally.signals.drops), signal_parts)
    drops = Drops()
    for origin in range(2):
        for _, part_drops in sorted(tally.drops.items(), key=lambda item: item[0]):
            drops.merge(part_drops[origin])
    check_dropped(drops, tally.rows, config.data)
    tally.signals.check(config.signals, config.data)
    if not tally.chunks:
        raise InputError("source: no interactions; allowed: at least one")
    context = FeatureColumns(config.features, "context", known_columns(earlier))
    context.finish_from(tally.fitted)
    signals = np.broadcast_to(tally.signals.ranges, tally.events.shape)
    partition = merge_ranges(events_beside(tally.events, signals), config.data.partitions)
    full = partition >= 0
    plays, others = (np.bincount(partition[full], n[full]).astype(np.int64) for n in (tally.events, signals))
    yield (
        "stats",
        GlobalStats(context, partition, plays, others, tally.rows, drops, tally.signals, tally.titles),
    )


def distribute_users(_: Any, titles: TitlesMessage, stats: GlobalStats, config: Config) -> Iterator[Output]:
    """Read the users table: yield its "columns", and "users" by partition."""
    columns = FeatureColumns(config.features, "user", known_columns(titles.earlier))
    table = read_users(titles.source, columns)
    yield "columns", columns
    partition = stats.partitions_of(table.hash)
    table, partition = table.select(partition >= 0), partition[partition >= 0]
    ends = np.searchsorted(partition, np.arange(stats.partitions() + 1))
    for number in range(stats.partitions()):
        yield "users", (number, table.select(slice(ends[number], ends[number + 1])))


def route(chunk: EventChunk, stats: GlobalStats) -> Iterator[Output]:
    """Split a chunk by partition: yield "shares", the events and users of each."""
    records = chunk.records.copy()
    records["categories"] = stats.context.recode(chunk.context, records["categories"])
    partition = stats.partitions_of(records["user"])
    order = np.argsort(partition, kind="stable")
    records, partition = records[order], partition[order]
    user_partition = stats.partitions_of(chunk.hash)
    for p in np.unique(user_partition[user_partition >= 0]).tolist():
        selected = user_partition == p
        rows = slice(*np.searchsorted(partition, [p, p + 1]))
        yield "shares", (p, UserShare(records[rows], chunk.hash[selected], chunk.key[selected]))


def sort(
    partition: tuple[int, dict[str, Iterable]], titles: TitlesMessage, stats: GlobalStats, config: Config
) -> Iterator[Output]:
    """Sort a partition and drop duplicates: yield "sorted" and "plays".

    Args:
        partition: Number of the partition, and its groups of "shares", "users" and "signal_shares".
        titles: Source with its titles.
        stats: Result of `combine_tallies`.
        config: Config of the dataset.
    """
    number, groups = partition
    shares, tables = list(groups["shares"]), list(groups["users"])
    sent = int(stats.events[number])
    check_count(f"events of partition {number}", sum(len(s.records) for s in shares), sent)
    check_count(f"users tables of partition {number}", len(tables), 1)
    [users] = tables
    signals = np.concatenate([np.empty(0, signal_dtype(config.signals)), *groups["signal_shares"]])
    check_count(f"events of signals of partition {number}", len(signals), int(stats.signal_events[number]))
    events = partition_job.PartitionEvents(np.concatenate([s.records for s in shares]), signals)
    hashes, first = np.unique(np.concatenate([s.hash for s in shares]), return_index=True)
    user_keys = UserKeys(hashes, np.concatenate([s.key for s in shares])[first])
    result = partition_job.sort(events, _inputs(titles, stats, users, config))
    yield "sorted", (number, PartitionMessage(result.events, users, user_keys))
    counts = (result.copies, 1, [result.daily_plays], result.signal_copies, result.end)
    yield "plays", PlayCounts(np.bincount(result.plays).astype(np.int64), *counts)


def _inputs(
    titles: TitlesMessage, stats: GlobalStats, users: UserTable, config: Config
) -> partition_job.PreparationInputs:
    runtime = titles.source.titles().runtime
    return partition_job.PreparationInputs(config, runtime, titles.key_hash, stats.context, users)


def rank(
    plays: PlayCounts,
    titles: TitlesMessage,
    features: TitleColumns,
    stats: GlobalStats,
    users: FeatureColumns,
    config: Config,
) -> Iterator[Output]:
    """Rank the titles and define the layout of rows: yield "ranked" and "catalogue".

    Args:
        plays: Sum of the plays of all partitions.
        titles: Source with its titles.
        features: Result of `encode_titles`.
        stats: Result of `combine_tallies`.
        users: Finished columns of the users table.
        config: Config of the dataset.

    Raises:
        InputError: No play of a training user remains.
    """
    check_count("partitions' plays", plays.partitions, stats.partitions())
    all_plays = plays.padded(len(titles.key_hash))
    counted = Counted(all_plays, stats.titles > 0, plays.end)
    columns = Columns(features, users, stats.context)
    ranked, arrays, values = rank_titles(config, titles.source.titles(), columns, titles.earlier, counted)
    yield "ranked", ranked
    daily = DailyPlays.total(plays.daily_plays, ranked.id_of_row())
    counts = (ranked.catalogue.trending, int(all_plays.sum()), plays.copies, daily, plays.signal_copies)
    yield "catalogue", CatalogueMessage(arrays, values, *counts)


def build(
    partition: tuple[int, PartitionMessage],
    titles: TitlesMessage,
    stats: GlobalStats,
    ranked: partition_job.RankedTitles,
    config: Config,
) -> Iterator[Output]:
    """Build the rows of a partition: yield "sizes", "keys", "seen" and "rows".

    "keys" and "seen", what evaluation reads, are of the held-out users; rows come in pieces.
    """
    number, (events, users, user_keys) = partition
    truth = titles.source.truth()
    inputs = _inputs(titles, stats, users, config)
    examples, seen = partition_job.build(events, inputs, ranked, user_keys, truth)
    yield "sizes", ByPartition({number: SplitSizes.from_examples(examples)})
    yield "keys", ByPartition({number: {s: user_keys.keys(examples.users[s]) for s in SPLITS[1:]}})
    yield "seen", ByPartition({number: seen})
    for split, rows in examples.rows.items():
        for first in range(0, len(rows), PIECE_ROWS):
            yield "rows", (number, split, first, rows[first : first + PIECE_ROWS])


def offsets(sizes: ByPartition, stats: GlobalStats, config: Config) -> Iterator[Output]:
    """Compute the number of rows and users before each partition: yield "offsets".

    Raises:
        InputError: A split has no row.
    """
    check_count("partitions' sizes", len(sizes.values), stats.partitions())
    total, in_order = SplitSizes(), [sizes.values[p] for p in range(len(sizes.values))]
    for partition_sizes in in_order:
        total.add(partition_sizes)
    check_splits(config, Counts(stats.rows, stats.drops.kept, total.examples, total.users, total.counts))
    rows = {s: np.cumsum([0] + [partition_sizes.examples[s] for partition_sizes in in_order]) for s in SPLITS}
    users = {s: np.cumsum([0] + [partition_sizes.users[s] for partition_sizes in in_order]) for s in SPLITS}
    yield "offsets", OutputOffsets(rows, users, total)


def assign_shards(piece: tuple[int, str, int, np.ndarray], offsets: OutputOffsets) -> Iterator[Output]:
    """Cut a piece of rows at the ends of shards: yield "shard_rows".

    The rows come with their position in the split.

    Args:
        piece: Partition, split, position of the piece in the rows of both, and the rows.
        offsets: Rows and users before each partition.
    """
    number, split, first, rows = piece
    rows = rows.copy()
    rows["user"] += offsets.users[split][number].astype(np.uint32)
    start = int(offsets.rows[split][number]) + first
    while len(rows):
        shard = start // SHARD_ROWS
        cut = (shard + 1) * SHARD_ROWS - start
        yield "shard_rows", ((split, shard), (start, rows[:cut]))
        start, rows = start + cut, rows[cut:]


def write(shard: tuple[tuple[str, int], Iterable], directory: str) -> Iterator[Output]:
    """Write a shard: yield its "sums".

    Args:
        shard: Split and number of the shard, and its pieces of rows with their positions in the split.
        directory: Directory of the dataset.
    """
    (split, number), pieces = shard
    in_order = [rows for _, rows in sorted(pieces, key=lambda piece: piece[0])]
    sums = write_shard(Path(directory), split, number, in_order[0].dtype, in_order)
    row_sums = RowSums()
    row_sums.fingerprints[split], row_sums.rows[split] = sums, sum(map(len, in_order))
    yield "sums", row_sums


def finish(
    sums: RowSums,
    titles: TitlesMessage,
    stats: GlobalStats,
    ranked: partition_job.RankedTitles,
    catalogue: CatalogueMessage,
    offsets: OutputOffsets,
    keys: ByPartition,
    seen: ByPartition,
) -> Iterator[Output]:
    """Yield as "result" the arrays of the catalogue and of evaluation, held-out users' keys and counts.

    The arguments are outputs of other stages; `sums`, `keys`, `seen` are totals over shards and partitions.
    """
    for split in SPLITS:
        check_count(f"{split} rows", sums.rows[split], offsets.total.examples[split])
    check_count("partitions' keys", len(keys.values), stats.partitions())
    check_count("partitions' seen titles", len(seen.values), stats.partitions())
    users = {s: np.concatenate([keys.values[p][s] for p in range(len(keys.values))]) for s in SPLITS[1:]}
    truth = titles.source.truth()
    result = PreparationResult(
        has_completion=titles.source.has_completion,
        has_truth=truth is not None,
        layout=ranked.layout,
        values=catalogue.values,
        titles=len(ranked.order),
        trending=catalogue.trending,
        plays=catalogue.plays,
        rows=stats.rows,
        copies=catalogue.copies,
        drops=stats.drops,
        sizes=offsets.total,
        row_sums={s: f.value() for s, f in sums.fingerprints.items()},
        signals=stats.signals,
        signal_copies=catalogue.signal_copies,
        earlier=titles.earlier,
    )
    parts, before = [seen.values[p] for p in range(len(seen.values))], offsets.rows
    evaluation = evaluation_arrays(parts, before, catalogue.daily_plays, truth, ranked.row_of_id())
    yield "result", (catalogue.arrays, users, evaluation, result)
