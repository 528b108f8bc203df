"""Vectors of the titles that contexts name: projected title vectors, a learned one for none, and presence."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.source_title import PageTitles, source_ids
from jaxrec.models.layers.title_encoder import TitleLookup
from tests.models.conftest import V

F = 3
FEATURES = (
    FeatureSpec("device", "category", "context", 2, 9),
    FeatureSpec("hour", "number", "context", 2),
    FeatureSpec("query", "text", "context", 4, 9, 2),
    FeatureSpec("source", "title", "context", 3, V),
    FeatureSpec("other", "title", "context", 2, V),
)


def test_a_source_is_its_projected_vector_and_none_is_learned():
    r = np.random.default_rng(0)
    vectors = r.normal(size=(V, F)).astype(np.float32)
    module = PageTitles("float32", FEATURES, ("source",), F)
    ids = jnp.asarray([[2, 7, 7, 5, 9], [3, 0, 0, 0, 9], [3, 0, 0, 1, 9]])

    def lookup(id_B):
        return TitleLookup(jnp.asarray(vectors), id_B)

    params = {"kernel_source": r.normal(size=(F, 2)), "none_source": np.array([0.5, -0.25])}
    y = module.apply({"params": params}, ids, lookup)
    kernel = params["kernel_source"]
    expected = [[*vectors[5] @ kernel, 1], [0.5, -0.25, 0], [*vectors[1] @ kernel, 1]]
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert source_ids(ids, FEATURES).tolist() == [[5, 9], [0, 9], [1, 9]]
    slope = jax.grad(lambda p: module.apply({"params": p}, ids, lookup).sum())(params)
    assert slope["none_source"].tolist() == [1, 1]  # of one row
    both = PageTitles("float32", FEATURES, (), F)
    shapes = jax.eval_shape(lambda key: both.init(key, ids, lookup), jax.random.key(0))["params"]
    assert {name: x.shape for name, x in shapes.items()} == {
        "kernel_source": (3, 2), "none_source": (2,), "kernel_other": (3, 1), "none_other": (1,),
    }  # fmt: skip


def test_scores_read_the_source_and_cached_projections_hold_it(small):
    source = FeatureSpec("source", "title", "context", 4, V)
    model = small.model.clone(features=(*small.model.features, source))
    ids = jnp.asarray(np.array([[5], [0], [1], [7], [5]], np.int32))

    def history(id_Bx1):
        wide = jnp.concatenate([small.history.context_categories, id_Bx1], axis=1)
        return small.history._replace(context_categories=wide)

    arguments = small.candidate, small.table, 1.0
    variables = jax.jit(model.init)(jax.random.key(0), history(ids), *arguments)

    def scores(variables, ids):
        return model.apply(variables, history(ids), *arguments).scores["ctr"]

    def cached(variables, ids):
        catalogue = model.apply(variables, small.table, method="catalogue")
        return model.apply(variables, history(ids), *arguments, catalogue=catalogue).scores["ctr"]

    plain, other = jax.jit(scores)(variables, ids), jax.jit(scores)(variables, ids.at[0, 0].set(8))
    np.testing.assert_allclose(jax.jit(cached)(variables, ids), plain, rtol=1e-5, atol=1e-6)
    changed = np.abs(np.asarray(plain - other)).max(axis=1) > 0
    assert changed.tolist() == [True, False, False, False, False]
    assert "source" not in variables["params"]["context"]
    assert {*variables["params"]["sources"]} == {"kernel_source", "none_source"}
