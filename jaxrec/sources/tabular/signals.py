"""Events of signals, read from columns of a log and from tables of their own."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.declared.signals import EVERY_ROW
from jaxrec.config.schema import Columns, Feature, FileFormat, Signal
from jaxrec.core.ids import INTERACTION_FEATURES
from jaxrec.core.tables import Drops, Signals
from jaxrec.sources.columns import ColumnRequest, keys_to_numpy
from jaxrec.sources.table import UNPARSABLE, FilePart, ParsedRows, SourceTable
from jaxrec.sources.tabular.titles import SourceTitles

# `value` of a signal -> kind of its column.
_KINDS = {"event": "flag", "seconds": "number", "number": "number", "sign": "number", "text": "text"}


class SignalTable(NamedTuple):
    """Table that holds the events of signals.

    Attributes:
        table: The log, with a role `_role` for each signal that has a column; or a signal's own table, with
            the role "value" where its events have one.
        kinds: Index into the config's `signals` -> signal.
        own: False: the log, where a row without a value is no event.
    """

    table: SourceTable
    kinds: dict[int, Signal]
    own: bool


class SignalPart(NamedTuple):
    """Rows of the signals' tables that can be read independently of the other rows.

    Attributes:
        table: Index among the tables.
        rows: Rows of this table.
    """

    table: int
    rows: FilePart


def _role(signal: Signal) -> str:
    return f"signal {signal.name}"


def of_log(signals: tuple[Signal, ...]) -> tuple[dict[int, Signal], dict[str, ColumnRequest]]:
    """Return the signals that are columns of the log, by index, and the requests of these columns by role."""
    kinds = {i: signal for i, signal in enumerate(signals) if signal.column}
    return kinds, {
        _role(signal): ColumnRequest(signal.column, _KINDS[signal.value], f"signals[{i}].column")
        for i, signal in kinds.items()
        if signal.column != EVERY_ROW
    }


def of_histories(features: tuple[Feature, ...], signals: tuple[Signal, ...]) -> dict[str, ColumnRequest]:
    """Return the columns of histories for the signals that are interaction features, by name of the signal.

    The column has the name of the signal, or of its column of the log. It is optional. A signal that is every
    row of the log has no column.
    """
    names = {feature.name for feature in features if feature.where == "interaction"} - {*INTERACTION_FEATURES}
    return {
        signal.name: ColumnRequest(
            f"{signal.name}|{signal.column}".rstrip("|"), _KINDS[signal.value], f"signals[{i}]"
        )
        for i, signal in enumerate(signals)
        if signal.name in names and signal.column != EVERY_ROW
    }


def own_tables(
    signals: tuple[Signal, ...], log: dict[str, ColumnRequest], columns: Columns, form: FileFormat
) -> tuple[SignalTable, ...]:
    """Open the tables of the signals that have one.

    Args:
        signals: Declared signals.
        log: Requests of the log's columns, of which user, title and time are read in all tables.
        columns: Names and units of columns.
        form: Format of text files.

    Raises:
        InputError: A table or a column is missing, or of a wrong type.
    """
    tables = []
    for i, signal in enumerate(signals):
        if not signal.table:
            continue
        roles = {role: log[role] for role in _needed(signal)}
        if signal.value != "event":
            kind = _KINDS[signal.value]
            roles["value"] = ColumnRequest(columns.value, kind, "source.columns.value", required=True)
        table = SourceTable(
            f"signals[{i}].table", signal.table, roles, {}, columns.time_unit, form=form,
            null_words=columns.null_words,
        )  # fmt: skip
        tables.append(SignalTable(table, {i: signal}, own=True))
    return tuple(tables)


def read_signals(
    signals: SignalTable, part: FilePart, catalogue: SourceTitles, log: SourceTable
) -> Iterator[Signals]:
    """Yield the events of a part of a table, one chunk for each chunk of rows.

    Args:
        signals: The table.
        part: One of the table's parts.
        catalogue: Catalogue of the source.
        log: The log, whose type of users the events have.

    Raises:
        InputError: A file cannot be read, or a user cannot be converted to the type of the log's users.
    """
    roles = signals.table.roles
    names: dict[str, str] = {role: roles[role].column for role in ("user", "title", "time") if role in roles}
    for signal in signals.kinds.values():
        role = "value" if signals.own else _role(signal)
        if role in roles:
            names[signal.name] = roles[role].column
    for parsed in signals.table.read(part):
        unreadable: dict[int, Drops] = {}
        chunks = []
        for kind, signal in signals.kinds.items():
            is_event, bad = _select(signals, signal, parsed)
            wrong = np.flatnonzero(is_event & bad)
            if len(wrong):
                columns = (*_needed(signal), "value" if signals.own else _role(signal))
                unreadable[kind] = Drops()
                example = signals.table.example(parsed, int(wrong[0]), columns)
                unreadable[kind].add(UNPARSABLE, len(wrong), example)
            chunks.append(_events(signals, kind, parsed, is_event & ~bad, catalogue, log))
        yield _joined(chunks, parsed.raw.file, names, unreadable)


def _needed(signal: Signal) -> tuple[str, ...]:
    """Return the roles beside the value that an event of the signal must have."""
    return ("user", "title", "time") if signal.about == "title" else ("user", "time")


def _select(signals: SignalTable, signal: Signal, parsed: ParsedRows) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks [N] of rows: with an event of the signal, and with an invalid value.

    Malformed rows of the log are no events here: they are counted with the plays.
    """
    malformed, role = parsed.raw.malformed, "value" if signals.own else _role(signal)
    roles = [r for r in (*_needed(signal), role) if r in parsed.invalid]
    bad = np.logical_or.reduce([parsed.invalid[r] for r in roles])
    if signals.own:
        return np.ones(len(malformed), bool), bad | malformed
    if signal.column == EVERY_ROW:
        return ~malformed, bad
    value = parsed.frame[role]
    has_value = value.is_not_null() if signal.value == "text" else value.fill_nan(None).fill_null(0) != 0
    return (has_value.to_numpy() | parsed.invalid[role]) & ~malformed, bad


def _events(
    signals: SignalTable, kind: int, parsed: ParsedRows, rows: np.ndarray, catalogue: SourceTitles,
    log: SourceTable,
) -> Signals:  # fmt: skip
    """Return the selected rows as events of one kind."""
    signal, frame = signals.kinds[kind], parsed.frame.filter(rows)
    role, n, row = "value" if signals.own else _role(signal), frame.height, parsed.raw.row[rows]
    title, unknown = np.full(n, -1, np.int64), ""
    if signal.about == "title":
        title = catalogue.rows(frame["title"])
        missing = np.flatnonzero(title < 0)
        unknown = str(frame["title"][int(missing[0])]) if len(missing) else ""
    value = np.full(n, float(signal.value == "event"), np.float32)
    if signal.value in ("seconds", "number", "sign"):
        with np.errstate(over="ignore"):  # infinite values are left out by cleaning
            value = (frame[role].to_numpy() * signal.unit).astype(np.float32)
    text = keys_to_numpy(frame[role]) if signal.value == "text" else None
    users = signals.table.users_as_in(log, frame["user"], parsed.raw.file, row)
    kinds = np.full(n, kind, np.int8)
    return Signals(users, title, frame["time"].to_numpy(), kinds, value, text, row=row, unknown=unknown)


def _joined(chunks: list[Signals], file: str, names: dict[str, str], unreadable: dict[int, Drops]) -> Signals:
    """Return the chunks of several kinds, from the same rows, as one."""
    text = None
    if any(chunk.text is not None for chunk in chunks):
        text = np.concatenate(
            [np.zeros(len(c.user), "S1") if c.text is None else np.asarray(c.text) for c in chunks]
        )
    unknown = next((chunk.unknown for chunk in chunks if chunk.unknown), "")
    fields = ("user", "title", "time", "kind", "value", "row")
    columns = {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in fields}
    return Signals(**columns, text=text, file=file, names=names, unknown=unknown, unreadable=unreadable)
