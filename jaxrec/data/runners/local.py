"""Preparation: a source's three tables in, a prepared dataset out, whole or not at all.

Events are cleaned and routed to partitions of users; each partition is sorted, its copies dropped and
its plays counted; then rows are built from the global counts. A partition is a vectorised function of
its events (`data/work.py`), so cores share them, and how many there are changes no byte.
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
from jaxrec.core.row_format import Layout
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.cleaning import check_dropped, clean
from jaxrec.data.events.partitions import Spill, record_dtype
from jaxrec.data.events.users import HeldOut, read_users
from jaxrec.data.events.vocabulary import FeatureColumns, title_columns
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.runners import partition_job
from jaxrec.data.runners.manifest import PreparationResult, SplitSizes, manifest
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.storage.writer import DatasetWriter, catalogue_arrays

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # (stage, done, of; 0 where not known)


def prepare(
    source: Source, config: Config, directory: str | AnyPath, progress: Progress = lambda *_: None
) -> None:
    """Writes the dataset of `source` to `directory`.

    Raises InputError, leaving nothing behind, on bad input: see `sources` and `data.clean`.
    """
    with DatasetWriter(directory) as writer:
        _Preparation(source, config, writer, progress).run()


class _Preparation:
    """One preparation: its inputs, and what each stage finds out for the next."""

    def __init__(self, source: Source, config: Config, writer: DatasetWriter, progress: Progress) -> None:
        self.source, self.config, self.writer, self.progress = source, config, writer, progress
        self.workers = config.data.workers or os.cpu_count() or 1
        self.drops = Drops()
        self.partitions = 0  # until all rows are read
        self.titles = source.titles()
        columns = title_columns(self.titles.features, config.features, len(self.titles.key))
        self.title_categories, self.title_numbers, self.title_specs, self.title_values = columns
        self.user_columns, self.context = (
            FeatureColumns(config.features, "user"),
            FeatureColumns(config.features, "context"),
        )
        users, key_hash = read_users(source, self.user_columns), of_keys(self.titles.key)
        self.tables = partition_job.PreparationInputs(
            config, self.titles.runtime, key_hash, self.context, users
        )
        spill = Path(writer.partial) / "spill"
        self.spill = Spill(spill, config.data.partitions, record_dtype(config.features))

    def run(self) -> None:
        rows, held = self._route()
        plays, copies = self._count()
        order, trending = partition_job.popularity(plays)
        arrays = catalogue_arrays(
            self.titles.key, self.titles.runtime, plays, order, self.title_categories, self.title_numbers
        )
        specs = (self.title_specs, self.user_columns.specs, self.context.specs)
        layout = partition_job.layout_of(self.config, len(order), *specs)
        sizes, users = self._build(order, trending, arrays, layout, held)
        shutil.rmtree(self.writer.partial / "spill")
        found = PreparationResult(
            has_completion=self.source.has_completion,
            has_truth=self.source.truth() is not None,
            layout=layout,
            values={**self.title_values, **self.user_columns.values, **self.context.values},
            titles=len(order),
            trending=trending,
            plays=int(plays.sum()),
            rows=rows,
            copies=copies,
            drops=self.drops,
            sizes=sizes,
            row_sums=self.writer.row_sums(),
        )
        self.writer.finish(arrays, {s: held.keys(u) for s, u in users.items()}, manifest(self.config, found))

    def _route(self) -> tuple[int, HeldOut]:
        """Cleans every chunk and sends its events to their partitions. Returns rows read, held-out keys."""
        rows, hashes, keys = 0, [np.empty(0, np.uint64)], []
        for chunk in self.source.interactions():
            good = clean(chunk, self.titles, self.config.data, self.drops, self.source.has_completion)
            rows += len(chunk.user)
            self.spill.add(good, *self.context.add(good.context, len(good.user_hash)))
            once, first = np.unique(of_keys(chunk.user), return_index=True)
            held = self.config.data.split != "users" or self.tables.users.splits(once, self.config) > 0
            held = np.broadcast_to(held, once.shape)
            hashes.append(once[held])
            keys.append(chunk.user[first[held]])
            self.progress("reading rows", rows, 0)
        for reason, count in self.source.drops.counts.items():
            self.drops.add(reason, count, self.source.drops.examples[reason])
        rows += sum(self.source.drops.counts.values())
        check_dropped(self.drops, rows, self.config.data)
        if not keys:
            raise InputError("source: no interactions; allowed: at least one")
        self.context.finish()
        self.partitions = self.spill.make_partitions()
        once, first = np.unique(np.concatenate(hashes), return_index=True)
        return rows, HeldOut(once, np.concatenate(keys)[first])

    def _count(self) -> tuple[np.ndarray, int]:
        """Plays [titles] which training may count, a user and title counting once; copies dropped."""
        plays, copies = np.zeros(len(self.titles.key), np.int64), 0
        for title, dropped in self._each("counting plays", self._sort_partition):
            plays += np.bincount(title, minlength=len(plays))
            copies += dropped
        return plays, copies

    def _sort_partition(self, partition: int) -> tuple[np.ndarray, int]:
        """Sorts a partition in place, without copies. Returns what `plays` counts, and copies."""
        records, plays, copies = partition_job.sort(self.spill.load(partition), self.tables)
        self.spill.replace(partition, records)
        return plays, copies

    def _build(
        self, order: np.ndarray, trending: int, arrays: Arrays, layout: Layout, held: HeldOut
    ) -> tuple[SplitSizes, dict[str, np.ndarray]]:
        """Writes every partition's rows. Returns what they add up to, and the held-out users by split."""
        ranked = partition_job.rank(order, trending, arrays, self.tables.key_hash, layout)
        truth = self.source.truth()
        self.writer.begin(layout)
        users: dict[str, list[np.ndarray]] = {s: [] for s in SPLITS[1:]}
        sizes = SplitSizes()

        def build(partition: int) -> Examples:
            return partition_job.build(self.spill.load(partition), self.tables, ranked, held, truth)

        for made in self._each("building rows", build):
            for split in SPLITS:
                made.rows[split]["user"] += sizes.users[split]
                self.writer.add(split, made.rows[split])
            for split, hashes in users.items():
                hashes.append(made.users[split])
            sizes.add(SplitSizes.of(made))
        return sizes, {s: np.concatenate(u) for s, u in users.items()}

    def _each(self, stage: str, of: Callable[[int], T]) -> Iterator[T]:
        """Results of every partition in order; few wait at a time, so that memory stays bounded."""
        with ThreadPoolExecutor(self.workers) as pool:
            ahead = [pool.submit(of, p) for p in range(min(self.workers + 1, self.partitions))]
            for p in range(self.partitions):
                result = ahead.pop(0).result()
                if p + self.workers + 1 < self.partitions:
                    ahead.append(pool.submit(of, p + self.workers + 1))
                self.progress(stage, p + 1, self.partitions)
                yield result
