"""Events of signals before requests, from a table in which each row names its signal."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrec.config.schema import Columns, Signal
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Signals
from jaxrec.sources.columns import ColumnRequest
from jaxrec.sources.frames import to_frame
from jaxrec.sources.table import SourceTable
from jaxrec.sources.tabular.titles import SourceTitles

SIGNAL = "signal"  # column with the name of a row's signal


def read_past_events(
    table: Any, log: dict[str, ColumnRequest], unit: str, users: SourceTable, catalogue: SourceTitles,
    signals: tuple[Signal, ...],
) -> Iterator[Signals]:  # fmt: skip
    """Yield the events of a table: columns user, title and time as in histories, `signal` and `value`.

    Without a value an event has the value 1. Seconds are in the signal's unit.

    Args:
        table: File, folder or glob; or a table in memory.
        log: Requests of the columns of the log, by role.
        unit: Unit of times that are numbers.
        users: Table of the histories, whose type of users the events have.
        catalogue: Known titles.
        signals: Declared signals.

    Raises:
        InputError: A column is missing, a row is invalid, or a signal is not declared.
    """
    import polars as pl

    opened = table if isinstance(table, str) else to_frame("signals", table)
    roles = {role: log[role] for role in ("user", "time")}
    features = {
        SIGNAL: ColumnRequest(SIGNAL, "category", "signals"),
        "title": log["title"]._replace(kind="category", required=False),
        "value": ColumnRequest(Columns().value, "number", "signals"),
    }
    source = SourceTable("signals", opened, roles, features, unit)
    names = np.array([signal.name for signal in signals])
    units = np.array([signal.unit for signal in signals])
    is_event = np.array([signal.value == "event" for signal in signals])
    about_title = np.array([signal.about == "title" for signal in signals])
    for parsed in source.read_strictly():
        columns = source.features(parsed.frame)
        name = np.asarray(columns[SIGNAL]).astype(str)
        known = np.isin(name, names)
        if not known.all():
            raise InputError(
                f"signals: {SIGNAL}={str(name[np.argmin(known)])!r}; allowed: {', '.join(names) or 'none'}"
            )
        kind = np.argmax(name[:, None] == names, axis=1).astype(np.int8)
        value = np.nan_to_num(np.asarray(columns["value"], np.float64), nan=1.0) * units[kind]
        title = catalogue.rows(pl.Series(np.asarray(columns["title"])))
        yield Signals(
            source.users_as_in(users, parsed.frame["user"], parsed.raw.file, parsed.raw.row),
            np.where(about_title[kind], title, -1),
            parsed.frame["time"].to_numpy(),
            kind,
            np.where(is_event[kind], 1.0, value).astype(np.float32),
        )
