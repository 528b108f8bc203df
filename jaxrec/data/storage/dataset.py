"""Reader of a prepared dataset: block shards, arrays of the catalogue, a manifest.

    manifest.json            layout, counts, seed, split sizes, fingerprint
    train-00000.rows ...     array_record shards; a record is the bytes of a block of rows
    validation-00000.rows    ... and test-00000.rows, with the frozen lists
    title_key.npy ...        one file per array of `Arrays`
    users_validation.npy     the caller's keys of held-out users, by user number
    seen_validation_*.npy    the titles that these users played: `evaluation_arrays.SeenTitles`
    daily_plays_*.npy        plays by day: `evaluation_arrays.DailyPlays`
    truth_*.npy              truth of a simulated source: `evaluation_arrays.TruthArrays`

Rows have a fixed width, so that a block is one read and one `frombuffer`.
"""

import copy
import hashlib
import io
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import parse_json
from jaxrec.core.paths import AnyPath, as_path, cache_folder, inside
from jaxrec.core.row_format import Layout
from jaxrec.data.labels.counts import shares_of
from jaxrec.data.storage.arrays import CATALOGUE_ARRAYS, Arrays, as_words, check_lengths
from jaxrec.data.storage.evaluation_arrays import (
    DAILY_PLAYS,
    DailyPlays,
    SeenTitles,
    TruthArrays,
    seen_prefix,
    truth_prefix,
)
from jaxrec.data.storage.manifest_shape import check_manifest
from jaxrec.data.storage.shard_cache import local_shards
from jaxrec.runtime.checksums import DamagedFileError, verify

__all__ = ["Arrays", "Dataset", "Rows", "SelectedRows", "as_words"]

_Stored = TypeVar("_Stored", SeenTitles, DailyPlays, TruthArrays)

FORMAT = 3
_READABLE = (2, FORMAT)  # FORMAT 2: other names in the layout, the same bytes in the rows
PREPARE_AGAIN = "remove the folder and prepare it again"
_CHECKSUM = "checksum"  # in the manifest, of the rest of it
MANIFEST = "manifest.json"  # written last: a directory without it is not a dataset
BLOCK_ROWS = 512
SHARD_BLOCKS = 512
SHARD_ROWS = SHARD_BLOCKS * BLOCK_ROWS
# Blocks are read in random order, by callers that have their own threads.
_READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def _reader(path: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(path), _READ_OPTIONS)


def _count_blocks(path: Path) -> int:
    """Return the number of blocks in a shard; 0 for a truncated one."""
    return _reader(path).num_records()


class Rows:
    """Rows of a split, read by block; rows in a bucket are read from local copies.

    Args:
        directory: Directory of the dataset.
        split: Name of the split.
        rows: Number of rows.
        dtype: dtype of a row.
        copies: Local folder for copies of remote shards; None for a local dataset.

    Raises:
        InputError: A shard is missing.
    """

    def __init__(
        self, directory: AnyPath, split: str, rows: int, dtype: np.dtype, cache: Path | None = None
    ) -> None:
        self.rows, self.dtype, self._directory, self._cache = rows, dtype, directory, cache
        self._more_words: Callable[[np.ndarray], np.ndarray] | None = None
        self.blocks = -(-rows // BLOCK_ROWS)
        self._names: list[str] = []
        names = {path.name for path in directory.iterdir()}
        for s in range(-(-self.blocks // SHARD_BLOCKS)):  # a damaged manifest may have any number of rows
            self._names.append(f"{split}-{s:05d}.rows")
            if self._names[-1] not in names:
                raise InputError(f"dataset {directory}: {self._names[-1]} is missing; prepare it again")

    def head(self, rows: int) -> "Rows":
        """Return the first blocks of the split, with at least `rows` rows if the split has as many.

        Users are in the order of their hash, so the first blocks are a random sample of the users.
        """
        blocks = -(-rows // BLOCK_ROWS)
        out = copy.copy(self)
        out.rows, out.blocks = min(self.rows, blocks * BLOCK_ROWS), min(self.blocks, blocks)
        return out

    def with_words(self, more_words: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """Return the same rows, to whose end batches of queries add further words.

        `read` and `all` return the stored words alone.

        Args:
            more_words: Maps row indices [N] of the split, -1 for padding, to words [N, words] uint32.
        """
        out = copy.copy(self)
        out._more_words = more_words
        return out

    @property
    def has_more_words(self) -> bool:
        """True if batches of queries add words to the rows."""
        return self._more_words is not None

    def add_words(self, words: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return rows [N, words] with their further words, if any.

        Args:
            words: [N, words] uint32 stored words.
            index: [N] row indices of the split, -1 for padding.
        """
        if self._more_words is None:
            return words
        return np.concatenate([words, self._more_words(index)], axis=1)

    @cached_property
    def _readers(self) -> list[ArrayRecordReader]:
        if self._cache is None:
            return [_reader(self._directory / name) for name in self._names]
        block_counts = [min(SHARD_BLOCKS, self.blocks - b) for b in range(0, self.blocks, SHARD_BLOCKS)]
        paths = local_shards(self._directory, self._names, block_counts, self._cache, _count_blocks)
        return [_reader(path) for path in paths]

    def block_rows(self) -> np.ndarray:
        """Return the rows of each block, as [blocks]: equal except for the last."""
        sizes = np.full(self.blocks, BLOCK_ROWS)
        if self.blocks:
            sizes[-1] = self.rows - (self.blocks - 1) * BLOCK_ROWS
        return sizes

    def read(self, blocks: np.ndarray) -> np.ndarray:
        """Return the rows of these blocks, in this order, as [rows, words] uint32."""
        out = np.empty((int(self.block_rows()[blocks].sum()), self.dtype.itemsize // 4), np.uint32)
        self.read_into(blocks, out)
        return out

    def read_into(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """Read these blocks, in this order, into `out`, which is [rows, words] uint32 and contiguous.

        Threads may share an instance; most of the work runs without Python's lock.
        """
        flat, first, sizes = out.reshape(-1), 0, self.block_rows()
        # One record per read: many records at once need fresh memory pages, which takes twice the time.
        for block in blocks.tolist():
            try:
                [record] = self._readers[block // SHARD_BLOCKS].read([block % SHARD_BLOCKS])
                words = np.frombuffer(record, "<u4")
                if len(words) != sizes[block] * out.shape[1]:
                    raise ValueError(f"block {block} has {len(record):,} bytes")
            except (RuntimeError, IndexError, ValueError) as error:  # of array_record: a hash differs
                name, reason = self._names[block // SHARD_BLOCKS], str(error).splitlines()[0]
                advice = PREPARE_AGAIN if self._cache is None else f"remove the copy {self._cache / name}"
                raise DamagedFileError(
                    f"dataset {self._directory}: {name} is damaged: {reason}; {advice}"
                ) from error
            flat[first : first + len(words)] = words
            first += len(words)

    def all(self) -> np.ndarray:
        """Return all rows [N] as a structured array; meant for held-out splits and tests."""
        return self.read(np.arange(self.blocks)).reshape(-1).view(self.dtype)


class SelectedRows(Rows):
    """Selected rows of a split, in memory.

    Args:
        rows: [N] structured rows.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.dtype, self._words = len(rows), rows.dtype, as_words(rows)
        self._more_words = None
        self.blocks = -(-self.rows // BLOCK_ROWS)

    def read_into(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """Copy these blocks, in this order, into `out`."""
        parts = [self._words[block * BLOCK_ROWS :][:BLOCK_ROWS] for block in blocks.tolist()]
        out[:] = np.concatenate(parts) if parts else out


class Dataset:
    """A prepared dataset, open for reading.

    Arrays are compared with the checksums of the manifest when they are read, and blocks of rows with those
    of array_record.

    Args:
        directory: Local directory or bucket URL.
        verify: False to read arrays without comparing them with their checksums.

    Raises:
        InputError: The directory is not a dataset, its manifest is damaged, or its format or a name in its
            layout is unknown.
    """

    def __init__(self, directory: str | os.PathLike, verify: bool = True) -> None:
        self.directory, self._verify = as_path(directory), verify
        path = self.directory / MANIFEST
        if not path.exists():
            raise InputError(
                f"dataset {self.directory}: no manifest.json; prepare it with python -m jaxrec.prepare"
            )
        self.manifest = read_manifest(path)
        try:
            self.layout = Layout.from_json(self.manifest["layout"])
        except InputError as error:
            raise InputError(f"dataset {self.directory}: {MANIFEST}: {error}") from None
        self._cache: Path | None = None
        if not isinstance(self.directory, Path):
            # The path is part of the name: datasets with one fingerprint may differ in the order of rows.
            path_hash = hashlib.sha256(str(self.directory).encode()).hexdigest()[:12]
            self._cache = cache_folder("datasets") / f"{self.fingerprint}-{path_hash}"

    @property
    def fingerprint(self) -> str:
        """Hash of the rows, in any order, and of the rest of the manifest."""
        return self.manifest["fingerprint"]

    @property
    def queries(self) -> str:
        """Fingerprint of the dataset that the held-out rows are of: pairs are in training rows alone."""
        return self.manifest.get("pairs", {}).get("dataset", self.fingerprint)

    @property
    def label_shares(self) -> dict[str, float]:
        """Shares of the training targets where labels are known: `labels.counts.shares_of`."""
        return shares_of(self.manifest.get("labels", {}))

    @cached_property
    def arrays(self) -> Arrays:
        """Arrays of the catalogue, read on first use."""
        arrays = Arrays(**{name: self._load(name) for name in CATALOGUE_ARRAYS})
        check_lengths(arrays, self.layout, f"dataset {self.directory}", PREPARE_AGAIN)
        return arrays

    def rows(self, split: str) -> Rows:
        """Return the rows of "train", "validation" or "test", which are read on demand.

        Raises:
            InputError: A shard is missing.
        """
        dtype = self.layout.row_dtype() if split == "train" else self.layout.query_dtype()
        examples = self.manifest["splits"][split]["examples"]
        return Rows(self.directory, split, examples, dtype, self._cache)

    def user_keys(self, split: str) -> np.ndarray:
        """Return the keys [U] of a held-out split's users.

        The field `user` of a row is the index.

        Args:
            split: "validation" or "test".
        """
        return self._load(f"users_{split}")

    def seen_titles(self, split: str) -> SeenTitles | None:
        """Return the titles that a held-out split's users played; None for an older dataset."""
        return self._evaluation_arrays(seen_prefix(split), SeenTitles)

    def daily_plays(self) -> DailyPlays | None:
        """Return the plays by day; None for a dataset that was prepared before they were stored."""
        return self._evaluation_arrays(DAILY_PLAYS, DailyPlays)

    def truth(self, split: str = "test") -> TruthArrays | None:
        """Return the truth at some queries of a held-out split; None where it is not stored."""
        return self._evaluation_arrays(truth_prefix(split), TruthArrays)

    def load_all(self) -> None:
        """Read every array of the dataset once, for the comparison with its checksum.

        Raises:
            DamagedFileError: An array is missing or damaged.
        """
        for name in self._files:
            inside(self.directory, name)
            self._load(name.removesuffix(".npy"))

    def _evaluation_arrays(self, prefix: str, kind: type[_Stored]) -> _Stored | None:
        names = [f"{prefix}_{name}" for name in kind._fields]
        stored = [f"{name}.npy" in self._files or (self.directory / f"{name}.npy").exists() for name in names]
        return kind(*map(self._load, names)) if all(stored) else None

    @property
    def _files(self) -> dict[str, dict]:
        """Checksums by file name; empty for a dataset prepared before they were stored."""
        return self.manifest.get("files", {})

    def _load(self, name: str) -> np.ndarray:
        """Return an array of the dataset.

        Raises:
            InputError: The file is missing or damaged.
        """
        path, what = self.directory / f"{name}.npy", f"dataset {self.directory}"
        if self._verify and path.name in self._files:
            verify(path, self._files[path.name], what, PREPARE_AGAIN)
        try:
            file = path if isinstance(path, Path) else io.BytesIO(path.read_bytes())
            return np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise DamagedFileError(f"{what}: {path.name} is damaged: {reason}; {PREPARE_AGAIN}") from error


def sealed(manifest: dict) -> dict:
    """Return a manifest with its own checksum, as the writer stores it."""
    content = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    text = json.dumps(content, sort_keys=True)
    return content | {_CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}


def read_manifest(path: AnyPath) -> dict:
    """Return the manifest of a dataset.

    Raises:
        InputError: The file cannot be read, is no manifest, or was changed after it was written.
    """
    what = f"dataset {path.parent}: {MANIFEST}"
    try:
        manifest = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{what} is damaged: {error}; {PREPARE_AGAIN}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise InputError(f"{what} is not the manifest of a dataset; {PREPARE_AGAIN}")
    if _CHECKSUM in manifest and sealed(manifest) != manifest:
        raise DamagedFileError(f"{what} was changed after the preparation; {PREPARE_AGAIN}")
    check_manifest(manifest, f"dataset {path.parent}", _READABLE, PREPARE_AGAIN)
    return manifest
