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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.paths import AnyPath, as_path, cache_folder
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.shard_cache import local_shards

FORMAT = 2
MANIFEST = "manifest.json"  # the file that makes a dataset one: it is written last
_MOST_PLAYS = 2**31 - 1
BLOCK_ROWS = 512
SHARD_BLOCKS = 512
SHARD_ROWS = SHARD_BLOCKS * BLOCK_ROWS
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


def as_words(rows: np.ndarray) -> np.ndarray:
    """Structured rows [N] seen as [N, words] uint32, without a copy."""
    return np.ascontiguousarray(rows).view("<u4").reshape(len(rows), rows.dtype.itemsize // 4)


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
