"""Policy over titles: the parameters of its next-title model, and its heads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.generative.policy import Facts, Heads, Policy
from jaxrec.models.next_item import ItemWindow, NextItemModel

V, L = 12, 4
FEATURES = (FeatureSpec("title_id", "category", "title", 8, V),)
CONFIG = Model(width=8, experts=(Expert(L, 1, 2, 1.0, 0.0, "gru4rec"),), head="dot", head_hidden=(6,))
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))


def window(titles):
    title = jnp.asarray(titles, jnp.int32)
    time = jnp.arange(title.size, dtype=jnp.uint32).reshape(title.shape)
    return ItemWindow(title, time, time + 1)


def test_a_policy_has_the_parameters_of_its_next_title_model_and_its_own_heads():
    plain = NextItemModel("float32", FEATURES, V, CONFIG)
    policy = Policy("float32", FEATURES, V, CONFIG, heads=Heads(True, True, 2))
    x, key = window([[0, 3, 4, 5]]), jax.random.key(0)
    params = policy.init(key, x, TABLE, method="of_table")["params"]
    of_plain = plain.init(key, x, TABLE, method="of_table")["params"]
    shapes = jax.tree.map(jnp.shape, params)
    own = {name: shapes.pop(name) for name in ("value", "title_value", "reward_0", "reward_1")}
    assert shapes == jax.tree.map(jnp.shape, of_plain)
    assert own["title_value"] == {"title_id": {"embedding": (V, 1)}}  # rows by title, for a start
    assert own["value"]["hidden_0"]["kernel"] == (8 + 2, 6)
    assert own["reward_0"]["hidden_0"]["kernel"] == (3 * 8, 6)
    shared = {name: params[name] for name in of_plain}
    catalogue = plain.apply({"params": shared}, TABLE, method="catalogue")
    states = [m.apply({"params": p}, x, catalogue) for m, p in ((plain, shared), (policy, params))]
    assert (states[0] == states[1]).all()

    def value(mean):
        facts = Facts(jnp.full((1, L), mean), jnp.ones((1, L)))
        return policy.apply({"params": params}, states[1], facts, method="value")

    assert value(0.0).shape == (1, L) and (value(0.0) != value(1.0)).any()
    rewards = policy.apply({"params": params}, states[1], states[1], method="rewards")
    assert rewards.shape == (2, 1, L) and (rewards[0] != rewards[1]).any()


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_rewards_of_titles_are_those_of_the_pairs(hidden):
    policy = Policy("float32", FEATURES, V, replace(CONFIG, head_hidden=hidden), heads=Heads(rewards=2))
    params = policy.init(jax.random.key(0), window([[0, 3, 4, 5]]), TABLE, method="of_table")["params"]
    moved = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape), params)
    state, title = (jax.random.normal(jax.random.key(i), s) for i, s in ((1, (3, L, 8)), (2, (V, 8))))
    ids = jax.random.randint(jax.random.key(3), (3, L, 5), 0, V)
    pair = jnp.broadcast_arrays(state[:, :, None], title[ids])
    expected = policy.apply({"params": moved}, *pair, method="rewards")
    rewards = policy.apply({"params": moved}, state, title[ids], method="rewards_of_titles")
    assert rewards.shape == (2, 3, L, 5)
    np.testing.assert_allclose(rewards, expected, rtol=1e-4, atol=1e-4)
    every = policy.apply({"params": moved}, state, title[None, None], method="rewards_of_titles")
    chosen = jnp.take_along_axis(every, jnp.broadcast_to(ids, every.shape[:1] + ids.shape), axis=-1)
    np.testing.assert_allclose(chosen, expected, rtol=1e-4, atol=1e-4)
