"""One table of a source: column checks, parsed rows and bad rows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Lists
from jaxrec.sources import columns, files, text
from jaxrec.sources.columns import ColumnRequest


class ParsedRows(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        frame: One column per role and one per feature.
        bad: [N] bool: malformed, without a required value, or with an invalid number.
        raw: The rows as read.
    """

    frame: pl.DataFrame
    bad: np.ndarray
    raw: files.FileRows


class FilePart(NamedTuple):
    """Rows of a table that can be read independently of the other rows.

    Attributes:
        file: Index among the table's files.
        first: First row, one of `files.part_starts`.
    """

    file: int
    first: int


class SourceTable:
    """Roles ("user", "time", ...) and features, read from the files of one table.

    Values of the roles have the units of `columns.parse`.
    """

    def __init__(
        self, key: str, pattern: str | pl.DataFrame, roles: dict[str, ColumnRequest],
        features: dict[str, ColumnRequest], time_unit: str = "ms", separator: str = ",",
        form: FileFormat = text.CSV,
    ) -> None:  # fmt: skip
        """Find the files and check their columns.

        Args:
            key: Config key of `pattern`, for error messages.
            pattern: A file, a folder or a glob; or a table in memory, which may have no rows.
            roles: Columns by role. A column may be several names separated by "|", of which the first that
                exists in the first file is read.
            features: Columns by feature name.
            time_unit: Unit of times that are numbers: "s", "ms", "us" or "ns".
            separator: Separator of list-valued text.
            form: Format of text files.

        Raises:
            InputError: A file or column is missing, a file is empty, or the type of a column does not allow
                the requested kind or differs between files.
        """
        self._frame = pattern if isinstance(pattern, pl.DataFrame) else None
        self._types: dict[str, dict[str, pl.DataType]] = table_types(key, pattern, form)
        self.files = [*self._types]
        self.roles = {
            role: request._replace(column=self._existing_column(request)) for role, request in roles.items()
        }
        self._requests = self.roles | {_feature(name): request for name, request in features.items()}
        self._features = tuple(features)
        self._time_unit, self._separator, self._form = time_unit, separator, form
        for file in self.files:
            for request in self._requests.values():
                self._check_type(file, request)

    def _existing_column(self, request: ColumnRequest) -> str:
        """Return the first of the allowed names that exists in the first file."""
        names, types = request.column.split("|"), self._types[self.files[0]]
        for name in names:
            if name in types:
                return name
        missing = " or ".join(map(repr, names))
        raise InputError(
            f"{self.files[0]}: no column {missing} ({request.requested_by}); columns: {', '.join(types)}"
        )

    def _check_type(self, file: str, request: ColumnRequest) -> None:
        """Raise InputError if a file lacks a requested column or its type is not allowed."""
        types, first = self._types[file], self._types[self.files[0]]
        if request.column not in types:
            raise InputError(
                f"{file}: no column {request.column!r} ({request.requested_by}); columns: {', '.join(types)}"
            )
        dtype, where = types[request.column], f"{file}, column {request.column!r} ({request.requested_by})"
        if not columns.allows_kind(request.kind, dtype, files.is_text(file)):
            raise InputError(f"{where}: {dtype} values; allowed: {columns.ALLOWED[request.kind]}")
        family, first_family = (
            columns.type_family(request.kind, dtype),
            columns.type_family(request.kind, first[request.column]),
        )
        if family != first_family:
            raise InputError(f"{where}: {family}, but {first_family} in {self.files[0]}; allowed: one type")

    def dtype(self, role: str) -> pl.DataType:
        """Return the type to which a key is parsed, the same for all files."""
        request, types = self.roles[role], self._types[self.files[0]]
        if request.kind == "whole":
            return pl.Int64()
        dtype = types[request.column]
        return (dtype if isinstance(dtype, pl.UInt64) else pl.Int64()) if dtype.is_integer() else pl.String()

    def parts(self) -> tuple[FilePart, ...]:
        """Return the parts that can be read independently, in the order of `read`.

        A part is a slice of a Parquet file or a whole text file.
        """
        return tuple(
            FilePart(f, first) for f, file in enumerate(self.files) for first in files.part_starts(file)
        )

    def read(self, part: FilePart | None = None) -> Iterator[ParsedRows]:
        """Yield the parsed rows in chunks of bounded size, file by file in order of name.

        Args:
            part: One of `parts`, or None for all rows.

        Raises:
            InputError: A file cannot be read, or all values of a column in the table's first chunk are
                invalid.
        """
        first_chunk = part in (None, FilePart(0, 0))
        names = list(dict.fromkeys(request.column for request in self._requests.values()))
        for file in self.files if part is None else [self.files[part.file]]:
            for rows in self._read_rows(file, names, None if part is None else part.first):
                parsed = self._parse(rows)
                if first_chunk:
                    self._check_values(parsed)
                first_chunk = False
                yield parsed

    def _read_rows(self, file: str, names: list[str], start: int | None) -> Iterator[files.FileRows]:
        if self._frame is not None:
            return files.frame_rows(self._frame, names, file)
        return files.read_rows(file, names, start, self._form)

    def read_strictly(self) -> Iterator[ParsedRows]:
        """Yield the parsed rows like `read`, and raise InputError at the first bad row."""
        for parsed in self.read():
            if parsed.bad.any():
                raise InputError(self.example(parsed, int(np.argmax(parsed.bad))))
            yield parsed

    def features(self, frame: pl.DataFrame) -> dict[str, np.ndarray | Lists]:
        """Convert the features of N parsed rows to raw columns [N], by feature name."""
        return {
            n: columns.feature_to_numpy(frame[_feature(n)], self._requests[_feature(n)].kind)
            for n in self._features
        }

    def _parse(self, rows: files.FileRows) -> ParsedRows:
        """Parse the requested columns and mark the bad rows."""
        types = self._types[rows.file]
        frame = rows.frame.select(
            columns.parse(request, types[request.column], self._time_unit, self._separator).alias(name)
            for name, request in self._requests.items()
        )
        # Parsing dates costs as much as parsing all other columns, so it is skipped where there are none.
        for name, request in self._requests.items():
            raw = rows.frame[request.column]
            if request.kind in columns.TIMES and frame[name].null_count() > raw.null_count():
                text_column = pl.col(request.column).cast(pl.String)
                others = [columns.parse_iso(text_column)]
                if request.kind == "decimal time":
                    others += [columns.parse_decimal(text_column, self._time_unit)]
                frame = frame.with_columns(
                    frame[name].fill_null(rows.frame.select(pl.coalesce(others)).to_series())
                )
        bad = rows.malformed.copy()
        for name in self._requests:
            bad |= self._invalid(name, frame, rows)
        return ParsedRows(frame, bad, rows)

    def _invalid(self, name: str, frame: pl.DataFrame, rows: files.FileRows) -> np.ndarray:
        """Return [N] bool: True where a required value is missing or a number is invalid."""
        request, null = self._requests[name], frame[name].is_null()
        if not request.required:
            present = rows.frame[request.column].is_not_null()
            null = null & present if request.kind in ("number", "whole") else null & False
        return null.to_numpy()

    def _check_values(self, parsed: ParsedRows) -> None:
        """Raise InputError if all values of a column are invalid."""
        for name, request in self._requests.items():
            raw = parsed.raw.frame[request.column]
            present = raw.is_not_null().to_numpy() & ~parsed.raw.malformed
            if present.any() and self._invalid(name, parsed.frame, parsed.raw)[present].all():
                i = int(np.flatnonzero(present)[0])
                raise InputError(
                    f"{parsed.raw.file}, row {parsed.raw.row[i]}, column {request.column!r} "
                    f"({request.requested_by}): {raw[i]!r}, and all other values in the first rows are "
                    f"invalid; allowed: {columns.ALLOWED[request.kind]}"
                )

    def example(self, parsed: ParsedRows, i: int) -> str:
        """Return the file, row, column and value that make row `i` bad."""
        where = f"{parsed.raw.file}, row {parsed.raw.row[i]}"
        for name, request in self._requests.items():
            if not parsed.raw.malformed[i] and self._invalid(name, parsed.frame, parsed.raw)[i]:
                value = parsed.raw.frame[request.column][i]
                shown = "empty" if value is None else repr(value)
                return (
                    f"{where}, column {request.column!r}: {shown}; allowed: {columns.ALLOWED[request.kind]}"
                )
        return f"{where}: more fields than the header, an open quote, or not UTF-8"


def table_types(
    key: str, pattern: str | pl.DataFrame, form: FileFormat = text.CSV
) -> dict[str, dict[str, pl.DataType]]:
    """Return the column types of each file of a table; of a table in memory, under `key`."""
    if isinstance(pattern, pl.DataFrame):
        return {key: dict(pattern.schema)}
    return {file: files.column_types(file, form) for file in files.find_files(key, pattern)}


def _feature(name: str) -> str:
    """Return the column name of a feature in a parsed frame."""
    return f"feature {name}"
