"""Writing of a prepared dataset: block shards, fingerprint, all or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxrec.core.errors import InputError
from jaxrec.core.hashing import finalise, mix
from jaxrec.core.ids import FIRST_TITLE, SPLITS
from jaxrec.core.paths import as_path, send_folder
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import BLOCK_ROWS, MANIFEST, SHARD_BLOCKS, Arrays, as_words

_OPTIONS = "group_size:1,uncompressed"  # blocks are read whole at random; compression costs 3 times the read


class Fingerprint:
    """An order-free sum, mod 2**128, of row hashes: the same rows give the same sum in any order."""

    def __init__(self) -> None:
        self._sums = [0, 0]

    def add(self, rows: np.ndarray) -> None:
        words = as_words(rows)
        odd = [mix(i, np.arange(words.shape[1])) | np.uint64(1) for i in range(2)]
        for first in range(0, len(words), BLOCK_ROWS):  # products of few rows stay in a core's cache
            block = words[first : first + BLOCK_ROWS].astype(np.uint64)
            for i in range(2):
                total = finalise(np.einsum("rw,w->r", block, odd[i])).sum(dtype=np.uint64)
                self._sums[i] = (self._sums[i] + int(total)) % 2**64

    def merge(self, other: "Fingerprint") -> None:
        self._sums = [(a + b) % 2**64 for a, b in zip(self._sums, other._sums, strict=True)]

    def value(self) -> int:
        return (self._sums[0] << 64) | self._sums[1]


class _SplitWriter:
    """Cuts a split's rows, as they come, into blocks and shards; its bytes know nothing of partitions."""

    def __init__(self, directory: Path, split: str, dtype: np.dtype, shard: int = 0) -> None:
        """`shard` is the first one written."""
        self._directory, self._split = directory, split
        self._pending = np.empty(0, dtype)
        self._writer: ArrayRecordWriter | None = None
        self._blocks = shard * SHARD_BLOCKS
        self.rows = 0
        self.fingerprint = Fingerprint()

    def add(self, rows: np.ndarray) -> None:
        self.rows += len(rows)
        self.fingerprint.add(rows)
        first = 0
        if len(self._pending):
            first = BLOCK_ROWS - len(self._pending)
            self._pending = np.concatenate([self._pending, rows[:first]])
            if len(self._pending) < BLOCK_ROWS:
                return
            self._block(self._pending)
        whole = first + (len(rows) - first) // BLOCK_ROWS * BLOCK_ROWS
        for i in range(first, whole, BLOCK_ROWS):
            self._block(rows[i : i + BLOCK_ROWS])
        self._pending = rows[whole:].copy()  # a view would hold all of them in memory

    def _block(self, rows: np.ndarray) -> None:
        if self._blocks % SHARD_BLOCKS == 0:
            self._close_shard()
            shard = self._blocks // SHARD_BLOCKS
            self._writer = ArrayRecordWriter(
                str(self._directory / f"{self._split}-{shard:05d}.rows"), _OPTIONS
            )
        assert self._writer is not None
        self._writer.write(rows.tobytes())
        self._blocks += 1

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        if len(self._pending):
            self._block(self._pending)
        self._close_shard()


def write_shard(
    directory: Path, split: str, shard: int, dtype: np.dtype, pieces: Iterable[np.ndarray]
) -> Fingerprint:
    """Writes one shard, of rows that come in pieces, as a `DatasetWriter` that is given all rows does. Only
    whole does it stand in `directory`, so that two workers may be at it."""
    with tempfile.TemporaryDirectory(dir=directory) as beside:
        writer = _SplitWriter(Path(beside), split, dtype, shard)
        for rows in pieces:
            writer.add(rows)
        writer.close()
        [written] = Path(beside).iterdir()
        os.replace(written, directory / written.name)
    return writer.fingerprint


class DatasetWriter:
    """Writes a dataset beside its place and moves it there at the end, or leaves nothing.

    One that goes to a bucket is written in a temporary folder and sent at the end, its manifest last: what
    a killed process has sent is no dataset, and is overwritten by the next one.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self._final = as_path(directory)
        self._splits: dict[str, _SplitWriter] = {}
        if isinstance(self._final, Path):
            self.partial = self._final.with_name(f".{self._final.name}.partial")
            exists = self._final.exists()
        else:
            self.partial = Path(tempfile.gettempdir()) / f"jaxrec-{os.getpid()}-{self._final.name}.partial"
            exists = (self._final / MANIFEST).exists()
        if exists:
            raise InputError(f"dataset {self._final}: exists; remove it, or name another directory")

    def begin(self, layout: Layout) -> None:
        """Once the layout is known, and before any row."""
        dtypes = (layout.row_dtype(), layout.query_dtype(), layout.query_dtype())
        self._splits = {s: _SplitWriter(self.partial, s, d) for s, d in zip(SPLITS, dtypes, strict=True)}

    def add(self, split: str, rows: np.ndarray) -> None:
        """Appends a split's rows, [N] of its dtype."""
        self._splits[split].add(rows)

    def sizes(self) -> dict[str, int]:
        return {split: writer.rows for split, writer in self._splits.items()}

    def row_sums(self) -> dict[str, int]:
        """Each split's order-free sum of row hashes."""
        return {split: writer.fingerprint.value() for split, writer in self._splits.items()}

    def __enter__(self) -> "DatasetWriter":
        shutil.rmtree(self.partial, ignore_errors=True)  # left by a killed run
        self.partial.mkdir(parents=True)
        return self

    def finish(self, arrays: Arrays, users: dict[str, np.ndarray], manifest: dict) -> None:
        """Writes what is not rows and moves the whole into place."""
        for split in self._splits.values():
            split.close()
        for name, array in vars(arrays).items():
            np.save(self.partial / f"{name}.npy", array)
        for name, keys in users.items():
            np.save(self.partial / f"users_{name}.npy", keys)
        text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False)
        (self.partial / MANIFEST).write_text(text + "\n")
        if isinstance(self._final, Path):
            os.rename(self.partial, self._final)
        else:
            send_folder(self.partial, self._final, last=MANIFEST)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def catalogue_arrays(
    key: np.ndarray, runtime: np.ndarray, plays: np.ndarray, order: np.ndarray,
    categories: np.ndarray, numbers: np.ndarray,
) -> Arrays:  # fmt: skip
    """First numbering of a catalogue: by popularity. `order` [titles] is the caller's row at each rank."""
    titles = len(key)
    first = FIRST_TITLE
    wide = np.zeros((titles + first, categories.shape[1]), np.int32)
    wide[1] = 1  # the unknown title's features are unknown
    wide[first:] = categories[order]
    tall = np.zeros((titles + first, numbers.shape[1]), np.float32)
    tall[first:] = numbers[order]
    rank_of_id = np.full(titles + first, titles + first, np.int32)
    rank_of_id[first:] = np.arange(titles)
    return Arrays(
        key[order],
        runtime[order].astype(np.float64),
        np.concatenate([np.zeros(first, np.int64), plays[order]]),
        rank_of_id,
        np.arange(first, titles + first, dtype=np.int32),
        wide,
        tall,
    )
