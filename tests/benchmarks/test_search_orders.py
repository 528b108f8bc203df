"""Orders of searches by their text, lists of titles that match, and names that hash alike."""

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import search_orders
from jaxrec.config.loading import load_config
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.text.ngrams import MOST, ngram_ids
from jaxrec.evaluation.scorers import ListScores
from jaxrec.models.outputs import Correction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A dataset of the simulated service, its source and its searches."""
    config = load_config(str(ROOT / "configs/unicorn.py:tiny"))
    config.source.users, config.source.test_only_users = 20, 120
    config.source.search, config.source.similar, config.data.truth_queries = 0.4, 0.2, 0
    source, folder = search_orders.source_of(config), tmp_path_factory.mktemp("searches") / "data"
    prepare(source, config, str(folder))
    dataset = Dataset(str(folder))
    rows, canvases = dataset.rows("test").all(), dataset.manifest["categories"]["canvas"]
    column = dataset.layout.category_column("context", "canvas")
    row = np.flatnonzero(rows["context_categories"][:, column] == 2 + canvases.index("search"))
    left_out = left_out_titles(dataset, "test", rows, "all")
    return dataset, source, search_orders.searches(source, "query", dataset, row, left_out)


def test_the_text_of_a_search_is_that_of_its_row(searched):
    dataset, _, made = searched
    column = dataset.layout.category_column("context", "query")
    stored = made.rows["context_categories"][made.row, column : column + MOST]
    assert len(made.row) > 100 and (np.char.str_len(made.text) >= 2).all()
    np.testing.assert_array_equal(ngram_ids(made.text), stored)


def gone_of(made, row):
    """Return the ids of the titles that do not compete with the target of a row."""
    first = made.left_out.first[row]
    played = made.left_out.title[first : first + made.left_out.num_titles[row]]
    return {*played.tolist()} - {int(made.rows["target"][row, 0])}


def test_names_that_begin_with_the_query_come_first(searched):
    dataset, source, made = searched
    orders, arrays = search_orders.search_orders(made, source, dataset), dataset.arrays
    titles, ids = source.titles(), arrays.id_of_rank.tolist()
    row_of = {int(key): i for i, key in enumerate(titles.key)}
    by_rank = [row_of[int(arrays.title_key[id_ - 2])] for id_ in ids]
    names, genres = titles.features["name"], titles.features["genres"]
    of = [set(genres.values[genres.offsets[i] : genres.offsets[i + 1]].tolist()) for i in by_rank]
    named = search_orders.named_titles(dataset.layout, arrays.title_categories[arrays.id_of_rank])
    match = named.matches(made.rows["context_categories"][made.row])
    targets = {"prefix": 0, "prefix_or_genre": 0}
    for s, row in enumerate(made.row[:60].tolist()):
        text, own, gone = made.text[s], ids.index(made.rows["target"][row, 0]), gone_of(made, row)
        begins = [str(names[i]).startswith(text) for i in by_rank]
        either = [begin or text in words for begin, words in zip(begins, of, strict=True)]
        for name, group in (("prefix", begins), ("prefix_or_genre", either)):
            key = [(not group[r], -match[s, r], r) for r in range(len(ids))]
            before = [r for r in range(len(ids)) if ids[r] not in gone and key[r] < key[own]]
            assert orders[name][row] == 1 + len(before)
            targets[name] += group[own]
    assert targets["prefix_or_genre"] > targets["prefix"] > 20
    assert np.array_equal(np.flatnonzero(~np.isnan(orders["prefix"])), made.row)


def test_lists_hold_the_titles_that_match_best_and_were_not_played(searched, monkeypatch):
    dataset, _, made = searched
    lists = []

    class Scorer:
        def __init__(self, *arguments):
            pass

        def __call__(self, params, rows):
            read = rows.all()[: rows.rows]
            lists.append(read["list_enabled"][:, 0])
            scores = np.zeros((len(read), 2, 1, 1 + lists[-1].shape[1]))
            scores[..., 0] = 0.5  # below every negative of an odd id
            scores[:, 0, 0, 1:] = lists[-1] % 2
            return ListScores(scores, None, {}, {}, None)

    monkeypatch.setattr(search_orders, "ListScorer", Scorer)
    loaded = SimpleNamespace(task=None, params=None, arrays=SimpleNamespace(title_table=lambda: np.zeros(1)))
    ranks = search_orders.ranks_by_negatives(made, loaded, dataset)
    assert {*ranks} == {"enabled", "disabled", "matching"}
    np.testing.assert_array_equal(ranks["matching"], 1 + (lists[1] % 2).sum(axis=1))
    ids = dataset.arrays.id_of_rank
    named = search_orders.named_titles(dataset.layout, dataset.arrays.title_categories[ids])
    match = named.matches(made.rows["context_categories"][made.row])
    for s, row in enumerate(made.row[:40].tolist()):
        gone = gone_of(made, row) | {int(made.rows["target"][row, 0])}
        best = [id_ for id_ in ids[np.argsort(-match[s], kind="stable")].tolist() if id_ not in gone]
        assert lists[1][s].tolist() == best[: lists[1].shape[1]]


def test_names_that_hash_alike_are_counted_once():
    out = search_orders.collisions(np.array(["ab", "ab ab", "Ab", "zebra", "ab zebra", "quiz"]))
    assert out == {"names": 5, "same": 2 / 5, "within": 3 / 5}  # "ab" and "ab ab"; both and "zebra"


def test_the_order_of_the_service_has_matches_first_and_then_the_model(searched, monkeypatch, tmp_path):
    dataset, source, made = searched
    arrays, V = dataset.arrays, dataset.layout.num_titles
    points = np.random.default_rng(0).permutation(V).astype(np.float32)

    class Task:
        def score_all_titles(self, params, host, table, heads):
            return SimpleNamespace(by_head={heads[0]: jnp.broadcast_to(points, (len(host.words), V))})

    monkeypatch.setattr(search_orders, "load_or_fit_correction", lambda *_: Correction("ctr"))
    loaded = SimpleNamespace(
        task=Task(), params=None, arrays=SimpleNamespace(title_table=lambda: np.zeros(1))
    )
    ranks = search_orders.ranks_of_service(made, source, loaded, dataset, tmp_path)
    assert len(ranks) == len(made.row)
    titles, ids = source.titles(), arrays.id_of_rank.tolist()
    row_of = {int(key): i for i, key in enumerate(titles.key)}
    names, genres = titles.features["name"], titles.features["genres"]
    matched = 0
    for s, row in enumerate(made.row[:60].tolist()):
        text, gone, target = made.text[s], gone_of(made, row), int(made.rows["target"][row, 0])
        key = {}
        for id_ in ids:
            i = row_of[int(arrays.title_key[id_ - 2])]
            words = str(names[i]).split()
            of = genres.values[genres.offsets[i] : genres.offsets[i + 1]].tolist()
            level = 2 if str(names[i]).startswith(text) or text in of else 0
            later = any(" ".join(words[w:]).startswith(text) for w in range(1, len(words)))
            key[id_] = (-(level or int(later)), -points[id_])
        before = [id_ for id_ in ids if id_ not in gone and key[id_] < key[target]]
        assert ranks[s] == 1 + len(before)
        matched += key[target][0] == -2
    assert matched > 20
