"""Tests of SASRec and GRU4Rec, and of their dot product, feature selection and positions.

The equations of HSTU are tested in test_hstu.py.
"""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.config.tree import choices
from jaxrec.core import registry
from jaxrec.core.batch import PastOutcome
from jaxrec.core.errors import InputError
from jaxrec.core.registry import ENCODERS, resolve
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models import ranker
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.layers import embedding, history_encoder, rng
from jaxrec.models.layers.pooling import LastPosition

owners = jnp.array([[0, 0, 0, 2, 2, 3], [3, 3, 3, 3, 3, 1]])  # owners of the titles; 3 is padding
ages = jnp.array([[9.0, 8.0, 3.0, 12.0, 11.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 6.0]])


def test_names_are_those_a_config_may_use():
    assert tuple(history_encoder.POSITIONS) == choices(Model, "position")
    assert choices(Model, "head") == ranker.HEAD_KINDS


def test_last_position_by_hand():
    h = jnp.arange(12.0).reshape(2, 6, 1)
    p = {"params": {"empty": jnp.array([-7.0])}}
    np.testing.assert_array_equal(LastPosition("float32").apply(p, h, owners, 3)[:, 0], [2, 11, 4])
    without = jnp.where(owners == 1, 3, owners)
    np.testing.assert_array_equal(LastPosition("float32").apply(p, h, without, 3)[:, 0], [2, -7, 4])


def expert(kind, layers=2):
    module = resolve(ENCODERS[kind])("float32", Expert(6, layers, 2, 1.0, 0.0, kind))
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    return module, module.init(jax.random.key(1), PackedTitles(x, owners, ages, None), 3), x


@pytest.mark.parametrize("kind", [k for k in ENCODERS if k not in registry.SESSION_ENCODERS])
def test_only_softmax_encoders_check_the_attention_implementation(kind):
    module = resolve(ENCODERS[kind])("float32", Expert(6, 1, 2, 1.0, 0.0, kind), "no such form")
    rows = PackedTitles(jnp.zeros((2, 6, 4)), owners, ages, None)
    expectation = (
        pytest.raises(InputError, match="no such form")
        if kind in registry.SOFTMAX_ENCODERS
        else nullcontext()
    )
    with expectation:
        jax.eval_shape(lambda: module.init(jax.random.key(0), rows, 3))


@pytest.mark.parametrize("kind", registry.SEQUENCE_ENCODERS)
def test_a_vector_depends_on_all_titles_of_its_example_only(kind):
    module, variables, x = expert(kind)
    probe = jnp.arange(1.0, 5.0)
    gradients = jax.jacrev(lambda x: module.apply(variables, PackedTitles(x, owners, ages, None), 3) @ probe)(
        x
    )
    for example, grad in enumerate(gradients):
        assert not np.any(grad[owners != example])
        assert np.all(np.any(grad[owners == example], axis=-1))


def test_sasrec_is_causal():
    module, variables, x = expert("sasrec")

    def middle(x):  # output of the encoder for the second of the three titles of example 0
        run = module.apply(variables, PackedTitles(x, owners, ages, None), 3, capture_intermediates=True)
        return (run[1]["intermediates"]["encoder"]["__call__"][0][0, 1] * jnp.arange(1.0, 5.0)).sum()

    grad = jax.grad(middle)(x)
    assert np.all(np.any(grad[0, :2], axis=-1))
    assert not np.any(grad[0, 2:])


def test_a_gru_by_hand():
    module, variables, x = expert("gru4rec")
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def alone(titles):
        for layer in ("gru_0", "gru_1"):
            h, states = np.zeros(4), []
            w, u = p[layer]["input"]["kernel"], p[layer]["gates"]
            for title in titles:
                z = sigmoid(title @ w[:, :4] + h @ u[:, :4])
                r = sigmoid(title @ w[:, 4:8] + h @ u[:, 4:])
                n = np.tanh(title @ w[:, 8:] + (r * h) @ p[layer]["state"])
                h = (1 - z) * h + z * n
                states.append(h)
            titles = np.array(states)
        return titles[-1]

    expected = [alone(np.asarray(x, np.float64)[owners == example]) for example in range(3)]
    np.testing.assert_allclose(
        module.apply(variables, PackedTitles(x, owners, ages, None), 3), expected, atol=1e-6
    )


def test_gru_dropout_needs_keys():
    fields = Expert(6, 1, 2, 1.0, 0.5, "gru4rec")
    module, variables, x = expert("gru4rec", layers=1)
    key = rng.fold_in(rng.row_keys(0, 0, jnp.arange(2))[:, None], jnp.arange(6))
    dropped = module.clone(fields=fields).apply(variables, PackedTitles(x, owners, ages, key), 3)
    plain = module.apply(variables, PackedTitles(x, owners, ages, None), 3)
    kept = np.asarray(dropped != 0)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-5)


# ---------------------------------------------------------------- the dot product, features, positions


def test_the_dot_product_uses_the_title_projection_of_histories(case):
    c = case(head="dot", tasks=("ranking",))
    p = c.variables["params"]
    assert {*p} == {"title", "user", "context", "history", "expert_0", "expert_1", "gate"}

    def vectors(module, history, candidate):
        user = module.encode(history, c.table, 1.0)
        return user, module.title.vectors(candidate, c.table), module.catalogue(c.table)

    @jax.jit
    def score_separately(variables, history, candidate):
        encoded = c.model.apply(variables, history, candidate, method=vectors)
        return *encoded, c.model.apply(
            variables, encoded[0], candidate, c.table, None, encoded[2], method="score"
        )

    user, t, catalogue, looked_up = score_separately(c.variables, c.history, c.candidate)
    expected = np.einsum("bd,bcd->bc", user.vector_BxF[:, :8], t @ p["history"]["kernel"][:13])
    assert {*c().scores} == {"ranking"}
    np.testing.assert_allclose(c().scores["ranking"], expected, atol=1e-6)
    assert {*catalogue.projected} == {"history"}
    np.testing.assert_allclose(looked_up["ranking"], expected, atol=1e-6)


def test_a_dot_product_has_one_task(case):
    with pytest.raises(ValueError, match="dot has one head"):
        case(head="dot")


def test_columns_of_unselected_features_are_skipped():
    a, n, b, m = (
        FeatureSpec("a", "categories", "title", 3, 5, 2), FeatureSpec("n", "number", "title", 2),
        FeatureSpec("b", "category", "title", 3, 5), FeatureSpec("m", "number", "title", 2),
    )  # fmt: skip
    ids, numbers = jnp.array([[1, 2, 3], [4, 0, 1]]), jnp.array([[0.5, 1.5], [-1.0, 2.0]])
    selected = embedding.FeatureEncoder("float32", (a, n, b, m), ("b", "m"))
    variables = selected.init(jax.random.key(0), ids, numbers)
    assert {*variables["params"]} == {"b", "m"}
    alone = embedding.FeatureEncoder("float32", (b, m)).apply(variables, ids[:, 2:], numbers[:, 1:])
    np.testing.assert_array_equal(selected.apply(variables, ids, numbers), alone)


def test_a_model_of_ids_reads_no_other_feature(case):
    c = case(reads=("title_id",))
    assert {*c.variables["params"]["title"]} == {"title_id"}
    names = {*c.variables["params"], *c.variables["params"]["history"]}
    assert not {"user", "context", "completion", "sessions", "age"} & names
    other = c.history._replace(
        past=PastOutcome(1 - c.history.past.completion),
        sessions=c.history.sessions + 1, age=c.history.age / 2,
        user_categories=c.history.user_categories * 0 + 4, user_numbers=c.history.user_numbers + 1,
        context_categories=c.history.context_categories * 0 + 3,
    )  # fmt: skip
    np.testing.assert_array_equal(c().scores["ctr"], c(other).scores["ctr"])
    titles = jnp.where(c.history.title > 0, 31 - c.history.title, 0)
    assert not np.allclose(c().scores["ctr"], c(c.history._replace(title=titles)).scores["ctr"], atol=1e-5)


def test_gaps_by_hand():
    # 2 ln(1 + seconds): 0 s 0, a minute 8.2, a day 22.7, 30 days 29.5, 150 years 44.6
    seconds = np.array([0.0, 60, 86400, 30 * 86400, 150 * 365 * 86400])
    assert history_encoder.time_gap_bucket(jnp.log1p(seconds)).tolist() == [
        0,
        8,
        22,
        29,
        history_encoder.TIME_GAP_BUCKETS - 1,
    ]


def swapped(history, columns):
    """Swap the two newest titles of each history with at least two titles."""
    both = (history.title[:, -2:] > 0).all(1, keepdims=True)

    def swap(x):
        return jnp.where(both, x.at[:, -2:].set(x[:, :-3:-1]), x)

    return history._replace(**{name: jax.tree.map(swap, getattr(history, name)) for name in columns})


@pytest.mark.parametrize(
    ("position", "depends_on_order"), [("index", True), ("time_gap", False), ("none", False)]
)
def test_positions_and_order_of_titles(case, position, depends_on_order):
    c = case(position=position, reads=("title_id",))  # age is then read by the position only
    swapped_history = swapped(c.history, ("title", "past", "sessions", "age"))
    unchanged = [
        np.allclose(c(h).scores["ctr"], c().scores["ctr"], atol=1e-6) for h in (c.history, swapped_history)
    ]
    assert unchanged == [True, not depends_on_order]
    shape = {"index": (6, 8), "time_gap": (history_encoder.TIME_GAP_BUCKETS, 8)}.get(position)
    table = c.variables["params"]["history"].get("position")
    assert (None if table is None else table.shape) == shape
    later_scores = c(c.history._replace(age=c.history.age / 2)).scores["ctr"]
    assert np.allclose(later_scores, c().scores["ctr"], atol=1e-6) == (position != "time_gap")
