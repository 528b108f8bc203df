"""Source of a service's own logs: three text or Parquet tables, or a plain log.

A key (user, title) is text in CSV and keeps its type in Parquet. Where two tables differ, titles are compared
in the catalogue's type and users in the log's type. A row of the log that cannot be parsed is counted and
left out; the titles and users tables must be valid in every row. A plain log has no seconds viewed. A log
without a titles table has a catalogue made of the titles in the log. A runtime that the titles table lacks is
the longest that the log holds for the title, where the log has a column of runtimes.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from jaxrec.config import schema
from jaxrec.config.rules.data import PARTS_OF_RUNTIME
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Drops, Interactions, Signals, Titles, Users
from jaxrec.sources import columns
from jaxrec.sources.columns import ColumnRequest, feature_requests
from jaxrec.sources.table import UNPARSABLE, FilePart, SourceTable
from jaxrec.sources.tabular.signals import SignalPart, SignalTable, of_log, own_tables, read_signals
from jaxrec.sources.tabular.titles import MAX_MINUTES, SourceTitles, collect_titles, read_titles

NOMINAL_MINUTES = 100.0  # runtime of all titles where the log holds the fractions seen, and no runtimes
_MINUTES = {"min": 1.0, "s": 1 / 60, "ms": 1 / 60_000, "h": 60.0}
_SECONDS = {"s": 1.0, "ms": 1 / 1000, "min": 60.0, "fraction": 1.0, "percent": 0.01}


class ThreeTables:
    """Source over a log, a titles table and a users table.

    The roles are user, title, time and seconds in the log, title and runtime in the titles table, and user in
    the users table. Without the role seconds there is no watch time, and runtime may be missing too.
    """

    def __init__(
        self,
        log: SourceTable,
        titles: SourceTable | None,
        users: SourceTable | None,
        minutes: float = 1.0,
        seconds: float = 1.0,
        durations: SourceTable | None = None,
        fractions: bool = False,
        signals: tuple[SignalTable, ...] = (),
    ) -> None:
        """Combine the tables.

        Args:
            log: Table of interactions.
            titles: Table of titles. None: the catalogue is the titles in the log, which takes a second pass
                over the log.
            users: Table of users, or None.
            minutes: Length in minutes of one unit of the runtime.
            seconds: Length in seconds of one unit of the watch time; with `fractions`, the fraction of
                the runtime that is one unit.
            durations: The log with the roles title and runtime, read where the titles table has no runtime.
            fractions: True: the log holds parts of the runtime that were seen, in place of seconds.
            signals: Tables of the signals, of which the first may be the log.
        """
        self.drops = Drops()
        self.has_completion = "seconds" in log.roles
        self._log, self._titles, self._users = log, titles, users
        self._minutes, self._seconds, self._fractions = minutes, seconds, fractions
        self._durations, self._filled = durations, False
        self._signals = signals
        self._catalogue: SourceTitles | None = None

    @property
    def catalogue(self) -> SourceTitles:
        """Return the catalogue, read on first use."""
        if self._catalogue is None:
            titles = self._titles
            self._catalogue = read_titles(titles, self._minutes) if titles else collect_titles(self._log)
        return self._catalogue

    def titles(self) -> Titles:
        """Return the catalogue's titles, with missing runtimes, in minutes, taken from the log."""
        titles = self.catalogue.titles
        if not self._filled:
            titles.runtime = self._fill_runtimes(titles.runtime)
            self._filled = True
        return titles

    def _fill_runtimes(self, runtime: np.ndarray) -> np.ndarray:
        """Fill missing runtimes, in minutes.

        The log is read only if a runtime is missing.
        """
        missing = ~(runtime > 0)
        if not missing.any():
            return runtime
        if self._durations is not None:
            longest = np.zeros(len(runtime))
            for parsed in self._durations.read():
                frame = parsed.frame.filter(~parsed.bad)
                title = self.catalogue.rows(frame["title"])
                known = title >= 0
                logged = frame["runtime"].fill_null(0.0).to_numpy()
                logged = np.where(logged * self._minutes <= MAX_MINUTES, logged, 0.0)  # else unknown
                np.maximum.at(longest, title[known], logged[known])
            return np.where(missing, longest * self._minutes, runtime)
        nominal = self._fractions and (self._titles is None or "runtime" not in self._titles.roles)
        return np.full(len(runtime), NOMINAL_MINUTES) if nominal else runtime

    def _seconds_viewed(self, frame: pl.DataFrame, title: np.ndarray) -> np.ndarray:
        """Return the seconds viewed [N] of parsed rows with these rows of the catalogue, -1 for none."""
        if not self.has_completion:
            return np.full(len(title), np.nan)
        viewed = frame["seconds"].to_numpy() * self._seconds
        if not self._fractions:
            return viewed
        runtime = np.append(self.titles().runtime, 0.0)[title]  # 0 for an unknown title
        return viewed * 60.0 * np.nan_to_num(runtime)

    def users(self) -> Iterator[Users]:
        """Yield the users in chunks.

        Raises:
            InputError: A row is bad, or a key cannot be converted to the type of the log's users.
        """
        if self._users is None:
            return
        for parsed in self._users.read_strictly():
            users = parsed.frame["user"]
            key = self._users.users_as_in(self._log, users, parsed.raw.file, parsed.raw.row)
            features = self._users.features(parsed.frame)
            yield Users(
                key, {n: c for n, c in features.items() if isinstance(c, np.ndarray)},
                file=parsed.raw.file, row=parsed.raw.row,
            )  # fmt: skip

    def parts(self) -> tuple[FilePart, ...]:
        """Return the parts of the log that can be read independently."""
        return self._log.parts()

    def interactions(self, part: FilePart | None = None) -> Iterator[Interactions]:
        """Yield the parsable rows of the log in the order of the files.

        `drops` counts the other rows.
        """
        self.drops.counts.clear()
        self.drops.examples.clear()
        names = {"seconds": ""} | {role: request.column for role, request in self._log.roles.items()}
        for parsed in self._log.read(part):
            if parsed.bad.any():
                example = self._log.example(parsed, int(np.argmax(parsed.bad)))
                self.drops.add(UNPARSABLE, int(parsed.bad.sum()), example)
            frame = parsed.frame.filter(~parsed.bad)
            title = self.catalogue.rows(frame["title"])
            unknown = np.flatnonzero(title < 0)
            context = {n: c for n, c in self._log.features(frame).items() if isinstance(c, np.ndarray)}
            yield Interactions(
                user=columns.keys_to_numpy(frame["user"]),
                title=title,
                time=frame["time"].to_numpy(),
                seconds=self._seconds_viewed(frame, title),
                context=context,
                file=parsed.raw.file,
                row=parsed.raw.row[~parsed.bad],
                names=names,
                unknown=str(frame["title"][int(unknown[0])]) if len(unknown) else "",
            )

    def signal_parts(self) -> tuple[SignalPart, ...]:
        """Return the parts of the signals' tables that can be read independently."""
        return tuple(SignalPart(i, part) for i, of in enumerate(self._signals) for part in of.table.parts())

    def signals(self, part: SignalPart | None = None) -> Iterator[Signals]:
        """Yield the events of the signals' tables: of the log, as read, and of tables of their own.

        Raises:
            InputError: A file cannot be read, or a user cannot be converted to the type of the log's users.
        """
        for table, rows in self.signal_parts() if part is None else [part]:
            yield from read_signals(self._signals[table], rows, self.catalogue, self._log)

    def truth(self) -> None:
        """Return None: the truth of a real log is unknown."""
        return None

    def files(self) -> list[str]:
        """Return the files of all tables."""
        tables = (self._log, self._titles, self._users, *(signal.table for signal in self._signals))
        return [*dict.fromkeys(file for table in tables if table is not None for file in table.files)]


def log_requests(c: schema.Columns) -> dict[str, ColumnRequest]:
    """Return the columns of a log by role."""
    prefix = "source.columns."
    log = {
        "user": ColumnRequest(c.user, "key", prefix + "user", required=True),
        "title": ColumnRequest(c.title, "key", prefix + "title", required=True),
        "time": ColumnRequest(
            c.time, "decimal time" if c.time_decimals else "time", prefix + "time", required=True
        ),
    }
    if c.seconds:
        log["seconds"] = ColumnRequest(c.seconds, "number", prefix + "seconds", required=True)
    return log


def minutes_of_unit(c: schema.Columns) -> float:
    """Return the length in minutes of one unit of the runtimes."""
    return _MINUTES[c.runtime_unit]


def seconds_of_unit(c: schema.Columns) -> tuple[float, bool]:
    """Return the length of one unit of the watch time: in seconds, or as a fraction of the runtime.

    The second value is True for a fraction of the runtime.
    """
    return _SECONDS[c.seconds_unit], c.seconds_unit in PARTS_OF_RUNTIME


class TablesSource(ThreeTables):
    """Source over the tables of a `config.Tables`.

    Units are those of `source.columns`; times may also be ISO 8601.
    """

    def __init__(
        self, source: schema.Tables, features: tuple[schema.Feature, ...], path: str = "",
        signals: tuple[schema.Signal, ...] = (),
    ) -> None:  # fmt: skip
        """Open the tables and check their columns.

        Args:
            source: Files and columns.
            features: Declared features.
            path: The config's data.path, the log where source.interactions is empty.
            signals: Declared signals.

        Raises:
            InputError: A table, a column or a feature is invalid. Rows are checked later, when they are read.
        """
        prefix, c = "source.columns.", source.columns
        log = log_requests(c)
        titles = {"title": ColumnRequest(c.title_key, "key", prefix + "title_key", required=True)}
        if c.runtime:
            titles["runtime"] = ColumnRequest(c.runtime, "number", prefix + "runtime")
        users = {"user": ColumnRequest(c.user_key, "key", prefix + "user_key", required=True)}
        requests = {where: feature_requests(features, where) for where in ("context", "title", "user")}
        seconds, fractions = seconds_of_unit(c)
        # Seconds viewed need runtimes: those of a titles table unless the log has them.
        has_titles = bool(source.titles or (c.seconds and not c.log_runtime and not fractions))
        for where, has_table, exception in (
            ("user", source.users, ""),
            ("title", has_titles, " except title_id"),
        ):
            if requests[where] and not has_table:
                requested_by = next(iter(requests[where].values())).requested_by
                allowed = f"a {where}s table, or no such feature{exception}"
                raise InputError(f"{requested_by}: source.{where}s is empty; allowed: {allowed}")
        key, pattern = ("source.interactions", source.interactions) if not path else ("data.path", path)
        form, titles_table, users_table, durations = source.interactions_format, None, None, None
        if has_titles:
            titles_table = SourceTable(
                "source.titles", source.titles, titles, requests["title"],
                separator=c.list_separator, form=source.titles_format, null_words=c.null_words,
            )  # fmt: skip
        if source.users:
            users_table = SourceTable(
                "source.users", source.users, users, requests["user"],
                form=source.users_format, null_words=c.null_words,
            )  # fmt: skip
        if c.log_runtime:
            runtime = ColumnRequest(c.log_runtime, "number", prefix + "log_runtime")
            roles = {"title": log["title"], "runtime": runtime}
            durations = SourceTable(key, pattern, roles, {}, form=form, null_words=c.null_words)
        super().__init__(
            SourceTable(
                key, pattern, log, requests["context"], c.time_unit, form=form, null_words=c.null_words
            ),
            titles_table, users_table, minutes_of_unit(c), seconds, durations, fractions,
            _signal_tables(source, key, pattern, signals),
        )  # fmt: skip


def _signal_tables(
    source: schema.Tables, key: str, pattern: str, signals: tuple[schema.Signal, ...]
) -> tuple[SignalTable, ...]:
    """Open the tables of the signals.

    Args:
        source: Files and columns.
        key: Config key of the log.
        pattern: Files of the log.
        signals: Declared signals.

    Raises:
        InputError: A table or a column is missing, or of a wrong type.
    """
    c, log = source.columns, log_requests(source.columns)
    log.pop("seconds", None)
    kinds, requests = of_log(signals)
    own = own_tables(signals, log, c, source.signals_format)
    if not kinds:
        return own
    form, words = source.interactions_format, c.null_words
    table = SourceTable(key, pattern, log | requests, {}, c.time_unit, form=form, null_words=words)
    return (SignalTable(table, kinds, own=False), *own)
