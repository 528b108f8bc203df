"""Tokens of users: plays and events of signals, merged where they follow one another.

The events of a user are in the order of time; at one time, plays come first, in the order of
`splits.sort_order`. An event begins a token if it is a play, has no title, or has another title than the
event before it, and if more than `data.merge_minutes` have passed since the event before it has ended. A play
ends `viewed` after its begin, any other event at its time.

A play begins a token, so a token ends before the next play begins: nothing that comes after a request is in a
token before the request. The fields of a token are computed after the merge, and those in `OUTCOMES` are
known after its last event alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.config.declarations import Signal
from jaxrec.config.schema import Data
from jaxrec.core.ids import UNKNOWN
from jaxrec.core.rows.sequence_fields import TokenKind, has_text, valued_kinds
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import EventState, Log, TitleStats
from jaxrec.data.signals.past_values import single_values

QUERY_BUCKETS = 4096  # of the hash of a text; bucket 0 is no text
OUTCOMES = ("kinds", "end", "progress", "seconds", "values")  # fields that are known after a token
REQUEST = ("categories", "numbers", "query")  # fields that are known when a token begins
_MINUTE_MS = 60_000


class TokenEvents(NamedTuple):
    """Events of signals of a partition, for tokens.

    Attributes:
        records: [M] events of `data.signals.records.record_dtype`, of users of the log.
        signals: Declared signals, which `records["kind"]` numbers.
        id_of_row: [rows] title id of each row of the catalogue, which `records["title"]` numbers.
        kinds: Kinds of the tokens.
    """

    records: np.ndarray
    signals: tuple[Signal, ...]
    id_of_row: np.ndarray
    kinds: tuple[TokenKind, ...]


class Tokens(NamedTuple):
    """Tokens of complete users, T in all, sorted by user and time.

    Attributes:
        user: [T] int64 user of the log.
        title: [T] int32 id; UNKNOWN for an event of no title.
        time: [T] int64 milliseconds of the first event.
        play: [T] int64 play of the log that begins the token; -1 for none.
        columns: Field of `OUTCOMES` and `REQUEST` -> values [T, ...].
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray
    play: np.ndarray
    columns: Mapping[str, np.ndarray]


class _Events(NamedTuple):
    """Plays and events of signals, N in all, sorted by user and time.

    Attributes:
        user: [N] int64.
        title: [N] int32 ids, UNKNOWN for none.
        time: [N] int64 milliseconds.
        end: [N] int64 milliseconds.
        kind: [N] int64 index into the kinds of tokens.
        play: [N] int64 index in the log; -1 for none.
        record: [N] int64 index in the records; -1 for none.
    """

    user: np.ndarray
    title: np.ndarray
    time: np.ndarray
    end: np.ndarray
    kind: np.ndarray
    play: np.ndarray
    record: np.ndarray


def merged_tokens(
    log: Log, states: EventState, catalogue: TitleStats, events: TokenEvents, data: Data
) -> Tokens:
    """Return the tokens of all users of a log.

    Args:
        log: Log of the partition.
        states: States of its plays.
        catalogue: Titles in the order of rank.
        events: Events of signals of the same users.
        data: Settings with `merge_minutes` and the seed.
    """
    merged = _sorted_events(log, catalogue, events, data)
    begins = _begins(merged, data)
    first = np.flatnonzero(begins)
    columns = _outcomes(merged, begins, log, states, events) | _of_requests(merged, first, log, events)
    return Tokens(merged.user[first], merged.title[first], merged.time[first], merged.play[first], columns)


def _sorted_events(log: Log, catalogue: TitleStats, events: TokenEvents, data: Data) -> _Events:
    names = [kind.name for kind in events.kinds]
    kind_of_signal = np.array(
        [names.index(s.name) if s.name in names else -1 for s in events.signals], np.int64
    )
    read = np.flatnonzero(kind_of_signal[events.records["kind"]] >= 0)
    records, plays = events.records[read], len(log.user)
    order = splits.sort_order(data, log.hash, log.user, log.time, catalogue.hash[log.rank])
    none, no_plays = np.full(plays, -1), np.full(len(read), -1)
    time = np.concatenate([log.time[order], records["time"]])
    title = np.append(events.id_of_row, 0)[records["title"]]  # row -1: no title
    all_events = _Events(
        np.concatenate([log.user[order], np.searchsorted(log.hash, records["user"])]),
        np.concatenate([catalogue.id_of_rank[log.rank[order]], np.maximum(title, UNKNOWN)]).astype(np.int32),
        time,
        time + np.concatenate([np.maximum(log.viewed[order], 0), np.zeros(len(read), np.int64)]),
        np.concatenate([np.full(plays, names.index("play")), kind_of_signal[records["kind"]]]),
        np.concatenate([order, no_plays]),
        np.concatenate([none, read]),
    )
    # `order` is that of equal times; kind and value order the signals.
    ties = np.concatenate([np.arange(plays), np.full(len(read), plays)])
    value = np.concatenate([np.zeros(plays), records["value"]])
    by_time = np.lexsort((value, all_events.title, all_events.kind, ties, time, all_events.user))
    return _Events(*(column[by_time] for column in all_events))


def _begins(events: _Events, data: Data) -> np.ndarray:
    """Return a mask [N] of the events that begin a token."""
    begins = np.ones(len(events.user), bool)
    gap = events.time[1:] - events.end[:-1]
    begins[1:] = (
        (events.user[1:] != events.user[:-1])
        | (events.play[1:] >= 0)
        | (events.title[1:] != events.title[:-1])
        | (events.title[1:] == UNKNOWN)
        | (gap > round(data.merge_minutes * _MINUTE_MS))
    )
    return begins


def _outcomes(
    events: _Events, begins: np.ndarray, log: Log, states: EventState, of: TokenEvents
) -> dict[str, np.ndarray]:
    """Return the fields `OUTCOMES` of the tokens that the events of the mask `begins` [N] begin."""
    first, token = np.flatnonzero(begins), np.cumsum(begins) - 1
    kinds = np.zeros(len(first), np.uint32)
    np.bitwise_or.at(kinds, token, np.uint32(1) << events.kind.astype(np.uint32))
    played, is_play = events.play[first], events.play[first] >= 0
    progress = np.zeros(len(first), np.float16)
    progress[is_play] = states.completion[played[is_play]]
    seconds = np.zeros(len(first))
    seconds[is_play] = np.maximum(log.viewed[played[is_play]], 0) / 1000.0
    is_seconds = np.array([kind.value == "seconds" for kind in of.kinds])[events.kind]
    np.add.at(seconds, token[is_seconds], of.records["value"][events.record[is_seconds]].astype(np.float64))
    valued = valued_kinds(of.kinds)
    values = np.full((len(first), len(valued)), np.nan, np.float16)
    for column, kind in zip(values.T, valued, strict=True):
        at = np.flatnonzero(events.kind == of.kinds.index(kind))
        record = of.records[events.record[at]]
        column[token[at]] = single_values(of.signals, record["kind"], record["value"])  # the last one stays
    end = np.maximum.reduceat(events.end, first) if len(first) else events.end
    return {
        "kinds": kinds, "end": (end // 1000).astype(np.uint32), "progress": progress,
        "seconds": np.log1p(seconds).astype(np.float16), "values": values,
    }  # fmt: skip


def _of_requests(events: _Events, first: np.ndarray, log: Log, of: TokenEvents) -> dict[str, np.ndarray]:
    """Return the fields `REQUEST` of tokens; the context of an event that is no play is unknown."""
    play = events.play[first]
    is_play = play >= 0
    categories = np.full((len(first), log.context_categories.shape[1]), UNKNOWN, np.int32)
    numbers = np.zeros((len(first), log.context_numbers.shape[1]), np.float32)
    if is_play.any():
        categories[is_play] = log.context_categories[play[is_play]]
        numbers[is_play] = log.context_numbers[play[is_play]]
    columns: dict[str, np.ndarray] = {"categories": categories, "numbers": numbers}
    if not has_text(of.kinds):
        return columns
    query, record = np.zeros(len(first), np.uint32), events.record[first]
    is_text = np.array([kind.value == "text" for kind in of.kinds])[events.kind[first]]
    text = of.records["text"][record[is_text]]
    query[is_text] = 1 + text % np.uint64(QUERY_BUCKETS - 1)
    return columns | {"query": query}
