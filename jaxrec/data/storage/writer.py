"""Writer of a prepared dataset: block shards, fingerprint, atomic completion."""

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
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import as_path, send_folder
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.audit import SAMPLE_ROWS
from jaxrec.data.storage.audit import audit as audit_dataset
from jaxrec.data.storage.dataset import (
    BLOCK_ROWS,
    MANIFEST,
    SHARD_BLOCKS,
    Arrays,
    Dataset,
    as_words,
    sealed,
)
from jaxrec.data.storage.evaluation_arrays import EvaluationArrays
from jaxrec.runtime.checksums import checksum

# Blocks are read whole, in random order; compression costs 3 times the read.
_OPTIONS = "group_size:1,uncompressed"


class Fingerprint:
    """Order-independent fingerprint: the sum of row hashes mod 2**128."""

    def __init__(self) -> None:
        self._sums = [0, 0]

    def add(self, rows: np.ndarray) -> None:
        """Add structured rows [N] of any dtype."""
        words = as_words(rows)
        odd = [mix(i, np.arange(words.shape[1])) | np.uint64(1) for i in range(2)]
        for first in range(0, len(words), BLOCK_ROWS):  # the products of a block stay in a core's cache
            block = words[first : first + BLOCK_ROWS].astype(np.uint64)
            for i in range(2):
                total = finalise(np.einsum("rw,w->r", block, odd[i])).sum(dtype=np.uint64)
                self._sums[i] = (self._sums[i] + int(total)) % 2**64

    def merge(self, other: "Fingerprint") -> None:
        """Add the rows of another fingerprint."""
        self._sums = [(a + b) % 2**64 for a, b in zip(self._sums, other._sums, strict=True)]

    def value(self) -> int:
        """Return the fingerprint as a whole number below 2**128."""
        return (self._sums[0] << 64) | self._sums[1]


class _SplitWriter:
    """Writer of a split's rows into blocks and shards.

    The bytes do not depend on the chunks in which rows arrive.
    """

    def __init__(self, directory: Path, split: str, dtype: np.dtype, shard: int = 0) -> None:
        """Create a writer whose first shard has the number `shard`."""
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
            self._write_block(self._pending)
        whole = first + (len(rows) - first) // BLOCK_ROWS * BLOCK_ROWS
        for i in range(first, whole, BLOCK_ROWS):
            self._write_block(rows[i : i + BLOCK_ROWS])
        self._pending = rows[whole:].copy()  # a view would keep all rows in memory

    def _write_block(self, rows: np.ndarray) -> None:
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
            self._write_block(self._pending)
        self._close_shard()


def write_shard(
    directory: Path, split: str, shard: int, dtype: np.dtype, pieces: Iterable[np.ndarray]
) -> Fingerprint:
    """Write one shard, byte for byte as a `DatasetWriter` of all rows does.

    The complete file is moved into `directory`, so that two workers may write the same shard.

    Args:
        directory: Directory of the dataset.
        split: Name of the split.
        shard: Number of the shard.
        dtype: dtype of a row.
        pieces: Rows of the shard, in order.

    Returns:
        The fingerprint of the rows.
    """
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        writer = _SplitWriter(Path(scratch), split, dtype, shard)
        for rows in pieces:
            writer.add(rows)
        writer.close()
        [written] = Path(scratch).iterdir()
        os.replace(written, directory / written.name)
    return writer.fingerprint


class DatasetWriter:
    """Writer of a whole dataset, atomic: complete, or nothing remains.

    `finish` moves the dataset into `directory`.

    A dataset for a bucket is written in a temporary folder and uploaded by `finish`, the manifest last: a
    partial upload of a killed process is not a dataset, and the next run overwrites it.

    Args:
        directory: Local directory or bucket URL, which must not contain a dataset.

    Raises:
        InputError: The dataset exists.
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
        """Set the layout of the rows, before the first `add`."""
        dtypes = (layout.row_dtype(), layout.query_dtype(), layout.query_dtype())
        self._splits = {s: _SplitWriter(self.partial, s, d) for s, d in zip(SPLITS, dtypes, strict=True)}

    def add(self, split: str, rows: np.ndarray) -> None:
        """Append rows [N] of the split's dtype."""
        self._splits[split].add(rows)

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of each split."""
        return {split: writer.rows for split, writer in self._splits.items()}

    def row_sums(self) -> dict[str, int]:
        """Return the fingerprint of each split's rows."""
        return {split: writer.fingerprint.value() for split, writer in self._splits.items()}

    def __enter__(self) -> "DatasetWriter":
        shutil.rmtree(self.partial, ignore_errors=True)  # left by a killed run
        self.partial.mkdir(parents=True)
        return self

    def finish(
        self, arrays: Arrays, users: dict[str, np.ndarray], manifest: dict,
        evaluation: EvaluationArrays | None = None, audited: bool = False,
    ) -> None:  # fmt: skip
        """Write arrays, users' keys and manifest, then move or upload the dataset.

        An audit reads a sample of the rows back; its notes join those of the manifest.

        Args:
            arrays: Arrays of the catalogue.
            users: Users' keys by held-out split.
            manifest: Content of the manifest.
            evaluation: Arrays that evaluation reads beside the rows; None: they are not stored.
            audited: True to audit the rows that were written.

        Raises:
            RuntimeError: A row is not what preparation promises: a defect of jaxrec or of a source.
        """
        for split in self._splits.values():
            split.close()
        for name, array in arrays.stored().items():
            np.save(self.partial / f"{name}.npy", array)
        for name, keys in users.items():
            np.save(self.partial / f"users_{name}.npy", keys)
        for name, array in (evaluation.files() if evaluation else {}).items():
            np.save(self.partial / f"{name}.npy", array)
        files = {path.name: checksum(path) for path in sorted(self.partial.glob("*.npy"))}
        self._write_manifest(manifest | {"files": files})
        if audited:
            audit = audit_dataset(Dataset(self.partial), SAMPLE_ROWS)
            if audit.problems:
                raise RuntimeError(f"dataset {self._final}: " + "; ".join(audit.problems))
            notes = [*dict.fromkeys([*manifest.get("notes", ()), *audit.notes])]
            self._write_manifest(manifest | {"files": files, "notes": notes})
        if isinstance(self._final, Path):
            os.rename(self.partial, self._final)
        else:
            send_folder(self.partial, self._final, last=MANIFEST)

    def _write_manifest(self, manifest: dict) -> None:
        text = json.dumps(sealed(manifest), indent=2, sort_keys=True, allow_nan=False)
        (self.partial / MANIFEST).write_text(text + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
