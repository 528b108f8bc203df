"""Catalogue of titles from a titles table, or from the titles of a log."""

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.core.tables import Lists, Titles
from jaxrec.sources.table import ParsedRows, SourceTable

MAX_MINUTES = 1e6  # of a runtime, about two years


class SourceTitles:
    """Catalogue in memory, with a lookup from keys to rows."""

    def __init__(
        self, keys: pl.Series, runtime: np.ndarray, features: dict[str, np.ndarray | Lists],
        of_log: bool = False,
    ) -> None:  # fmt: skip
        """Build the catalogue.

        Args:
            keys: [V] unique keys.
            runtime: [V] minutes, NaN where unknown.
            features: Raw feature columns, as in Titles.
            of_log: True for the titles of a log.
        """
        self._keys = keys
        self._rows = pl.DataFrame({"title": keys, "at": np.arange(len(keys))})
        key = keys.to_numpy() if keys.dtype.is_integer() else keys.to_numpy().astype(str)
        self.titles = Titles(key, runtime, features, of_log=of_log)

    def rows(self, title: pl.Series) -> np.ndarray:
        """Return the row [N] int64 of each key, -1 for a key that is not in the catalogue."""
        lookup = pl.DataFrame({"title": title.cast(self._keys.dtype, strict=False)})
        rows = lookup.join(self._rows, on="title", how="left", maintain_order="left")["at"]
        return rows.fill_null(-1).to_numpy().astype(np.int64)


def read_titles(table: SourceTable, minutes: float) -> SourceTitles:
    """Read a titles table, in the order of the rows.

    Args:
        table: Table with the roles title and, optionally, runtime.
        minutes: Length in minutes of one unit of the runtime.

    Raises:
        InputError: A row is bad, a key occurs twice, or a runtime is negative or above `MAX_MINUTES`.
    """
    chunks = list(table.read_strictly())
    frame = pl.concat([chunk.frame for chunk in chunks])
    keys = frame["title"]
    duplicates = np.flatnonzero((~keys.is_first_distinct()).to_numpy())
    if len(duplicates):
        value = keys[int(duplicates[0])]
        first = int(np.argmax((keys == value).to_numpy()))
        raise InputError(
            f"{_location(chunks, int(duplicates[0]))}, column {table.roles['title'].column!r}: {value!r} is "
            f"already in {_location(chunks, first)}; allowed: each title once"
        )
    if "runtime" not in table.roles:
        return SourceTitles(keys, np.full(len(keys), np.nan), table.features(frame))
    runtime = frame["runtime"].to_numpy()
    invalid = np.flatnonzero((runtime < 0) | (runtime * minutes > MAX_MINUTES))
    if len(invalid):
        i = int(invalid[0])
        raise InputError(
            f"{_location(chunks, i)}, column {table.roles['runtime'].column!r}: {runtime[i]:g}; "
            f"allowed: a number above 0, at most {MAX_MINUTES / minutes:g}, or 0 or empty for an unknown "
            "runtime"
        )
    return SourceTitles(keys, runtime * minutes, table.features(frame))


def collect_titles(log: SourceTable) -> SourceTitles:
    """Return the titles of a log's parsable rows, sorted by key.

    Text is sorted by its bytes, numbers by value, so that the catalogue does not depend on the order of the
    rows.
    """
    unique = [parsed.frame.filter(~parsed.bad)["title"].unique() for parsed in log.read()]
    keys = pl.concat(unique).unique().sort()
    return SourceTitles(keys, np.full(len(keys), np.nan), {}, of_log=True)


def _location(chunks: list[ParsedRows], i: int) -> str:
    """Return the file and row number of row `i` of the concatenated chunks."""
    starts = np.cumsum([0] + [chunk.frame.height for chunk in chunks])
    at = int(np.searchsorted(starts, i, side="right")) - 1
    return f"{chunks[at].raw.file}, row {chunks[at].raw.row[i - starts[at]]}"
