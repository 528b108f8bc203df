"""Tokens of users: by hand, and for random logs equal to those of a loop over events."""

import numpy as np
import pytest

from jaxrec.config.schema import Data, Signal
from jaxrec.core.ids import UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.core.rows.sequence_fields import parse_kinds
from jaxrec.data.events.event_log import Log, TitleStats, event_states
from jaxrec.data.examples import next_item, requests
from jaxrec.data.examples.histories import BesidePlays
from jaxrec.data.signals.records import record_dtype, sort_events
from jaxrec.data.tokens.merging import TokenEvents, merged_tokens

SIGNALS = (
    Signal("trailer", "seconds"), Signal("thumb", "sign"), Signal("search", "text", "user"),
    Signal("rating", "number"),
)  # fmt: skip
KINDS = ("play:play", "trailer:seconds", "thumb:sign", "search:text")  # ratings are no tokens
KIND = {signal.name: kind for kind, signal in enumerate(SIGNALS)}
PLAY, TRAILER, THUMB, SEARCH = 1, 2, 4, 8  # bits
TITLES, MINUTE = 4, 60_000
ID_OF_RANK, ID_OF_ROW = np.array([4, 2, 5, 3], np.int32), np.array([2, 3, 4, 5], np.int32)  # rows: ids 2 to 5
CATALOGUE = TitleStats(np.full(TITLES, 100.0), ID_OF_RANK, 2, np.arange(TITLES, dtype=np.uint64))
DATA = Data(tokens=("play", "trailer", "thumb", "search"), max_history=8, split="last", validation_share=0.1)
LAYOUT = Layout(
    TITLES + 2, 8, 1, (0, 0, 0, 0), 0, (), "next_item", selects_targets=True, token_kinds=KINDS
)  # fmt: skip

# Minutes. User 1 watches a trailer of id 5, plays it 2 minutes later for 30 minutes, gives a thumb 5 minutes
# after its end and another 20 minutes later; searches twice; plays id 2, with a trailer at the same time.
PLAYS = [(1, 2, 100, 30), (1, 1, 400, 50), (1, 2, 600, 40)]  # user, rank, begin, minutes viewed
EVENTS = [  # user, row of the title or -1, minute, signal, value, text
    (1, 3, 98, "trailer", 20.0, 0), (1, 3, 135, "thumb", 1.0, 0), (1, 3, 136, "thumb", -1.0, 0),
    (1, 3, 160, "thumb", 1.0, 0), (1, -1, 395, "search", 1.0, 77), (1, -1, 396, "search", 1.0, 77),
    (1, 0, 400, "trailer", 9.0, 0), (1, 0, 401, "trailer", 11.0, 0), (1, 1, 410, "rating", 3.0, 0),
]  # fmt: skip


def inputs_of(plays, events):
    """Return the log of plays, and the events for its tokens."""
    hashes = np.unique([play[0] for play in plays]).astype(np.uint64)
    plays = sorted(set(plays), key=lambda play: (play[0], play[2], play[1]))
    user, rank, minute, viewed = (np.array(column) for column in zip(*plays, strict=True))
    context = np.arange(2, 2 + len(plays), dtype=np.int32)[:, None]
    none = np.empty((len(plays), 0), np.float32)
    log = Log(
        hashes, np.zeros(len(hashes), np.int8), np.searchsorted(hashes, user.astype(np.uint64)), rank,
        minute * MINUTE, viewed * MINUTE, context, none, none[:0], none[:0],
    )  # fmt: skip
    records = np.zeros(len(events), record_dtype(SIGNALS))
    for i, (of_user, row, at, name, value, text) in enumerate(events):
        records[i] = (of_user, row, at * MINUTE, KIND[name], value, text)
    records, _ = sort_events(records, hashes, len(SIGNALS))
    return log, TokenEvents(records, SIGNALS, ID_OF_ROW, parse_kinds(KINDS))


def tokens_of(plays, events, data=DATA):
    log, of_signals = inputs_of(plays, events)
    return merged_tokens(log, event_states(log, CATALOGUE.runtime), CATALOGUE, of_signals, data)


def test_events_of_a_title_merge_until_another_event_or_a_long_gap():
    tokens = tokens_of(PLAYS, EVENTS)
    columns = tokens.columns
    assert (tokens.time // MINUTE).tolist() == [98, 100, 160, 395, 396, 400, 600]
    assert tokens.title.tolist() == [5, 5, 5, UNKNOWN, UNKNOWN, 2, 5]
    # The trailer at the time of the play comes after it.
    assert columns["kinds"].tolist() == [TRAILER, PLAY | THUMB, THUMB, SEARCH, SEARCH, PLAY | TRAILER, PLAY]
    assert (columns["end"] / 60).tolist() == [98, 136, 160, 395, 396, 450, 640]
    np.testing.assert_allclose(
        np.expm1(columns["seconds"].astype(float)), [20, 1800, 0, 0, 0, 3020, 2400], rtol=4e-3
    )
    np.testing.assert_allclose(columns["progress"], [0, 0.3, 0, 0, 0, 0.5, 0.7], atol=1e-3)
    none = np.nan
    np.testing.assert_array_equal(columns["values"][:, 0], [none, -1, 1, none, none, none, none])
    assert columns["query"].tolist() == [0, 0, 0, 78, 78, 0, 0]
    assert columns["categories"][:, 0].tolist() == [1, 2, 1, 1, 1, 3, 4]  # of plays; else unknown
    assert tokens.play.tolist() == [-1, 0, -1, -1, -1, 1, 2]


def test_zero_minutes_merge_events_of_one_time_alone():
    data = Data(tokens=DATA.tokens, merge_minutes=0.0)
    minutes = tokens_of(PLAYS, EVENTS, data).time // MINUTE
    # The thumbs after the end of a play are tokens; trailers while the play runs are not after its end.
    assert minutes.tolist() == [98, 100, 135, 136, 160, 395, 396, 400, 401, 600]


def loop(plays, events, user, until=np.inf):
    """Return the tokens of a user by a loop: (minute, title, bits, end, seconds, progress, thumb) each."""
    merged = []
    for _, rank, minute, viewed in set(plays):
        if _ == user and minute < until:
            merged.append((minute, 0, int(ID_OF_RANK[rank]), PLAY, viewed * 60.0, minute + viewed, 0.0))
    for of, row, minute, name, value, _ in set(events):
        if of == user and name != "rating" and minute < until:
            bit = {"trailer": TRAILER, "thumb": THUMB, "search": SEARCH}[name]
            seconds = value if name == "trailer" else 0.0
            merged.append(
                (minute, 1, int(ID_OF_ROW[row]) if row >= 0 else UNKNOWN, bit, seconds, minute, value)
            )
    tokens, watched, last = [], {}, None
    for event in sorted(merged, key=lambda e: (e[0], e[1], e[3] if e[1] else 0, e[2], e[6])):
        minute, _, title, bit, seconds, end, value = event
        if bit == PLAY:
            watched[title] = watched.get(title, 0.0) + seconds
        starts = last is None or bit == PLAY or title != last[2] or title == UNKNOWN or minute - last[5] > 10
        if starts:
            progress = min(watched[title] / 6000.0, 1.0) if bit == PLAY else 0.0
            tokens.append([minute, title, 0, end, 0.0, progress, np.nan])
        token = tokens[-1]
        token[2], token[3], token[4] = token[2] | bit, max(token[3], end), token[4] + seconds
        if bit == THUMB:
            token[6] = value
        last = event
    return tokens


def random_log(seed):
    """Return plays at distinct minutes, and events at any."""
    r = np.random.default_rng(seed)
    plays, events = [], []
    for user in (1, 2, 3):
        for minute in r.choice(200, r.integers(1, 9), replace=False).tolist():
            plays.append((user, int(r.integers(TITLES)), minute, int(r.integers(0, 30))))
        for minute in r.integers(0, 220, r.integers(0, 20)).tolist():
            name = ("trailer", "thumb", "search", "rating")[r.integers(4)]
            value = {"trailer": float(r.integers(1, 60)), "thumb": float(r.choice([-1, 1]))}.get(name, 1.0)
            row = -1 if name == "search" else int(r.integers(TITLES))
            events.append((user, row, minute, name, value, 5 if name == "search" else 0))
    return plays, events


@pytest.mark.parametrize("seed", range(6))
def test_tokens_of_random_logs_equal_a_loop_over_events(seed):
    plays, events = random_log(seed)
    tokens = tokens_of(plays, events)
    expected = [(user - 1, *token) for user in (1, 2, 3) for token in loop(plays, events, user)]
    columns = tokens.columns
    made = zip(
        tokens.user, tokens.time // MINUTE, tokens.title, columns["kinds"], columns["end"] / 60,
        np.expm1(columns["seconds"].astype(float)), columns["progress"], columns["values"][:, 0], strict=True,
    )  # fmt: skip
    np.testing.assert_allclose(np.array([*made], float), np.array(expected, float), rtol=4e-3, atol=1e-3)


def rows_of(plays, events):
    log, of_signals = inputs_of(plays, events)
    return (
        next_item.build(log, CATALOGUE, LAYOUT, DATA, beside=next_item.BesideTargets(tokens=of_signals)),
        log,
        of_signals,
    )


def test_rows_hold_all_tokens_and_queries_are_those_of_plays_alone():
    plays = [(1, rank, 100 * (rank + 1), 40) for rank in range(TITLES)] + [(1, 0, 150, 3)]
    events = [(1, 0, 90, "trailer", 9.0, 0), (1, 3, 398, "trailer", 9.0, 0), (1, 3, 401, "thumb", 1.0, 0)]
    examples, log, _ = rows_of(plays, events)
    alone = next_item.build(log, CATALOGUE, Layout(TITLES + 2, 8, 1, (0, 0, 0, 0), 0, (), "next_item"), DATA)
    (row,), (query,), (expected,) = examples.rows["train"], examples.rows["test"], alone.rows["test"]
    # The targets are the first plays of titles; the last one is the test.
    assert row["title"][-5:].tolist() == [2, 4, 4, 2, 5] and row["selected"][-5:].tolist() == [0, 1, 0, 1, 1]
    assert query["history_title"].tolist() == [0, 0, 2, 4, 4, 2, 5, 5]
    assert query["history_kinds"][-2:].tolist() == [PLAY, TRAILER]
    for name in ("user", "position", "target", "target_time", "target_completion"):
        assert query[name].tolist() == expected[name].tolist(), name
    assert alone.completion_sum < examples.completion_sum  # the trailer comes before the first play
    assert alone.users["test"].tolist() == examples.users["test"].tolist()
    (row,) = rows_of([(1, 0, 100, 40), (1, 1, 200, 2), (1, 2, 300, 40), (1, 3, 400, 40)], [])[0].rows["train"]
    assert row["title"][-3:].tolist() == [4, 2, 5]  # the abandoned play is a token and no target
    assert row["selected"][-3:].tolist() == [1, 0, 1]


def test_a_first_target_after_a_trailer_is_no_query():
    plays = [(1, 0, 100, 40)]
    data = Data(tokens=DATA.tokens, max_history=8)
    log, of_signals = inputs_of(plays, [(1, 0, 90, "trailer", 9.0, 0)])
    log = log._replace(split=np.full(1, 2, np.int8))
    examples = next_item.build(
        log, CATALOGUE, LAYOUT, data, beside=next_item.BesideTargets(tokens=of_signals)
    )
    assert len(examples.rows["test"]) == 0
    assert examples.counts["test targets with no title before them"] == 1


def test_nothing_at_a_request_or_after_it_is_in_its_row():
    plays = [(1, rank, 100 * (rank + 1), 40) for rank in range(TITLES)]
    before = [(1, 2, 398, "trailer", 9.0, 0)]
    later = [
        (1, 0, 400, "trailer", 9.0, 0), (1, 1, 400, "thumb", 1.0, 0), (1, -1, 400, "search", 1.0, 7),
        (1, 0, 401, "thumb", -1.0, 0), (1, 1, 445, "thumb", -1.0, 0),
    ]  # fmt: skip
    (plain, _, _), (more, _, _) = rows_of(plays, before), rows_of(plays, before + later)
    for split in ("train", "test"):
        assert plain.rows[split].tobytes() == more.rows[split].tobytes()
    moved = rows_of(plays, [(1, 2, 399, "trailer", 9.0, 0)])[0]
    assert plain.rows["test"].tobytes() != moved.rows["test"].tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_a_served_row_is_the_row_of_an_evaluation_at_the_same_time(seed):
    plays, events = random_log(seed)
    examples, log, of_signals = rows_of(plays, events)
    queries, event = examples.rows["test"], examples.query["test"]
    assert len(queries)
    for query, at in zip(queries, event.tolist(), strict=True):
        time = np.full(len(log.hash), log.time[at])
        context = np.zeros((len(time), 0), np.int32), np.zeros((len(time), 0), np.float32)
        (row,) = requests.build(
            log, CATALOGUE, LAYOUT, DATA, time, context, BesidePlays(tokens=of_signals)
        ).rows[[log.user[at]]]
        for name in (n for n in queries.dtype.names if n.startswith("history_")):
            np.testing.assert_array_equal(row[name], query[name], name)


def test_an_event_after_a_request_is_in_no_token_before_it():
    rows = []
    for events in ([], [(1, 3, 135, "thumb", 1.0, 0)]):  # 5 minutes after the end of the play
        log, of_signals = inputs_of([(1, 2, 100, 30)], events)
        context = np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32)
        for minute in (132, 136):
            beside, time = BesidePlays(tokens=of_signals), np.array([minute * MINUTE])
            made = requests.build(log, CATALOGUE, LAYOUT, DATA, time, context, beside)
            rows.append(made.rows["history_kinds"][0, -1])
    assert rows == [PLAY, PLAY, PLAY, PLAY | THUMB]
