"""What of a log is an event: semantic checks, completion (Eq. 1), exact copies. numpy only.

A row is left out under the first reason that holds, in the order of the constants below, and counted.
"""

from dataclasses import dataclass

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Drops, Interactions, Titles

UNKNOWN_TITLE = "title not in the catalogue"
TIME = "time out of range"
NOT_FINITE = "seconds not finite"
NEGATIVE = "seconds negative"
RUNTIME = "title without a runtime"
COPY = "copy of another row"
_ROLES = {UNKNOWN_TITLE: "title", TIME: "time", NOT_FINITE: "seconds", NEGATIVE: "seconds", RUNTIME: "title"}

_MOST_MS = 2.0**53  # past it a float no longer counts milliseconds one by one


@dataclass
class CleanChunk:
    """Events that passed, in the order they came. N events."""

    user_hash: np.ndarray  # [N] uint64, hashing.of_keys
    title: np.ndarray  # [N] int64 row of Titles
    time: np.ndarray  # [N] int64 milliseconds since 1970, UTC
    viewed: np.ndarray  # [N] int64 milliseconds; -1 throughout where the source has no watch time
    context: dict[str, np.ndarray]  # [N] raw columns


def milliseconds_of(day: str, key: str) -> int:
    """Midnight UTC of an ISO date, in milliseconds since 1970. Raises InputError naming `key`."""
    try:
        return int(np.datetime64(day, "D").astype("datetime64[ms]").astype(np.int64))
    except ValueError as e:
        raise InputError(f"{key}={day!r} must be a date, as '2024-01-31'") from e


def completion(milliseconds: np.ndarray, runtime_minutes: np.ndarray) -> np.ndarray:
    """Eq. 1, clipped to [0, 1]: the share of a title seen. float64; runtimes must be 1 ms or more.

    The runtime is taken in whole milliseconds too, so that a title seen to exactly 0.05 is not below it.
    """
    return np.clip(milliseconds / _milliseconds(runtime_minutes), 0.0, 1.0)


def _milliseconds(runtime_minutes: np.ndarray) -> np.ndarray:
    return np.rint(60_000.0 * runtime_minutes)


def clean(chunk: Interactions, titles: Titles, data: Data, drops: Drops, has_completion: bool) -> CleanChunk:
    """The chunk's rows that are events; the others are counted in `drops`, with the first example of each.

    Seconds become whole milliseconds, times must be in [data.earliest, data.latest). With
    `has_completion` False (ratings) neither seconds nor runtimes are looked at and `viewed` is -1.
    """
    earliest = milliseconds_of(data.earliest, "data.earliest")
    latest = milliseconds_of(data.latest, "data.latest")
    title, seconds = chunk.title, chunk.seconds
    said = f"allowed: {data.earliest} up to {data.latest}"
    good = np.ones(len(title), bool)

    def leave_out(reason: str, wrong: np.ndarray) -> None:
        rows = np.flatnonzero(good & wrong)
        if len(rows):
            drops.add(reason, len(rows), _example(reason, chunk, titles, int(rows[0]), said))
            good[rows] = False

    leave_out(UNKNOWN_TITLE, title < 0)
    leave_out(TIME, (chunk.time < earliest) | (chunk.time >= latest))
    if has_completion:
        with np.errstate(over="ignore", invalid="ignore"):
            viewed = np.rint(seconds * 1000.0)
        leave_out(NOT_FINITE, ~(np.abs(viewed) < _MOST_MS))
        leave_out(NEGATIVE, seconds < 0)
        leave_out(RUNTIME, ~(_milliseconds(titles.runtime[title]) > 0))  # of title -1: left out above
        milliseconds = viewed[good].astype(np.int64)
    else:
        milliseconds = np.full(int(good.sum()), -1, np.int64)
    return CleanChunk(
        of_keys(chunk.user[good]),
        title[good].astype(np.int64),
        chunk.time[good].astype(np.int64),
        milliseconds,
        {name: column[good] for name, column in chunk.context.items()},
    )


def _example(reason: str, chunk: Interactions, titles: Titles, i: int, times: str) -> str:
    """File, row, column and value of one row that is left out."""
    column = chunk.names[_ROLES[reason]] if chunk.names else _ROLES[reason]
    row = i + 1 if chunk.row is None else chunk.row[i]
    where = f"{chunk.file or 'source'}, row {row}, column {column!r}"
    if reason == UNKNOWN_TITLE:
        return f"{where}: {chunk.unknown!r}"
    if reason == TIME:
        return f"{where}: {chunk.time[i]} ms since 1970 ({_date(int(chunk.time[i]))}); {times}"
    if reason == RUNTIME:
        key = titles.key[chunk.title[i]].item()
        return f"{where}: title {key!r} has runtime {titles.runtime[chunk.title[i]]:g}"
    return f"{where}: {chunk.seconds[i]:g} seconds"


def _date(milliseconds: int) -> str:
    """The day a time is on; beyond four-digit years only which side it is on."""
    days = milliseconds // 86_400_000
    if abs(days) > 2_900_000:
        return "far future" if days > 0 else "far past"
    return str(np.datetime64(days, "D"))


def drop_copies(
    user: np.ndarray, title: np.ndarray, time: np.ndarray, viewed: np.ndarray, *ties: np.ndarray
) -> np.ndarray:
    """Rows to keep of [N] events, sorted by (user, time, title): one of each group equal in all three.

    Of copies that disagree the one viewed longest is kept, then the least by `ties`, in their order
    (columns [N] or [N, columns]), so the choice does not depend on the order of the rows. Pass whole
    users. N less the length of the result is the number of copies.
    """
    order = np.lexsort((title, time, user))
    same = np.ones(len(order), bool)
    for column in (user, title, time):
        of = column[order]
        same[1:] &= of[1:] == of[:-1]
    same[:1] = False
    if not same.any():
        return order
    grouped = same.copy()
    grouped[:-1] |= same[1:]
    rows, group = order[grouped], np.cumsum(~same)[grouped]  # few: only these need the finer order
    columns = [c for tie in ties for c in (tie.T if tie.ndim > 1 else [tie])]
    finer = np.lexsort([*(c[rows] for c in reversed(columns)), -viewed[rows], group])
    order[grouped] = rows[finer]
    return order[~same]


def check_dropped(drops: Drops, total: int, data: Data) -> None:
    """Raises InputError where more than data.max_dropped of the source's rows were left out.

    `total` counts every row, those a reader could not parse among them; copies are no loss.
    """
    lost = {reason: count for reason, count in drops.counts.items() if reason != COPY}
    dropped = sum(lost.values())
    if not dropped or dropped <= data.max_dropped * total:
        return
    worst = max(lost, key=lambda reason: lost[reason])
    raise InputError(
        f"{dropped} of {total} rows ({dropped / total:.1%}) would be left out, more than "
        f"data.max_dropped={data.max_dropped:g}; most of them: {worst}, {lost[worst]} rows, "
        f"the first at {drops.examples[worst]}"
    )
