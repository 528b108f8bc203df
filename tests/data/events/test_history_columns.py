"""Plays and users from columns in memory, equal to those that polars parses; messages."""

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest

from jaxrec.config import schema
from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING
from jaxrec.core.tables import REGION, TIME
from jaxrec.data.events.history_columns import HistoryColumns, title_rows
from jaxrec.sources.histories import Histories, columns_to_json
from jaxrec.sources.histories import title_rows as title_rows_of_polars

KEYS, RUNTIME = np.array([30, 10, 20]), np.array([90.0, 10.0, np.nan])
FEATURES = (
    Feature("device", "category", "context", 4),
    Feature("hour", "number", "context", 4),
    Feature("age", "number", "user", 4),
)
PLAYS = {
    "user_id": ["ann", "bob", "ann"],
    "title_id": ["10", "7", "30"],
    "time": ["2025-01-01T20:00", "1735761600000", "2025-01-02T00:00:00.250+01:00"],
    "seconds_viewed": [5.0, 0.5, 7],
    "device": ["tv", None, "phone"],
    "hour": [20, 3, 23],
}
USERS = {"user_id": ["bob", "cyd"], "age": [4, None], "region": ["DE", None], "device": ["tv", "tv"]}


def parser(source=None, features=FEATURES, keys=KEYS):
    return HistoryColumns(columns_to_json(source or schema.Simulator(), features), keys, RUNTIME)


def text(keys):
    return [key.decode() if isinstance(key, bytes) else key for key in keys.tolist()]


def test_columns_are_parsed_as_polars_parses_them():
    columns = parser()
    plays = columns.plays(PLAYS)
    users = columns.users(USERS, plays)
    histories = Histories(schema.Simulator(), FEATURES, pl.DataFrame(PLAYS), pl.DataFrame(USERS), KEYS)
    (expected,), (expected_users,) = histories.interactions(), histories.users()
    assert text(plays.user) == text(expected.user) and plays.unknown == expected.unknown == "7"
    for name in ("title", "time", "seconds"):
        np.testing.assert_array_equal(getattr(plays, name), getattr(expected, name))
    assert plays.names == expected.names and text(users.key) == text(expected_users.key)
    for own, other in ((plays.context, expected.context), (users.features, expected_users.features)):
        assert set(own) == set(other)
        for name in own:
            np.testing.assert_array_equal(own[name], other[name])
    assert users.features[REGION].tolist() == ["DE", ""] and TIME not in users.features


@pytest.mark.parametrize(
    "flags", [["1", "0", "false"], [True, None, False], [2.5, np.nan, 0], ["yes", "", "0.0"]]
)
def test_signals_of_histories_are_parsed_as_polars_parses_them(flags):
    """Declared signals are read where they are interaction features, by one of two names."""
    signals = (
        schema.Signal("like", column="is_like"),
        schema.Signal("stay", "seconds", column="stayed", unit=0.001),
        schema.Signal("add", table="adds.csv"),
        schema.Signal("row", column="*"),
        schema.Signal("hate", column="h"),
    )
    names = ("like", "stay", "add", "row", "completion")
    features = (*FEATURES, *(Feature(name, "number", "interaction", 4) for name in names))
    plays = PLAYS | {"is_like": flags, "stay": [1500, None, 0.5], "stayed": [9, 9, 9], "h": [1, 1, 1]}
    source = schema.Tables(interactions="-")
    columns = columns_to_json(source, features, signals)
    assert set(columns["signals"]) == {"like", "stay", "add"}
    ours = HistoryColumns(columns, KEYS, RUNTIME).plays(plays)
    frame = pl.DataFrame({name: pl.Series(values, strict=False) for name, values in plays.items()})
    (expected,) = Histories(source, features, frame, None, KEYS, RUNTIME, signals).interactions()
    assert set(ours.context) == set(expected.context) == {"device", "hour", "like", "stay"}
    for name in ("like", "stay"):
        np.testing.assert_array_equal(
            np.nan_to_num(ours.context[name]), np.nan_to_num(expected.context[name])
        )
    assert ours.context["like"].tolist() == [1, 0, 0] and ours.context["stay"][0] == 1500
    assert "signals" not in columns_to_json(source, FEATURES, signals)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_with_decimals_and_fractions_of_the_runtime_are_parsed_as_polars_parses_them(unit):
    """Half of 90 minutes, of an unknown title, and of a title without a runtime."""
    columns = schema.Columns(time_unit=unit, time_decimals=True, seconds_unit="percent")
    source = schema.Tables(interactions="-", columns=columns)
    plays = {
        "user_id": ["ann"] * 3,
        "title_id": ["30", "7", "20"],
        "time": ["1735761600.5009", "2025-01-02T00:00", "1735761600123456789"],
        "seconds_viewed": [50.0, 50.0, 50.0],
    }
    ours = parser(source).plays(plays)
    (expected,) = Histories(source, FEATURES, pl.DataFrame(plays), None, KEYS, RUNTIME).interactions()
    np.testing.assert_array_equal(ours.seconds, [2700.0, 0.0, 0.0])
    np.testing.assert_array_equal(ours.seconds, expected.seconds)
    np.testing.assert_array_equal(ours.time[:2], expected.time[:2])
    assert unit == "s" or ours.time[2] == expected.time[2]  # seconds so far away are clipped


def test_times_of_all_kinds():
    columns = parser()

    def times(values):
        plays = {"user_id": [1] * len(values), "title_id": KEYS[: len(values)], "time": values}
        return columns.plays(plays | {"seconds_viewed": np.ones(len(values))}).time.tolist()

    first = 1_735_689_600_000
    assert times([first, first + 1]) == [first, first + 1]
    assert times(np.array(["2025-01-01", "2025-01-02"], "datetime64[D]")) == [first, first + 86_400_000]
    assert times([datetime(2025, 1, 1, tzinfo=UTC), date(2025, 1, 2), None]) == [
        first, first + 86_400_000, MISSING
    ]  # fmt: skip
    seconds = schema.Tables("", columns=schema.Columns(time_unit="s"))
    plays = {"user_id": [1], "title_id": [10], "time": [first // 1000], "seconds_viewed": [1]}
    assert parser(seconds).plays(plays).time.tolist() == [first]
    kuairand = {"user_id": ["1"], "video_id": [10], "time_ms": [first], "play_time_ms": [1500.0]}
    parsed = parser(schema.KuaiRand(""), ()).plays(kuairand)
    assert (parsed.user.tolist(), parsed.title.tolist(), parsed.seconds.tolist()) == ([1], [1], [1.5])


@pytest.mark.parametrize("keys", [KEYS, np.array(["30", "10", "x"])])
@pytest.mark.parametrize("titles", [[10, 30, 5], ["10", "x", "30"], np.array([30]), []])
def test_rows_of_titles_are_those_of_polars(keys, titles):
    assert title_rows(titles, keys).tolist() == title_rows_of_polars(titles, keys).tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"time": None}, "histories: no column 'time'; columns: user_id, title_id"),
        ({"time": ["2025", "soon", "x"]}, "histories, column 'time', row 2='soon'; allowed: a time such as"),
        ({"user_id": ["ann", None, "x"]}, "histories, column 'user_id', row 2: None; allowed: whole numbers"),
        ({"seconds_viewed": ["1", "x", "2"]}, "histories, column 'seconds_viewed': could not convert"),
        ({"title_id": [1, 2]}, "histories, column 'title_id': shape (2,); allowed: columns of one length"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    plays = {name: column for name, column in (PLAYS | change).items() if column is not None}
    with pytest.raises(InputError) as error:
        parser().plays(plays)
    assert str(error.value).startswith(message)


def test_users_have_the_type_of_the_plays():
    columns = parser()
    plays = columns.plays(PLAYS | {"user_id": [1, 2, 3]})
    assert columns.users(["4", 5], plays).key.tolist() == [4, 5]
    with pytest.raises(InputError, match="users, row 2: allowed: whole numbers, as in histories"):
        columns.users(["4", "dee"], plays)
