"""Plays and users from columns in memory, parsed by NumPy alone.

An export is served where polars may be missing. The columns are those of a config, as
`sources.histories.columns_to_json` writes them. A value that cannot be parsed is an error; tables of files
leave such a row out and count it.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, TEXT_CHARACTERS
from jaxrec.core.tables import Interactions, Users

_MILLISECONDS = {"s": 1000, "ms": 1}  # in one unit of a time
_UNITS_PER_MILLISECOND = {"us": 1000, "ns": 1_000_000}


def milliseconds_of(time: Any, key: str = "now") -> int | None:
    """Convert a time to milliseconds since 1970; a time without an offset is UTC.

    Args:
        time: Whole milliseconds, a datetime, a date, an ISO 8601 string, or None.
        key: Name of the value in the error message.

    Raises:
        InputError: The value is not a time.
    """
    if time is None or isinstance(time, int | np.integer):
        return time if time is None else int(time)
    try:
        text = time.isoformat() if isinstance(time, date) else str(time)
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{key}={time!r}; allowed: a time such as '2024-01-31T20:00:00Z'") from error
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


class TitleIndex:
    """Index of titles by key, sorted once.

    Args:
        title_key: [V] keys of the known titles, unique.
    """

    def __init__(self, title_key: np.ndarray) -> None:
        self._key, self._order = title_key, np.argsort(title_key, kind="stable")

    def rows(self, titles: Any) -> np.ndarray:
        """Return the index [N] of titles in `title_key`, -1 for an unknown title.

        A whole number and its text are the same title.

        Args:
            titles: Sequence of N keys.
        """
        keys = np.asarray(titles)
        if not len(keys) or not len(self._key):
            return np.full(len(keys), -1, np.int64)
        is_key = np.ones(len(keys), bool)
        if self._key.dtype.kind in "iu":
            keys, is_key = _whole_numbers(keys)
        else:
            keys = keys.astype(str)
        at = np.searchsorted(self._key, keys, sorter=self._order)
        row = self._order[np.minimum(at, len(self._order) - 1)]
        return np.where(is_key & (self._key[row] == keys), row, -1).astype(np.int64)


def title_rows(titles: Any, title_key: np.ndarray) -> np.ndarray:
    """Return the index [N] of titles in `title_key`, as `TitleIndex.rows`."""
    return TitleIndex(title_key).rows(titles)


def _whole_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 values, and a mask of the values that are whole numbers."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64), np.ones(len(values), bool)
    out, is_whole = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    for i, value in enumerate(values.tolist()):
        try:
            out[i] = int(value)
            is_whole[i] = not isinstance(value, float) or value == out[i]
        except (TypeError, ValueError, OverflowError):
            continue
    return out, is_whole


class HistoryColumns:
    """Parser of plays and users.

    Args:
        columns: From `sources.histories.columns_to_json`.
        title_key: [V] keys of the known titles.
        runtime: [V] minutes of the titles, for plays that hold fractions of the runtime.
    """

    def __init__(self, columns: dict[str, Any], title_key: np.ndarray, runtime: np.ndarray) -> None:
        self._columns, self.titles = columns, TitleIndex(title_key)
        self._seconds = np.append(60.0 * np.nan_to_num(runtime), 0.0)  # the last one: an unknown title

    def plays(self, table: Mapping[str, Any]) -> Interactions:
        """Return the plays of a dict of columns of equal length.

        Raises:
            InputError: A column is missing or has another length, or a value cannot be parsed.
        """
        roles = self._read("histories", table, self._columns["plays"], required=True)
        of_plays = self._columns["context"] | self._columns.get("signals", {})
        features = self._read("histories", table, of_plays)
        keys = roles["title"]
        title = self.titles.rows(keys)
        unknown = np.flatnonzero(title < 0)
        seconds = np.full(len(title), np.nan)
        if "seconds" in roles:
            seconds = roles["seconds"] * self._columns["seconds"]
            if self._columns["fractions"]:
                seconds *= self._seconds[title]
        return Interactions(
            roles["user"],
            title,
            roles["time"],
            seconds,
            features,
            "histories",
            names={"seconds": ""} | {role: spec["column"] for role, spec in self._columns["plays"].items()},
            unknown=str(keys[unknown[0]]) if len(unknown) else "",
        )

    def users(self, table: Any, plays: Interactions) -> Users:
        """Return the rows of a users table.

        Args:
            table: Dict of columns, or a sequence of users.
            plays: Plays of the same call, whose users have the type of the keys.

        Raises:
            InputError: As for `plays`, or a user is not of the type of the users of the plays.
        """
        (spec,) = self._columns["user_key"].values()
        if isinstance(table, Sequence | np.ndarray) and not isinstance(table, str):
            table = {spec["column"].split("|")[0]: table}
        key = self._read("users", table, self._columns["user_key"], required=True)["user"]
        if plays.user.dtype.kind in "iu":
            key, is_whole = _whole_numbers(key)
            if not is_whole.all():
                raise InputError(
                    f"users, row {int(np.argmin(is_whole)) + 1}: allowed: whole numbers, as in histories"
                )
        else:
            key = key.astype(str)
        return Users(key, self._read("users", table, self._columns["context"] | self._columns["user"]))

    def _read(
        self, name: str, table: Mapping[str, Any], specs: dict[str, Any], required: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the parsed columns of a table; those that it lacks are left out unless required."""
        out, length = {}, None
        for key, spec in specs.items():
            names = [n for n in spec["column"].split("|") if n in table]
            if not names:
                if required:
                    missing = " or ".join(map(repr, spec["column"].split("|")))
                    raise InputError(f"{name}: no column {missing}; columns: {', '.join(map(str, table))}")
                continue
            raw = np.asarray(table[names[0]])
            if raw.ndim != 1 or len(raw) != (len(raw) if length is None else length):
                raise InputError(
                    f"{name}, column {names[0]!r}: shape {raw.shape}; allowed: columns of one length"
                )
            length = len(raw)
            out[key] = _parse(raw, spec, self._columns["time_unit"], f"{name}, column {names[0]!r}")
        return out


def _parse(raw: np.ndarray, spec: dict[str, Any], unit: str, where: str) -> np.ndarray:
    """Return the raw column [N] of a kind, as `core.tables.Titles` describes it.

    Args:
        raw: Values of the caller.
        spec: Column, kind and divisor.
        unit: Unit of times that are numbers.
        where: Table and column, for error messages.
    """
    kind = spec["kind"]
    if kind == "number":
        return _numbers(raw, where)
    if kind == "flag":
        return _flags(raw)
    if kind in ("time", "decimal time"):
        return _times(raw, unit, where, kind == "decimal time")
    if kind == "whole":
        whole, is_whole = _whole_numbers(raw)
        if not is_whole.all():
            raise _error(where, raw, is_whole, "whole numbers")
        return whole // spec["divisor"]
    is_missing = np.array([value is None or value != value for value in raw.tolist()], bool)
    if kind == "key":
        if is_missing.any() or raw.dtype.kind == "f":
            raise _error(where, raw, ~is_missing, "whole numbers or strings")
        return raw.astype(np.int64) if raw.dtype.kind in "iu" else raw.astype(str)
    if kind == "free text":
        values = zip(raw.tolist(), is_missing, strict=True)
        return np.array(["" if missing else str(x)[:TEXT_CHARACTERS] for x, missing in values], str)
    if raw.dtype.kind in "iub":
        return raw.astype(np.int64)
    if raw.dtype.kind == "O" and all(isinstance(v, int) for v in raw[~is_missing].tolist()):
        return np.where(is_missing, MISSING, raw).astype(np.int64)
    return np.where(is_missing, "", raw.astype(str))


def _numbers(raw: np.ndarray, where: str) -> np.ndarray:
    try:
        return raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}; allowed: numbers") from error


def _flags(raw: np.ndarray) -> np.ndarray:
    """Return 1.0 for a value, and 0.0 for zero, a missing value, and "false" or nothing in text."""
    if raw.dtype.kind in "biuf":
        return ((raw != 0) & (raw == raw)).astype(np.float64)
    values = ("" if value is None or value != value else str(value) for value in raw.tolist())
    return np.array([not (v == "" or v.lower() == "false" or _decimal(v) == 0) for v in values], float)


def _times(raw: np.ndarray, unit: str, where: str, decimals: bool) -> np.ndarray:
    """Return milliseconds since 1970, int64; MISSING for None. Times with decimals are rounded down."""
    if raw.dtype.kind == "M":
        return raw.astype("datetime64[ms]").astype(np.int64)
    whole, is_whole = _whole_numbers(raw)
    out = whole // _UNITS_PER_MILLISECOND.get(unit, 1) * _MILLISECONDS.get(unit, 1)
    for i in np.flatnonzero(~is_whole):
        value = raw[i].item() if isinstance(raw[i], np.generic) else raw[i]
        number = _decimal(value) if decimals else None
        if number is not None:
            out[i] = math.floor(number * _MILLISECONDS.get(unit, 1) / _UNITS_PER_MILLISECOND.get(unit, 1))
            continue
        time = milliseconds_of(None if isinstance(value, float) else value, f"{where}, row {i + 1}")
        out[i] = MISSING if time is None else time
    return out


def _decimal(value: Any) -> float | None:
    """Return a finite number, or None for another value, such as an ISO 8601 string."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _error(where: str, raw: np.ndarray, is_valid: np.ndarray, allowed: str) -> InputError:
    i = int(np.argmin(is_valid))
    return InputError(f"{where}, row {i + 1}: {raw[i]!r}; allowed: {allowed}")
