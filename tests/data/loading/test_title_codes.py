"""Codes of titles as a feature: ids of prefixes by hand, layouts, tables, titles without a code."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Codes, Config, Feature, Task
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.loading.title_codes import prefix_ids, stored_layout, table_with_codes, with_code_features
from jaxrec.data.storage.arrays import NO_CODE, Arrays, grown_codes
from jaxrec.models.features.codes import CodeEmbedding
from jaxrec.models.layers.embedding import FeatureEncoder

TOKENS = np.array([[0, 0, 0], [0, 0, 0], [2, 1, 0], [2, 1, 1], [2, 0, 0], [NO_CODE] * 3], np.int32)
LAYOUT = Layout(
    6, 4, 1, (0, 0, 0, 0), 0, (FeatureSpec("title_id", "category", "title", 4, 6, 0),), "next_item"
)


def config_of(task="next_item"):
    features = Feature("title_id", "category", "title", 4), Feature("path", "codes", "title", 5)
    return Config(features=features, task=Task(task), codes=Codes(levels=2, size=3))


def arrays_of(tokens=TOKENS):
    V = len(TOKENS)
    zeros = np.zeros(V)
    return Arrays(
        np.arange(V - 2), zeros[2:], zeros, np.arange(V), np.arange(2, V), np.full((V, 1), 7, np.int32),
        np.zeros((V, 0), np.float32), tokens,
    )  # fmt: skip


def test_the_ids_of_prefixes_by_hand():
    ids = prefix_ids(TOKENS, Codes(levels=2, size=3))
    # 1 to 3 are the prefixes of one token, 4 to 12 those of two.
    assert ids.tolist() == [[0, 0], [0, 0], [3, 4 + 7], [3, 4 + 7], [3, 4 + 6], [0, 0]]
    assert ids.dtype == np.int32
    every = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    tokens = np.pad(every, ((2, 0), (0, 1))).astype(np.int32)
    ids = prefix_ids(tokens, Codes(levels=3, size=4))[2:]
    assert sorted(set(ids.reshape(-1).tolist())) == [*range(1, 1 + 4 + 16 + 64)]
    assert len(np.unique(ids[:, 2])) == 64 and len(np.unique(ids[:, 1])) == 16


def test_the_layout_of_inputs_has_the_feature_that_rows_lack():
    layout = with_code_features(LAYOUT, config_of())
    spec = layout.of("title")[-1]
    assert (spec.name, spec.size, spec.columns, spec.width) == ("path", 1 + 3 + 9, 2, 5)
    assert stored_layout(layout) == LAYOUT and layout.row_dtype() == LAYOUT.row_dtype()
    assert with_code_features(LAYOUT, Config(features=config_of().features[:1])) is LAYOUT


def test_rankers_read_prefixes_and_no_trie():
    table = table_with_codes(arrays_of(), config_of())
    assert table.trie is None
    expected = np.c_[np.full(6, 7), prefix_ids(TOKENS, config_of().codes)]
    np.testing.assert_array_equal(table.categories, expected)
    generative = table_with_codes(arrays_of(), config_of("generative"))
    assert generative.trie.title.tolist() == [4, 2, 3]  # the last id has no code
    np.testing.assert_array_equal(generative.categories, expected)
    with pytest.raises(AssertionError, match="the titles have no codes"):
        table_with_codes(arrays_of(None), config_of())


def test_later_titles_have_no_code():
    grown = grown_codes(TOKENS, 8)
    assert grown[:6].tolist() == TOKENS.tolist() and (grown[6:] == NO_CODE).all() and len(grown) == 8
    assert not prefix_ids(grown, config_of().codes)[5:].any() and grown_codes(None, 8) is None


def test_a_code_is_the_sum_of_its_prefixes():
    table = np.random.default_rng(0).normal(size=(13, 5)).astype(np.float32)
    ids = jnp.asarray(prefix_ids(TOKENS, config_of().codes))
    y = CodeEmbedding("float32", 13, 5).apply({"params": {"prefixes": table}}, ids)
    np.testing.assert_allclose(y[2], table[3] + table[11], rtol=1e-6)
    np.testing.assert_array_equal(y[3], y[2])  # titles of one path share the vector
    np.testing.assert_allclose(y[4] - y[2], table[10] - table[11], rtol=1e-5, atol=1e-6)
    assert not y[jnp.array([0, 1, 5])].any()


def test_an_encoder_reads_codes_after_other_columns():
    features = FeatureSpec("a", "category", "title", 2, 5), FeatureSpec("path", "codes", "title", 5, 13, 2)
    module = FeatureEncoder("float32", features)
    ids = jnp.asarray([[4, 3, 11], [2, 0, 0]])
    params = {"a": {"embedding": jnp.ones((5, 2))}, "path": {"prefixes": jnp.ones((13, 5))}}
    y = module.apply({"params": params}, ids, jnp.zeros((2, 0)))
    assert y.tolist() == [[1, 1, 2, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0, 0]]
