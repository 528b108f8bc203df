"""What travels between the steps of `data/spread.py`, and what of it is added up on the way, in any order."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.ids import SPLITS
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.partitions import partition_of
from jaxrec.data.events.users import HeldOut, UserTable
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn
from jaxrec.data.runners.manifest import SplitSizes
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.storage.writer import Fingerprint


class TitlesMessage(NamedTuple):
    """The source, its titles read, and the hashes of their keys."""

    source: Source
    key_hash: np.ndarray


class EventChunk(NamedTuple):
    """A cleaned chunk of interactions."""

    records: np.ndarray
    context: FeatureColumns  # what numbered the records' categories
    hash: np.ndarray  # of its users, each once, ascending
    key: np.ndarray  # theirs


class UserShare(NamedTuple):
    """What one partition has of a chunk; the records' categories are numbered by `Settled.context`."""

    records: np.ndarray
    hash: np.ndarray
    key: np.ndarray


class PartitionMessage(NamedTuple):
    """One partition, sorted."""

    records: np.ndarray
    users: UserTable
    held: HeldOut  # the keys of all its users


class GlobalStats(NamedTuple):
    """What all tallies come to."""

    context: FeatureColumns  # finished
    partition: np.ndarray  # of each range of hashes, -1 where no event is
    events: np.ndarray  # of each partition
    rows: int
    drops: Drops

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """The partition of each of some users."""
        return self.partition[partition_of(hashes, len(self.partition))]

    def partitions(self) -> int:
        return len(self.events)


class CatalogueMessage(NamedTuple):
    """What the manifest says of the titles and features, but for the layout."""

    arrays: Arrays
    values: dict[str, list]
    trending: int
    plays: int
    copies: int


class OutputOffsets(NamedTuple):
    """What stands before each partition, by split; and what there is in all."""

    rows: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    total: SplitSizes


# ---------------------------------------------------------------- what is added up, in any order


@dataclass
class Tally:
    """What is counted of a part of the source, or of several."""

    chunks: int = 0
    rows: int = 0
    events: Any = 0  # by range of hashes
    drops: dict[int, tuple[Drops, Drops]] = field(default_factory=dict)  # of each part: ours, the reader's
    seen: FittedColumn = field(default_factory=FittedColumn)

    def add(self, more: "Tally") -> None:
        self.chunks, self.rows = self.chunks + more.chunks, self.rows + more.rows
        self.events = self.events + more.events
        self.drops.update(more.drops)
        self.seen.add(more.seen)


@dataclass
class PlayCounts:
    """Plays [V] by row of the catalogue, trailing zeros left out, and copies dropped, of some partitions."""

    plays: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    copies: int = 0
    partitions: int = 0

    def add(self, more: "PlayCounts") -> None:
        self.plays = self.padded(max(len(self.plays), len(more.plays)))
        self.plays[: len(more.plays)] += more.plays
        self.copies += more.copies
        self.partitions += more.partitions

    def padded(self, titles: int) -> np.ndarray:
        return np.pad(self.plays, (0, titles - len(self.plays)))


@dataclass
class ByPartition:
    """Something of each of some partitions."""

    of: dict[int, Any] = field(default_factory=dict)

    def add(self, more: "ByPartition") -> None:
        self.of.update(more.of)


@dataclass
class RowSums:
    """Each split's order-free sum of row hashes, and its rows, of some shards."""

    of: dict[str, Fingerprint] = field(default_factory=lambda: {s: Fingerprint() for s in SPLITS})
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))

    def add(self, more: "RowSums") -> None:
        for split in SPLITS:
            self.of[split].merge(more.of[split])
            self.rows[split] += more.rows[split]
