"""Signals of histories in a dataset of requests, and rows of raw histories equal to them, bit for bit."""

import numpy as np
import polars as pl
import pytest
from test_signal_preparation import opened, tables, with_signals  # noqa: F401

from jaxrec.config.schema import Feature, Signal
from jaxrec.core.ids import SPLITS
from jaxrec.data.events.history_columns import HistoryColumns
from jaxrec.data.runners import local
from jaxrec.data.storage import audit
from jaxrec.data.storage.audit import verify_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.serving.requests import RequestBuilder, RequestCounts
from jaxrec.sources.histories import columns_to_json

NAMES = ("stay", "thumb", "row")


def of_requests(tiny_config, folder):
    """Return a config whose histories hold signals of the log's columns, and of every row."""
    config = with_signals(tiny_config, folder)
    config.signals = (*config.signals[:3], Signal("row", column="*"))
    config.labels = ()
    config.features += tuple(Feature(name, "number", "interaction", 4) for name in NAMES)
    return config


@pytest.fixture(scope="module")
def requests(once, tiny_config, tables):  # noqa: F811
    config = of_requests(tiny_config, tables)
    return once("history-signals", lambda folder: local.prepare(opened(config), config, str(folder)))


def last_queries(dataset, log):
    """Return the last held-out query of each user: its row, its user and the time of its target."""
    keys, rows, times = [], [], []
    for split in SPLITS[1:]:
        of_split = dataset.rows(split).all()
        of_split = of_split[np.append(of_split["user"][1:] != of_split["user"][:-1], True)]
        title = dataset.arrays.title_key[of_split["target"][:, 0] - 2]
        key = dataset.user_keys(split)[of_split["user"]]
        first = log.group_by("user_id", "title_id").agg(pl.col("time").min())
        targets = pl.DataFrame({"user_id": key, "title_id": title})
        times.append(
            targets.join(first, on=["user_id", "title_id"], maintain_order="left")["time"].to_numpy()
        )
        keys.append(key)
        rows.append(of_split)
    return np.concatenate(rows), np.concatenate(keys), np.concatenate(times)


def test_rows_of_raw_histories_are_the_rows_of_the_dataset(tiny_config, tables, requests):  # noqa: F811
    """Signals by their own names, or by those of their columns; files and columns in memory."""
    config, dataset = of_requests(tiny_config, tables), Dataset(requests)
    log = pl.read_parquet(config.source.interactions)
    rows, keys, times = last_queries(dataset, log)
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    users = pl.DataFrame({"user_id": keys, "time": times})
    plays, counts = log.filter(pl.col("user_id").is_in(keys.tolist())), RequestCounts()
    (made,) = builder.read(plays, users, counts=counts)
    (renamed,) = builder.read(plays.rename({"stayed": "stay"}), users)
    columns = columns_to_json(config.source, config.features, config.signals)
    columns = HistoryColumns(columns, dataset.arrays.title_key, dataset.arrays.title_runtime)
    parsed = columns.plays(plays.rename({"stayed": "stay"}).to_dict(as_series=False))
    chunks = [parsed, columns.users(users.to_dict(as_series=False), parsed)]
    in_memory = builder.build(chunks, None, RequestCounts())
    stored = dict(zip(keys.tolist(), rows, strict=True))
    assert len(stored) == len(made.key) > 15
    for served in (made, renamed, in_memory):
        for key, row in zip(served.key.tolist(), served.rows, strict=True):
            for name in (n for n in row.dtype.names if n.startswith("history_")):
                assert row[name].tobytes() == stored[key][name].tobytes(), (key, name)
    values = rows["history_signals"][rows["history_title"] > 0]
    assert not np.isnan(values[:, 2]).any()  # each title has a play, which is an event of every row
    assert (np.isnan(values[:, :2]).mean(axis=0) > 0.3).all() and {-1, 1} <= {*values[:, 1].tolist()}
    wrong = int((plays["thumb"] == 3).sum())
    assert counts.skipped.counts["event of signal thumb: sign neither -1 nor 1"] == wrong > 0


def test_a_history_without_the_columns_has_no_events(tiny_config, tables, requests):  # noqa: F811
    config, dataset = of_requests(tiny_config, tables), Dataset(requests)
    plays = pl.read_parquet(config.source.interactions).drop("thumb", "stayed")
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    (made,) = builder.read(plays)
    values = made.rows["history_signals"][made.rows["history_title"] > 0]
    assert np.isnan(values[:, :2]).all() and not np.isnan(values[:, 2]).any()


def test_the_audit_refuses_infinite_values(requests, monkeypatch):
    dataset, blocks = Dataset(requests), audit._blocks
    assert not verify_dataset(dataset).problems

    def with_an_infinity(dataset, split, max_rows):
        for rows in blocks(dataset, split, max_rows):
            rows = rows.copy()
            rows["history_signals"][:1, -1, 0] = np.inf
            yield rows

    monkeypatch.setattr(audit, "_blocks", with_an_infinity)
    problems = audit.audit(dataset).problems
    assert len(problems) == len(SPLITS) and all("history_signals not finite" in p for p in problems)
