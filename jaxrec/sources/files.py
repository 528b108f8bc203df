"""Readers of text and Parquet files: polars frames of a bounded number of rows.

The files of a table are found by `sources/finding.py`.

Text files are read by `sources/text.py`. Parquet columns keep their types and are read by slices of rows.
Paths are local; hive-style partition columns are not read.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError
from jaxrec.sources.finding import is_text
from jaxrec.sources.text import CSV, EmptyFileError, FileRows, read_text, text_columns

SLICE_ROWS = 500_000  # rows per slice of Parquet
# Errors of Polars for a file that it cannot read; it panics at types of Arrow that it does not know.
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def column_types(file: str, form: FileFormat = CSV) -> dict[str, pl.DataType]:
    """Return the type of each column of a file; columns of text files are all text.

    Args:
        file: Path of the file.
        form: Format of a text file.

    Raises:
        EmptyFileError: The file is empty or has no rows.
        InputError: The file cannot be read.
    """
    if is_text(file):
        return dict.fromkeys(text_columns(file, form), pl.String())
    try:
        scan = _scan(file)
        columns = dict(scan.collect_schema())
        rows = scan.select(pl.len()).collect().item()
    except _UNREADABLE as e:
        raise InputError(f"{file} is not a Parquet file: {str(e).splitlines()[0]}") from e
    if not rows:
        raise EmptyFileError(f"{file} has columns but no rows")
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
        except _UNREADABLE as e:
            raise InputError(f"{file}, after row {first}: cannot be read: {str(e).splitlines()[0]}") from e
        if not frame.height:
            return
        row = np.arange(first + 1, first + 1 + frame.height)
        yield FileRows(frame, np.zeros(frame.height, bool), row, file)
        first += frame.height
