"""Messages between the stages of `runners/stages.py`, and totals of them.

Totals are added up in any order.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.ids import SPLITS
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.partitions import partition_of
from jaxrec.data.events.users import UserKeys, UserTable
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn
from jaxrec.data.increments.earlier import EarlierDataset
from jaxrec.data.runners.manifest import SplitSizes
from jaxrec.data.runners.partition_job import NO_PLAYS, PartitionEvents
from jaxrec.data.signals.cleaning import SignalTally
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.data.storage.writer import Fingerprint


class TitlesMessage(NamedTuple):
    """The source, with its titles read, and the hashes of the titles' keys.

    Attributes:
        key_hash: [V] uint64.
        earlier: Dataset that is continued; None: there is none.
    """

    source: Source
    key_hash: np.ndarray
    earlier: EarlierDataset | None = None


class EventChunk(NamedTuple):
    """A cleaned chunk of interactions. N events, U users.

    Attributes:
        records: [N] of `partitions.record_dtype`.
        context: Defines the codes of the records' categories.
        hash: [U] uint64 hashes of the chunk's users, ascending and unique.
        key: [U] keys of these users.
    """

    records: np.ndarray
    context: FeatureColumns
    hash: np.ndarray
    key: np.ndarray


class UserShare(NamedTuple):
    """Events and users of one partition in a chunk.

    The records' categories have the codes of `GlobalStats.context`.

    Attributes:
        records: [N] of `partitions.record_dtype`.
        hash: [U] uint64 hashes of the users.
        key: [U] keys of these users.
    """

    records: np.ndarray
    hash: np.ndarray
    key: np.ndarray


class PartitionMessage(NamedTuple):
    """A sorted partition.

    Attributes:
        events: Sorted plays and events of signals.
        users: Features and splits of the users.
        user_keys: Keys of all users of the partition.
    """

    events: PartitionEvents
    users: UserTable
    user_keys: UserKeys


class GlobalStats(NamedTuple):
    """Global results of all tallies.

    Attributes:
        context: Finished columns of the context.
        partition: [ranges] partition of each range of hashes, -1 for a range without events.
        events: [partitions] number of plays.
        signal_events: [partitions] number of events of signals.
        rows: Number of rows read.
        drops: Rows left out.
        signals: Counts of the events of signals.
        titles: [V] number of events by row of the titles.
    """

    context: FeatureColumns
    partition: np.ndarray
    events: np.ndarray
    signal_events: np.ndarray
    rows: int
    drops: Drops
    signals: SignalTally
    titles: np.ndarray

    def partitions_of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the partition [N] of user hashes [N] uint64.

        The partition is -1 for a range without events.
        """
        return self.partition[partition_of(hashes, len(self.partition))]

    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self.events)


class CatalogueMessage(NamedTuple):
    """Arrays and counts of the catalogue, and the features' values, for the manifest.

    Attributes:
        arrays: Arrays of the catalogue.
        values: Categorical feature -> its values.
        trending: Number of trending titles.
        plays: Number of (user, title) pairs that training may count.
        copies: Number of duplicates dropped.
        signal_copies: [signals] number of duplicates dropped of each signal.
    """

    arrays: Arrays
    values: dict[str, list]
    trending: int
    plays: int
    copies: int
    daily_plays: DailyPlays  # of ids
    signal_copies: np.ndarray


class OutputOffsets(NamedTuple):
    """Rows and users before each partition, by split, and the totals.

    Attributes:
        rows: Split -> [partitions + 1] int64 rows before each partition.
        users: Split -> [partitions + 1] int64 users before each partition.
        total: Sizes of all partitions together.
    """

    rows: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    total: SplitSizes


# ---------------------------------------------------------------- totals, added up in any order


@dataclass
class Tally:
    """Counts over one or more parts of the source.

    Attributes:
        chunks: Number of chunks.
        rows: Number of rows read.
        events: [ranges] number of events by range of hashes; 0 without chunks.
        drops: Part -> rows left out by cleaning, and by the reader.
        fitted: Values and sums of the context.
        signals: Counts of the events of signals.
        titles: [V] number of events by row of the titles; 0 without chunks.
    """

    chunks: int = 0
    rows: int = 0
    events: Any = 0
    drops: dict[int, tuple[Drops, Drops]] = field(default_factory=dict)
    fitted: FittedColumn = field(default_factory=FittedColumn)
    signals: SignalTally = field(default_factory=SignalTally)
    titles: Any = 0

    def add(self, more: "Tally") -> None:
        """Add the counts of other parts."""
        self.chunks, self.rows = self.chunks + more.chunks, self.rows + more.rows
        self.events = self.events + more.events
        self.drops.update(more.drops)
        self.fitted.add(more.fitted)
        self.signals.add(more.signals)
        self.titles = self.titles + more.titles


@dataclass
class PlayCounts:
    """Plays of the titles and dropped duplicates, over one or more partitions.

    Attributes:
        plays: [rows] int64 plays by row of the catalogue, without trailing zeros.
        copies: Number of duplicates dropped.
        partitions: Number of partitions counted.
        signal_copies: [signals] number of duplicates dropped of each signal; 0 without partitions.
        end: Time after the last play, in milliseconds.
    """

    plays: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    copies: int = 0
    partitions: int = 0
    daily_plays: list[DailyPlays] = field(default_factory=list)  # of rows, by partition in any order
    signal_copies: Any = 0
    end: int = NO_PLAYS

    def add(self, more: "PlayCounts") -> None:
        """Add the counts of other partitions."""
        self.plays = self.padded(max(len(self.plays), len(more.plays)))
        self.plays[: len(more.plays)] += more.plays
        self.copies += more.copies
        self.partitions += more.partitions
        self.daily_plays = [*self.daily_plays, *more.daily_plays]
        self.signal_copies = self.signal_copies + more.signal_copies
        self.end = max(self.end, more.end)

    def padded(self, titles: int) -> np.ndarray:
        """Return the plays with trailing zeros, as [titles] int64."""
        return np.pad(self.plays, (0, titles - len(self.plays)))


@dataclass
class ByPartition:
    """Values by number of the partition."""

    values: dict[int, Any] = field(default_factory=dict)

    def add(self, more: "ByPartition") -> None:
        """Add the values of other partitions."""
        self.values.update(more.values)


@dataclass
class RowSums:
    """Fingerprint and number of rows by split, over one or more shards."""

    fingerprints: dict[str, Fingerprint] = field(default_factory=lambda: {s: Fingerprint() for s in SPLITS})
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))

    def add(self, more: "RowSums") -> None:
        """Add the rows of other shards."""
        for split in SPLITS:
            self.fingerprints[split].merge(more.fingerprints[split])
            self.rows[split] += more.rows[split]


def check_count(what: str, received: int, sent: int) -> None:
    """Raise RuntimeError where the engine lost or duplicated messages."""
    if received != sent:
        counts = f"the engine delivered {received} {what} of {sent} sent"
        raise RuntimeError(f"{counts}: some were lost or duplicated")
