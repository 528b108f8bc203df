"""Titles whose names match a text: the order of a plain loop, without the titles that a user has seen."""

import math

import numpy as np

from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.examples.negatives import negative_universe
from jaxrec.data.text import named_titles as module
from jaxrec.data.text.named_titles import named_titles
from jaxrec.data.text.ngrams import MOST, SIZE, ngram_ids

NAMES = np.array(
    ["banodi kelu", "ban", "bani", "kelu", "banodi", "", "zo banodi", "\u5317\u4eac ban"]
)  # by rank
QUERIES = np.array(["ban", "", "kelu", "banodi k", "x", "ba", "\u5317\u4eac"])
TEXT = {"width": 4, "size": SIZE, "columns": MOST}
FEATURES = (
    FeatureSpec("form", "category", "title", 2, 5),
    FeatureSpec("name", "text", "title", **TEXT),
    FeatureSpec("device", "category", "context", 2, 5),
    FeatureSpec("query", "text", "context", **TEXT),
)


def naive(query, seen, most):
    """Return the ranks of the titles that match a query best, by a loop over titles."""
    of_name = [set(ids[ids > 0].tolist()) for ids in ngram_ids(NAMES)]
    matches = []
    for rank, grams in enumerate(of_name):
        shared = grams & set(ngram_ids(np.array([query]))[0].tolist())
        weights = [math.log1p(len(NAMES) / sum(g in other for other in of_name)) for g in sorted(shared)]
        if weights and rank not in seen:
            matches.append((-round(sum(weights), 9), rank))
    ranks = [rank for _, rank in sorted(matches)][:most]
    return ranks + [-1] * (most - len(ranks))


def test_matches_are_those_of_a_loop(monkeypatch):
    layout = Layout(len(NAMES) + 2, 4, 1, (4, 4, 4, 4), 4, FEATURES)
    column = np.ones((len(NAMES), 1), np.int32)
    titles = named_titles(layout, np.concatenate([column, ngram_ids(NAMES)], axis=1))
    seen = {0: set(), 1: {1, 4}, 2: {0, 2, 3}}
    pairs = [(user, rank) for user, ranks in seen.items() for rank in sorted(ranks)]
    universe = negative_universe(*np.array(pairs).T, len(seen), len(NAMES), 3)
    context = np.concatenate([np.ones((len(QUERIES), 1), np.int32), ngram_ids(QUERIES)], axis=1)
    for user in seen:
        users = np.full(len(QUERIES), user)
        for pairs_at_once in (2**21, 3):
            monkeypatch.setattr(module, "_PAIRS", pairs_at_once)
            best = titles.best(context, users, universe, 3)
            assert best.tolist() == [naive(query, seen[user], 3) for query in QUERIES.tolist()]
    assert naive("", set(), 3) == naive("x", set(), 3) == [-1] * 3
    assert naive("ban", set(), 3)[0] == 1  # the name that is the query
    assert naive("\u5317\u4eac", set(), 1) == [7]
