"""One table of a source: its files held to the columns that are asked of it, its rows parsed and judged."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.core.tables import Lists
from jaxrec.sources import columns, files
from jaxrec.sources.columns import ColumnRequest


class ParsedRows(NamedTuple):
    """Consecutive rows of one file."""

    frame: pl.DataFrame  # a column a role, and one a feature
    bad: np.ndarray  # [N] bool: broken, without a required value, or with a number that is none
    raw: files.FileRows


class FilePart(NamedTuple):
    """Rows that can be read apart from the table's others."""

    file: int  # its place among the table's files
    first: int  # as `files.starts` gives it


class SourceTable:
    """Roles ("user", "time", ...) and features, read from the files of one table."""

    def __init__(
        self, key: str, pattern: str, roles: dict[str, ColumnRequest], features: dict[str, ColumnRequest],
        time_unit: str = "ms", separator: str = ",",
    ) -> None:  # fmt: skip
        """`key` is the config key of `pattern`; `separator` is of list-valued text. A role's column may be
        several names with "|" between them, of which the first that stands in the first file is taken.

        Raises InputError for a missing file or column, an empty file, or a column whose type cannot be
        what is asked or differs between files.
        """
        self.files = files.find(key, pattern)
        self._types = {file: files.types(file) for file in self.files}
        self.roles = {role: want._replace(column=self._column(want)) for role, want in roles.items()}
        self._wants = self.roles | {_feature(name): want for name, want in features.items()}
        self._features = tuple(features)
        self._time_unit, self._separator = time_unit, separator
        for file in self.files:
            for want in self._wants.values():
                self._check_type(file, want)

    def _column(self, want: ColumnRequest) -> str:
        """The name, of those allowed, that the first file has."""
        names, types = want.column.split("|"), self._types[self.files[0]]
        for name in names:
            if name in types:
                return name
        none = " or ".join(map(repr, names))
        raise InputError(f"{self.files[0]}: no column {none} ({want.said}); it has {', '.join(types)}")

    def _check_type(self, file: str, want: ColumnRequest) -> None:
        types, first = self._types[file], self._types[self.files[0]]
        if want.column not in types:
            raise InputError(f"{file}: no column {want.column!r} ({want.said}); it has {', '.join(types)}")
        dtype, where = types[want.column], f"{file}, column {want.column!r} ({want.said})"
        if not columns.fits(want.kind, dtype, files.is_csv(file)):
            raise InputError(f"{where}: {dtype} values; allowed: {columns.ALLOWED[want.kind]}")
        mine, others = columns.family(want.kind, dtype), columns.family(want.kind, first[want.column])
        if mine != others:
            raise InputError(f"{where}: {mine}, but {others} in {self.files[0]}; allowed: one type")

    def dtype(self, role: str) -> pl.DataType:
        """The type that a key is parsed to, in every file."""
        want, types = self.roles[role], self._types[self.files[0]]
        if want.kind == "whole":
            return pl.Int64()
        dtype = types[want.column]
        return (dtype if isinstance(dtype, pl.UInt64) else pl.Int64()) if dtype.is_integer() else pl.String()

    def parts(self) -> tuple[FilePart, ...]:
        """What can be read apart, in the order of `read`: slices of Parquet files, CSV files whole."""
        return tuple(FilePart(f, first) for f, file in enumerate(self.files) for first in files.starts(file))

    def read(self, part: FilePart | None = None) -> Iterator[ParsedRows]:
        """Every row, or those of one of the `parts`, file by file in order of name, a bounded number at a
        time.

        Raises InputError where not one value of the table's first chunk is what its column must hold.
        """
        fresh = part in (None, FilePart(0, 0))
        wanted = list(dict.fromkeys(want.column for want in self._wants.values()))
        for file in self.files if part is None else [self.files[part.file]]:
            for rows in files.read(file, wanted, None if part is None else part.first):
                parsed = self._parse(rows)
                if fresh:
                    self._check_values(parsed)
                fresh = False
                yield parsed

    def read_strictly(self) -> Iterator[ParsedRows]:
        """As `read`, but the first bad row raises InputError."""
        for parsed in self.read():
            if parsed.bad.any():
                raise InputError(self.example(parsed, int(np.argmax(parsed.bad))))
            yield parsed

    def features(self, frame: pl.DataFrame) -> dict[str, np.ndarray | Lists]:
        """The raw feature columns of parsed rows."""
        return {n: columns.array(frame[_feature(n)], self._wants[_feature(n)].kind) for n in self._features}

    def _parse(self, rows: files.FileRows) -> ParsedRows:
        types = self._types[rows.file]
        frame = rows.frame.select(
            columns.parse(want, types[want.column], self._time_unit, self._separator).alias(name)
            for name, want in self._wants.items()
        )
        for name, want in self._wants.items():  # dates cost as much as all the rest: only where there are any
            text = rows.frame[want.column]
            if want.kind == "time" and frame[name].null_count() > text.null_count():
                dates = rows.frame.select(columns.iso(pl.col(want.column).cast(pl.String))).to_series()
                frame = frame.with_columns(frame[name].fill_null(dates))
        bad = rows.broken.copy()
        for name in self._wants:
            bad |= self._wrong(name, frame, rows)
        return ParsedRows(frame, bad, rows)

    def _wrong(self, name: str, frame: pl.DataFrame, rows: files.FileRows) -> np.ndarray:
        """[N] bool: a required value missing, or a number that is none."""
        want, lost = self._wants[name], frame[name].is_null()
        if not want.required:
            given = rows.frame[want.column].is_not_null()
            lost = lost & given if want.kind in ("number", "whole") else lost & False
        return lost.to_numpy()

    def _check_values(self, parsed: ParsedRows) -> None:
        for name, want in self._wants.items():
            raw = parsed.raw.frame[want.column]
            given = raw.is_not_null().to_numpy() & ~parsed.raw.broken
            if given.any() and self._wrong(name, parsed.frame, parsed.raw)[given].all():
                i = int(np.flatnonzero(given)[0])
                raise InputError(
                    f"{parsed.raw.file}, row {parsed.raw.row[i]}, column {want.column!r} ({want.said}): "
                    f"{raw[i]!r}, and no other row is better; allowed: {columns.ALLOWED[want.kind]}"
                )

    def example(self, parsed: ParsedRows, i: int) -> str:
        """File, row, column and value of what is wrong with bad row `i`."""
        where = f"{parsed.raw.file}, row {parsed.raw.row[i]}"
        for name, want in self._wants.items():
            if not parsed.raw.broken[i] and self._wrong(name, parsed.frame, parsed.raw)[i]:
                value = parsed.raw.frame[want.column][i]
                met = "empty" if value is None else repr(value)
                return f"{where}, column {want.column!r}: {met}; allowed: {columns.ALLOWED[want.kind]}"
        return f"{where}: more fields than the header names, an open quote, or not UTF-8"


def _feature(name: str) -> str:
    return f"feature {name}"
