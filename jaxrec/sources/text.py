"""Reader of text tables: any separator, header-less, compressed, RecBole headers, any encoding.

A file is read in blocks of bytes cut at the end of a row. Memory therefore does not grow with the file, each
row has its number, and a malformed row does not invalidate the rest of the file. All columns are returned as
text, which the caller parses. Files that are not UTF-8 are decoded as they are read, and gzip and Zstandard
are recognised by their first bytes. A separator of several characters is replaced by one byte, so that Polars
parses all files; quotes are then ordinary characters.
"""

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import polars as pl

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError

BLOCK_BYTES = 16 << 20  # bytes per block, about two hundred thousand rows
MAX_MALFORMED = 1_000  # malformed rows per block; with more of them the file is not of its format
CSV = FileFormat()
RECBOLE_SUFFIXES = (".inter", ".user", ".item")
TAB_SUFFIXES = (".tsv", *RECBOLE_SUFFIXES)
_COMPRESSIONS = (".gz", ".zst", ".zstd")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # first bytes of a file
_UNIT_SEPARATOR = "\x1f"  # stands for a separator of several bytes
_TYPED = re.compile(r":(token|token_seq|float|float_seq)$")  # in the header of a RecBole file


class EmptyFileError(InputError):
    """A file without rows, which may be one of several files of a table."""


class FileRows(NamedTuple):
    """Consecutive rows of one file, without blank lines.

    Blank lines count in the row numbers.

    Attributes:
        frame: Requested columns; text for text files, with null for an empty field.
        malformed: [N] bool: not a row of the table (too many fields, an open quote, not UTF-8).
        row: [N] int64 row number, counted from 1 without the header.
        file: Path of the file.
    """

    frame: pl.DataFrame
    malformed: np.ndarray
    row: np.ndarray
    file: str


class _Dialect(NamedTuple):
    """Format of one file as Polars parses it."""

    separator: str  # one byte
    quote: str  # one byte, or "" for none
    replaced: bytes  # separator in the file that `separator` stands for; b"" for none
    header: tuple[str, ...]  # names of the columns of a file without a header line


def suffix_of(file: str) -> str:
    """Return the last suffix, in lower case, without that of a compression: ".csv" of "a.CSV.gz"."""
    path = Path(file.lower())
    return (path.with_suffix("") if path.suffix in _COMPRESSIONS else path).suffix


def text_columns(file: str, form: FileFormat = CSV) -> list[str]:
    """Return the names of the columns of a text file.

    Args:
        file: Path of the file.
        form: Format of the file.

    Raises:
        EmptyFileError: The file is empty or has no rows.
        InputError: The file cannot be read, a column is named twice, or the number of columns is not that of
            `form.header`.
    """
    with readable(file, form), open_text(file, form.encoding) as f:
        header, rest = b"" if form.header else f.readline(), f.readline()
        while rest and not rest.strip():
            rest = f.readline()
    if form.header:
        names = list(form.header)
        fields = len(_names(file, rest, _dialect(file, form))) if rest else len(names)
        if fields != len(names):
            raise InputError(
                f"{file}, line 1: {fields} fields, but header={form.header!r} of the table's format has "
                f"{len(names)} names; allowed: one name for each field"
            )
    elif not header.removeprefix(codecs.BOM_UTF8).strip():
        raise EmptyFileError(f"{file} is empty: the first line must name the columns")
    else:
        names = _header(file, header, _dialect(file, form))
    for name in names:
        if name and names.count(name) > 1:
            raise InputError(f"{file}: the header names column {name!r} twice; allowed: each name once")
    if not rest:
        raise EmptyFileError(f"{file} has columns but no rows")
    return names


def read_text(file: str, columns: list[str], form: FileFormat = CSV) -> Iterator[FileRows]:
    """Yield the blocks of a text file.

    Blank lines count in the row numbers, as in a text editor, but are not rows.

    Args:
        file: Path of the file.
        columns: Names of the columns.
        form: Format of the file.

    Raises:
        InputError: The file cannot be read, or too many rows of a block are malformed.
    """
    dialect = _dialect(file, form)
    with readable(file, form), open_text(file, form.encoding) as f:
        header = list(form.header) or _header(file, f.readline(), dialect)
        indices = [header.index(column) for column in columns]
        rows_read, rest = 0, b""
        while True:
            data = f.read(BLOCK_BYTES)
            block = rest + data
            cut = _last_row_end(block, dialect.quote.encode()) if data else len(block)
            block, rest = block[:cut], block[cut:]
            if block:
                frame, malformed = _parse(file, block, len(header), indices, rows_read, dialect)
                row = np.arange(rows_read + 1, rows_read + 1 + frame.height)
                rows_read += frame.height
                kept = ~frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy() | malformed
                frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
                yield FileRows(frame.filter(kept), malformed[kept], row[kept], file)
            if not data:
                return


# ---------------------------------------------------------------- bytes


class _Recoded(io.RawIOBase):
    """Text of another encoding as a stream of UTF-8 bytes."""

    def __init__(self, raw: IO[bytes], encoding: str) -> None:
        self._text, self._left = io.TextIOWrapper(raw, encoding=encoding, newline=""), b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill `buffer` with UTF-8 bytes and return their number, 0 at the end."""
        if not self._left:
            self._left = self._text.read(max(len(buffer) // 4, 1)).encode()
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Close the file."""
        self._text.close()
        super().close()


def open_text(file: str, encoding: str = "utf-8") -> IO[bytes]:
    """Open a text file, compressed or not, as a stream of UTF-8 bytes.

    Raises:
        InputError: The file is compressed by Zstandard, and the library zstandard is not installed.
        OSError: The file cannot be opened.
    """
    with open(file, "rb") as f:
        start = f.read(4)
    raw: Any
    if start.startswith(_GZIP):
        raw = gzip.open(file, "rb")  # noqa: SIM115
    elif start == _ZSTD:
        raw = io.BufferedReader(_zstandard(file).open(file, "rb"))  # its own reader has no readline
    else:
        raw = open(file, "rb")  # noqa: SIM115
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        return raw
    return io.BufferedReader(_Recoded(raw, encoding), 1 << 16)


def _zstandard(file: str) -> Any:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        if error.name != "zstandard":
            raise
        raise InputError(
            f"{file}: Zstandard needs the library zstandard; install it with: pip install zstandard"
        ) from error
    return zstandard


@contextlib.contextmanager
def readable(file: str, form: FileFormat) -> Iterator[None]:
    """Raise InputError for bytes that are not of the format's encoding, or a damaged compressed file."""
    try:
        yield
    except UnicodeError as error:
        where = _undecodable_line(file, form.encoding) if isinstance(error, UnicodeDecodeError) else 1
        raise InputError(
            f"{file}, line {where}: not {form.encoding}; allowed: text in the encoding of the table's format"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file}: damaged gzip file: {error}") from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # the library is imported for Zstandard files only
            raise
        raise InputError(f"{file}: damaged Zstandard file: {error}") from error


def _undecodable_line(file: str, encoding: str) -> int:
    """Return the number of the first line that is not text of an encoding."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with open_text(file) as f:
        for data in iter(lambda: f.read(1 << 16), b""):
            try:
                line += decoder.decode(data).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].decode(encoding, "ignore").count("\n")
    return line


# ---------------------------------------------------------------- rows


def _dialect(file: str, form: FileFormat) -> _Dialect:
    """Return how Polars parses a file."""
    separator = form.separator or ("\t" if suffix_of(file) in TAB_SUFFIXES else ",")
    if len(separator.encode()) > 1:
        return _Dialect(_UNIT_SEPARATOR, "", separator.encode(), form.header)
    return _Dialect(separator, form.quote, b"", form.header)


def _header(file: str, line: bytes, dialect: _Dialect) -> list[str]:
    """Return the column names of the first line of a file, without the types of a RecBole header."""
    names = [name.strip() for name in _names(file, line, dialect)]
    return [_TYPED.sub("", name) for name in names] if suffix_of(file) in RECBOLE_SUFFIXES else names


def _names(file: str, line: bytes, dialect: _Dialect) -> list[str]:
    """Return the fields of one line."""
    if dialect.replaced:
        line = line.replace(dialect.replaced, dialect.separator.encode())
    try:
        fields = pl.read_csv(
            line, has_header=False, n_rows=1, infer_schema=False, separator=dialect.separator,
            quote_char=dialect.quote or None,
        )  # fmt: skip
        return [name or "" for name in fields.row(0)]
    except pl.exceptions.PolarsError as e:
        raise InputError(f"{file}, header: not CSV: {str(e).splitlines()[0]}") from e


def _last_row_end(block: bytes, quote: bytes) -> int:
    """Return the number of bytes up to the last newline that ends a row.

    A newline ends a row if the number of quotes before it is even. Where an open quote leaves no such newline
    in a whole block, the last newline of the block is taken. The result is 0 where no row ends in the block.
    """
    if not quote or quote not in block:
        return block.rfind(b"\n") + 1
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    quotes = np.searchsorted(np.flatnonzero(text == ord(quote)), ends)
    even = ends[quotes % 2 == 0]
    if even.size:
        return int(even[-1]) + 1
    return int(ends[-1]) + 1 if ends.size and len(block) > BLOCK_BYTES else 0


def _parse(
    file: str, block: bytes, width: int, indices: list[int], rows_read: int, dialect: _Dialect
) -> tuple[pl.DataFrame, np.ndarray]:
    """Parse complete rows.

    A block rejected by polars is halved until each rejected row is on its own.

    Args:
        file: File name, for error messages.
        block: Complete rows.
        width: Number of columns in the header.
        indices: Indices of the requested columns in the header.
        rows_read: Number of rows before the block, for error messages.
        dialect: Separator and quotes.

    Returns:
        The requested text columns, stripped of blanks, and [N] bool for malformed rows.
    """
    names = [f"c{i}" for i in range(width + 1)]  # an extra column detects rows with too many fields
    requested, extra = [names[i] for i in indices], names[-1]
    head = dialect.separator.join(names).encode() + b"\n"
    rejected = pl.DataFrame(
        {name: ["refused" if name == extra else None] for name in names}, schema=_text_schema(names)
    )
    frames: list[pl.DataFrame] = []
    if dialect.replaced:
        block = block.replace(dialect.replaced, dialect.separator.encode())
    num_rejected, stack = 0, [block]
    while stack:
        text = stack.pop()
        try:
            frame = pl.read_csv(
                head + text,
                columns=[name for name in names if name in requested or name == extra],
                infer_schema=False,
                truncate_ragged_lines=True,
                separator=dialect.separator,
                quote_char=dialect.quote or None,
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
                    "not UTF-8; allowed: text in the format of the table"
                ) from e
            frame = rejected
        frames.append(frame.select(*requested, extra))
    frame = pl.concat(frames).with_columns(pl.all().str.strip_chars().replace("", None))
    return frame.select(requested), frame[extra].is_not_null().to_numpy()


def _text_schema(names: list[str]) -> dict[str, pl.DataType]:
    """Return a schema of String columns."""
    return {name: pl.String() for name in names}
