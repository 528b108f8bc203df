"""Title vectors mixed of id and metadata, by values worked out by hand, and masked ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import SHARDED
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.entity import EntityMixture, title_width
from jaxrec.models.layers.sharded_embedding import in_order, unique_ids
from jaxrec.models.layers.title_encoder import TitleEncoder

V = 6
FEATURES = (
    FeatureSpec("title_id", "category", "title", 3, V),
    FeatureSpec("genre", "category", "title", 2, 4),
    FeatureSpec("year", "number", "title", 1),
)
TABLE = TitleTable(
    jnp.asarray([[0], [1], [2], [3], [2], [1]]),
    jnp.asarray([[0.0], [0.0], [0.5], [-1.0], [2.0], [1.0]]),
    maturity=jnp.asarray([[0.0, 0.0], [0, 0], [3, 4], [1, 0], [0, 0], [2, 1]]),
)


def encoder(entity="mixed", shard_axis=""):
    return TitleEncoder("float32", FEATURES, V, (), 0.2, shard_axis, entity)


def init(model, table=TABLE, ids=None):
    ids = jnp.arange(V) if ids is None else ids
    return jax.jit(lambda key: model.init(key, ids, table, method="vectors"))(jax.random.key(0))


def test_a_gate_of_age_and_plays_mixes_id_and_metadata():
    """Hidden unit 0 of the gate is age - plays, unit 1 is plays; the odds are their sum less 1."""
    kernel = np.zeros((2, 16), np.float32)
    kernel[:, 0], kernel[:, 1] = (1, -1), (0, 1)
    out = np.zeros((16, 1), np.float32)
    out[:2] = 1
    params = {
        "gate": {
            "hidden_0": {"kernel": kernel, "bias": np.zeros(16, np.float32)},
            "out": {"kernel": out, "bias": np.full(1, -1, np.float32)},
        },
        "kernel": np.float32([[2, 0], [0, 1], [1, 1]]),
    }
    id_vector = jnp.asarray([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    metadata = jnp.asarray([[1.0, 0.5, 1.0]] * 3)
    maturity = jnp.asarray([[3.0, 1.0], [1.0, 3.0], [0.0, 0.0]])
    mixed = EntityMixture("float32", 2).apply({"params": params}, id_vector, metadata, maturity)
    # The odds are (3 - 1) + 1 - 1 = 2, 0 + 3 - 1 = 2 and -1; the projected metadata are (3, 1.5).
    for got, odds in zip(mixed, (2.0, 2.0, -1.0), strict=True):
        g = 1 / (1 + np.exp(-odds))
        np.testing.assert_allclose(got, [g + 3 * (1 - g), 2 * g + 1.5 * (1 - g)], rtol=1e-6)


def test_a_mixed_vector_is_as_wide_as_the_id_and_padding_is_zero():
    assert (title_width(FEATURES, (), "mixed"), title_width(FEATURES, (), "concat")) == (3, 6)
    model = encoder()
    variables = init(model)
    vectors = model.apply(variables, jnp.arange(V), TABLE, method="vectors")
    assert vectors.shape == (V, 3) and not vectors[0].any() and vectors[1:].any(axis=1).all()
    older = TABLE._replace(maturity=TABLE.maturity.at[2].set(jnp.asarray([9.0, 0.0])))
    again = model.apply(variables, jnp.arange(V), older, method="vectors")
    assert (again[2] != vectors[2]).all()
    np.testing.assert_array_equal(again[3:], vectors[3:])
    with pytest.raises(ValueError, match="needs a title table with maturity"):
        model.apply(variables, jnp.arange(V), TABLE._replace(maturity=None), method="vectors")


def test_a_title_launched_since_the_training_has_the_unknown_id_and_its_own_metadata():
    model = encoder()
    variables = init(model)
    longer = TitleTable(
        *(jnp.concatenate([x, x[3:4]]) for x in (TABLE.categories, TABLE.numbers)),
        maturity=jnp.concatenate([TABLE.maturity, jnp.zeros((1, 2))]),
    )
    launched = model.apply(variables, jnp.asarray([V]), longer, method="vectors")
    as_unknown = (
        variables["params"]["title_id"]["embedding"]
        .at[3]
        .set(variables["params"]["title_id"]["embedding"][1])
    )
    params = variables["params"] | {"title_id": {"embedding": as_unknown}}
    young = TABLE._replace(maturity=TABLE.maturity.at[3].set(0.0))
    expected = model.apply({"params": params}, jnp.asarray([3]), young, method="vectors")
    np.testing.assert_array_equal(launched, expected)


@pytest.mark.parametrize("entity", ["mixed", "concat"])
def test_a_masked_title_has_the_unknown_id_on_every_path(entity):
    """Vectors, lookups of unique ids in a sharded table, and the vectors of an edited embedding agree."""
    ids, masked = jnp.asarray([4, 2, 3, 0, 1]), jnp.asarray([False, False, False, True, False, True])
    whole, sharded = encoder(entity), encoder(entity, "data")
    variables = init(sharded)
    table_of_ids = variables["params"]["title_id"][SHARDED]
    rows = in_order(table_of_ids, V)
    plain = variables["params"] | {"title_id": {"embedding": rows}}
    edited = variables["params"] | {"title_id": {"embedding": jnp.where(masked[:, None], rows[1], rows)}}
    table = TABLE._replace(masked=masked)
    expected = whole.apply({"params": edited}, ids, TABLE, method="vectors")
    assert (expected != whole.apply({"params": plain}, ids, TABLE, method="vectors")).any(axis=1).sum() == 1
    np.testing.assert_array_equal(whole.apply({"params": plain}, ids, table, method="vectors"), expected)
    np.testing.assert_array_equal(sharded.apply(variables, ids, table, method="vectors"), expected)
    id_U = unique_ids(ids)
    of_unique = sharded.apply(variables, id_U, table, method="lookup_unique")
    np.testing.assert_array_equal(of_unique[jnp.searchsorted(id_U, ids)], expected)
