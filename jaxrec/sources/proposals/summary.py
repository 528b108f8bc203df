"""Samples of tables, and what their columns hold: types, missing values, distinct values."""

from typing import Any, NamedTuple

import polars as pl

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError
from jaxrec.sources import files, finding
from jaxrec.sources.proposals.formats import detect_format

_EXAMPLES = 3  # values shown for a column
SAMPLE_ROWS = 200_000  # rows that proposals look at


class TableSample(NamedTuple):
    """First rows of a table.

    Attributes:
        pattern: File, folder or glob.
        files: The files of the table.
        form: Format of its text files.
        reasons: Field of `form` -> reason.
        frame: The first rows; text columns for text files.
    """

    pattern: str
    files: list[str]
    form: FileFormat
    reasons: dict[str, str]
    frame: pl.DataFrame

    def numbers(self, column: str) -> pl.Series:
        """Return the values of a column as Float64, null where a value is not a finite number."""
        values = self.frame[column]
        if values.dtype.is_temporal() or values.dtype.is_nested():
            return pl.Series(column, [None] * len(values), dtype=pl.Float64)
        numbers = values.cast(pl.Float64, strict=False)
        return numbers.set(~numbers.is_finite().fill_null(False), None)

    def number_share(self, column: str) -> float:
        """Return the fraction of the present values of a column that are numbers, 0 without values."""
        present = len(self.frame) - self.frame[column].null_count()
        return (present - (self.numbers(column).null_count() - self.frame[column].null_count())) / max(
            present, 1
        )

    def to_json(self) -> dict[str, Any]:
        """Return files, rows and columns as JSON."""
        return {
            "pattern": self.pattern,
            "files": len(self.files),
            "format": {name: {"value": getattr(self.form, name), "reason": reason}
                       for name, reason in self.reasons.items()},
            "rows_read": self.frame.height,
            "columns": [self._column(name) for name in self.frame.columns],
        }  # fmt: skip

    def _column(self, name: str) -> dict[str, Any]:
        values = self.frame[name]
        present = values.drop_nulls()
        if not values.dtype.is_nested():
            present = present.unique(maintain_order=True)
        kind = str(values.dtype)
        if isinstance(values.dtype, pl.String):
            kind = "numbers in text" if self.number_share(name) > 0.99 else "text"
        return {
            "name": name,
            "kind": kind,
            "missing": values.null_count(),
            "distinct": None if values.dtype.is_nested() else values.n_unique(),
            "examples": [str(value) for value in present.head(_EXAMPLES).to_list()],
        }


def sample_table(key: str, pattern: str, form: FileFormat | None = None) -> TableSample:
    """Read the first rows of a table.

    Args:
        key: Flag or config key of the pattern, for error messages.
        pattern: File, folder or glob.
        form: Format of text files; None: the format is detected in the first file.

    Raises:
        InputError: No file matches, or the first file cannot be read.
    """
    paths = finding.find_files(key, pattern)
    reasons: dict[str, str] = {}
    if form is None:
        form = FileFormat()
        if finding.is_text(paths[0]):
            form, reasons = detect_format(paths[0])
    names = list(files.column_types(paths[0], form))
    if len(set(names)) < len(names):
        raise InputError(f"{paths[0]}: the columns {names} are not distinct; allowed: each name once")
    frames, rows = [], 0
    for chunk in files.read_rows(paths[0], names, None, form):
        frames.append(chunk.frame.filter(~pl.Series(chunk.malformed)))
        rows += frames[-1].height
        if rows >= SAMPLE_ROWS:
            break
    return TableSample(pattern, paths, form, reasons, pl.concat(frames).head(SAMPLE_ROWS))
