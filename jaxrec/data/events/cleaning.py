"""Cleaning of a log: semantic checks, completion (Eq. 1), duplicate rows.

The module uses NumPy only.

A row that fails a check is left out and counted under the first reason that applies, in the order of the
constants below.
"""

from dataclasses import dataclass

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Drops, Interactions, Signals, Titles

UNKNOWN_TITLE = "title not in the catalogue"
TIME = "time out of range"
NOT_FINITE = "seconds not finite"
NEGATIVE = "seconds negative"
RUNTIME = "title without a runtime"
COPY = "copy of another row"
WATCHED = "play with a watch time"  # properties of rows that are kept
LONG = "watch time above twice the runtime"
SHORT = "completion below data.abandon_threshold"
_COLUMNS = {
    UNKNOWN_TITLE: "title",
    TIME: "time",
    NOT_FINITE: "seconds",
    NEGATIVE: "seconds",
    RUNTIME: "title",
}

_MAX_MS = 2.0**53  # above this, a float64 does not represent every millisecond


@dataclass
class CleanChunk:
    """Events that passed the checks, in the order of the source. N events.

    Attributes:
        user_hash: [N] uint64 from `hashing.of_keys`.
        title: [N] int64 row of Titles.
        time: [N] int64 milliseconds since 1970, UTC.
        viewed: [N] int64 milliseconds; -1 throughout where the source has no watch time.
        context: Feature name -> raw column [N].
    """

    user_hash: np.ndarray
    title: np.ndarray
    time: np.ndarray
    viewed: np.ndarray
    context: dict[str, np.ndarray]


def milliseconds_of(day: str, key: str) -> int:
    """Return midnight UTC of an ISO date, in milliseconds since 1970.

    Args:
        day: ISO date, as "2024-01-31".
        key: Config key for the error message.

    Raises:
        InputError: `day` is not a date.
    """
    try:
        return int(np.datetime64(day, "D").astype("datetime64[ms]").astype(np.int64))
    except ValueError as e:
        raise InputError(f"{key}={day!r} must be a date, as '2024-01-31'") from e


def completion(milliseconds: np.ndarray, runtime_minutes: np.ndarray) -> np.ndarray:
    """Return the fraction of a title seen (Eq. 1), clipped to [0, 1].

    The runtime is rounded to whole milliseconds too, so that a completion of exactly 0.05 is not below 0.05.

    Args:
        milliseconds: [N] time viewed.
        runtime_minutes: [N] runtimes of at least 1 ms.

    Returns:
        [N] float64.
    """
    return np.clip(milliseconds / _milliseconds(runtime_minutes), 0.0, 1.0)


def _milliseconds(runtime_minutes: np.ndarray) -> np.ndarray:
    return np.rint(60_000.0 * runtime_minutes)


def clean(chunk: Interactions, titles: Titles, data: Data, drops: Drops, has_completion: bool) -> CleanChunk:
    """Return the valid events of a chunk and count the rows left out.

    `drops` also gets the first example of each reason.

    Seconds are converted to whole milliseconds. Times must be in [data.earliest, data.latest).

    Args:
        chunk: Rows of the source.
        titles: Catalogue of the source.
        data: Settings of the allowed times.
        drops: Counts and first examples of rows left out; updated.
        has_completion: False for a source without watch time (ratings): seconds and runtimes are then not
            read, and `viewed` is -1.

    Raises:
        InputError: data.earliest or data.latest is not a date.
    """
    earliest = milliseconds_of(data.earliest, "data.earliest")
    latest = milliseconds_of(data.latest, "data.latest")
    title, seconds = chunk.title, chunk.seconds
    good = np.ones(len(title), bool)

    def reject(reason: str, wrong: np.ndarray) -> None:
        rows = np.flatnonzero(good & wrong)
        if len(rows):
            drops.add(reason, len(rows), _example(reason, chunk, titles, int(rows[0]), earliest, latest))
            good[rows] = False

    reject(UNKNOWN_TITLE, title < 0)
    reject(TIME, (chunk.time < earliest) | (chunk.time >= latest))
    if has_completion:
        with np.errstate(over="ignore", invalid="ignore"):
            viewed = np.rint(seconds * 1000.0)
        reject(NOT_FINITE, ~(np.abs(viewed) < _MAX_MS))
        reject(NEGATIVE, seconds < 0)
        reject(RUNTIME, ~(_milliseconds(titles.runtime[title]) > 0))  # rows with title -1 are left out above
        milliseconds = viewed[good].astype(np.int64)
        seen = milliseconds / _milliseconds(titles.runtime[title[good]])
        drops.add_kept(WATCHED, len(seen))
        drops.add_kept(LONG, int(np.count_nonzero(seen > 2.0)))
        drops.add_kept(SHORT, int(np.count_nonzero(seen < data.abandon_threshold)))
    else:
        milliseconds = np.full(int(good.sum()), -1, np.int64)
    return CleanChunk(
        of_keys(chunk.user[good]),
        title[good].astype(np.int64),
        chunk.time[good].astype(np.int64),
        milliseconds,
        {name: column[good] for name, column in chunk.context.items()},
    )


def locate(chunk: Interactions | Signals, role: str, i: int) -> str:
    """Return file, row and column of the value that row `i` has for a role."""
    row = i + 1 if chunk.row is None else chunk.row[i]
    return f"{chunk.file or 'source'}, row {row}, column {chunk.names.get(role, role)!r}"


def _example(reason: str, chunk: Interactions, titles: Titles, i: int, earliest: int, latest: int) -> str:
    """Return file, row, column and value of row `i`, which is left out.

    Allowed times are from `earliest` to below `latest`, in milliseconds since 1970.
    """
    where = locate(chunk, _COLUMNS[reason], i)
    if reason == UNKNOWN_TITLE:
        return f"{where}: {chunk.unknown!r}"
    if reason == TIME:
        return f"{where}: {out_of_range(int(chunk.time[i]), earliest, latest)}"
    if reason == RUNTIME:
        key = titles.key[chunk.title[i]].item()
        return f"{where}: title {key!r} has runtime {titles.runtime[chunk.title[i]]:g}"
    return f"{where}: {chunk.seconds[i]:g} seconds"


def out_of_range(time: int, earliest: int, latest: int) -> str:
    """Return a time that is out of range, the allowed times, and another unit that fits, for a message."""
    other_unit = "".join(
        f"; in another unit (source.columns.time_unit) it is {_date(other)}"
        for other in (time * 1000, time * 10**6, time // 1000, time // 10**6)
        if earliest <= other < latest
    )
    allowed = f"allowed: data.earliest={_date(earliest)} up to data.latest={_date(latest)}"
    return f"{time} ms since 1970 ({_date(time)}); {allowed}{other_unit}"


def _date(milliseconds: int) -> str:
    """Return the date of a time; beyond four-digit years "far past" or "far future"."""
    days = milliseconds // 86_400_000
    if abs(days) > 2_900_000:
        return "far future" if days > 0 else "far past"
    return str(np.datetime64(days, "D"))


def drop_copies(
    user: np.ndarray, title: np.ndarray, time: np.ndarray, viewed: np.ndarray, *ties: np.ndarray
) -> np.ndarray:
    """Return the rows to keep, one of each group of equal user, time and title.

    The rows are sorted by (user, time, title).

    Of duplicates that differ in other columns, the one viewed longest is kept, then the least by `ties`. The
    choice therefore does not depend on the order of the rows. The arguments must contain all events of a
    user.

    Args:
        user: [N] user hash or number.
        title: [N] title.
        time: [N] milliseconds.
        viewed: [N] milliseconds.
        *ties: Columns [N] or [N, columns], compared in this order.

    Returns:
        Indices of the rows kept; N minus their number is the number of duplicates.
    """
    order = np.lexsort((title, time, user))
    repeated = np.ones(len(order), bool)
    for column in (user, title, time):
        sorted_column = column[order]
        repeated[1:] &= sorted_column[1:] == sorted_column[:-1]
    repeated[:1] = False
    if not repeated.any():
        return order
    in_group = repeated.copy()
    in_group[:-1] |= repeated[1:]
    # Few rows: only duplicates need the finer order.
    rows, group = order[in_group], np.cumsum(~repeated)[in_group]
    columns = [c for tie in ties for c in (tie.T if tie.ndim > 1 else [tie])]
    finer = np.lexsort([*(c[rows] for c in reversed(columns)), -viewed[rows], group])
    order[in_group] = rows[finer]
    return order[~repeated]


def check_dropped(drops: Drops, total: int, data: Data, rows: str = "rows") -> None:
    """Check the fraction of rows left out against data.max_invalid_fraction.

    Duplicates do not count as left out.

    Args:
        drops: Rows left out, by reason.
        total: Number of all rows, including rows that the reader could not parse.
        data: Settings with `max_invalid_fraction`.
        rows: Name of the rows, for the message.

    Raises:
        InputError: More than data.max_invalid_fraction of the rows were left out.
    """
    losses = {reason: count for reason, count in drops.counts.items() if reason != COPY}
    dropped = sum(losses.values())
    if not dropped or dropped <= data.max_invalid_fraction * total:
        return
    worst = max(losses, key=lambda reason: losses[reason])
    raise InputError(
        f"{dropped} of {total} {rows} ({dropped / total:.1%}) would be left out, more than "
        f"data.max_invalid_fraction={data.max_invalid_fraction:g}; most of them: {worst}, "
        f"{losses[worst]} {rows.split()[0]}, the first at {drops.examples[worst]}"
    )
