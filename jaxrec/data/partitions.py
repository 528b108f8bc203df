"""Routes cleaned events to partitions of users, on disk, so that memory holds one partition at a time.

A partition is a range of the users' hashes, so partitions in order are the users in order of hash
however many there are, and nothing written later depends on their number.
"""

from pathlib import Path

import numpy as np

from jaxrec.data.clean import CleanChunk


def partition_of(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """int64 in [0, partitions), ascending with the hash."""
    return (((hashes >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)


class Spill:
    """One file of fixed-width event records a partition."""

    def __init__(self, directory: Path, partitions: int, categories: int, numbers: int) -> None:
        directory.mkdir()
        self.partitions = partitions
        self.dtype = np.dtype(
            [
                ("user", "<u8"),
                ("time", "<i8"),
                ("viewed", "<i8"),
                ("title", "<i4"),
                ("categories", "<i4", (categories,)),
                ("numbers", "<f8", (numbers,)),
            ]
        )
        self._paths = [directory / f"{p:05d}" for p in range(partitions)]

    def add(self, chunk: CleanChunk, categories: np.ndarray, numbers: np.ndarray) -> None:
        """Appends a chunk's events to their partitions' files."""
        records = np.empty(len(chunk.user_hash), self.dtype)
        records["user"], records["time"] = chunk.user_hash, chunk.time
        records["viewed"], records["title"] = chunk.viewed, chunk.title
        records["categories"], records["numbers"] = categories, numbers
        where = partition_of(chunk.user_hash, self.partitions)
        order = np.argsort(where, kind="stable")
        ends = np.searchsorted(where[order], np.arange(self.partitions + 1))
        for p, path in enumerate(self._paths):
            mine = order[ends[p] : ends[p + 1]]
            if len(mine):
                with path.open("ab") as f:
                    records[mine].tofile(f)

    def load(self, partition: int) -> np.ndarray:
        """The partition's records, in the order they came."""
        path = self._paths[partition]
        return np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)

    def replace(self, partition: int, records: np.ndarray) -> None:
        records.tofile(self._paths[partition])
