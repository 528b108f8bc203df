"""Sessions in a dataset: stored fields, histories that end before them, and rows of raw histories."""

import json

import numpy as np
import polars as pl
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.audit import verify_dataset
from jaxrec.serving.requests import PastEvents, RequestBuilder, RequestCounts
from jaxrec.sources import open_source


def joined(chunks, names):
    return {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names}


def test_rows_without_sessions_have_no_fields_of_sessions(tiny):
    assert not [name for name in tiny.layout.query_dtype().names if name.startswith("session")]
    assert "session" not in tiny.layout.to_json()


def test_a_layout_with_sessions_is_restored(sessions):
    assert sessions.layout.session_kinds == ("play", "trailer", "thumb")
    assert Layout.from_json(json.loads(json.dumps(sessions.layout.to_json()))) == sessions.layout


def test_histories_end_where_sessions_begin_and_targets_stay(sessions, tiny, session_config):
    """The sources of both datasets have equal plays: the signals of a service change none."""
    assert verify_dataset(sessions).problems == []
    rows, plain = sessions.rows("train").all(), tiny.rows("train").all()
    np.testing.assert_array_equal(rows["target"], plain["target"])
    np.testing.assert_array_equal(rows["pool_hard"], plain["pool_hard"])
    position = rows["session_position"]
    assert np.bincount(position)[1:4].min() > 100
    alone = (position == 1) & (rows["session_kind"] == 0).all(axis=1)  # nothing of the session comes before
    for name in ("history_title", "history_completion", "history_age"):
        np.testing.assert_array_equal(rows[name][alone], plain[name][alone])
    counted = (rows["history_title"] > 0).sum(1), (plain["history_title"] > 0).sum(1)
    later = position > 1
    assert (counted[0] <= counted[1]).all() and (counted[0][later] < counted[1][later]).mean() > 0.3
    # The newest title of the history that goes on to the request is a play of the session.
    played = np.where(rows["session_kind"] == 1, rows["session_title"], -1)
    newest = plain["history_title"][:, -1]
    short = later & ((rows["session_kind"] > 0).sum(1) < 12)  # all events are stored
    assert short.sum() > 100 and (played == newest[:, None]).any(1)[short].all()


def test_rows_of_raw_histories_and_signals_are_the_rows_of_the_dataset(sessions, session_config):
    config, dataset = session_config, sessions
    source = open_source(config.source, config.features, "", config.signals)
    keys = source.titles().key
    plays = joined(list(source.interactions()), ("user", "title", "time", "seconds"))
    events = joined(list(source.signals()), ("user", "title", "time", "kind", "value"))
    held_out = {}
    for split in SPLITS[1:]:
        rows = dataset.rows(split).all()
        rows = rows[np.append(rows["user"][1:] != rows["user"][:-1], True)]
        held_out |= dict(zip(dataset.user_keys(split)[rows["user"]].tolist(), rows, strict=True))
    log = pl.DataFrame(plays | {"title": keys[plays["title"]]}).rename(
        {"user": "user_id", "title": "title_id", "seconds": "seconds_viewed"}
    )
    log = log.filter(pl.col("user_id").is_in(list(held_out)))
    target = np.array([row["target"][0] for row in held_out.values()])
    titles = dataset.arrays.title_key[target - 2]
    targets = pl.DataFrame({"user_id": list(held_out), "title_id": titles})
    first = log.group_by("user_id", "title_id").agg(pl.col("time").min())
    users = targets.join(first, on=["user_id", "title_id"], maintain_order="left").drop("title_id")
    table = pl.DataFrame(
        {
            "user_id": events["user"], "title_id": keys[events["title"]], "time": events["time"],
            "signal": [config.signals[kind].name for kind in events["kind"]], "value": events["value"],
        }
    ).filter(pl.col("user_id").is_in(list(held_out)))  # fmt: skip
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    counts = RequestCounts()
    (made,) = builder.read(PastEvents(log, table), users, counts=counts)
    (without,) = builder.read(log, users)
    assert len(made.key) == len(held_out) > 40 and counts.plays == len(log)
    events_seen = differing = 0
    for served, row_without in zip(made.rows, without.rows, strict=True):
        stored = held_out[made.key[served["user"]].item()]
        for name in (
            n for n in served.dtype.names if n.startswith(("history_title", "history_age", "session_"))
        ):
            assert served[name].tobytes() == stored[name].tobytes(), name
        events_seen += int((served["session_kind"] > 1).sum())
        differing += served["session_kind"].tobytes() != row_without["session_kind"].tobytes()
    assert events_seen > 20 and differing > 10


def test_an_unknown_signal_is_refused_by_name(sessions, session_config):
    builder = RequestBuilder(
        session_config, sessions.layout, sessions.arrays, sessions.manifest["categories"]
    )
    title = sessions.arrays.title_key[:1]
    log = {"user_id": [1], "title_id": title, "time": [1_730_500_000_000], "seconds_viewed": [60.0]}
    events = {"user_id": [1], "title_id": title, "time": [1], "signal": ["search"], "value": [1.0]}
    with pytest.raises(InputError, match="signals: signal='search'; allowed: trailer, thumb"):
        list(builder.read(PastEvents(pl.DataFrame(log), pl.DataFrame(events))))
