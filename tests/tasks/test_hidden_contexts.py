"""Contexts are hidden in training alone: each by itself, at the rate, by the keys of the examples."""

import copy

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers import rng
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.inputs.hidden_contexts import hide_contexts
from jaxrec.tasks.loading import build_task

FEATURES = (
    FeatureSpec("device", "category", "context", 2, 9),
    FeatureSpec("length", "number", "context", 2),
    FeatureSpec("query", "text", "context", 4, 99, 3),
    FeatureSpec("page", "title", "context", 4, 99),
    FeatureSpec("hour", "category", "context", 2, 9),
)


def test_a_hidden_value_is_a_missing_one_and_features_are_hidden_apart():
    B, rate = 4000, 0.3
    key = rng.row_keys(0, 1, jnp.arange(B))
    ids, numbers = jnp.full((B, 6), 7), jnp.full((B, 1), 2.0)
    hidden_ids, hidden_numbers = jax.jit(lambda k: hide_contexts(ids, numbers, FEATURES, rate, k))(key)
    ids_BxC, numbers_B = np.asarray(hidden_ids), np.asarray(hidden_numbers)[:, 0]
    assert {*ids_BxC[:, 0].tolist()} == {*ids_BxC[:, 5].tolist()} == {1, 7}
    assert {*ids_BxC[:, 4].tolist()} == {0, 7}  # no title
    assert {*map(tuple, ids_BxC[:, 1:4].tolist())} == {(0, 0, 0), (7, 7, 7)}  # all n-grams or none
    assert {*numbers_B.tolist()} == {0.0, 2.0}
    hidden = np.stack([ids_BxC[:, 0] == 1, numbers_B == 0, ids_BxC[:, 1] == 0, ids_BxC[:, 5] == 1], axis=1)
    se = (rate * (1 - rate) / B) ** 0.5
    assert (abs(hidden.mean(axis=0) - rate) < 4 * se).all()
    both = (hidden.T.astype(float) @ hidden / B)[np.triu_indices(4, 1)]
    assert (abs(both - rate**2) < 4 * (rate**2 * (1 - rate**2) / B) ** 0.5).all()
    again = hide_contexts(ids[5:9], numbers[5:9], FEATURES, rate, key[5:9])
    assert np.array_equal(again[0], ids_BxC[5:9])  # a function of the example's key


def test_training_hides_contexts_and_evaluation_none(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.sampling.context_dropout = 1.0
    view = build_task(config, tiny.layout, 0.05, 4, 8).view
    rows = {name: jnp.asarray(tiny.rows("train").all()[:4][name]) for name in tiny.layout.row_dtype().names}
    trained = ranking_inputs.history(rows, view, rng.row_keys(0, 1, jnp.arange(4)))
    assert (trained.context_categories == 1).all()
    evaluated = ranking_inputs.history(rows, view)
    assert np.array_equal(evaluated.context_categories, rows["context_categories"])
    assert (evaluated.context_categories > 1).any()
