"""A service's own logs: three tables of CSV or Parquet, by a map of columns; or a plain log alone.

A key (user, title) is text in CSV and whatever its type is in Parquet; where two tables differ, titles
are compared in the catalogue's type and users in the log's. A row of the log that cannot be parsed is
counted and left out; the titles and users tables must be right in every row. A plain log has no seconds
viewed, and need have no titles table: then the catalogue is the titles that it names.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Drops, Interactions, Lists, Titles, Users
from jaxrec.sources import columns
from jaxrec.sources.columns import ColumnRequest, of_features
from jaxrec.sources.table import FilePart, ParsedRows, SourceTable

UNPARSABLE = "row that cannot be parsed"


class SourceTitles:
    """The titles, held whole, and the row of a key."""

    def __init__(self, keys: pl.Series, runtime: np.ndarray, features: dict[str, np.ndarray | Lists]) -> None:
        """keys [V], each once; runtime [V] minutes."""
        self._keys = keys
        self._rows = pl.DataFrame({"title": keys, "at": np.arange(len(keys))})
        key = keys.to_numpy() if keys.dtype.is_integer() else keys.to_numpy().astype(str)
        self.titles = Titles(key, runtime, features)

    def rows(self, title: pl.Series) -> np.ndarray:
        """[N] int64 row of each key, -1 for one that is not in the catalogue."""
        asked = pl.DataFrame({"title": title.cast(self._keys.dtype, strict=False)})
        found = asked.join(self._rows, on="title", how="left", maintain_order="left")["at"]
        return found.fill_null(-1).to_numpy().astype(np.int64)


def _of_table(table: SourceTable, minutes: float) -> SourceTitles:
    """The rows of a titles table, in their order; one unit of its "runtime" is `minutes` long.

    Raises InputError for a bad row, a key that stands twice, a runtime below 0 or infinite.
    """
    parts = list(table.read_strictly())
    frame = pl.concat([part.frame for part in parts])
    keys = frame["title"]
    again = np.flatnonzero((~keys.is_first_distinct()).to_numpy())
    if len(again):
        value = keys[int(again[0])]
        first = int(np.argmax((keys == value).to_numpy()))
        raise InputError(
            f"{_place(parts, int(again[0]))}, column {table.roles['title'].column!r}: {value!r} stands "
            f"in {_place(parts, first)} already; allowed: each title once"
        )
    if "runtime" not in table.roles:
        return SourceTitles(keys, np.full(len(keys), np.nan), table.features(frame))
    runtime = frame["runtime"].to_numpy()
    wrong = np.flatnonzero((runtime < 0) | np.isinf(runtime))
    if len(wrong):
        i = int(wrong[0])
        raise InputError(
            f"{_place(parts, i)}, column {table.roles['runtime'].column!r}: {runtime[i]:g}; "
            "allowed: above 0, or 0 or empty where it is not known"
        )
    return SourceTitles(keys, runtime * minutes, table.features(frame))


def _of_log(log: SourceTable) -> SourceTitles:
    """The titles of a log's rows that can be parsed, by their keys: text by its bytes, numbers by value. So
    the order of the rows has no part in it."""
    once = [parsed.frame.filter(~parsed.bad)["title"].unique() for parsed in log.read()]
    keys = pl.concat(once).unique().sort()
    return SourceTitles(keys, np.full(len(keys), np.nan), {})


def _place(parts: list[ParsedRows], i: int) -> str:
    """File and row of row `i` of the parts taken together."""
    starts = np.cumsum([0] + [part.frame.height for part in parts])
    at = int(np.searchsorted(starts, i, side="right")) - 1
    return f"{parts[at].raw.file}, row {parts[at].raw.row[i - starts[at]]}"


class ThreeTables:
    """A schema.Source over tables with the roles user, title, time, seconds / title, runtime / user.

    Without the role seconds there is no watch time, and runtime may be missing too.
    """

    def __init__(
        self,
        log: SourceTable,
        titles: SourceTable | None,
        users: SourceTable | None,
        minutes: float = 1.0,
        seconds: float = 1.0,
    ) -> None:
        """One unit of the runtime is `minutes` long, one of the seconds viewed `seconds`. Without a table of
        titles the catalogue is what the log names, read once more for it."""
        self.drops = Drops()
        self.has_completion = "seconds" in log.roles
        self._log, self._titles, self._users = log, titles, users
        self._minutes, self._seconds = minutes, seconds
        self._catalogue: SourceTitles | None = None

    @property
    def catalogue(self) -> SourceTitles:
        if self._catalogue is None:
            titles = self._titles
            self._catalogue = _of_table(titles, self._minutes) if titles else _of_log(self._log)
        return self._catalogue

    def titles(self) -> Titles:
        return self.catalogue.titles

    def users(self) -> Iterator[Users]:
        """Raises InputError at a bad row, or a key that cannot be one of the log's."""
        if self._users is None:
            return
        kind, column = self._log.dtype("user"), self._users.roles["user"].column
        for parsed in self._users.read_strictly():
            key = parsed.frame["user"].cast(kind, strict=False)
            if key.has_nulls():
                i = int(np.argmax(key.is_null().to_numpy()))
                raise InputError(
                    f"{parsed.raw.file}, row {parsed.raw.row[i]}, column {column!r}: "
                    f"{parsed.frame['user'][i]!r}; allowed: whole numbers, as in {self._log.files[0]}"
                )
            features = self._users.features(parsed.frame)
            yield Users(columns.keys(key), {n: c for n, c in features.items() if isinstance(c, np.ndarray)})

    def parts(self) -> tuple[FilePart, ...]:
        return self._log.parts()

    def interactions(self, part: FilePart | None = None) -> Iterator[Interactions]:
        """Rows that could be parsed, in the order of the files; `drops` counts the others."""
        self.drops.counts.clear()
        self.drops.examples.clear()
        names = {"seconds": ""} | {role: want.column for role, want in self._log.roles.items()}
        for parsed in self._log.read(part):
            if parsed.bad.any():
                example = self._log.example(parsed, int(np.argmax(parsed.bad)))
                self.drops.add(UNPARSABLE, int(parsed.bad.sum()), example)
            frame = parsed.frame.filter(~parsed.bad)
            title = self.catalogue.rows(frame["title"])
            lost = np.flatnonzero(title < 0)
            context = {n: c for n, c in self._log.features(frame).items() if isinstance(c, np.ndarray)}
            seconds = np.full(len(title), np.nan)
            if self.has_completion:
                seconds = frame["seconds"].to_numpy() * self._seconds
            yield Interactions(
                user=columns.keys(frame["user"]),
                title=title,
                time=frame["time"].to_numpy(),
                seconds=seconds,
                context=context,
                file=parsed.raw.file,
                row=parsed.raw.row[~parsed.bad],
                names=names,
                unknown=str(frame["title"][int(lost[0])]) if len(lost) else "",
            )

    def truth(self) -> None:
        return None


class TablesSource(ThreeTables):
    """A schema.Source over one's own files. Raises InputError, before any row is read where it can."""

    def __init__(self, source: schema.Tables, features: tuple[schema.Feature, ...], path: str = "") -> None:
        """`path` is data.path, the log where source.interactions is empty."""
        said, c = "source.columns.", source.columns
        log = {
            "user": ColumnRequest(c.user, "key", said + "user", required=True),
            "title": ColumnRequest(c.title, "key", said + "title", required=True),
            "time": ColumnRequest(c.time, "time", said + "time", required=True),
        }
        if c.seconds:
            log["seconds"] = ColumnRequest(c.seconds, "number", said + "seconds", required=True)
        titles = {"title": ColumnRequest(c.title_key, "key", said + "title_key", required=True)}
        if c.runtime:
            titles["runtime"] = ColumnRequest(c.runtime, "number", said + "runtime")
        users = {"user": ColumnRequest(c.user_key, "key", said + "user_key", required=True)}
        extra = {where: of_features(features, where) for where in ("context", "title", "user")}
        has_titles = bool(source.titles or c.seconds)  # which mean nothing without runtimes
        for where, there, but in (("user", source.users, ""), ("title", has_titles, " but title_id")):
            if extra[where] and not there:
                asks = next(iter(extra[where].values())).said
                allowed = f"a {where}s table, or no such feature{but}"
                raise InputError(f"{asks}: source.{where}s is empty; allowed: {allowed}")
        key, rows = ("source.interactions", source.interactions) if not path else ("data.path", path)
        super().__init__(
            SourceTable(key, rows, log, extra["context"], c.time_unit),
            SourceTable("source.titles", source.titles, titles, extra["title"], separator=c.list_separator)
            if has_titles
            else None,
            SourceTable("source.users", source.users, users, extra["user"]) if source.users else None,
        )
