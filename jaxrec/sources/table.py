"""One table of a source: column checks, parsed rows and bad rows."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from absl import logging

from jaxrec.config.schema import Columns, FileFormat
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Lists
from jaxrec.sources import columns, files, finding, text
from jaxrec.sources.columns import ColumnRequest

UNPARSABLE = "row that cannot be parsed"  # reason of rows left out
_LIST_TEXT = r"^\s*(\[.*\]|\{.*\})\s*$"  # a list of another program, written as text


class ParsedRows(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        frame: One column per role and one per feature.
        bad: [N] bool: malformed, without a required value, or with an invalid value.
        raw: The rows as read.
        invalid: Column of `frame` -> [N] bool: no required value, or an invalid value.
    """

    frame: pl.DataFrame
    bad: np.ndarray
    raw: files.FileRows
    invalid: dict[str, np.ndarray]


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
        form: FileFormat = text.CSV, null_words: tuple[str, ...] = Columns().null_words,
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
            null_words: Text that means a missing value, except in categories.

        Raises:
            InputError: A file or column is missing, all files are empty, or the type of a column does not
                allow the requested kind or differs between files.
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
        self._null_words = tuple(word for word in null_words if word)
        self._words_found: Counter[tuple[str, str]] = Counter()  # by column and word, in the rows read
        self._families = {name: self._family(request) for name, request in self._requests.items()}

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

    def _family(self, request: ColumnRequest) -> str:
        """Return the class of a column's type in all files, as `columns.common_family`.

        Raises:
            InputError: A file lacks the column, its type is not allowed, or the files do not agree.
        """
        families: dict[str, str] = {}
        for file, types in self._types.items():
            if request.column not in types:
                raise InputError(
                    f"{file}: no column {request.column!r} ({request.requested_by}); "
                    f"columns: {', '.join(types)}"
                )
            dtype = types[request.column]
            where = f"{file}, column {request.column!r} ({request.requested_by})"
            if not columns.allows_kind(request.kind, dtype, self._is_text(file)):
                raise InputError(f"{where}: {dtype} values; allowed: {columns.ALLOWED[request.kind]}")
            families[file] = columns.type_family(request.kind, dtype)
            common = columns.common_family([*families.values()])
            if not common:
                first, other = next(
                    (f, g) for f, g in families.items() if g not in ("no values", families[file])
                )
                raise InputError(f"{where}: {families[file]}, but {other} in {first}; allowed: one type")
        return common

    def _is_text(self, file: str) -> bool:
        return self._frame is None and finding.is_text(file)

    def dtype(self, role: str) -> pl.DataType:
        """Return the type to which a key is parsed, the same for all files."""
        if self.roles[role].kind == "whole":
            return pl.Int64()
        family = self._families[role]
        return {"unsigned whole numbers": pl.UInt64(), "whole numbers": pl.Int64()}.get(family, pl.String())

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
        self._say_words_found()

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
        # A column by the name of its request, with null for the words that mean missing.
        present = rows.frame.select(
            self._without_words(request, types[request.column], rows.frame).alias(name)
            for name, request in self._requests.items()
        )
        frame = present.select(
            columns.parse(
                request._replace(column=name), types[request.column], self._families[name], self._time_unit,
                self._separator,
            ).alias(name)
            for name, request in self._requests.items()
        )  # fmt: skip
        # Parsing dates costs as much as parsing all other columns, so it is skipped where there are none.
        for name, request in self._requests.items():
            if request.kind in columns.TIMES and frame[name].null_count() > present[name].null_count():
                others = columns.parse_time_text(
                    pl.col(name).cast(pl.String), self._time_unit, decimals=request.kind == "decimal time"
                )
                frame = frame.with_columns(frame[name].fill_null(present.select(others).to_series()))
        bad, invalid = rows.malformed.copy(), {}
        for name, request in self._requests.items():
            wrong = frame[name].is_null()
            if not request.required:
                text = columns.is_string(present[name].dtype)  # empty text is a missing category
                optional = request.kind not in ("categories", "flag", "text", "free text")
                optional &= not (request.kind == "category" and text)
                wrong &= present[name].is_not_null() if optional else False
            if request.kind != "number" or name not in self.roles:  # roles have their own limits
                wrong |= columns.is_unrepresentable(frame[name], request.kind)
            invalid[name] = wrong.to_numpy()
            bad |= invalid[name]
        return ParsedRows(frame, bad, rows, invalid)

    def _without_words(self, request: ColumnRequest, dtype: pl.DataType, raw: pl.DataFrame) -> pl.Expr:
        """Return a column in which the words that mean missing are null, and count these words.

        In categories they are values like others, and are only counted.
        """
        column = pl.col(request.column)
        if not self._null_words or not columns.is_string(dtype) or request.kind == "categories":
            return column
        is_word = column.cast(pl.String).is_in(self._null_words)
        words = raw.select(pl.when(is_word).then(column.cast(pl.String)).drop_nulls()).to_series()
        if not len(words):
            return column
        for word, count in words.value_counts().rows():
            self._words_found[request.column, word] += count
        return column if request.kind == "category" else pl.when(~is_word).then(column)

    def _say_words_found(self) -> None:
        """Log the words that mean missing, by column, and forget them."""
        categories = {r.column for r in self._requests.values() if r.kind == "category"}
        for (column, word), count in sorted(self._words_found.items()):
            meaning = "a category like others" if column in categories else "a missing value"
            logging.warning(
                "%s, column %r: %r in %s rows is %s (source.columns.null_words)",
                self.files[0] if len(self.files) == 1 else f"{len(self.files)} files, {self.files[0]} first",
                column, word, f"{count:,}", meaning,
            )  # fmt: skip
        self._words_found.clear()

    def _check_values(self, parsed: ParsedRows) -> None:
        """Raise InputError if all values of a column are invalid, or are lists written as text."""
        for name, request in self._requests.items():
            raw = parsed.raw.frame[request.column]
            present = raw.is_not_null().to_numpy() & ~parsed.raw.malformed
            if not present.any():
                continue
            i = int(np.flatnonzero(present)[0])
            where = (
                f"{parsed.raw.file}, row {parsed.raw.row[i]}, column {request.column!r} "
                f"({request.requested_by}): {_shown(raw[i])}, and all other values in the first rows"
            )
            if parsed.invalid[name][present].all():
                allowed = columns.ALLOWED[request.kind] + columns.advice(request.kind, raw, present)
                raise InputError(f"{where} are invalid; allowed: {allowed}")
            is_text = columns.is_string(raw.dtype) and request.kind == "categories"
            if is_text and raw.cast(pl.String).filter(pl.Series(present)).str.contains(_LIST_TEXT).all():
                raise InputError(
                    f"{where} are lists written as text; allowed: values separated by "
                    f"source.columns.list_separator={self._separator!r}, or Parquet lists"
                )

    def users_as_in(self, log: "SourceTable", users: pl.Series, file: str, row: np.ndarray) -> np.ndarray:
        """Convert users [N] of this table to the type of the log's users, as `columns.keys_to_numpy`.

        Args:
            log: The log.
            users: [N] parsed users.
            file: File of the users, for the message.
            row: [N] row in the file.

        Raises:
            InputError: A user cannot be converted.
        """
        key = users.cast(log.dtype("user"), strict=False)
        if key.has_nulls():
            i = int(np.argmax(key.is_null().to_numpy()))
            raise InputError(
                f"{file}, row {row[i]}, column {self.roles['user'].column!r}: {users[i]!r}; "
                f"allowed: whole numbers, as in {log.files[0]}"
            )
        return columns.keys_to_numpy(key)

    def example(self, parsed: ParsedRows, i: int, roles: tuple[str, ...] = ()) -> str:
        """Return the file, row, column and value that make row `i` bad, among `roles`; empty: among all."""
        where = f"{parsed.raw.file}, row {parsed.raw.row[i]}"
        for name, request in self._requests.items():
            if roles and name not in roles:
                continue
            if not parsed.raw.malformed[i] and parsed.invalid[name][i]:
                value, allowed = parsed.raw.frame[request.column][i], columns.ALLOWED[request.kind]
                if isinstance(value, str) and value in self._null_words:
                    shown = f"{value!r}, which means missing (source.columns.null_words)"
                elif not parsed.frame[name].is_null()[i]:
                    shown, allowed = _shown(value), columns.REPRESENTABLE[request.kind]
                else:
                    shown = "empty" if value is None else _shown(value)
                return f"{where}, column {request.column!r}: {shown}; allowed: {allowed}"
        return f"{where}: more fields than the header, an open quote, or not UTF-8"


def _shown(value: object) -> str:
    """Return a value for an error message, cut after 100 characters."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}... ({len(str(value)):,} characters)"


def table_types(
    key: str, pattern: str | pl.DataFrame, form: FileFormat = text.CSV
) -> dict[str, dict[str, pl.DataType]]:
    """Return the column types of each file of a table; of a table in memory, under `key`.

    Files without rows are left out, with a warning, unless all files are.
    """
    if isinstance(pattern, pl.DataFrame):
        return {key: dict(pattern.schema)}
    types: dict[str, dict[str, pl.DataType]] = {}
    empty: dict[str, text.EmptyFileError] = {}
    for file in finding.find_files(key, pattern):
        try:
            types[file] = files.column_types(file, form)
        except text.EmptyFileError as error:
            empty[file] = error
    if not types:
        raise next(iter(empty.values()))
    finding.warn_of_left_out(key, dict.fromkeys(empty, "no rows"))
    return types


def _feature(name: str) -> str:
    """Return the column name of a feature in a parsed frame."""
    return f"feature {name}"
