"""Titles that contexts name, and values for missing contexts, in rows and in the rows of raw histories."""

import copy
import json

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Feature, Tables
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import PAD, SPLITS, UNKNOWN
from jaxrec.data.runners import local
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.text.ngrams import MOST, ngram_ids
from jaxrec.serving.requests import RequestBuilder
from jaxrec.sources import open_source

USERS, PLAYS, TITLES = 60, 12, 120
NAMES = [f"name{i % 30} word{i // 30}" for i in range(TITLES)]
QUERY, SOURCE = slice(1, 1 + MOST), 1 + MOST  # columns of the context


@pytest.fixture(scope="module")
def plays():
    """Return plays with a device, a query and a source, each absent in some; a source may be no title."""
    r = np.random.default_rng(0)
    title = np.concatenate([r.permutation(TITLES)[:PLAYS] for _ in range(USERS)])
    kind = r.integers(0, 4, len(title))
    source = np.where(
        r.random(len(title)) < 0.4, "gone", np.char.add("t", r.integers(0, TITLES, len(title)).astype(str))
    )
    return pl.DataFrame({
        "user_id": [f"u{i // PLAYS}" for i in range(len(title))], "title_id": [f"t{t}" for t in title],
        "time": 1_600_000_000_000 + np.arange(len(title)) * 60_000, "seconds_viewed": 4000.0,
        "device": r.choice(["tv", "web", "web", ""], len(title)),
        "query": [NAMES[t][:5] if k == 0 else "" for t, k in zip(title, kind, strict=True)],
        "source": [s if k in (0, 1) else "" for s, k in zip(source.tolist(), kind, strict=True)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, plays):
    folder = tmp_path_factory.mktemp("sources")
    pl.DataFrame({"title_id": [f"t{i}" for i in range(TITLES)], "runtime_minutes": [90.0] * TITLES,
                  "name": NAMES}).write_csv(folder / "titles.csv")  # fmt: skip
    plays.write_csv(folder / "plays.csv")
    return folder


@pytest.fixture(scope="module")
def config(tiny_config, folder):
    config = copy.deepcopy(tiny_config)
    config.source = Tables(str(folder / "plays.csv"), str(folder / "titles.csv"), columns=Columns())
    config.features = (
        Feature("title_id", "category", "title", 8),
        Feature("name", "text", "title", 4),
        Feature("device", "category", "context", 2, impute="most_frequent"),
        Feature("query", "text", "context", 4, impute="name_of:source"),
        Feature("source", "title", "context", 4),
    )
    config.data.matching = 8
    check(config)
    return config


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source-rows") / "rows"
    local.prepare(open_source(config.source, config.features), config, str(folder))
    return Dataset(str(folder))


def last_rows(dataset, plays):
    """Return the last held-out row of each user, and the play that is its target."""
    play = {(row["user_id"], row["title_id"]): row for row in plays.to_dicts()}
    rows, targets = [], []
    for split in SPLITS[1:]:
        last = dataset.rows(split).all()
        last = last[np.append(last["user"][1:] != last["user"][:-1], True)]
        rows.append(last)
        keys = dataset.user_keys(split)[last["user"]].astype(str).tolist()
        titles = dataset.arrays.title_key[last["target"][:, 0] - 2].tolist()
        targets += [play[pair] for pair in zip(keys, titles, strict=True)]
    return np.concatenate(rows), targets


def expected_context(dataset, targets):
    """Return the ids [N, columns] of the contexts of plays: most are worked out value by value."""
    id_of = {key: i + 2 for i, key in enumerate(dataset.arrays.title_key.tolist())}
    ids = np.zeros((len(targets), 2 + MOST), np.int32)
    for i, t in enumerate(targets):
        ids[i, 0] = {"tv": 2, "web": 3, "": 3}[t["device"]]  # "web" is the most frequent one
        ids[i, SOURCE] = PAD if not t["source"] else id_of.get(t["source"], UNKNOWN)
        name = NAMES[int(t["source"][1:])] if ids[i, SOURCE] > UNKNOWN else ""
        ids[i, QUERY] = ngram_ids(np.array([t["query"] or name]))[0]
    return ids


def test_rows_hold_title_ids_and_values_for_missing_contexts(dataset, plays):
    rows, targets = last_rows(dataset, plays)
    expected = expected_context(dataset, targets)
    assert {*np.unique(np.minimum(expected[:, SOURCE], 2)).tolist()} == {0, 1, 2}
    assert any(t["query"] == "" and ids[1] for t, ids in zip(targets, expected, strict=True))
    np.testing.assert_array_equal(rows["context_categories"], expected)
    layout, manifest = dataset.layout, dataset.manifest
    assert {*manifest["categories"]} == {"device"}
    (source,) = (f for f in layout.features if f.kind == "title")
    assert (source.size, source.columns) == (TITLES + 2, 1)
    assert [f.imputed for f in layout.of("context")] == [3, 0, 0]
    stored = layout.to_json()["features"]
    assert [f.get("imputed") for f in stored] == [None, None, 3, None, None]
    assert type(layout).from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_training_rows_hold_unseen_titles_that_match_their_query(dataset, plays):
    rows = dataset.rows("train").all()
    matching, query = rows["pool_matching"], rows["context_categories"][:, QUERY]
    assert matching.shape[1] == 8
    np.testing.assert_array_equal((matching > 0).any(axis=1), query.any(axis=1))  # every name has a start
    names = dataset.arrays.title_categories
    log = plays.to_dicts()
    key = dataset.arrays.title_key
    keys_of_user = {}
    for row in log:
        keys_of_user.setdefault(row["user_id"], set()).add(row["title_id"])
    played = [frozenset(titles) for titles in keys_of_user.values()]
    for i in np.flatnonzero(query.any(axis=1))[:200]:
        ids = matching[i][matching[i] > 0]
        shared = [len(np.intersect1d(names[t][names[t] > 0], query[i][query[i] > 0])) for t in ids]
        assert min(shared) > 0 and len(set(ids.tolist())) == len(ids)
        history = {key[t - 2] for t in rows["history_title"][i] if t > 1} | {key[rows["target"][i, 0] - 2]}
        (user,) = {titles for titles in played if history <= titles} if len(history) > 5 else (history,)
        assert not user & {key[t - 2] for t in ids}


def test_requests_have_the_values_of_rows(config, dataset, plays):
    rows, targets = last_rows(dataset, plays)
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    users = {name: [t[name] for t in targets] for name in ("user_id", "time", "device", "query", "source")}
    log = plays.filter(pl.col("user_id").is_in(users["user_id"]))
    (made,) = builder.read(log, pl.DataFrame(users))
    stored = {t["user_id"]: row for t, row in zip(targets, rows["context_categories"], strict=True)}
    for key, row in zip(made.key.tolist(), made.rows, strict=True):
        np.testing.assert_array_equal(row["context_categories"], stored[key])
    (plain,) = builder.read(log, pl.DataFrame({name: users[name] for name in ("user_id", "time")}))
    assert not plain.rows["context_categories"][:, 1:].any()
    assert (plain.rows["context_categories"][:, 0] == 3).all()  # not the device of the last play


def test_a_value_that_is_not_in_the_vocabulary_is_unknown_and_not_imputed(config, dataset):
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    users = {"user_id": ["a", "b"], "device": ["phone", None], "source": ["nowhere", "t5"]}
    nobody = {"user_id": [], "title_id": [], "time": [], "seconds_viewed": []}
    (made,) = builder.read(nobody, users, now=1_700_000_000_000)
    assert made.rows["context_categories"][:, 0].tolist() == [UNKNOWN, 3]
    assert made.rows["context_categories"][0, SOURCE] == UNKNOWN
    assert not made.rows["context_categories"][0, QUERY].any()
    np.testing.assert_array_equal(
        made.rows["context_categories"][1, QUERY], ngram_ids(np.array([NAMES[5]]))[0]
    )


def test_the_titles_of_another_catalogue_are_refused(config, folder, plays, tmp_path):
    wrong = copy.deepcopy(config)
    sources = [f"film-{i}" if s else "" for i, s in enumerate(plays["source"].to_list())]
    plays.with_columns(pl.Series("source", sources)).write_csv(tmp_path / "plays.csv")
    wrong.source.interactions = str(tmp_path / "plays.csv")
    with pytest.raises(
        InputError, match=r"feature source: kind='title' but none of its .* values is a title"
    ):
        local.prepare(open_source(wrong.source, wrong.features), wrong, str(tmp_path / "rows"))
    assert not (tmp_path / "rows").exists()
