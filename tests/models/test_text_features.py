"""Text as the mean of shared embeddings of n-grams, and presence."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.text import TextEmbedding, text_embedding
from jaxrec.models.layers.embedding import FeatureEncoder

QUERY = FeatureSpec("query", "text", "context", 4, 9, 3)
NAME = FeatureSpec("name", "text", "title", 4, 9, 3)


def test_a_text_is_the_mean_of_its_ngrams_and_presence():
    table = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    params = {"params": {"hashed_ngrams": {"embedding": table}}}
    ids = jnp.asarray([[2, 5, 0], [8, 0, 0], [0, 0, 0], [1, 1, 1]])
    y = TextEmbedding("float32", 9, 4).apply(params, ids)
    np.testing.assert_allclose(y[0], [*(table[2] + table[5]) / 2, 1], rtol=1e-6)
    np.testing.assert_allclose(y[1], [*table[8], 1], rtol=1e-6)
    assert not y[2:].any()  # padding, and a context that is not known
    zeros = {"params": {"hashed_ngrams": {"embedding": 0 * table}}}
    assert TextEmbedding("float32", 9, 4).apply(zeros, ids)[:, 3].tolist() == [1, 1, 0, 0]
    grad = jax.grad(lambda p: TextEmbedding("float32", 9, 4).apply(p, ids)[..., :3].sum())(params)
    used = np.asarray(grad["params"]["hashed_ngrams"]["embedding"]).any(axis=1)
    assert np.flatnonzero(used).tolist() == [2, 5, 8]


def test_encoders_read_text_between_other_columns():
    features = (
        FeatureSpec("a", "category", "context", 2, 5),
        QUERY,
        FeatureSpec("b", "category", "context", 2, 5),
    )
    module = FeatureEncoder("float32", features, text=text_embedding("float32", features, (), 0.2))
    ids = jnp.asarray([[4, 2, 3, 0, 1], [2, 0, 0, 0, 3]])
    variables = module.init(jax.random.key(0), ids, jnp.zeros((2, 0)))
    p, y = variables["params"], module.apply(variables, ids, jnp.zeros((2, 0)))
    np.testing.assert_allclose(y[:, :2], p["a"]["embedding"][jnp.array([4, 2])])
    np.testing.assert_allclose(y[:, 6:], p["b"]["embedding"][jnp.array([1, 3])])
    assert y[:, 5].tolist() == [1, 0] and y[0, 2:5].any() and not y[1, 2:5].any()
    assert text_embedding("float32", features, ("a",), 0.2) is None


def test_queries_and_names_share_one_table(small):
    features = (*small.model.features, NAME, QUERY)
    model = small.model.clone(features=features)
    history = small.history._replace(
        context_categories=jnp.pad(small.history.context_categories, ((0, 0), (0, QUERY.columns)))
    )
    table = small.table._replace(categories=jnp.pad(small.table.categories, ((0, 0), (0, NAME.columns))))
    params = jax.eval_shape(model.init, jax.random.key(0), history, small.candidate, table, 1.0)["params"]
    assert params["text"]["hashed_ngrams"]["embedding"].shape == (9, 3)
    assert "query" not in params["context"] and "name" not in params["title"]["columns"]
    plain = small.variables["params"]
    assert {*params} - {*plain} == {"text"}
    width = [len(p["matcher_ctr"]["kernel"]) for p in (params, plain)]
    assert width[0] - width[1] == NAME.width + QUERY.width
