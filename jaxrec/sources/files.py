"""Readers of CSV and Parquet files: polars frames of a bounded number of rows.

A CSV file is read in blocks of bytes cut at the end of a row. Memory therefore does not grow with the file,
each row has its number, and a malformed row does not invalidate the rest of the file. All CSV columns are
returned as text, which the caller parses. Parquet columns keep their types and are read by slices of rows.
Paths are local; hive-style partition columns are not read.
"""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError

BLOCK_BYTES = 16 << 20  # bytes per block of CSV, about two hundred thousand rows
SLICE_ROWS = 500_000  # rows per slice of Parquet
MAX_MALFORMED = 1_000  # malformed rows per block; with more of them the file is not CSV
SUFFIXES = (".csv", ".parquet")


class FileRows(NamedTuple):
    """Consecutive rows of one file, without blank lines.

    Blank lines count in the row numbers.

    Attributes:
        frame: Requested columns; text for CSV, with null for an empty field.
        malformed: [N] bool: not a row of the table (too many fields, an open quote, not UTF-8).
        row: [N] int64 row number, counted from 1 without the header.
        file: Path of the file.
    """

    frame: pl.DataFrame
    malformed: np.ndarray
    row: np.ndarray
    file: str


def find_files(key: str, pattern: str) -> list[str]:
    """Return the sorted files of one table.

    Args:
        key: Config key of the pattern, for error messages.
        pattern: A file, a folder (searched recursively, without names starting with "." or "_") or a glob.

    Raises:
        InputError: No file matches, a file is neither CSV nor Parquet, or CSV and Parquet are mixed.
    """
    if not pattern:
        raise InputError(f"{key} is empty; allowed: a CSV or Parquet file, a folder of such files or a glob")
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = [p for p in path.rglob("*") if p.suffix in SUFFIXES and p.name[0] not in "._" and p.is_file()]
    elif path.exists():
        paths = [path]
    else:
        paths = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    files = sorted(str(p) for p in paths)
    if not files:
        raise InputError(f"{key}={pattern!r} matches no .csv or .parquet file (current folder: {Path.cwd()})")
    for file in files:
        if Path(file).suffix not in SUFFIXES:
            raise InputError(f"{key}: {file} is neither .csv nor .parquet")
        if Path(file).suffix != Path(files[0]).suffix:
            raise InputError(f"{key}={pattern!r} mixes CSV and Parquet: {files[0]}, {file}")
    return files


def is_csv(file: str) -> bool:
    """Return True if the file name ends with .csv."""
    return Path(file).suffix == ".csv"


def column_types(file: str) -> dict[str, pl.DataType]:
    """Return the type of each column of a file; CSV columns are all text.

    Raises:
        InputError: The file is empty, has no rows, or cannot be read.
    """
    if is_csv(file):
        with open(file, "rb") as f:
            header, rest = f.readline(), f.readline()
            while rest and not rest.strip():
                rest = f.readline()
        if not header.strip():
            raise InputError(f"{file} is empty: the first line must name the columns")
        columns: dict[str, pl.DataType] = dict.fromkeys(_header(file, header), pl.String())
    else:
        try:
            scan = _scan(file)
            columns = dict(scan.collect_schema())
            rest = scan.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as e:
            raise InputError(f"{file} is not a Parquet file: {str(e).splitlines()[0]}") from e
    if not rest:
        raise InputError(f"{file} has columns but no rows")
    return columns


def part_starts(file: str) -> range:
    """Return the rows, from 0, from which `read_rows` may start.

    A Parquet file has one start per slice. A CSV file has one start: rows cannot be located from the middle
    of
    the file, where a newline may be quoted.
    """
    return range(1) if is_csv(file) else range(0, _scan(file).select(pl.len()).collect().item(), SLICE_ROWS)


def read_rows(file: str, columns: list[str], start: int | None = None) -> Iterator[FileRows]:
    """Yield the requested columns of a file, in the order of the rows.

    Args:
        file: CSV or Parquet file.
        columns: Names of the columns.
        start: One of `part_starts`, to read only the part that begins there; None for all rows.

    Raises:
        InputError: The file cannot be read, or too many rows of a CSV block are malformed.
    """
    return _read_csv(file, columns) if is_csv(file) else _read_parquet(file, columns, start)


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


# ---------------------------------------------------------------- CSV


def _header(file: str, line: bytes) -> list[str]:
    """Return the column names of the first line of a CSV file."""
    try:
        names = pl.read_csv(line, n_rows=0, infer_schema=False).columns
    except pl.exceptions.PolarsError as e:
        raise InputError(f"{file}, header: not CSV: {str(e).splitlines()[0]}") from e
    return [name.strip() for name in names]


def _read_csv(file: str, columns: list[str]) -> Iterator[FileRows]:
    """Yield the blocks of a CSV file.

    Blank lines count in the row numbers, as in a text editor, but are not rows.
    """
    with open(file, "rb") as f:
        header = _header(file, f.readline())
        indices = [header.index(column) for column in columns]
        rows_read, rest = 0, b""
        while True:
            data = f.read(BLOCK_BYTES)
            block = rest + data
            cut = _last_row_end(block) if data else len(block)
            block, rest = block[:cut], block[cut:]
            if block:
                frame, malformed = _parse(file, block, len(header), indices, rows_read)
                row = np.arange(rows_read + 1, rows_read + 1 + frame.height)
                rows_read += frame.height
                kept = ~frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy() | malformed
                frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
                yield FileRows(frame.filter(kept), malformed[kept], row[kept], file)
            if not data:
                return


def _last_row_end(block: bytes) -> int:
    """Return the number of bytes up to the last newline that ends a row.

    A newline ends a row if the number of quotes before it is even. Where an open quote leaves no such newline
    in a whole block, the last newline of the block is taken. The result is 0 where no row ends in the block.
    """
    if b'"' not in block:
        return block.rfind(b"\n") + 1
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    quotes = np.searchsorted(np.flatnonzero(text == ord('"')), ends)
    even = ends[quotes % 2 == 0]
    if even.size:
        return int(even[-1]) + 1
    return int(ends[-1]) + 1 if ends.size and len(block) > BLOCK_BYTES else 0


def _parse(
    file: str, block: bytes, width: int, indices: list[int], rows_read: int
) -> tuple[pl.DataFrame, np.ndarray]:
    """Parse complete rows of CSV.

    A block rejected by polars is halved until each rejected row is on its own.

    Args:
        file: File name, for error messages.
        block: Complete rows.
        width: Number of columns in the header.
        indices: Indices of the requested columns in the header.
        rows_read: Number of rows before the block, for error messages.

    Returns:
        The requested text columns, stripped of blanks, and [N] bool for malformed rows.
    """
    names = [f"c{i}" for i in range(width + 1)]  # an extra column detects rows with too many fields
    requested, extra = [names[i] for i in indices], names[-1]
    head = ",".join(names).encode() + b"\n"
    rejected = pl.DataFrame(
        {name: ["refused" if name == extra else None] for name in names}, schema=_text_schema(names)
    )
    frames: list[pl.DataFrame] = []
    num_rejected, stack = 0, [block]
    while stack:
        text = stack.pop()
        try:
            frame = pl.read_csv(
                head + text,
                columns=[name for name in names if name in requested or name == extra],
                infer_schema=False,
                truncate_ragged_lines=True,
            )
        except pl.exceptions.ComputeError as e:
            half = text.find(b"\n", len(text) // 2, len(text) - 1) + 1
            half = half or text.rfind(b"\n", 0, len(text) - 1) + 1
            if half:
                stack += [text[half:], text[:half]]
                continue
            num_rejected += 1
            if num_rejected > MAX_MALFORMED:
                first, last = rows_read + 1, rows_read + 1 + sum(f.height for f in frames)
                raise InputError(
                    f"{file}: more than {MAX_MALFORMED} of rows {first} to {last} have an open quote or are "
                    "not UTF-8; allowed: comma-separated text"
                ) from e
            frame = rejected
        frames.append(frame.select(*requested, extra))
    frame = pl.concat(frames).with_columns(pl.all().str.strip_chars().replace("", None))
    return frame.select(requested), frame[extra].is_not_null().to_numpy()


def _text_schema(names: list[str]) -> dict[str, pl.DataType]:
    """Return a schema of String columns."""
    return {name: pl.String() for name in names}
