"""Preparation on one machine: the tables of a source become a dataset, or none.

Events are cleaned and routed to partitions of users. Each partition is sorted, its duplicates are dropped
and its plays counted; then rows are built from the global counts. The result of a partition is a vectorised
function of its events (`runners/partition_job.py`). Partitions are therefore processed in parallel, and
their number does not change the bytes written.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.cleaning import check_dropped, clean
from jaxrec.data.events.partitions import Spill, record_dtype
from jaxrec.data.events.users import UserKeys, read_users
from jaxrec.data.events.vocabulary import FeatureColumns
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.examples.truth_queries import PartitionEvaluation, evaluation_arrays
from jaxrec.data.increments.earlier import known_columns, read_earlier
from jaxrec.data.increments.log_end import cut, end_of_log
from jaxrec.data.increments.ranking import Columns, Counted, encode_titles, rank_titles
from jaxrec.data.runners import partition_job
from jaxrec.data.runners.manifest import PreparationResult, SplitSizes, manifest
from jaxrec.data.runners.partition_job import PartitionEvents, SortedPartition
from jaxrec.data.signals.cleaning import SignalTally, clean_signals
from jaxrec.data.signals.records import record_dtype as signal_dtype
from jaxrec.data.storage.evaluation_arrays import DailyPlays, EvaluationArrays
from jaxrec.data.storage.source_files import describe
from jaxrec.data.storage.writer import DatasetWriter

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # (stage, done, total; total 0: unknown)


def prepare(
    source: Source, config: Config, directory: str | AnyPath, progress: Progress = lambda *_: None
) -> None:
    """Prepare the dataset of `source` in `directory`.

    Args:
        source: Source to read.
        config: Config of the dataset.
        directory: Local directory or bucket URL, which must not contain a dataset.
        progress: Called as `progress(stage, done, total)`; total 0 means unknown.

    Raises:
        InputError: The input is invalid (`sources`, `data/events/cleaning.py`), or the dataset exists; no
            file remains.
    """
    with DatasetWriter(directory) as writer:
        _Preparation(source, config, writer, progress).run()


class _Preparation:
    """One preparation: its inputs, and the results that a stage passes to the next."""

    def __init__(self, source: Source, config: Config, writer: DatasetWriter, progress: Progress) -> None:
        self.source, self.config, self.writer, self.progress = source, config, writer, progress
        self.workers = config.data.workers or os.cpu_count() or 1
        self.drops = Drops()
        self.partitions = 0  # set once all rows are read
        self.titles, self.earlier = source.titles(), read_earlier(config)
        self.end, self.has_event = end_of_log(config.data), np.zeros(len(self.titles.key), bool)
        self.title_columns = encode_titles(self.titles, config, self.earlier)
        known = known_columns(self.earlier)
        self.user_columns = FeatureColumns(config.features, "user", known)
        self.context = FeatureColumns(config.features, "context", known)
        users, key_hash = read_users(source, self.user_columns), of_keys(self.titles.key)
        self.tables = partition_job.PreparationInputs(
            config, self.titles.runtime, key_hash, self.context, users
        )
        spill = Path(writer.partial) / "spill"
        self.spill = Spill(spill, config.data.partitions, record_dtype(config.features))
        dtype = signal_dtype(config.signals)
        self.signals = Spill(spill / "signals", config.data.partitions, dtype)
        self.signal_tally, self.signal_copies = SignalTally(), np.zeros(len(config.signals), np.int64)

    def run(self) -> None:
        """Run all stages and write the dataset."""
        rows, user_keys = self._route()
        plays, copies, daily_plays, end = self._count_plays()
        columns = Columns(self.title_columns, self.user_columns, self.context)
        counted = Counted(plays, self.has_event, end)
        ranked, arrays, values = rank_titles(self.config, self.titles, columns, self.earlier, counted)
        daily = DailyPlays.total(daily_plays, ranked.id_of_row())
        sizes, users, evaluation = self._build(ranked, user_keys, daily)
        shutil.rmtree(self.writer.partial / "spill")
        result = PreparationResult(
            has_completion=self.source.has_completion,
            has_truth=self.source.truth() is not None,
            layout=ranked.layout,
            values=values,
            titles=len(ranked.order),
            trending=ranked.catalogue.trending,
            plays=int(plays.sum()),
            rows=rows,
            copies=copies,
            drops=self.drops,
            sizes=sizes,
            row_sums=self.writer.row_sums(),
            signals=self.signal_tally,
            signal_copies=self.signal_copies,
            earlier=self.earlier,
        )
        keys = {s: user_keys.keys(u) for s, u in users.items()}
        described = manifest(self.config, result, describe(self.source.files()))
        self.writer.finish(arrays, keys, described, evaluation, audited=self.config.data.verify)

    def _route(self) -> tuple[int, UserKeys]:
        """Clean all chunks and route their events to partitions.

        Returns:
            The number of rows read, and the keys of the held-out users.
        """
        rows, hashes, keys = 0, [np.empty(0, np.uint64)], []
        for chunk in (cut(chunk, self.end) for chunk in self.source.interactions()):
            events = clean(chunk, self.titles, self.config.data, self.drops, self.source.has_completion)
            rows += len(chunk.user)
            self.has_event[events.title] = True
            self.spill.add(events, *self.context.add(events.context, len(events.user_hash)))
            user_hashes, first = np.unique(of_keys(chunk.user), return_index=True)
            held_out = (
                self.config.data.split != "users" or self.tables.users.splits(user_hashes, self.config) > 0
            )
            held_out = np.broadcast_to(held_out, user_hashes.shape)
            hashes.append(user_hashes[held_out])
            keys.append(chunk.user[first[held_out]])
            self.progress("reading rows", rows, 0)
        self.drops.merge(self.source.drops)
        rows += sum(self.source.drops.counts.values())
        check_dropped(self.drops, rows, self.config.data)
        if not keys:
            raise InputError("source: no interactions; allowed: at least one")
        self.context.finish()
        self._route_signals()
        self.partitions = self.spill.make_partitions(beside=self.signals)
        user_hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        return rows, UserKeys(user_hashes, np.concatenate(keys)[first])

    def _route_signals(self) -> None:
        """Clean the events of the declared signals and route them to partitions."""
        config, tally = self.config, self.signal_tally
        for chunk in self.source.signals() if config.signals else ():
            events = clean_signals(cut(chunk, self.end), config.signals, config.data, tally)
            self.has_event[events["title"][events["title"] >= 0]] = True
            self.signals.append(events)
            self.progress("reading signals", sum(tally.events.values()), 0)
        tally.check(config.signals, config.data)

    def _count_plays(self) -> tuple[np.ndarray, int, list[DailyPlays], int]:
        """Sort all partitions and count plays.

        Returns:
            Plays [titles] that training may count, at most one per user and title, the number of duplicates
            dropped, the daily plays of each partition, and the time after the last play.
        """
        plays, copies, daily_plays = np.zeros(len(self.titles.key), np.int64), 0, []
        end = partition_job.NO_PLAYS
        for result in self._in_order("counting plays", self._sort_partition):
            plays += np.bincount(result.plays, minlength=len(plays))
            copies += result.copies
            daily_plays.append(result.daily_plays)
            self.signal_copies += result.signal_copies
            end = max(end, result.end)
        return plays, copies, daily_plays, end

    def _load(self, partition: int) -> PartitionEvents:
        return PartitionEvents(self.spill.load(partition), self.signals.load(partition))

    def _sort_partition(self, partition: int) -> SortedPartition:
        """Sort a partition on disk, without duplicates, and return its counts, without the events."""
        result = partition_job.sort(self._load(partition), self.tables)
        self.spill.replace(partition, result.events.plays)
        self.signals.replace(partition, result.events.signals)
        return result._replace(events=PartitionEvents(np.empty(0), np.empty(0)))

    def _build(
        self, ranked: partition_job.RankedTitles, user_keys: UserKeys, daily: DailyPlays
    ) -> tuple[SplitSizes, dict[str, np.ndarray], EvaluationArrays]:
        """Write the rows of all partitions.

        Returns:
            The total counts, the hashes of the users by held-out split, and the arrays for evaluation.
        """
        truth = self.source.truth()
        self.writer.begin(ranked.layout)
        users: dict[str, list[np.ndarray]] = {s: [] for s in SPLITS[1:]}
        sizes, parts = SplitSizes(), []
        rows_before: dict[str, list[int]] = {split: [] for split in users}

        def build(partition: int) -> tuple[Examples, PartitionEvaluation]:
            return partition_job.build(self._load(partition), self.tables, ranked, user_keys, truth)

        for examples, evaluation in self._in_order("building rows", build):
            parts.append(evaluation)
            for split, before in rows_before.items():
                before.append(sizes.examples[split])
            for split in SPLITS:
                examples.rows[split]["user"] += sizes.users[split]
                self.writer.add(split, examples.rows[split])
            for split, hashes in users.items():
                hashes.append(examples.users[split])
            sizes.add(SplitSizes.from_examples(examples))
        hashes_of = {s: np.concatenate(u) for s, u in users.items()}
        return sizes, hashes_of, evaluation_arrays(parts, rows_before, daily, truth, ranked.row_of_id())

    def _in_order(self, stage: str, function: Callable[[int], T]) -> Iterator[T]:
        """Yield the results of all partitions in order.

        Few results are pending at a time, so that memory stays bounded.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            pending = [pool.submit(function, p) for p in range(min(self.workers + 1, self.partitions))]
            for p in range(self.partitions):
                result = pending.pop(0).result()
                if p + self.workers + 1 < self.partitions:
                    pending.append(pool.submit(function, p + self.workers + 1))
                self.progress(stage, p + 1, self.partitions)
                yield result
