"""Rows of CSV and Parquet files as polars frames, a bounded number at a time.

A CSV file is read in blocks of bytes cut at the end of a row, so memory does not grow with the file,
every row has its number, and a malformed row costs that row and not the file. All its columns come as
text: what they mean is for the caller to say. Parquet comes as typed, by slices of rows. Paths are
local; hive-style partition columns are not read.
"""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError

BLOCK_BYTES = 16 << 20  # of CSV at a time, some two hundred thousand rows
SLICE_ROWS = 500_000  # of Parquet at a time
MOST_MALFORMED = 1_000  # rows a block; past it the file is something else than CSV
SUFFIXES = (".csv", ".parquet")


class FileRows(NamedTuple):
    """Consecutive rows of one file; blank lines are left out but numbered."""

    frame: pl.DataFrame  # the asked columns; text where the file is CSV, with null for an empty field
    broken: np.ndarray  # [N] bool: not a row of the table (too many fields, an open quote, not UTF-8)
    row: np.ndarray  # [N] int64, the first data row being 1
    file: str


def find(said: str, pattern: str) -> list[str]:
    """The files of one table: `pattern` is a file, a folder (searched through) or a glob.

    Names starting with "." or "_" are passed over in a folder. `said` is the config key, for messages.
    Raises InputError where nothing matches, or CSV and Parquet are mixed.
    """
    if not pattern:
        raise InputError(f"{said} is empty: it must be a CSV or Parquet file, a folder of them or a glob")
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix in SUFFIXES and p.name[0] not in "._" and p.is_file()]
    elif path.exists():
        found = [path]
    else:
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    files = sorted(str(p) for p in found)
    if not files:
        raise InputError(f"{said}={pattern!r} matches no .csv or .parquet file (looked from {Path.cwd()})")
    for file in files:
        if Path(file).suffix not in SUFFIXES:
            raise InputError(f"{said}: {file} is neither .csv nor .parquet")
        if Path(file).suffix != Path(files[0]).suffix:
            raise InputError(f"{said}={pattern!r} mixes CSV and Parquet: {files[0]}, {file}")
    return files


def is_csv(file: str) -> bool:
    return Path(file).suffix == ".csv"


def types(file: str) -> dict[str, pl.DataType]:
    """The columns of a file; those of a CSV are all text. Raises InputError where it holds no row."""
    if is_csv(file):
        with open(file, "rb") as f:
            header, rest = f.readline(), f.readline()
            while rest and not rest.strip():
                rest = f.readline()
        if not header.strip():
            raise InputError(f"{file} is empty: its first line must name the columns")
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


def starts(file: str) -> range:
    """Rows that `read` may start from: each slice's first of Parquet. The rows of CSV cannot be found from
    its middle, where a newline may be quoted."""
    return range(1) if is_csv(file) else range(0, _scan(file).select(pl.len()).collect().item(), SLICE_ROWS)


def read(file: str, columns: list[str], start: int | None = None) -> Iterator[FileRows]:
    """The asked columns of a file, in the order of its rows; or of what begins at one of its `starts`."""
    return _read_csv(file, columns) if is_csv(file) else _read_parquet(file, columns, start)


def _scan(file: str) -> pl.LazyFrame:
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def _read_parquet(file: str, columns: list[str], start: int | None) -> Iterator[FileRows]:
    first = start or 0
    while start is None or first == start:
        try:
            frame = _scan(file).select(columns).slice(first, SLICE_ROWS).collect()
        except (pl.exceptions.PolarsError, OSError) as e:
            raise InputError(f"{file}, after row {first}: not readable: {str(e).splitlines()[0]}") from e
        if not frame.height:
            return
        row = np.arange(first + 1, first + 1 + frame.height)
        yield FileRows(frame, np.zeros(frame.height, bool), row, file)
        first += frame.height


# ---------------------------------------------------------------- CSV


def _header(file: str, line: bytes) -> list[str]:
    try:
        names = pl.read_csv(line, n_rows=0, infer_schema=False).columns
    except pl.exceptions.PolarsError as e:
        raise InputError(f"{file}, header: not CSV: {str(e).splitlines()[0]}") from e
    return [name.strip() for name in names]


def _read_csv(file: str, columns: list[str]) -> Iterator[FileRows]:
    """Blocks of a CSV file. Blank lines are numbered, as a text editor numbers them, but are no rows."""
    with open(file, "rb") as f:
        header = _header(file, f.readline())
        places = [header.index(column) for column in columns]
        done, left = 0, b""
        while True:
            read = f.read(BLOCK_BYTES)
            block = left + read
            cut = _last_row_end(block) if read else len(block)
            block, left = block[:cut], block[cut:]
            if block:
                frame, broken = _parse(file, block, len(header), places, done)
                row = np.arange(done + 1, done + 1 + frame.height)
                done += frame.height
                kept = ~frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy() | broken
                frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
                yield FileRows(frame.filter(kept), broken[kept], row[kept], file)
            if not read:
                return


def _last_row_end(block: bytes) -> int:
    """Bytes up to the last newline that ends a row: one with an even number of quotes before it.

    Where an open quote leaves none in a whole block, any newline will do; 0 where there is none at all.
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
    file: str, block: bytes, width: int, places: list[int], done: int
) -> tuple[pl.DataFrame, np.ndarray]:
    """Whole rows of CSV -> (text columns at `places` stripped of blanks, rows that are broken [N]).

    A block that polars refuses is halved until the refused rows stand alone.
    """
    names = [f"c{i}" for i in range(width + 1)]  # one more than there are, to see a row that is too long
    wanted, extra = [names[i] for i in places], names[-1]
    head = ",".join(names).encode() + b"\n"
    refused = pl.DataFrame(
        {name: ["refused" if name == extra else None] for name in names}, schema=_text(names)
    )
    parts: list[pl.DataFrame] = []
    bad, stack = 0, [block]
    while stack:
        text = stack.pop()
        try:
            part = pl.read_csv(
                head + text,
                columns=[name for name in names if name in wanted or name == extra],
                infer_schema=False,
                truncate_ragged_lines=True,
            )
        except pl.exceptions.ComputeError as e:
            half = text.find(b"\n", len(text) // 2, len(text) - 1) + 1
            half = half or text.rfind(b"\n", 0, len(text) - 1) + 1
            if half:
                stack += [text[half:], text[:half]]
                continue
            bad += 1
            if bad > MOST_MALFORMED:
                first, last = done + 1, done + 1 + sum(p.height for p in parts)
                raise InputError(
                    f"{file}: more than {MOST_MALFORMED} of rows {first} to {last} hold an open quote or are "
                    "not UTF-8; allowed: comma-separated text"
                ) from e
            part = refused
        parts.append(part.select(*wanted, extra))
    frame = pl.concat(parts).with_columns(pl.all().str.strip_chars().replace("", None))
    return frame.select(wanted), frame[extra].is_not_null().to_numpy()


def _text(names: list[str]) -> dict[str, pl.DataType]:
    return {name: pl.String() for name in names}
