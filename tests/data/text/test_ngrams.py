"""Hashed n-grams of text against a loop over words and characters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.config.schema import Feature
from jaxrec.core.hashing import mix
from jaxrec.core.ids import MISSING
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.events.partitions import record_dtype
from jaxrec.data.events.stored_vocabulary import StoredVocabulary
from jaxrec.data.events.title_features import title_columns
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn, text_ids
from jaxrec.data.text import ngrams
from jaxrec.data.text.ngrams import MOST, SIZE, ngram_ids

QUERY = Feature("query", "text", "context", 4)
DEVICE, HOUR = Feature("device", "category", "context", 4), Feature("hour", "number", "context", 4)


def naive(text):
    """Return the ids of the n-grams of one text."""
    lower = "".join(" " if ord(c) in ngrams._SPACES else c for c in text[:128].lower())
    ids = []
    for n in (3, 4, 5):
        for word in lower.split(" "):
            edged = f" {word} "
            for i in range(len(edged) - n + 1 if word else 0):
                ids.append(2 + int(mix(*(ord(c) for c in edged[i : i + n])) >> np.uint64(49)))
    distinct = list(dict.fromkeys(ids))[:MOST]
    return distinct + [0] * (MOST - len(distinct))


def test_ids_of_short_texts_are_these_on_every_machine():
    # "<up", "up>" and "<up>"; a single letter is the word with both boundaries.
    assert ngram_ids(np.array(["Up", "x"]))[:, :4].tolist() == [[32151, 14486, 12207, 0], [30315, 0, 0, 0]]


LONG = "a b" * 4000
TEXTS = [
    "",
    "  ",
    "Up",
    "the\tthe the",
    "\U0001f600 \U0001f600\U0001f525",
    "北京 Ünï",
    "a" * 10_000,
    LONG,
    "İİİ İ",
    "\x00x",
]


def test_texts_together_have_the_ids_of_each():
    expected = [naive(text) for text in TEXTS]
    assert ngram_ids(np.array(TEXTS)).tolist() == expected
    assert expected[0] == expected[1] == [0] * MOST  # neither has an n-gram
    assert sum(i > 0 for i in expected[6]) == 9  # of each length: at the start, within, at the end
    assert ngram_ids(np.array([], str)).shape == (0, MOST)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=140), max_size=6))
def test_any_text_has_the_ids_of_the_loop(texts):
    actual = ngram_ids(np.array(texts, str))
    # NumPy drops NUL at the end of a text, which separates words like a space.
    assert actual.tolist() == [naive(text) for text in texts]
    assert actual.max(initial=0) < SIZE


def test_chunks_of_any_length_give_the_same_ids(monkeypatch):
    texts = np.array([text[:k] for k in range(1, 40, 3) for text in ("star wars " * 4, "北" * 40, "x " * 20)])
    whole = ngram_ids(texts)
    monkeypatch.setattr(ngrams, "_CHUNK", 5)
    assert np.array_equal(ngram_ids(texts), whole)
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.array_equal(ngram_ids(texts[order]), whole[order])


def test_missing_values_and_numbers_of_raw_columns():
    assert text_ids(np.array([1917, MISSING])).tolist() == [naive("1917"), naive("")]
    assert text_ids(np.array(["1917", ""])).tolist() == [naive("1917"), naive("")]


def test_context_columns_keep_text_beside_codes_and_numbers():
    features = (DEVICE, QUERY, HOUR, Feature("page", "category", "context", 4))
    raw = {"device": np.array(["tv", ""]), "query": np.array(["up", ""]), "hour": np.array([1.0, 3.0])}
    chunks = [raw | {"page": np.array(["home", "a"])}, raw | {"page": np.array(["b", "home"])}]
    whole, parts = FeatureColumns(features, "context"), []
    fitted = FittedColumn()
    for i, chunk in enumerate(chunks):
        own = FeatureColumns(features, "context")
        parts.append((own, *own.add(chunk, 2)))
        fitted.add(own.fitted(i))
    whole.finish_from(fitted)
    ids, numbers = whole.encode(whole.recode(parts[1][0], parts[1][1]), parts[1][2])
    assert ids[:, 0].tolist() == [2, 1] and ids[:, -1].tolist() == [3, 4]
    assert ids[:, 1:-1].tolist() == [naive("up"), naive("")] and numbers.shape == (2, 1)
    assert whole.specs[1] == FeatureSpec("query", "text", "context", 4, SIZE, MOST)
    assert "query" not in whole.values  # the vocabulary does not grow
    assert record_dtype(features)["categories"].shape == (2 + MOST,)
    stored = StoredVocabulary(Layout(9, 4, 1, (0, 0, 0, 0), 0, whole.specs), whole.values)
    encoded = stored.encode("context", chunks[1], 2)
    assert np.array_equal(encoded.categories, ids)
    assert encoded.has_category.all(axis=1).tolist() == [True, False]
    absent = stored.encode("context", {}, 2)
    assert not absent.categories[:, 1:-1].any() and not absent.has_category.any()
    both = absent.replaced_by(encoded)
    assert np.array_equal(both.categories[:, 1:-1], ids[:, 1:-1])


def test_names_of_titles():
    features = (Feature("title_id", "category", "title", 4), Feature("name", "text", "title", 4))
    wide, _, specs, values = title_columns({"name": np.array(["Up", "Heat"])}, features, 2)
    assert wide.tolist() == [naive("up"), naive("heat")] and values == {}
    stored = StoredVocabulary(Layout(4, 4, 1, (0, 0, 0, 0), 0, specs), values)
    assert stored.encode_titles({"name": np.array(["Heat", ""])}, 2)[0].tolist() == [naive("heat"), naive("")]
    assert not stored.encode_titles({}, 2)[0].any()


@pytest.mark.parametrize(("texts", "shared"), [(("up", "Up "), True), (("up", "upper"), False)])
def test_equal_words_have_equal_ids(texts, shared):
    first, second = ngram_ids(np.array(texts))
    assert np.array_equal(first, second) == shared
