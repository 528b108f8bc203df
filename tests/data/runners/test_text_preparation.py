"""Text of titles and of contexts in a dataset of requests, and in the rows of raw histories."""

import copy

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Feature, Tables
from jaxrec.config.validation import check
from jaxrec.core.ids import SPLITS
from jaxrec.data.events.history_columns import HistoryColumns
from jaxrec.data.runners import local
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.text.ngrams import MOST, ngram_ids
from jaxrec.serving.requests import RequestBuilder, RequestCounts
from jaxrec.sources import open_source
from jaxrec.sources.histories import columns_to_json

USERS, PLAYS, TITLES = 60, 12, 120
WORDS = np.array(["star", "Wars", "北京", "Ünder", "up", "\U0001f600", "1917", "heat"])
NAMES = [f"{WORDS[i % 8]} {WORDS[i // 16]} {i % 2}" for i in range(TITLES)]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return a folder of two tables: names of titles, and plays with queries, a third of which are absent."""
    folder, r = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    pl.DataFrame({"title_id": [f"t{i}" for i in range(TITLES)], "runtime_minutes": [90.0] * TITLES,
                  "name": NAMES}).write_csv(folder / "titles.csv")  # fmt: skip
    title = np.concatenate([r.permutation(TITLES)[:PLAYS] for _ in range(USERS)])
    query = ["" if r.random() < 0.4 else NAMES[t][: 2 + i % 6] for i, t in enumerate(title)]
    query[1] = "star wars " * 1000
    plays = pl.DataFrame({
        "user_id": [f"u{i // PLAYS}" for i in range(len(title))], "title_id": [f"t{t}" for t in title],
        "time": 1_600_000_000_000 + np.arange(len(title)) * 60_000, "seconds_viewed": 4000.0,
        "device": ["tv" if i % 2 else "web" for i in range(len(title))], "query": query,
    })  # fmt: skip
    plays.write_csv(folder / "plays.csv")
    return folder, plays


@pytest.fixture(scope="module")
def config(tiny_config, log):
    config = copy.deepcopy(tiny_config)
    config.source = Tables(str(log[0] / "plays.csv"), str(log[0] / "titles.csv"), columns=Columns())
    config.features = (
        Feature("title_id", "category", "title", 8),
        Feature("name", "text", "title", 4),
        Feature("device", "category", "context", 2),
        Feature("query", "text", "context", 4),
    )
    check(config)
    return config


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text-rows") / "rows"
    local.prepare(open_source(config.source, config.features), config, str(folder))
    return Dataset(str(folder))


def last_queries(dataset):
    """Return the last held-out row of each user, and its user and title."""
    rows, keys, titles = [], [], []
    for split in SPLITS[1:]:
        last = dataset.rows(split).all()
        last = last[np.append(last["user"][1:] != last["user"][:-1], True)]
        rows.append(last)
        keys += dataset.user_keys(split)[last["user"]].astype(str).tolist()
        titles += dataset.arrays.title_key[last["target"][:, 0] - 2].tolist()
    return np.concatenate(rows), keys, titles


def test_rows_hold_the_query_of_their_target_and_titles_their_names(dataset, log):
    play = {(row["user_id"], row["title_id"]): row for row in log[1].to_dicts()}
    rows, keys, titles = last_queries(dataset)
    queries = np.array([play[key, title]["query"] for key, title in zip(keys, titles, strict=True)])
    assert len(rows) > 5 and (queries == "").any() and (queries != "").any()
    assert np.array_equal(rows["context_categories"][:, 1:], ngram_ids(queries))
    names = np.array([NAMES[int(key[1:])] for key in dataset.arrays.title_key.tolist()])
    assert np.array_equal(dataset.arrays.title_categories[2:], ngram_ids(names))
    assert dataset.arrays.title_categories[:2].max() == 1  # padding and unknown have no text
    assert {*dataset.manifest["categories"]} == {"device"}


def test_requests_have_their_own_query_and_not_that_of_the_last_play(config, dataset, log):
    rows, keys, titles = last_queries(dataset)
    play = {(row["user_id"], row["title_id"]): row for row in log[1].to_dicts()}
    targets = [play[key, title] for key, title in zip(keys, titles, strict=True)]
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    plays = log[1].filter(pl.col("user_id").is_in(keys))
    users = {name: [t[name] for t in targets] for name in ("user_id", "time", "device", "query")}
    (made,) = builder.read(plays, pl.DataFrame(users))
    columns = columns_to_json(config.source, config.features, config.signals)
    columns = HistoryColumns(columns, dataset.arrays.title_key, dataset.arrays.title_runtime)
    parsed = columns.plays(plays.to_dict(as_series=False))
    in_memory = builder.build([parsed, columns.users(users, parsed)], None, RequestCounts())
    stored = dict(zip(keys, rows["context_categories"], strict=True))
    for served in (made, in_memory):
        assert len(served.key) == len(stored)
        for key, row in zip(served.key.tolist(), served.rows, strict=True):
            assert np.array_equal(row["context_categories"], stored[key])
    without = {name: values for name, values in users.items() if name in ("user_id", "time")}
    (plain,) = builder.read(plays, pl.DataFrame(without))
    assert not plain.rows["context_categories"][:, 1:].any()
    assert (plain.rows["context_categories"][:, 0] > 1).any()  # the device of the last play is carried over


def test_any_text_is_served_to_a_user_never_seen(config, dataset):
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    queries = ["", "x", "ü" * 10_000, "\U0001f600\U0001f525", "поиск", "a\0b"]
    users = {"user_id": [f"new{i}" for i in range(len(queries))], "query": queries}
    (made,) = builder.read(
        {"user_id": [], "title_id": [], "time": [], "seconds_viewed": []}, users, now=1_700_000_000_000
    )
    assert made.rows["context_categories"].shape == (len(queries), 1 + MOST)
    expected = ngram_ids(np.array(queries))
    assert np.array_equal(made.rows["context_categories"][:, 1:], expected)
