"""Roles of columns: user, title, time, watch time and runtime, by names and by contents."""

from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.sources.proposals.names import rank_of_role, split_unit
from jaxrec.sources.proposals.summary import TableSample
from jaxrec.sources.proposals.units import TimeUnit, WatchUnits, time_unit, watch_units

_LEAST_OVERLAP = 0.5  # fraction of the log's titles or users that a key must hold
_PART_NAMES = ("completion", "completion_rate", "progress", "watch_ratio", "play_ratio", "fraction_watched",
               "watched_fraction")  # fmt: skip


class Role(NamedTuple):
    """Column of a role, with the reason."""

    column: str
    reason: str


class LogRoles(NamedTuple):
    """Roles of the columns of a log; a role without a column is None."""

    user: Role
    title: Role
    time: Role
    unit: TimeUnit
    seconds: Role | None
    runtime: Role | None


def log_roles(log: TableSample) -> LogRoles:
    """Return the roles of the columns of a log.

    Raises:
        InputError: No column holds times, or too few columns remain for users and titles.
    """
    units = {name: unit for name in log.frame.columns if (unit := time_unit(log, name))}
    columns = ", ".join(log.frame.columns)
    if not units:
        raise InputError(
            f"{log.files[0]}: no column holds times (columns: {columns}); allowed: numbers since 1970 in s, "
            "ms, us or ns, or ISO 8601, between 1990 and 2100"
        )
    time = _by_name([*units], "time") or Role(next(iter(units)), "the first column that holds times")
    seconds = _by_name(_numeric(log, time.column), "seconds")
    runtime = _by_name(_numeric(log, time.column), "runtime")
    used = {role.column for role in (time, seconds, runtime) if role}
    ids = [name for name in log.frame.columns if name not in used and _is_key(log, name)]
    ids.sort(key=lambda name: name in units)  # ids in the range of times are rare
    user = _by_name(ids, "user")
    title = _by_name([name for name in ids if user is None or name != user.column], "title")
    rest = [name for name in ids if name not in {role.column for role in (user, title) if role}]
    user = user or _by_contents(log, rest, "user", columns)
    rest = [name for name in rest if name != user.column]
    title = title or _by_contents(log, rest, "title", columns)
    return LogRoles(user, title, time, units[time.column], seconds, runtime)


def key_role(table: TableSample, keys: pl.Series, role: str) -> Role:
    """Return the key of a titles or users table: the column that holds the log's keys.

    Args:
        table: Titles or users table.
        keys: Keys of the log.
        role: "title" or "user".

    Raises:
        InputError: No column holds half of the log's keys.
    """
    wanted = keys.drop_nulls().cast(pl.String).unique()
    shares = {
        name: float(wanted.is_in(table.frame[name].cast(pl.String).unique().implode()).mean() or 0)  # type: ignore[arg-type]
        for name in table.frame.columns
        if not table.frame[name].dtype.is_nested() and table.frame[name].is_unique().all()
    }
    best = max(shares, key=lambda name: (shares[name], -(rank_of_role(name, role) or 99)), default="")
    if not best or shares[best] < _LEAST_OVERLAP:
        raise InputError(
            f"{table.files[0]}: no column of distinct values holds half of the {role}s of the log (columns: "
            f"{', '.join(table.frame.columns)}); allowed: one row for each {role}, with the ids of the log"
        )
    return Role(best, f"distinct values, among them {shares[best]:.1%} of the {role}s of the log")


def runtime_role(titles: TableSample, key: str) -> Role | None:
    """Return the numeric column of a titles table that is named like a runtime, or None."""
    return _by_name([name for name in _numeric(titles, key)], "runtime")


def units_of_watch_time(log: TableSample, roles: LogRoles, titles: TableSample | None, key: str,
                        runtime: Role | None) -> WatchUnits | None:  # fmt: skip
    """Return the units of watch times and runtimes, or None where completions cannot be computed.

    Args:
        log: The log.
        roles: Its roles, with a column of watch times.
        titles: Titles table, or None.
        key: Title in the titles table.
        runtime: Runtime in the titles table; None: the runtime in the log, if any.
    """
    assert roles.seconds is not None
    base, named_watch = split_unit(roles.seconds.column)
    if base in _PART_NAMES and not named_watch:
        named_watch = "fraction"
    watch, minutes, named = log.numbers(roles.seconds.column), None, ""
    if titles is not None and runtime is not None:
        table = pl.DataFrame(
            {"key": titles.frame[key].cast(pl.String), "runtime": titles.numbers(runtime.column)}
        )
        plays = pl.DataFrame({"key": log.frame[roles.title.column].cast(pl.String)})
        minutes = plays.join(table, on="key", how="left", maintain_order="left")["runtime"]
        named = split_unit(runtime.column)[1]
    elif roles.runtime is not None:
        minutes, named = log.numbers(roles.runtime.column), split_unit(roles.runtime.column)[1]
    return watch_units(_array(watch), None if minutes is None else _array(minutes), named_watch, named)


def _array(values: pl.Series) -> np.ndarray:
    return values.fill_null(float("nan")).to_numpy()


def _numeric(table: TableSample, *left_out: str) -> list[str]:
    """Return the columns that hold numbers."""
    return [name for name in table.frame.columns if name not in left_out and table.number_share(name) > 0.9]


def _is_key(log: TableSample, column: str) -> bool:
    """Return True for whole numbers or text."""
    values = log.frame[column]
    return values.dtype.is_integer() or isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum)


def _by_name(columns: list[str], role: str) -> Role | None:
    """Return the column whose name fits a role best."""
    ranks = {name: rank for name in columns if (rank := rank_of_role(name, role)) is not None}
    return Role(min(ranks, key=lambda name: ranks[name]), "by its name") if ranks else None


def _by_contents(log: TableSample, columns: list[str], role: str, every: str) -> Role:
    """Return the first column whose values repeat."""
    for name in columns:
        distinct = log.frame[name].n_unique()
        if 1 < distinct < max(log.frame.height, 2):
            return Role(
                name, f"no name fits; the first column left whose values repeat ({distinct:,} distinct)"
            )
    raise InputError(
        f"{log.files[0]}: no column holds {role}s (columns: {every}); allowed: whole numbers or text in a "
        f"column named {role}_id, or a config that names the column"
    )
