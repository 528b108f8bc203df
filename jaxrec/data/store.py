"""A prepared dataset on disk: block shards, arrays of the catalogue, a manifest.

    manifest.json            layout, counts, seed, split sizes, fingerprint
    train-00000.rows ...     array_record shards; a record is a block of rows, as bytes
    validation-00000.rows    ... and test-00000.rows, with the frozen lists
    title_key.npy ...        one file an array of `Arrays`
    users_validation.npy     the caller's keys of held-out users, by user number

Rows are fixed width, so a block is one read and one `frombuffer`.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from jaxrec.data.fetch import local_shards
from jaxrec.errors import InputError
from jaxrec.hashing import finalise, mix
from jaxrec.paths import AnyPath, as_path, cache_folder, send_folder
from jaxrec.schema import FIRST_TITLE, SPLITS, Layout, TitleTable

FORMAT = 2
MANIFEST = "manifest.json"  # the file that makes a dataset one: it is written last
_MOST_PLAYS = 2**31 - 1
BLOCK_ROWS = 512
SHARD_BLOCKS = 512
SHARD_ROWS = SHARD_BLOCKS * BLOCK_ROWS
_OPTIONS = "group_size:1,uncompressed"  # blocks are read whole at random; compression costs 3 times the read
_READ_OPTIONS = (
    "readahead_buffer_size:0,max_parallelism:0"  # the next block lies elsewhere; callers have threads
)


@dataclass(frozen=True)
class Arrays:
    """The catalogue's arrays; with the config they are what a checkpoint needs of its dataset.

    V title ids, 0 and 1 included.
    """

    title_key: np.ndarray  # [V - 2] the caller's keys, by id
    title_runtime: np.ndarray  # [V - 2] float64 minutes
    title_plays: np.ndarray  # [V] int64 plays by training users
    rank_of_id: np.ndarray  # [V] int32 popularity rank, V for padding and unknown
    id_of_rank: np.ndarray  # [V - 2] int32
    title_categories: np.ndarray  # [V, columns] int32
    title_numbers: np.ndarray  # [V, columns] float32

    def title_table(self) -> TitleTable:
        return TitleTable(self.title_categories, self.title_numbers, cumulative(self.title_plays))


def cumulative(plays: np.ndarray) -> np.ndarray:
    """[V] int32, on the host: how many plays the titles up to each id have together, from plays [V], whole
    numbers. Ids below FIRST_TITLE have none.

    Exact below 2**31 plays; beyond, all are scaled to that many, which moves a title's probability by
    2**-31 at most.
    """
    total = np.where(np.arange(len(plays)) < FIRST_TITLE, 0, plays).astype(np.int64).cumsum()
    if total[-1] > _MOST_PLAYS:
        total = np.floor(total * (_MOST_PLAYS / total[-1])).astype(np.int64)
    return total.astype(np.int32)


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


def as_words(rows: np.ndarray) -> np.ndarray:
    """Structured rows [N] seen as [N, words] uint32, without a copy."""
    return np.ascontiguousarray(rows).view("<u4").reshape(len(rows), rows.dtype.itemsize // 4)


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


def _reader(path: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(path), _READ_OPTIONS)


def _count(path: Path) -> int:
    """How many blocks a shard holds; 0 of one that was cut off."""
    return _reader(path).num_records()


class Rows:
    """A split's rows, read by block; those of a bucket from copies on this machine, in a folder of it."""

    def __init__(
        self, directory: AnyPath, split: str, rows: int, dtype: np.dtype, copies: Path | None = None
    ) -> None:
        self.rows, self.dtype, self._directory, self._copies = rows, dtype, directory, copies
        self.blocks = -(-rows // BLOCK_ROWS)
        self._names = [f"{split}-{s:05d}.rows" for s in range(-(-self.blocks // SHARD_BLOCKS))]
        there = {path.name for path in directory.iterdir()}
        for name in self._names:
            if name not in there:
                raise InputError(f"dataset {directory}: {name} is missing; prepare it again")

    @cached_property
    def _readers(self) -> list[ArrayRecordReader]:
        if self._copies is None:
            return [_reader(self._directory / name) for name in self._names]
        held = [min(SHARD_BLOCKS, self.blocks - b) for b in range(0, self.blocks, SHARD_BLOCKS)]
        paths = local_shards(self._directory, self._names, held, self._copies, _count)
        return [_reader(path) for path in paths]

    def block_rows(self) -> np.ndarray:
        """[blocks] how many rows each holds: all the same but the last."""
        sizes = np.full(self.blocks, BLOCK_ROWS)
        if self.blocks:
            sizes[-1] = self.rows - (self.blocks - 1) * BLOCK_ROWS
        return sizes

    def read(self, blocks: np.ndarray) -> np.ndarray:
        """[rows, words] uint32 of these blocks, in their order."""
        out = np.empty((int(self.block_rows()[blocks].sum()), self.dtype.itemsize // 4), np.uint32)
        self.read_into(blocks, out)
        return out

    def read_into(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` [rows, words] uint32, contiguous, with these blocks, in their order.

        Threads may share a `Rows`; most of the work holds no lock of Python's.
        """
        flat, first = out.reshape(-1), 0
        for block in blocks.tolist():  # one at a time: many records at once are fresh pages, twice the time
            [record] = self._readers[block // SHARD_BLOCKS].read([block % SHARD_BLOCKS])
            words = np.frombuffer(record, "<u4")
            flat[first : first + len(words)] = words
            first += len(words)

    def all(self) -> np.ndarray:
        """Every row, structured; for held-out splits and tests."""
        return self.read(np.arange(self.blocks)).reshape(-1).view(self.dtype)


class Dataset:
    """A prepared dataset, open for reading."""

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = as_path(directory)
        path = self.directory / MANIFEST
        if not path.exists():
            raise InputError(
                f"dataset {self.directory}: no manifest.json; prepare it with python -m jaxrec.prepare"
            )
        self.manifest = json.loads(path.read_bytes())
        if self.manifest["format"] != FORMAT:
            raise InputError(
                f"dataset {self.directory}: format={self.manifest['format']}; allowed: {FORMAT}; "
                "prepare it again"
            )
        self.layout = Layout.from_json(self.manifest["layout"])
        self._copies: Path | None = None
        if not isinstance(self.directory, Path):
            # By the place too: rows of one fingerprint may lie in another order elsewhere.
            place = hashlib.sha256(str(self.directory).encode()).hexdigest()[:12]
            self._copies = cache_folder("datasets") / f"{self.fingerprint}-{place}"

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @cached_property
    def arrays(self) -> Arrays:
        names = Arrays.__dataclass_fields__
        return Arrays(**{name: _array(self.directory / f"{name}.npy") for name in names})

    def rows(self, split: str) -> Rows:
        dtype = self.layout.row_dtype() if split == "train" else self.layout.query_dtype()
        examples = self.manifest["splits"][split]["examples"]
        return Rows(self.directory, split, examples, dtype, self._copies)

    def user_keys(self, split: str) -> np.ndarray:
        """The caller's keys of a held-out split's users, by the number in a row's `user`."""
        return _array(self.directory / f"users_{split}.npy")


def _array(path: AnyPath) -> np.ndarray:
    return np.load(path if isinstance(path, Path) else io.BytesIO(path.read_bytes()), allow_pickle=False)


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
