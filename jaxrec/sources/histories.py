"""Watch histories to serve: plays and users in a config's own columns, from files or tables in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.core.tables import REGION, TIME, Signals, Titles
from jaxrec.sources import kuairand
from jaxrec.sources.columns import ColumnRequest, feature_requests
from jaxrec.sources.frames import to_frame
from jaxrec.sources.table import SourceTable, table_types
from jaxrec.sources.tables import (
    ThreeTables,
    log_requests,
    minutes_of_unit,
    seconds_of_unit,
)
from jaxrec.sources.tabular.past_events import read_past_events
from jaxrec.sources.tabular.signals import of_histories
from jaxrec.sources.tabular.titles import SourceTitles, read_titles

Source = schema.Simulator | schema.Tables | schema.KuaiRand | schema.Tfds


class Histories(ThreeTables):
    """Plays of users, of titles that are known already.

    The columns of the plays are those of the config's log. The simulator has the default columns of
    `config.Columns`. Context features are columns of the plays, and of the users table for the context of the
    request; both are optional. Signals that are interaction features are optional columns of the plays, and
    stand in `Interactions.context`. User features, REGION and the time of the request are optional columns of
    the users table.
    """

    def __init__(
        self, source: Source, features: tuple[schema.Feature, ...], plays: Any, users: Any = None,
        title_key: np.ndarray | None = None, runtime: np.ndarray | None = None,
        signals: tuple[schema.Signal, ...] = (),
    ) -> None:  # fmt: skip
        """Open the tables and check their columns.

        Args:
            source: Source of the config, whose columns are read.
            features: Declared features.
            plays: File, folder or glob of CSV or Parquet; or a table of polars, pandas or Arrow, or a dict of
                columns.
            users: Table of users, as `plays`, or a sequence of users; None: the users of the plays.
            title_key: [V] keys of the known titles; `Interactions.title` is an index into it.
            runtime: [V] minutes of the titles, for plays that hold fractions of the runtime; None: unknown.
            signals: Declared signals.

        Raises:
            InputError: A table or a column is invalid.
        """
        log, context, unit, seconds, fractions = _columns_of(source, features)
        own = source if isinstance(source, schema.Tables) else schema.Tables()
        words = own.columns.null_words
        of_plays = context | of_histories(features, signals)
        plays_table = _open("histories", plays, log, of_plays, unit, own.interactions_format, words)
        users_table = None
        if users is not None:
            key = log["user"]._replace(column=_user_key(source))
            if isinstance(users, Sequence | np.ndarray) and not isinstance(users, str):
                users = pl.DataFrame({key.column.split("|")[0]: np.asarray(users)})
            requests = context | _request_features(features, log)
            users_table = _open("users", users, {"user": key}, requests, unit, own.users_format, words)
        super().__init__(plays_table, None, users_table, seconds=seconds, fractions=fractions)
        keys = np.empty(0, np.int64) if title_key is None else title_key
        minutes = np.full(len(keys), np.nan) if runtime is None else runtime
        self._catalogue, self._filled = SourceTitles(pl.Series(keys), minutes, {}), True
        self._columns, self._unit = log, unit

    def past_events(self, table: Any, signals: tuple[schema.Signal, ...]) -> Iterator[Signals]:
        """Yield the events of a table of signals; see `tabular.past_events.read_past_events`."""
        yield from read_past_events(table, self._columns, self._unit, self._log, self.catalogue, signals)


def _columns_of(
    source: Source, features: tuple[schema.Feature, ...]
) -> tuple[dict[str, ColumnRequest], dict[str, ColumnRequest], str, float, bool]:
    """Return the columns of plays by role and by context feature.

    Returns:
        Roles, context features, the unit of times that are numbers, and the length of one unit of the watch
        time, with True where it is a fraction of the runtime.
    """
    if isinstance(source, schema.KuaiRand):
        return kuairand.log_requests(), kuairand.context_requests(features), "ms", kuairand.SECONDS, False
    context = feature_requests(features, "context")
    if isinstance(source, schema.Tfds):
        columns = schema.Columns(
            user=source.user, title=source.title, time=source.time, time_unit="s", seconds=""
        )
    else:
        columns = source.columns if isinstance(source, schema.Tables) else schema.Columns()
    return log_requests(columns), context, columns.time_unit, *seconds_of_unit(columns)


def _request_features(
    features: tuple[schema.Feature, ...], log: dict[str, ColumnRequest]
) -> dict[str, ColumnRequest]:
    """Return the columns of the users table by feature, without the context."""
    region = ColumnRequest(REGION, "category", "licences")
    time = log["time"]._replace(requested_by="histories", required=False)
    return feature_requests(features, "user") | {REGION: region, TIME: time}


def columns_to_json(
    source: Source, features: tuple[schema.Feature, ...], signals: tuple[schema.Signal, ...] = ()
) -> dict[str, Any]:
    """Return the columns of histories and users as values for JSON, for readers without polars.

    `data.events.history_columns` reads the result. Without signals in histories it has no key "signals", as
    exports of before.
    """
    log, context, unit, seconds, fractions = _columns_of(source, features)
    tables = {
        "plays": log,
        "context": context,
        "user_key": {"user": log["user"]._replace(column=_user_key(source))},
        "user": _request_features(features, log),
    }
    of_signals = of_histories(features, signals)
    if of_signals:
        tables["signals"] = of_signals
    requests = {
        table: {name: {"column": r.column, "kind": r.kind, "divisor": r.divisor} for name, r in of.items()}
        for table, of in tables.items()
    }
    return {**requests, "time_unit": unit, "seconds": seconds, "fractions": fractions}


def _user_key(source: Source) -> str:
    if isinstance(source, schema.Tables):
        return f"{source.columns.user_key}|{source.columns.user}"
    return source.user if isinstance(source, schema.Tfds) else schema.Columns().user_key


def _open(
    key: str, table: Any, roles: dict[str, ColumnRequest], features: dict[str, ColumnRequest], unit: str,
    form: schema.FileFormat, null_words: tuple[str, ...],
) -> SourceTable:  # fmt: skip
    """Open a table; features that it does not have are left out."""
    opened = table if isinstance(table, str) else to_frame(key, table)
    names = next(iter(table_types(key, opened, form).values()))
    present = {
        name: request._replace(column=column, required=False)
        for name, request in features.items()
        for column in [c for c in request.column.split("|") if c in names][:1]
    }
    return SourceTable(key, opened, roles, present, unit, form=form, null_words=null_words)


def title_column(source: Source) -> str:
    """Return the names, separated by "|", of the column of titles in tables of a config's titles."""
    if isinstance(source, schema.KuaiRand):
        return kuairand.log_requests()["title"].column
    if isinstance(source, schema.Tfds):
        return source.title
    columns = source.columns if isinstance(source, schema.Tables) else schema.Columns()
    return f"{columns.title_key}|{columns.title}"


def title_rows(titles: Any, title_key: np.ndarray) -> np.ndarray:
    """Return the index [N] of titles in `title_key`, -1 for an unknown title.

    A whole number and its text are the same title.
    """
    keys = titles if isinstance(titles, pl.Series) else pl.Series(np.asarray(titles))
    if not len(keys):
        return np.empty(0, np.int64)
    return SourceTitles(pl.Series(title_key), np.empty(0), {}).rows(keys)


def read_title_table(
    key: str, table: Any, source: Source, title_key: np.ndarray, kinds: Mapping[str, str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read a table with a column of titles, such as availability windows or licences.

    Args:
        key: Name of the table in error messages.
        table: File, folder or glob; or a table in memory.
        source: Source of the config, which names the column of titles.
        title_key: [V] keys of the known titles.
        kinds: Kind of each further column, a key of `columns.ALLOWED`.

    Returns:
        The index [N] of each row's title in `title_key`, -1 for an unknown title, and the further columns.

    Raises:
        InputError: A column is missing, or a row is invalid.
    """
    opened = table if isinstance(table, str) else to_frame(key, table)
    title = {"title": ColumnRequest(title_column(source), "key", key, required=True)}
    requests = {name: ColumnRequest(name, kind, key) for name, kind in kinds.items()}
    source_table = SourceTable(key, opened, title, requests)
    parts = [(p.frame["title"], source_table.features(p.frame)) for p in source_table.read_strictly()]
    if not parts:
        raise InputError(f"{key}: the table has no rows; allowed: at least one")
    columns = {name: np.concatenate([np.asarray(p[name]) for _, p in parts]) for name in kinds}
    return title_rows(pl.concat([titles for titles, _ in parts]), title_key), columns


def read_catalogue(source: Source, features: tuple[schema.Feature, ...], titles: Any) -> Titles:
    """Read a table of titles in the columns of the config's titles table.

    Args:
        source: Source of the config.
        features: Declared features, whose columns are read where they exist.
        titles: File, folder or glob; or a table in memory.

    Raises:
        InputError: A column or a row is invalid, or a title has two rows.
    """
    opened = titles if isinstance(titles, str) else to_frame("titles", titles)
    own = source if isinstance(source, schema.Tables) else schema.Tables()
    names = next(iter(table_types("titles", opened, own.titles_format).values()))
    columns, minutes = own.columns, minutes_of_unit(own.columns)
    runtime = columns.runtime
    if isinstance(source, schema.KuaiRand):
        runtime, minutes = "video_duration", kuairand.MINUTES
    roles = {"title": ColumnRequest(title_column(source), "key", "titles", required=True)}
    if runtime in names:
        roles["runtime"] = ColumnRequest(runtime, "number", "titles")
    present = {n: r for n, r in feature_requests(features, "title").items() if r.column in names}
    table = SourceTable(
        "titles", opened, roles, present, separator=columns.list_separator, form=own.titles_format
    )
    return read_titles(table, minutes).titles


def _simulated_names(source: schema.Simulator, title_key: np.ndarray) -> np.ndarray | None:
    """Return the names of the titles of a simulated service; None with one canvas."""
    from jaxrec.sources import open_source

    titles = open_source(source, ()).titles()
    if "name" not in titles.features:
        return None
    names, rows = np.asarray(titles.features["name"]), title_rows(titles.key, title_key)
    out = np.zeros(len(title_key), names.dtype)
    out[rows[rows >= 0]] = names[rows >= 0]
    return out


def title_names(source: Source, title_key: np.ndarray) -> np.ndarray | None:
    """Return the names of titles, [V] strings; None where the config declares no table with a column `name`.

    A title without a name has an empty string. The titles table may have been moved since the training; the
    result is None then. A simulated service with several canvases has names.
    """
    if isinstance(source, schema.Simulator):
        return _simulated_names(source, title_key)
    if not isinstance(source, schema.Tables) or not source.titles:
        return None
    try:
        types = next(iter(table_types("source.titles", source.titles, source.titles_format).values()))
    except InputError:
        return None
    if "name" not in types:
        return None
    requests = {"title": ColumnRequest(source.columns.title_key, "key", "source.columns.title_key", True)}
    table = SourceTable("source.titles", source.titles, requests,
                        {"name": ColumnRequest("name", "category", "the names of titles")},
                        form=source.titles_format)  # fmt: skip
    chunks = [(chunk.frame["title"], table.features(chunk.frame)["name"]) for chunk in table.read_strictly()]
    rows = title_rows(pl.concat([key for key, _ in chunks]), title_key)
    names = np.concatenate([np.asarray(name).astype(str) for _, name in chunks])
    out = np.zeros(len(title_key), names.dtype)
    out[rows[rows >= 0]] = names[rows >= 0]
    return out
