"""Preparation: a source's three tables in, a prepared dataset out, whole or not at all.

Events are cleaned and routed to partitions of users; each partition is sorted, its copies dropped and
its plays counted; then rows are built from the global counts. A partition is a vectorised function of
its events, so cores share them, and how many there are changes no byte.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxrec.config import Config
from jaxrec.config_json import digest
from jaxrec.data import examples, negatives, sequences, splits
from jaxrec.data.clean import check_dropped, clean, drop_copies
from jaxrec.data.log import Catalogue, Log, as_of
from jaxrec.data.partitions import Spill
from jaxrec.data.store import FORMAT, Arrays, DatasetWriter, catalogue_arrays
from jaxrec.data.users import HeldOut, read_users
from jaxrec.data.vocabulary import Columns, title_columns
from jaxrec.errors import InputError
from jaxrec.hashing import of_keys
from jaxrec.paths import AnyPath
from jaxrec.schema import FIRST_TITLE, LISTS, SPLITS, UNKNOWN, Drops, FeatureSpec, Layout, Source

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
            Columns(config.features, "user"),
            Columns(config.features, "context"),
        )
        self.users = read_users(source, self.user_columns)
        self.key_hash = of_keys(self.titles.key)
        categories = sum(f.kind != "number" for f in self.context.features)
        numbers = len(self.context.features) - categories
        self.spill = Spill(Path(writer.partial) / "spill", config.data.partitions, categories, numbers)

    def run(self) -> None:
        rows, held = self._route()
        plays, copies = self._count()
        order, trending = _popularity(plays)
        arrays = catalogue_arrays(
            self.titles.key, self.titles.runtime, plays, order, self.title_categories, self.title_numbers
        )
        layout = self._layout()
        sizes, users, counts, completion = self._build(order, trending, arrays, layout, held)
        shutil.rmtree(self.writer.partial / "spill")
        for split in SPLITS:
            if not sizes[split]:
                raise InputError(f"source: no {split} example is left; allowed: at least one in every split")
        manifest = {
            "format": FORMAT,
            "digest": digest(self.config),
            "has_completion": self.source.has_completion,
            "has_truth": self.source.truth() is not None,
            "seed": self.config.data.seed,
            "layout": layout.to_json(),
            "categories": {**self.title_values, **self.user_columns.values, **self.context.values},
            "titles": len(order),
            "trending": trending,
            "plays": int(plays.sum()),
            "completion_threshold": completion if self.source.has_completion else None,
            "rows": {"read": rows, "copies": copies, "dropped": dict(sorted(self.drops.counts.items()))},
            "splits": {s: {"users": len(users[s]), "examples": sizes[s]} for s in SPLITS},
            "counts": dict(sorted(counts.items())),
        }
        if layout.examples == "requests":
            manifest["hard_fill_rate"] = counts["hard columns filled"] / counts["hard columns"]
        # Sums of row hashes know no order; the manifest is everything else that the dataset is.
        parts = [manifest, {s: f"{v:032x}" for s, v in self.writer.row_sums().items()}]
        manifest["fingerprint"] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        self.writer.finish(arrays, {s: held.keys(users[s]) for s in SPLITS if s != "train"}, manifest)

    def _route(self) -> tuple[int, HeldOut]:
        """Cleans every chunk and sends its events to their partitions. Returns rows read, held-out keys."""
        rows, hashes, keys = 0, [np.empty(0, np.uint64)], []
        for chunk in self.source.interactions():
            good = clean(chunk, self.titles, self.config.data, self.drops, self.source.has_completion)
            rows += len(chunk.user)
            self.spill.add(good, *self.context.add(good.context, len(good.user_hash)))
            once, first = np.unique(of_keys(chunk.user), return_index=True)
            held = self.config.data.split != "users" or self.users.splits(once, self.config) > 0
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
        """Sorts a partition in place, without copies. Returns titles its training events play; copies."""
        records = self.spill.load(partition)
        # Final ids, not the provisional codes: those know in which order the rows came.
        ties = self.context.encode(records["categories"], records["numbers"])
        kept = drop_copies(*(records[name] for name in ("user", "title", "time", "viewed")), *ties)
        copies, records = len(records) - len(kept), records[kept]
        self.spill.replace(partition, records)
        log = self._events(records, np.arange(len(self.titles.key)))
        counted = self._training_events(log)
        return np.unique(log.user[counted] * np.int64(2**31) + log.rank[counted]) % 2**31, copies

    def _training_events(self, log: Log) -> np.ndarray:
        """[N] bool: what training may count of a log whose ranks are still rows of the catalogue."""
        data = self.config.data
        target = split = np.empty(0, np.int64)
        if data.split == "last":
            then = as_of(log, self.titles.runtime)
            if data.examples == "sequences":
                target = sequences.targets(log, then, self.key_hash, data)
                user, time = log.user[target], log.time[target]
                split = splits.of_targets(data, log.split, log.hash, user, time, sequences.LEAST)
            else:
                target = examples.targets(log, then, data)
                split = examples.of_targets(log, target, self.key_hash, data)
        return splits.training_events(data, log.split, log.user, log.time, target, split)

    def _layout(self) -> Layout:
        """Features in the order declared."""
        data, features = self.config.data, self.config.features
        given = [FeatureSpec(f.name, f.kind, f.where, f.width) for f in features if f.where == "interaction"]
        groups = (self.title_specs, self.user_columns.specs, self.context.specs, given)
        found = {(s.where, s.name): s for specs in groups for s in specs}
        titles, declared = len(self.titles.key) + FIRST_TITLE, tuple(found[f.where, f.name] for f in features)
        if data.examples == "sequences":
            return Layout(titles, data.history, 1, (0, 0, 0, 0), 0, declared, "sequences")
        pools = (data.hard, data.trending, data.tailing, data.random)
        return Layout(titles, data.history, data.next_k, pools, data.negatives, declared)

    def _build(
        self, order: np.ndarray, trending: int, arrays: Arrays, layout: Layout, held: HeldOut
    ) -> tuple[dict[str, int], dict[str, np.ndarray], dict[str, int], float]:
        """Writes every partition's rows. Returns rows and users by split, counts, the mean completion of
        what training predicts."""
        rank_of_row = np.empty(len(order), np.int64)
        rank_of_row[order] = np.arange(len(order))
        catalogue = Catalogue(arrays.title_runtime, arrays.id_of_rank, trending, self.key_hash[order])

        def work(partition: int) -> examples.Examples:
            log = self._log(partition, rank_of_row, layout)
            if layout.examples == "sequences":
                return sequences.build(log, catalogue, layout, self.config.data)
            made, world = examples.build(log, catalogue, layout, self.config.data)
            self._oracle(made, log, world, held, order, arrays, layout)
            return made

        self.writer.begin(layout)
        users: dict[str, list[np.ndarray]] = {s: [] for s in SPLITS}
        counts: dict[str, int] = {}
        completion = completions = 0
        for made in self._each("building rows", work):
            for split in SPLITS:
                made.rows[split]["user"] += sum(map(len, users[split]))
                self.writer.add(split, made.rows[split])
                users[split].append(made.users[split])
            for name, n in made.counts.items():
                counts[name] = counts.get(name, 0) + n
            completion += made.completion_sum
            completions += made.completions
        mean = completion / 2**32 / max(completions, 1)
        return self.writer.sizes(), {s: np.concatenate(u) for s, u in users.items()}, counts, mean

    def _events(self, records: np.ndarray, rank_of_row: np.ndarray) -> Log:
        """A partition's events, sorted by user, without features."""
        new = np.diff(records["user"], prepend=~records["user"][:1]) != 0
        hashes, none = records["user"][new], np.empty((0, 0))
        return Log(
            hashes,
            self.users.splits(hashes, self.config),
            np.cumsum(new) - 1,
            rank_of_row[records["title"]],
            records["time"],
            records["viewed"],
            *(none, none, none, none),
        )

    def _log(self, partition: int, rank_of_row: np.ndarray, layout: Layout) -> Log:
        records = self.spill.load(partition)
        log = self._events(records, rank_of_row)
        at, known = self.users.find(log.hash)
        categories = np.full((len(log.hash), layout.columns("user", "category")), UNKNOWN, np.int32)
        numbers = np.zeros((len(log.hash), layout.columns("user", "number")), np.float32)
        categories[known], numbers[known] = self.users.categories[at[known]], self.users.numbers[at[known]]
        context = self.context.encode(records["categories"], records["numbers"])
        return log._replace(
            context_categories=context[0],
            context_numbers=context[1],
            user_categories=categories,
            user_numbers=numbers,
        )

    def _oracle(
        self, made: examples.Examples, log: Log, world: negatives.Universe, held: HeldOut,
        order: np.ndarray, arrays: Arrays, layout: Layout,
    ) -> None:  # fmt: skip
        """The truth's columns of the held-out rows: p/q and p of the K=1 lists, the mood; NaN without one."""
        truth = self.source.truth()
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
            rank = arrays.rank_of_id[np.concatenate(lists, axis=1)]
            keys = held.keys(log.hash[user])
            rows["mood"] = truth.mood(keys, time)
            p, abandoned = truth.densities(keys, time, order[rank])
            for l, name in enumerate(LISTS):
                part = slice(l * (layout.negatives + 1), (l + 1) * (layout.negatives + 1))
                q = negatives.densities(
                    world, user, rank[:, part], abandoned[:, part], rows["list_hard"][:, 0],
                    examples.list_widths(name, layout.negatives),
                )  # fmt: skip
                rows[f"oracle_{name}"], rows[f"truth_{name}"] = p[:, part] / q, p[:, part]

    def _each(self, stage: str, work: Callable[[int], T]) -> Iterator[T]:
        """Results of every partition in order; few wait at a time, so that memory stays bounded."""
        with ThreadPoolExecutor(self.workers) as pool:
            ahead = [pool.submit(work, p) for p in range(min(self.workers + 1, self.partitions))]
            for p in range(self.partitions):
                result = ahead.pop(0).result()
                if p + self.workers + 1 < self.partitions:
                    ahead.append(pool.submit(work, p + self.workers + 1))
                self.progress(stage, p + 1, self.partitions)
                yield result


def _popularity(plays: np.ndarray) -> tuple[np.ndarray, int]:
    """The caller's row at each rank, and how many first ranks make up half of all plays."""
    if not plays.sum():
        raise InputError("source: no play of a training user is left; allowed: at least one")
    order = np.argsort(-plays, kind="stable")
    running = np.cumsum(plays[order])
    return order, int(np.searchsorted(running, running[-1] / 2) + 1)
