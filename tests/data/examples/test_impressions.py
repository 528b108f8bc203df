"""Rows of exposures: a log worked by hand, and random logs equal to a loop over their events."""

import sys

import numpy as np
import pytest

from jaxrec.config.schema import Config, Data, Label, Signal
from jaxrec.core.ids import SPLITS, UNKNOWN
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.examples import impressions, seen_titles
from jaxrec.data.labels.of_targets import LabelInputs, PartitionLabels
from jaxrec.data.labels.tables import LabelTitles
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.signals.records import record_dtype, sort_events

HOUR, TITLES, HISTORY = 3_600_000, 12, 4
SIGNALS = (Signal("thumb", "sign", column="thumb"), Signal("impression", column="shown"))
LABELS = (Label("up", "last", "thumb", hours=1), Label("voted", "happened", "thumb", hours=1))
DEVICE, SEASON = (
    FeatureSpec("device", "category", "context", 4),
    FeatureSpec("season", "number", "context", 4),
)
COUNTRY = FeatureSpec("country", "category", "user", 4)
OF_HISTORY = tuple(FeatureSpec(name, "number", "interaction", 4) for name in ("thumb", "age", "impression"))
ROW_OF_RANK = np.arange(TITLES)[::-1]  # the catalogue is in the opposite order

# User 70: hour, rank of a title of 100 minutes, minutes seen.
PLAYS = [(1, 0, 50), (2, 1, 1), (3, 2, 80), (4, 1, 60), (5, 3, 2), (5, 4, 90), (6, 5, 100)]
# Hour and rank of what was shown, and the row's position, completion, value and bits of both labels.
#   1: title 1 before and at the first play: no history, no row; but the thumb at hour 1.25 is theirs.
#   Title 1 at 1.5 leads to the play at 2, at 3 to that at 4 (.60), whose thumb is at the exposure's own time.
#   Title 2 at 3 is a play itself. Title 9 is never played; its thumb comes an hour later, which is too late.
#   At hour 5.5 an hour is not over when the log ends, after the play at 6. At hour 7 there is no later play.
SHOWN = [(0.5, 1), (1, 1), (1.5, 1), (3, 1), (3, 2), (3, 9), (5.5, 5), (7, 2)]
THUMBS = [(1.25, 1, 1), (3, 1, -1), (4, 9, 1), (3.5, 2, 1), (3.75, 2, -1), (5.75, 5, 1)]
ROWS = [
    (0, 1, 0.01, [0, 0], 0b10),
    (1, 9, 0.00, [0, 0], 0b10),  # of one time the exposures are in the order of the catalogue
    (2, 2, 0.80, [-1, 1], 0b11),
    (3, 1, 0.60, [-1, 1], 0b11),
    (4, 5, 1.00, [1, 1], 0b00),
    (5, 2, 0.00, [0, 0], 0b00),
]


def records_of(users, thumbs, shown):
    """Return sorted records of (user, hour, rank, value) and (user, hour, rank)."""
    events = [(*thumb, 0) for thumb in thumbs] + [(*exposure, 1, 1) for exposure in shown]
    records = np.zeros(len(events), record_dtype(SIGNALS))
    user, hour, rank, value, kind = zip(*events, strict=True) if events else ([],) * 5
    records["user"], records["title"] = user, ROW_OF_RANK[np.array(rank, int)]
    records["time"], records["kind"] = np.array(hour) * HOUR, kind
    records["value"] = value
    return sort_events(records, users, len(SIGNALS))[0]


def log_of(users, plays, splits):
    """Return the log of (number of the user, hour, rank, minutes)."""
    rows = sorted(plays, key=lambda play: (play[0], play[1], ROW_OF_RANK[play[2]]))
    user, hour, rank, minutes = (np.array(x) for x in zip(*rows, strict=True))
    time = (hour * HOUR).astype(np.int64)
    return Log(
        users, np.array(splits, np.int8), user, rank, time, (minutes * 60_000).astype(np.int64),
        (10 + rank[:, None]).astype(np.int32), (hour[:, None] / 8).astype(np.float32),
        (5 + np.arange(len(users))[:, None]).astype(np.int32), np.zeros((len(users), 0), np.float32),
    )  # fmt: skip


def build(log, records, end, labels=LABELS, features=(), **data):
    config = Config(signals=SIGNALS, labels=labels)
    config.data = Data(max_history=HISTORY, examples="impressions", num_targets=1, **data)
    catalogue = TitleStats(
        np.full(TITLES, 100.0), np.arange(2, TITLES + 2), 4, np.arange(TITLES, dtype=np.uint64)
    )
    layout = Layout(
        TITLES + 2,
        HISTORY,
        1,
        (0, 0, 0, 0),
        0,
        (DEVICE, SEASON, COUNTRY, *features),
        labels=tuple(x.name for x in labels),
    )
    inputs = LabelInputs(LabelTitles(catalogue.runtime, {}), ROW_OF_RANK, end)
    signals = None
    if layout.history_signals:
        signals = PastSignals(layout.history_signals, SIGNALS, records, log, ROW_OF_RANK)
    of_anchors = PartitionLabels(config, log, records, inputs)
    examples = impressions.build(log, catalogue, layout, of_anchors, signals)
    return examples, seen_titles.build(log, examples, catalogue, config.data, strictly_earlier=True)


def by_hand(split=0, **data):
    users = np.array([70], np.uint64)
    log = log_of(users, [(0, *play) for play in PLAYS], [split])
    records = records_of(users, [(70, *t) for t in THUMBS], [(70, *s) for s in SHOWN])
    return build(log, records, 6 * HOUR + 1, **data)


def test_a_row_has_the_title_the_completion_and_the_labels_of_its_exposure():
    examples, _ = by_hand()
    rows = examples.rows["train"]
    assert rows["position"].tolist() == [row[0] for row in ROWS] and not rows["user"].any()
    assert rows["target"].tolist() == [[row[1] + 2] for row in ROWS]
    np.testing.assert_allclose(rows["target_completion"][:, 0], [row[2] for row in ROWS], rtol=1e-6)
    assert rows["label"][:, 0].tolist() == [row[3] for row in ROWS]
    assert rows["label_known"][:, 0].tolist() == [row[4] for row in ROWS]
    assert examples.counts == {impressions.NO_PAST: 2}
    assert examples.completions == 6 and examples.completion_sum / 2**32 == pytest.approx(2.41)


def test_an_exposure_of_a_title_outside_the_catalogue_is_no_row(monkeypatch):
    """A row of the catalogue without a rank: a title without plays yet."""
    expected, _ = by_hand()
    monkeypatch.setattr(sys.modules[__name__], "ROW_OF_RANK", np.append(ROW_OF_RANK, -1))
    users = np.array([70], np.uint64)
    log = log_of(users, [(0, *play) for play in PLAYS], [0])
    records = records_of(users, [(70, *t) for t in THUMBS], [(70, *s) for s in SHOWN])
    extra = records[records["kind"] == 1][-1:].copy()
    extra["title"], extra["time"] = TITLES, int(2.5 * HOUR)
    with_it, _ = build(log, np.append(records, extra), 6 * HOUR + 1)
    np.testing.assert_array_equal(with_it.rows["train"], expected.rows["train"])


def test_a_history_is_strictly_before_the_exposure_as_of_its_time():
    rows = by_hand()[0].rows["train"]
    assert rows["history_title"].tolist() == [
        [0, 0, 0, 2], [0, 0, 2, 3], [0, 0, 2, 3], [0, 0, 2, 3], [4, 3, 6, 5], [3, 6, 5, 7],
    ]  # fmt: skip
    assert rows["history_abandoned"][1:].tolist() == [[0, 0, 0, 1]] * 3 + [[0, 0, 0, 1], [0, 0, 1, 0]]
    np.testing.assert_allclose(rows["history_completion"][4], [0.8, 0.61, 0.9, 0.02], atol=1e-3)
    np.testing.assert_allclose(
        rows["history_age"][4], np.log1p([2.5 * 3600, 1.5 * 3600, 1800, 1800]), rtol=1e-3
    )
    assert rows["history_sessions"][4].tolist() == [1, 2, 1, 1]


def test_a_history_has_the_signals_strictly_before_the_exposure():
    """The thumb and the exposure of title 1 at hour 3 are not in the histories of the exposures at hour 3."""
    rows, plain = by_hand(features=OF_HISTORY)[0].rows["train"], by_hand()[0].rows["train"]
    thumb, shown = np.moveaxis(rows["history_signals"].astype(np.float32), 2, 0)
    none = np.nan
    of_three = [[0, none, 1]] * 3
    expected = [[0, 0, none], *of_three, [-1, -1, none, none], [-1, none, none, 1]]
    for row, last in zip(thumb, expected, strict=True):
        np.testing.assert_array_equal(row[-len(last) :], last)
    expected = [[none], *[[none, 3]] * 3, [1, 4, none, none], [4, none, none, 1]]
    for row, last in zip(shown, expected, strict=True):
        np.testing.assert_allclose(row[-len(last) :], np.log1p(last), rtol=1e-3)
    assert all((rows[name] == plain[name]).all() for name in plain.dtype.names)


def test_the_context_is_that_of_the_play_at_the_same_time():
    """Only title 2 at hour 3 is shown and played at one time."""
    rows = by_hand()[0].rows["train"]
    other = UNKNOWN
    assert rows["context_categories"][:, 0].tolist() == [other, other, 12, other, other, other]
    assert rows["context_numbers"][:, 0].tolist() == [0, 0, 3 / 8, 0, 0, 0]
    assert rows["user_categories"].tolist() == [[5]] * 6


def test_held_out_rows_have_the_same_fields_and_no_candidates():
    training, (held_out, seen) = by_hand()[0].rows["train"], by_hand(split=2)
    rows = held_out.rows["test"]
    assert rows.dtype == training.dtype and (rows == training).all()
    names = ("pool_", "list_", "oracle_", "truth_", "num_hard", "mood")
    assert not [name for name in rows.dtype.names if name.startswith(names)]
    assert len(held_out.rows["train"]) == len(held_out.users["train"]) == held_out.completions == 0
    test = seen["test"]
    assert test.num_titles.tolist() == [1, 2, 2, 2, 5, 6] and test.start.tolist() == [0, 6]
    assert sorted(test.title[:5].tolist()) == [2, 3, 4, 5, 6] and test.title[5] == 7
    assert test.query_time.tolist() == [5400, 10800, 10800, 10800, 19800, 25200]


def test_days_divide_the_exposures_of_a_user():
    """Plays and exposures a day apart: what training may see ends with its last day."""
    users = np.array([70], np.uint64)
    plays = [(0, 24.0 * day, rank, 50) for day, rank in enumerate([0, 1, 2, 3, 4])]
    shown = [(70, 24.0 * day - 1, rank) for day, rank in enumerate([0, 1, 2, 3, 4])]
    records, log = records_of(users, [], shown), log_of(users, plays, [2])
    settings = {"split": "time", "validation_from": "1970-01-03", "test_from": "1970-01-05"}
    examples, seen = build(log, records, 96 * HOUR + 1, **settings)
    assert [examples.rows[s]["target"].tolist() for s in SPLITS] == [[[3], [4]], [[5], [6]], []]
    # Title 2 is shown an hour before the validation begins, and played when it does.
    assert examples.rows["train"]["target_completion"].tolist() == [[0.5], [0.0]]
    assert examples.rows["train"]["label_known"][:, 0].tolist() == [0b10, 0b10]
    assert examples.rows["validation"]["label_known"][:, 0].tolist() == [0b10, 0b10]
    assert [examples.users[s].tolist() for s in SPLITS] == [[70], [70], []]
    assert seen["validation"].num_titles.tolist() == [3, 4] and not len(seen["test"].title)


def test_rows_without_labels_have_no_fields_of_labels():
    rows = by_hand()[0].rows["train"]
    plain = by_hand(labels=())[0].rows["train"]
    assert set(rows.dtype.names) - set(plain.dtype.names) == {"label", "label_known"}
    for name in plain.dtype.names:
        np.testing.assert_array_equal(plain[name], rows[name])


# ---------------------------------------------------------------- a loop over events


def rows_by_a_loop(log, thumbs, shown, end):
    """Return split -> rows as tuples of plain values, in their order."""
    plays = list(
        zip(log.user.tolist(), log.time.tolist(), log.rank.tolist(), log.viewed.tolist(), strict=True)
    )
    numbers = {h: i for i, h in enumerate(log.hash.tolist())}
    exposures = sorted({(numbers[u], h * HOUR, ROW_OF_RANK[r], r) for u, h, r in shown})
    votes = {(numbers[u], h * HOUR, r, v) for u, h, r, v in thumbs}
    out, position = {split: [] for split in SPLITS}, {}
    for user, time, _, rank in exposures:
        past = [play for play in plays if play[0] == user and play[1] < time]
        if not past:
            continue
        later = [t for u, t, _, r in exposures if (u, r) == (user, rank) and t > time]
        until = lambda hours: min([time + hours * HOUR, end, *later])  # noqa: B023, E731
        led_to = [p for p in plays if p[0] == user and p[2] == rank and time <= p[1] < until(24)]
        own = [v for v in votes if v[0] == user and v[2] == rank and time <= v[1] < until(1)]
        newest = list(dict.fromkeys(p[2] for p in past[::-1]))[:HISTORY][::-1]
        viewed = [min(sum(p[3] for p in past if p[2] == r) / 6e6, 1) for r in newest]
        is_over = time + HOUR <= end
        split = int(log.split[user])
        number = sum(1 for u in range(user) if log.split[u] == split)
        latest = max((v[1] for v in own), default=0)
        out[SPLITS[split]].append(
            (
                number, position.setdefault(user, 0), rank + 2,
                round(min(sum(p[3] for p in led_to) / 6e6, 1), 5),
                [r + 2 for r in newest], [round(v, 2) for v in viewed],
                [sum(p[2] == r for p in past) for r in newest],
                [max((v[3] for v in own if v[1] == latest), default=0), int(bool(own))],
                is_over * (2 + bool(own)), len({p[2] for p in past}),
            )
        )  # fmt: skip
        position[user] += 1
    return out


def plain(rows, seen):
    """Return rows as tuples of plain values."""
    out = []
    for i, row in enumerate(rows):
        length = int((row["history_title"] > 0).sum())
        out.append(
            (
                int(row["user"]), int(row["position"]), int(row["target"][0]),
                round(float(row["target_completion"][0]), 5),
                row["history_title"][HISTORY - length :].tolist(),
                [round(float(v), 2) for v in row["history_completion"][HISTORY - length :]],
                row["history_sessions"][HISTORY - length :].tolist(),
                row["label"][0].tolist(), int(row["label_known"][0]),
                None if seen is None else int(seen.num_titles[i]),
            )
        )  # fmt: skip
    return out


def check_a_random_log(seed):
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(100, 4, replace=False)).astype(np.uint64)
    half_hours = lambda n: (rng.integers(0, 60, n) / 2).tolist()  # noqa: E731
    title = lambda n: rng.integers(0, 5, n).tolist()  # noqa: E731
    plays = {(user, 0.5 * user, user): 25 for user in range(4)}  # each user has a play
    plays |= dict.fromkeys(zip(rng.integers(0, 4, 12).tolist(), half_hours(12), title(12), strict=True), 25)
    log = log_of(users, [(*play, minutes) for play, minutes in plays.items()], rng.integers(0, 3, 4))
    of_users = lambda n: rng.choice(users, n).tolist()  # noqa: E731
    shown = list(zip(of_users(20), half_hours(20), title(20), strict=True))
    thumbs = list(zip(of_users(12), half_hours(12), title(12), rng.choice([-1, 1], 12).tolist(), strict=True))
    end = int(log.time.max()) + 1
    examples, seen = build(log, records_of(users, thumbs, shown), end)
    expected = rows_by_a_loop(log, thumbs, shown, end)
    for split in SPLITS:
        rows = plain(examples.rows[split], seen.get(split))
        wanted = expected[split] if split in seen else [(*row[:-1], None) for row in expected[split]]
        assert rows == wanted
    return sum(map(len, expected.values()))


def test_rows_equal_those_of_a_loop_over_events():
    assert sum(check_a_random_log(seed) for seed in range(80)) > 500
