"""Readers of text and Parquet files: polars frames of a bounded number of rows.

Text files are read by `sources/text.py`. Parquet columns keep their types and are read by slices of rows.
Paths are local; hive-style partition columns are not read.
"""

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError
from jaxrec.sources.text import CSV, TAB_SUFFIXES, FileRows, read_text, suffix_of, text_columns

SLICE_ROWS = 500_000  # rows per slice of Parquet
SUFFIXES = (".csv", ".parquet")  # of files that jaxrec writes, and of the files of a folder
TEXT_SUFFIXES = (".csv", *TAB_SUFFIXES, ".txt", ".dat", ".data")  # each may be followed by .gz, .zst or .zstd
_ALLOWED = f"{', '.join(TEXT_SUFFIXES)} (also .gz and .zst) or .parquet"


def find_files(key: str, pattern: str) -> list[str]:
    """Return the sorted files of one table.

    Args:
        key: Config key of the pattern, for error messages.
        pattern: A file, a folder or a glob. A folder is searched recursively, without names that start with
            "." or "_", for .csv and .parquet files; only where it has none, for other text files.

    Raises:
        InputError: No file matches, a file is neither text nor Parquet, or text and Parquet are mixed.
    """
    if not pattern:
        raise InputError(f"{key} is empty; allowed: a text or Parquet file, a folder of such files or a glob")
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = [p for p in path.rglob("*") if p.name[0] not in "._" and p.is_file()]
        paths = [p for p in paths if p.suffix in SUFFIXES] or [p for p in paths if is_text(str(p))]
    elif path.exists():
        paths = [path]
    else:
        paths = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    files = sorted(str(p) for p in paths)
    if not files:
        raise InputError(f"{key}={pattern!r} matches no file {_ALLOWED} (current folder: {Path.cwd()})")
    for file in files:
        if not is_text(file) and Path(file).suffix != ".parquet":
            raise InputError(f"{key}: {file} is not a file {_ALLOWED}")
        if is_text(file) != is_text(files[0]):
            raise InputError(f"{key}={pattern!r} mixes text and Parquet: {files[0]}, {file}")
    return files


def is_text(file: str) -> bool:
    """Return True if the file name is that of a text table, compressed or not."""
    return suffix_of(file) in TEXT_SUFFIXES


def column_types(file: str, form: FileFormat = CSV) -> dict[str, pl.DataType]:
    """Return the type of each column of a file; columns of text files are all text.

    Args:
        file: Path of the file.
        form: Format of a text file.

    Raises:
        InputError: The file is empty, has no rows, or cannot be read.
    """
    if is_text(file):
        return dict.fromkeys(text_columns(file, form), pl.String())
    try:
        scan = _scan(file)
        columns = dict(scan.collect_schema())
        rows = scan.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as e:
        raise InputError(f"{file} is not a Parquet file: {str(e).splitlines()[0]}") from e
    if not rows:
        raise InputError(f"{file} has columns but no rows")
    return columns


def part_starts(file: str) -> range:
    """Return the rows, from 0, from which `read_rows` may start.

    A Parquet file has one start per slice. A text file has one start: rows cannot be located from the middle
    of the file, where a newline may be quoted.
    """
    return range(1) if is_text(file) else range(0, _scan(file).select(pl.len()).collect().item(), SLICE_ROWS)


def read_rows(
    file: str, columns: list[str], start: int | None = None, form: FileFormat = CSV
) -> Iterator[FileRows]:
    """Yield the requested columns of a file, in the order of the rows.

    Args:
        file: Text or Parquet file.
        columns: Names of the columns.
        start: One of `part_starts`, to read only the part that begins there; None for all rows.
        form: Format of a text file.

    Raises:
        InputError: The file cannot be read, or too many rows of a block of text are malformed.
    """
    return read_text(file, columns, form) if is_text(file) else _read_parquet(file, columns, start)


def frame_rows(frame: pl.DataFrame, columns: list[str], name: str) -> Iterator[FileRows]:
    """Yield the requested columns of a frame in memory, in slices like those of a Parquet file.

    Args:
        frame: Table.
        columns: Names of the columns.
        name: Name of the table in error messages.
    """
    for first in range(0, frame.height, SLICE_ROWS):
        part = frame.select(columns).slice(first, SLICE_ROWS)
        row = np.arange(first + 1, first + 1 + part.height)
        yield FileRows(part, np.zeros(part.height, bool), row, name)


def _scan(file: str) -> pl.LazyFrame:
    """Open a Parquet file lazily."""
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def _read_parquet(file: str, columns: list[str], start: int | None) -> Iterator[FileRows]:
    """Yield the slices of a Parquet file, or the one that begins at `start`."""
    first = start or 0
    while start is None or first == start:
        try:
            frame = _scan(file).select(columns).slice(first, SLICE_ROWS).collect()
        except (pl.exceptions.PolarsError, OSError) as e:
            raise InputError(f"{file}, after row {first}: cannot be read: {str(e).splitlines()[0]}") from e
        if not frame.height:
            return
        row = np.arange(first + 1, first + 1 + frame.height)
        yield FileRows(frame, np.zeros(frame.height, bool), row, file)
        first += frame.height
