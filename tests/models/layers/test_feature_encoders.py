"""Encoders of categories, numbers, titles and histories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import History, PastOutcome
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.embedding import CategoryEmbedding, FeatureEncoder
from jaxrec.models.layers.history_encoder import HistoryEncoder
from jaxrec.models.layers.title_encoder import TitleEncoder, TitleLookup
from jaxrec.tasks.ranking_inputs import alone

TITLE = (
    FeatureSpec("title_id", "category", "title", 6, 30, 0),
    FeatureSpec("genre", "categories", "title", 4, 7, 2),
    FeatureSpec("year", "number", "title", 3),
)


def test_category_embedding_averages_the_nonzero_ids():
    table = {"params": {"embedding": jnp.array([[9.0], [1.0], [2.0], [4.0]])}}
    ids = jnp.array([[1, 3], [2, 0], [0, 2], [0, 0]])
    actual = CategoryEmbedding("float32", 4, 1).apply(table, ids)
    assert actual.tolist() == [[2.5], [2.0], [2.0], [0.0]]
    grad = jax.grad(lambda t: CategoryEmbedding("float32", 4, 1).apply(t, ids).sum())(table)
    assert grad["params"]["embedding"].tolist() == [[0.0], [0.5], [2.0], [0.5]]


def test_columns_are_consumed_in_order_by_kind():
    features = (
        FeatureSpec("a", "number", "user", 2),
        FeatureSpec("b", "category", "user", 3, 5),
        FeatureSpec("c", "number", "user", 1),
        FeatureSpec("d", "categories", "user", 2, 4, 2),
    )
    module = FeatureEncoder("float32", features)
    ids, numbers = jnp.array([[4, 1, 3]]), jnp.array([[0.5, -2.0]])
    variables = module.init(jax.random.key(0), ids, numbers)
    p = variables["params"]
    expected = [
        np.maximum(0.5 * p["a"]["kernel"][0], 0), p["b"]["embedding"][4],
        np.maximum(-2.0 * p["c"]["kernel"][0], 0), (p["d"]["embedding"][1] + p["d"]["embedding"][3]) / 2,
    ]  # fmt: skip
    np.testing.assert_allclose(module.apply(variables, ids, numbers)[0], np.concatenate(expected), rtol=1e-6)
    assert FeatureEncoder("float32", ()).apply({}, jnp.zeros((3, 0), int), jnp.zeros((3, 0))).shape == (3, 0)


@pytest.fixture(scope="module")
def titles(small):
    module = TitleEncoder("float32", TITLE, 30)
    kernel = jax.random.normal(jax.random.key(1), (13, 5))

    def project(variables, ids):
        return module.apply(variables, ids, small.table, method="rows").through("history", kernel)

    variables = module.init(jax.random.key(0), jnp.ones((2, 2), int), small.table, method="vectors")
    return variables, project


@pytest.mark.slow
def test_projections_by_catalogue_and_by_row_are_equal(titles):
    variables, project = titles
    many = jnp.asarray(np.random.default_rng(0).integers(0, 30, (8, 9)))  # 72 rows, more than V
    few = [many[i : i + 1, :4] for i in range(8)]  # 4 rows each, fewer
    np.testing.assert_allclose(
        project(variables, many)[:, :4], np.concatenate([project(variables, ids) for ids in few]), atol=1e-6
    )
    weight = jax.random.normal(jax.random.key(2), (8, 4, 5))

    def by_catalogue(v):
        return (project(v, many)[:, :4] * weight).sum()

    def by_row(v):
        return sum((project(v, ids) * weight[i]).sum() for i, ids in enumerate(few))

    a, b = jax.jit(jax.grad(by_catalogue))(variables), jax.jit(jax.grad(by_row))(variables)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


@pytest.mark.parametrize("count", [1, 40])
def test_padding_is_zero_and_ids_out_of_range_are_nan(titles, count):
    variables, project = titles
    assert not np.any(project(variables, jnp.zeros((1, count), int)))
    assert np.isnan(project(variables, jnp.full((1, count), 30))).all()
    grad = jax.grad(lambda v: project(v, jnp.zeros((1, count), int)).sum())(variables)
    assert not any(np.any(x) for x in jax.tree.leaves(grad))


COMPLETION = (FeatureSpec("completion", "number", "interaction", 3),)


def encode_history(title, completion, context, signals=None, features=COMPLETION):
    rows, length = title.shape
    zeros = jnp.zeros((rows, length))
    past = PastOutcome(completion, signals)
    history = History(title, past, zeros, zeros, *alone(title, (length,)), None, None, None, None)
    module = HistoryEncoder("float32", features, 5, 2, 4, 8, signals=("thumb", "stars"))
    vectors = TitleLookup(jax.nn.one_hot(title, 5), None)
    variables = module.init(jax.random.key(0), history, vectors, context)
    return module.apply(variables, history, vectors, context), variables["params"]


def test_history_encoder_equals_a_dense_layer_of_the_concatenation():
    title, completion = jnp.array([[0, 2, 4]]), jnp.array([[0.7, 0.1, 1.0]])
    context = jnp.array([[0.3, -0.4]])
    actual, p = encode_history(title, completion, context)
    interaction = np.maximum((2 * completion[..., None] - 1) @ p["completion"]["kernel"], 0)
    concatenated = jnp.concatenate(
        [jax.nn.one_hot(title, 5), interaction, jnp.tile(context[:, None], (1, 3, 1))], -1
    )
    expected = concatenated @ p["kernel"] + p["position"][:3][::-1]  # position 0 is the newest
    np.testing.assert_allclose(actual[0, 1:], expected[0, 1:], atol=1e-6)
    assert not np.any(actual[0, 0])


def test_a_signal_is_a_value_and_a_presence():
    """No event differs from an event of value 0; of two signals in rows the model reads one."""
    title, stars = jnp.array([[0, 2, 4, 1, 3]]), jnp.array([[7.0, jnp.nan, 0.0, -1.5, 2.0]])
    signals = jnp.stack([jnp.full(stars.shape, jnp.nan), stars], axis=-1)
    features = (FeatureSpec("stars", "number", "interaction", 3),)
    actual, p = encode_history(title, jnp.zeros(title.shape), jnp.ones((1, 2)), signals, features)
    assert p["stars"]["kernel"].shape == (2, 3)
    inputs = jnp.array([[[7, 1], [0, 0], [0, 1], [-1.5, 1], [2, 1]]])
    interaction = np.maximum(inputs @ p["stars"]["kernel"] + p["stars"].get("bias", 0), 0)
    context = jnp.ones((1, 5, 2))
    concatenated = jnp.concatenate([jax.nn.one_hot(title, 5), interaction, context], -1)
    expected = concatenated @ p["kernel"] + p["position"][:5][::-1]
    np.testing.assert_allclose(actual[0, 1:], expected[0, 1:], atol=1e-6)
    assert not np.any(actual[0, 0]) and np.isfinite(actual).all()
