"""Recommendations of the tiny run: served scores, filters, pages, tables of all kinds, messages."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxrec.config.schema import Expert
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.ids import RETRIEVAL_HEAD
from jaxrec.data.storage.dataset import as_words
from jaxrec.evaluation.correction import uncorrected
from jaxrec.runtime.mesh import replicate
from jaxrec.serving.catalogue import CatalogueScorer
from jaxrec.serving.filters import Filters
from jaxrec.serving.index import indexed_scorer
from jaxrec.serving.index.indexed_scorer import IndexOptions
from jaxrec.serving.index.title_index import Calibration, is_installed
from jaxrec.serving.pages import PageLayout
from jaxrec.serving.recommender import Recommender, milliseconds_of
from jaxrec.sources import open_source
from jaxrec.tasks.loading import LoadedCheckpoint, build_task


@pytest.fixture(scope="module")
def recommender(loaded, correction):
    return Recommender(loaded, correction)


@pytest.fixture(scope="module")
def log(tiny_config):
    """Plays of the tiny service as a table, sorted by time."""
    source = open_source(tiny_config.source, tiny_config.features)
    key = source.titles().key
    frames = [
        pl.DataFrame({"user_id": c.user, "title_id": key[c.title], "time": c.time,
                      "seconds_viewed": c.seconds, **c.context})
        for c in source.interactions()
    ]  # fmt: skip
    return pl.concat(frames).sort("time")


@pytest.fixture(scope="module")
def plays(log):
    """Plays of thirty users."""
    users = log["user_id"].unique().sort()[-30:]
    return log.filter(pl.col("user_id").is_in(users.implode()))


def by_user(result, column="title"):
    return {u: result[column][result["user"] == u].tolist() for u in dict.fromkeys(result["user"].tolist())}


def test_a_served_score_is_the_evaluated_score(recommender, loaded, tiny, log, tiny_config):
    """The last test query of each user: raw plays at the time and in the context of the target."""
    rows, keys = tiny.rows("test").all(), tiny.user_keys("test")
    rows = rows[np.append(rows["user"][1:] != rows["user"][:-1], True)][:12]
    titles = loaded.arrays.title_key
    target = log.join(
        pl.DataFrame({"user_id": keys[rows["user"]], "title_id": titles[rows["target"][:, 0] - 2]}),
        on=["user_id", "title_id"],
    ).sort("time").unique(["user_id", "title_id"], keep="first", maintain_order=True)  # fmt: skip
    source = open_source(tiny_config.source, tiny_config.features)
    (chunk,) = source.users()
    users = target.select("user_id", "time", "device", "hour").join(
        pl.DataFrame({"user_id": chunk.key} | {n: c for n, c in chunk.features.items()}), on="user_id"
    )
    histories = log.filter(pl.col("user_id").is_in(users["user_id"].implode()))
    served = recommender.score(histories, titles, users=users)
    head, scale, log_q = recommender.correction[:3]
    host = HostBatch(as_words(rows), np.ones(len(rows), bool))
    table = replicate(loaded.arrays.title_table())
    score = jax.jit(lambda *batch: loaded.task.score_lists(batch[0], None, *batch[1:], 1, (head,), False))
    scored = score(loaded.params, host, table)
    ids = np.concatenate([rows["target"][:, :1], rows["list_enabled"][:, 0]], axis=1)
    expected = scale * np.asarray(scored.by_head[head])[:, 0, 0] + log_q[ids]
    row_of_user = {keys[u]: i for i, u in enumerate(rows["user"].tolist())}
    assert len(served["score"]) == len(rows) * len(titles)
    for user, scores in by_user(served, "score").items():
        row = row_of_user[user]
        np.testing.assert_allclose(np.array(scores)[ids[row] - 2], expected[row], rtol=1e-4, atol=1e-5)


def test_best_titles_are_those_of_the_scores(recommender, plays):
    result = recommender.recommend(plays, 5, Filters(watched=False, abandoned=False))
    scores = recommender.score(plays, recommender.titles)
    for user, titles in by_user(result).items():
        own = scores["score"][scores["user"] == user]
        assert titles == recommender.titles[np.argsort(-own, kind="stable")[:5]].tolist()
    assert set(result["reason"]) == {"top picks"} and not result["empty_history"].any()
    assert ((result["completion"] > 0) & (result["completion"] < 1)).all()
    assert result.counts == {
        "users": 30, "plays": len(plays), "plays_of_unknown_titles": 0, "plays_skipped": {},
        "empty_histories": 0, "empty_lists": 0,
    }  # fmt: skip


def test_all_kinds_of_tables_give_the_same(recommender, plays, tmp_path):
    plays.write_csv(tmp_path / "plays.csv")
    plays.write_parquet(tmp_path / "plays.parquet")
    expected = recommender.recommend(plays, 5)
    tables = (
        pd.DataFrame(plays.to_dict(as_series=False)), plays.to_arrow(), plays.to_dict(as_series=False),
        plays.lazy(), str(tmp_path / "plays.parquet"), str(tmp_path / "plays.csv"),
    )  # fmt: skip
    for table in tables:
        result = recommender.recommend(table, 5)
        assert result["title"].tolist() == expected["title"].tolist()
        assert [int(user) for user in result["user"]] == expected["user"].tolist()


def test_groups_from_files_give_the_same_for_each_user(recommender, plays):
    whole = recommender.recommend(plays, 5)
    groups = list(recommender.stream(plays, 5, group_rows=150))
    assert len(groups) > 1
    parts = {user: titles for group in groups for user, titles in by_user(group).items()}
    assert parts == by_user(whole)
    assert groups[-1].counts == whole.counts


def test_unknown_titles_are_skipped_and_empty_histories_served(recommender, plays):
    unknown = plays[:1].with_columns(user_id=pl.lit(7_000_001, pl.Int64), title_id=pl.lit(5, pl.Int64))
    users = [*plays["user_id"].unique().to_list(), 7_000_002]
    result = recommender.recommend(pl.concat([plays, unknown]), 5, users=users)
    assert result.counts["plays_of_unknown_titles"] == 1 and result.counts["empty_histories"] == 2
    assert set(result["user"][result["empty_history"]]) == {7_000_001, 7_000_002}
    lists = by_user(result)
    assert len(lists) == 32 and len(lists[7_000_002]) == 5
    assert np.isfinite(result["score"]).all()


def test_titles_that_the_user_played_are_left_out_unless_they_are_kept(recommender, plays):
    everything = recommender.recommend(plays, len(recommender.titles), Filters(False, False))
    rest = by_user(recommender.recommend(plays, len(recommender.titles)))
    no_abandoned = by_user(recommender.recommend(plays, len(recommender.titles), Filters(watched=False)))
    for user, titles in by_user(everything).items():
        own = plays.filter(user_id=user)["title_id"].unique().to_list()
        assert sorted(titles) == sorted(recommender.titles.tolist())
        assert set(rest[user]) == set(titles) - set(own)
        assert set(rest[user]) <= set(no_abandoned[user]) <= set(titles)
    assert sum(map(len, no_abandoned.values())) > sum(map(len, rest.values()))


def test_lists_windows_and_licences(recommender, plays):
    keys = recommender.titles
    n, all_of = len(keys), {"watched": False, "abandoned": False}

    def titles(now=None, users=None, **filters):
        result = recommender.recommend(plays, n, Filters(**all_of | filters), now=now, users=users)
        return by_user(result), result

    assert {frozenset(t) for t in titles(allow=keys[:9].tolist())[0].values()} == {
        frozenset(keys[:9].tolist())
    }
    denied = titles(deny={"title_id": keys[:9]})[0].values()
    assert {frozenset(t) for t in denied} == {frozenset(keys[9:].tolist())}
    windows = {
        "title_id": [keys[0], keys[1], keys[2], keys[2], keys[3], 5],
        "from": [None, "2040-01-01", "2020-01-01", "2030-01-01", "2020-01-01", None],
        "until": [None, None, "2021-01-01", "2041-01-01", "2040-06-01", None],
    }
    open_then = titles("2040-06-01", available=windows)[0].values()
    assert {frozenset(t) for t in open_then} == {frozenset(keys[:3].tolist())}
    users = {"user_id": plays["user_id"].unique().sort().to_list()}
    users["region"] = ["DE", "FR", ""] * 10
    licences = {"title_id": [keys[0], keys[1], keys[1]], "region": ["DE", "DE", "US"]}
    by_user_key, result = titles(users=users, licences=licences, region="US")
    regions = dict(zip(*users.values(), strict=True))
    assert {regions[u]: set(t) for u, t in by_user_key.items()} == {
        "DE": set(keys[:2].tolist()),
        "": {keys[1]},
    }
    assert result.counts["empty_lists"] == 10


def test_no_title_is_twice_on_a_page(recommender, plays):
    page = recommender.recommend(plays, page=PageLayout(rows=4, width=3))
    reasons = set(page["reason"])
    assert "top picks" in reasons and any(r.startswith("genres: ") for r in reasons)
    assert any(r.startswith("because you watched ") for r in reasons)
    for user, titles in by_user(page).items():
        assert len(titles) == len(set(titles))
        own = page["user"] == user
        rows = page["row"][own].tolist()
        assert rows == sorted(rows) and set(rows) == set(range(1, max(rows) + 1))
        for row in set(rows):
            scores = page["score"][own & (page["row"] == row)]
            assert (np.diff(scores) <= 0).all() and len(scores) <= 3
    top = by_user(recommender.recommend(plays, 5))
    assert {u: t[:3] for u, t in top.items()} == {u: t[:3] for u, t in by_user(page).items()}


def test_diversity_trades_score_for_dissimilarity(recommender, plays):
    plain, diverse = recommender.recommend(plays, 5), recommender.recommend(plays, 5, diversity=0.7)
    assert by_user(plain) != by_user(diverse)
    assert [t[0] for t in by_user(plain).values()] == [t[0] for t in by_user(diverse).values()]
    assert diverse["score"].sum() < plain["score"].sum()


def test_similar_titles_and_vectors(recommender, plays):
    titles = recommender.titles[:3].tolist()
    similar = recommender.similar(titles, 4)
    assert similar["title"].tolist() == np.repeat(titles, 4).tolist()
    assert similar["rank"].tolist() == [1, 2, 3, 4] * 3 and (similar["similar"] != similar["title"]).all()
    vectors = recommender.embed(titles=[titles[0], similar["similar"][0]]).astype(float)
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    np.testing.assert_allclose(similar["cosine"][0], cosine, rtol=1e-5)
    assert (similar["cosine"].reshape(3, 4)[:, 0] <= 1.0001).all()
    users = recommender.embed(users=plays)
    assert users.shape[0] == 30 and np.isfinite(users).all()


def test_errors_name_the_value_and_what_is_allowed(recommender, plays):
    cases = [
        (lambda: recommender.recommend(plays, 0), "k=0; allowed: 1 to 200, the number of titles"),
        (lambda: recommender.recommend(plays, diversity=2.0), "diversity=2; allowed: 0 to 1"),
        (lambda: recommender.recommend(plays, now="soon"),
         "now='soon'; allowed: a time such as '2024-01-31T20:00:00Z'"),
        (lambda: recommender.recommend(5), "histories: int; allowed: a table of polars"),
        (lambda: recommender.recommend(plays.drop("time")), "histories: no column 'time' (source."),
        (lambda: recommender.recommend(plays[:0]), "histories: no user; allowed: at least one row"),
        (lambda: recommender.recommend(plays, users={"user_id": [1, 1]}), "users: a user has two rows"),
        (lambda: recommender.recommend(plays, 1, Filters(available={"title_id": [1]})), "available: needs"),
        (lambda: recommender.score(plays, [5]), "title 5 is unknown; allowed: the titles of the training"),
        (lambda: recommender.embed(), "embed: give either users or titles"),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(message)


def test_times():
    assert milliseconds_of("2024-01-31T20:00:00Z") == milliseconds_of("2024-01-31T21:00:00+01:00")
    assert milliseconds_of("1970-01-02") == 86_400_000 and milliseconds_of(np.int64(5)) == 5
    assert milliseconds_of(None) is None


def test_a_title_launched_since_the_training_is_served_from_its_features(recommender, loaded, plays):
    """Two new titles, one of them with the features of a known title, and a known title."""
    source = open_source(loaded.config.source, loaded.config.features)
    catalogue = source.titles()
    genres, twin = catalogue.features["genres"], 7
    known = catalogue.key[twin].item()
    new = {
        "title_id": [11, 12, known],
        "genres": [
            genres.values[slice(*genres.offsets[twin : twin + 2])].tolist(),
            ["unheard of"],
            ["drama"],
        ],
        "runtime": [catalogue.runtime[twin], 90.0, 1.0],
        "form": [catalogue.features["form"][twin].item(), "film", "film"],
        "runtime_minutes": [catalogue.runtime[twin], 90.0, 1.0],
    }
    extended = Recommender(loaded, recommender.correction, new)
    assert extended.titles.tolist() == [*recommender.titles.tolist(), 11, 12]
    everything = Filters(False, False)
    result = extended.recommend(plays, len(extended.titles), everything)
    old = result["title"] > 12
    before = recommender.recommend(plays, len(recommender.titles), everything)
    assert result["title"][old].tolist() == before["title"].tolist()
    np.testing.assert_allclose(result["score"][old], before["score"], rtol=1e-4, atol=1e-5)
    assert np.isfinite(result["score"]).all() and np.isfinite(result["completion"]).all()
    vectors = extended.embed(titles=[known, 11])
    id_width = next(f.width for f in loaded.task.layout.features if f.name == "title_id")
    np.testing.assert_array_equal(vectors[0, id_width:], vectors[1, id_width:])
    assert (vectors[0, :id_width] != vectors[1, :id_width]).all()
    # A play of a new title is history, and the title is then left out.
    played = plays.with_columns(
        title_id=pl.when(pl.int_range(pl.len()) % 5 == 0).then(11).otherwise("title_id")
    )
    again = extended.recommend(played, len(extended.titles))
    watchers = set(played.filter(title_id=11)["user_id"].to_list())
    assert again.counts["plays_of_unknown_titles"] == 0 and np.isfinite(again["score"]).all()
    assert not watchers & set(again["user"][again["title"] == 11].tolist())


# ---------------------------------------------------------------- other tasks, with random parameters


def untrained(loaded, change, titles=None, index=None):
    """Return a recommender of a changed config with random parameters."""
    config = copy.deepcopy(loaded.config)
    change(config)
    layout = loaded.task.layout
    if config.task.name == "next_item":
        layout = replace(layout, rows="next_item")
    task = build_task(config, layout, 0.5, 1, 1)
    params = jax.jit(task.init_params)(jax.random.key(0), task.title_table(loaded.arrays))
    checkpoint = LoadedCheckpoint(config, task, loaded.arrays, params, 0, loaded.meta)
    return Recommender(checkpoint, uncorrected(task), titles, index)


def test_a_mixed_model_serves_a_launched_title_from_its_metadata(loaded, plays):
    """The new title has the metadata of a known one: its vector is that of the other, masked and unplayed."""

    def change(config):
        config.model.entity, config.model.launch_day = "mixed", "runtime"

    catalogue = open_source(loaded.config.source, loaded.config.features).titles()
    genres, twin = catalogue.features["genres"], 7
    new = {
        "title_id": [11], "genres": [genres.values[slice(*genres.offsets[twin : twin + 2])].tolist()],
        "runtime": [catalogue.runtime[twin]], "form": [catalogue.features["form"][twin].item()],
        "runtime_minutes": [catalogue.runtime[twin]],
    }  # fmt: skip
    before = untrained(loaded, change)
    extended = before.add_titles(new)
    assert extended.titles.tolist() == [*before.titles.tolist(), 11] and len(before.titles) == 200
    id_ = 2 + before.titles.tolist().index(catalogue.key[twin])
    task, table = before._task, before._task.title_table(loaded.arrays)
    maturity, masked = table.maturity.copy(), np.zeros(202, bool)
    maturity[id_, 1], masked[id_] = 0, True
    vectors = task.embed_titles(before.loaded.params, table._replace(maturity=maturity, masked=masked))
    np.testing.assert_allclose(extended.embed(titles=[11])[0], vectors[id_], rtol=1e-6)
    result = extended.recommend(plays, 201, Filters(False, False))
    assert set(result["title"]) == set(extended.titles) and np.isfinite(result["score"]).all()
    assert 12 in before.add_titles(new | {"title_id": [12]}).titles


def test_a_next_item_model_serves_an_empty_history_by_popularity(loaded, plays):
    def change(config):
        config.task.name = "next_item"
        config.model.experts = (Expert(8, 1, 2, 1.0, 0.1, "sasrec"),)
        config.model.features = ("title_id",)

    recommender = untrained(loaded, change)
    result = recommender.recommend(plays, 3, users=[*plays["user_id"].unique().to_list(), 7_000_002])
    assert len(by_user(result)) == 31 and np.isnan(result["completion"]).all()
    popular = loaded.arrays.title_key[loaded.arrays.id_of_rank[:3] - 2].tolist()
    assert by_user(result)[7_000_002] == popular
    assert set(result["reason"][result["user"] == 7_000_002]) == {"popularity"}
    assert recommender.embed(users=plays).shape == (30, loaded.config.model.width)
    with pytest.raises(InputError, match="the model reads no feature of a title but its id"):
        untrained(loaded, change, {"title_id": [11]})


def test_a_model_with_the_target_in_its_sequence_serves(loaded, plays):
    def change(config):
        config.model.target_in_sequence = True
        config.model.experts = (Expert(4, 1, 2, 1.0, 0.1, "sasrec"),)

    recommender = untrained(loaded, change)
    few = plays.filter(pl.col("user_id").is_in(plays["user_id"].unique().sort()[:3].implode()))
    result = recommender.recommend(few, 2)
    scores = recommender.score(few, recommender.titles)
    for user, titles in by_user(result).items():
        own = scores["score"][scores["user"] == user]
        seen = np.isin(recommender.titles, few.filter(user_id=user)["title_id"].to_numpy())
        assert (
            titles == recommender.titles[np.argsort(np.where(seen, np.inf, -own), kind="stable")[:2]].tolist()
        )
    with pytest.raises(InputError, match="a user has no vector without a candidate"):
        recommender.embed(users=few)


def test_the_retrieval_head_may_order_the_catalogue(loaded, plays):
    """In blocks of titles: the scores of `RankingModel.retrieve` over all titles."""

    def change(config):
        config.model.retrieval_dim = 4

    recommender = untrained(loaded, change)
    task, params = recommender._task, recommender._scorer._params
    scorer = CatalogueScorer(
        task, params, loaded.arrays, recommender.correction._replace(head=RETRIEVAL_HEAD)
    )
    (made,) = recommender._builder.read(plays)
    ids = np.array([5, 2, 90])
    host = HostBatch(as_words(made.rows), np.ones(len(made.rows), bool))
    table = replicate(loaded.arrays.title_table())

    def retrieve(params, host, table):
        encoded = task.encode_queries(params, host, table)
        return task.model.apply({"params": params}, encoded, table, method="retrieve")

    expected = np.asarray(jax.jit(retrieve)(params, host, table))[:, ids]
    np.testing.assert_allclose(scorer.scores(made.rows, ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["next_item", "retrieval", "dot"])
def test_an_inner_product_is_the_score_of_its_head(loaded, plays, kind):
    """The products of the vectors of the index are the scores that order the titles."""

    def change(config):
        if kind == "next_item":
            config.task.name, config.model.features = "next_item", ("title_id",)
            config.model.experts = (Expert(8, 1, 2, 1.0, 0.1, "sasrec"),)
        elif kind == "retrieval":
            config.model.retrieval_dim = 4
        else:
            config.model.head, config.objective.ctr, config.objective.regression = "dot", 0.0, 0.0

    recommender = untrained(loaded, change)
    task, params, table = recommender._task, recommender._scorer._params, loaded.arrays.title_table()
    head = task.dot_heads[-1]
    (made,) = recommender._builder.read(plays)
    host, ids = HostBatch(as_words(made.rows), np.ones(len(made.rows), bool)), np.array([5, 2, 90])

    def scores(params, host, table):
        encoded = task.encode_queries(params, host, table)
        product = task.dot_users(params, encoded, head) @ task.dot_titles(params, table, head).T
        return product[:, ids], task.score_titles(params, encoded, table, head, ids)

    product, score = jax.jit(scores)(params, host, replicate(table))
    assert np.ptp(score) > 0
    np.testing.assert_allclose(product, score, rtol=1e-4, atol=1e-6)
    assert loaded.task.dot_heads == ()


def test_with_an_index_the_recommendations_are_the_exact_ones(loaded, plays, monkeypatch):
    """The index has all titles; the user without plays is served by popularity; filters are honoured."""

    class AllTitles:
        build_seconds, is_new, calibration = 1.0, True, Calibration()

        def __init__(self, vectors, folder, step):
            self.vectors = vectors

        def calibrate(self, calibration):
            self.calibration = calibration

        def search(self, vectors, number, expansion=0):
            return np.argsort(-(vectors @ self.vectors.T), axis=1, kind="stable")[:, :number]

    def change(config):
        config.task.name, config.model.features = "next_item", ("title_id",)
        config.model.experts = (Expert(8, 1, 2, 1.0, 0.1, "sasrec"),)

    monkeypatch.setattr(indexed_scorer, "open_or_build", AllTitles)
    users = [*plays["user_id"].unique().to_list(), 7_000_002]
    plain = untrained(loaded, change)
    filters = Filters(deny=plain.titles[::7].tolist())
    exact = plain.recommend(plays, 3, filters, users=users)
    indexed = untrained(loaded, change, None, IndexOptions("ann"))
    result = indexed.recommend(plays, 3, filters, users=users)
    for name, column in exact.columns.items():
        if name == "score":
            np.testing.assert_allclose(result[name], column, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(result[name], column)
    report = result.counts["index"]
    assert report["requests"] == 30 and report["exact_requests"] == 0 and report["recall@100"] == 1
    assert "index" not in exact.counts


@pytest.mark.skipif(not is_installed(), reason="usearch is not installed: pip install 'jaxrec[ann]'")
def test_the_index_is_kept_in_the_folder_and_names_its_step(loaded, tmp_path):
    def change(config):
        config.task.name, config.model.features = "next_item", ("title_id",)
        config.model.experts = (Expert(8, 1, 2, 1.0, 0.1, "sasrec"),)

    def index(step):
        return untrained(loaded, change, None, IndexOptions("ann", tmp_path, step))._scorer.index

    first, again, other = index(5), index(5), index(6)
    assert first.is_new and not again.is_new and other.is_new
    assert len(list(tmp_path.glob("*.usearch"))) == 1
