"""The causal encoders of sequences: visible positions, scores, and HSTU against loops."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.registry import SEQUENCE_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.history_encoder import TIME_GAP_BUCKETS
from jaxrec.models.next_item import ItemWindow, NextItemModel, time_since_previous

V, D, L = 30, 8, 6
ID = FeatureSpec("title_id", "category", "title", D, V)
TABLE = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))


def model(kind, features=(ID,), dropout=0.0, **more):
    encoder = Expert(L, 2, 2, 1.0, dropout, kind)
    model = Model(D, (encoder,), dropout=dropout, **({"embedding_spread": 0.02} | more))
    return NextItemModel("float32", features, V, model)


def window(titles, seed=0):
    """Plays at random times, in their order, of titles [B, L]."""
    rng = np.random.default_rng(seed)
    titles = jnp.asarray(titles, jnp.int32)
    at = np.sort(rng.integers(1e9, 1.2e9, (len(titles), L + 1)), axis=1).astype(np.uint32)
    return ItemWindow(titles, jnp.asarray(at[:, :-1]), jnp.asarray(at[:, 1:]))


def started(kind, **more):
    m = model(kind, **more)
    some = window([[0, 0, 3, 4, 5, 6]])
    return m, jax.jit(partial(m.init, method="of_table"))(jax.random.key(1), some, TABLE)


@partial(jax.jit, static_argnums=0)
def outputs(m, variables, some, t_VxD=None, key=None):
    catalogue = m.apply(variables, TABLE, method="catalogue") if t_VxD is None else (t_VxD,)
    return m.apply(variables, some, catalogue, key)


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
def test_a_position_depends_on_earlier_positions_only(kind):
    m, variables = started(kind, embedding_spread=0.5)
    (t_VxD,) = m.apply(variables, TABLE, method="catalogue")
    some, ways = window(jnp.arange(2, 2 + L)[None]), np.random.default_rng(0).normal(size=D)
    # Each title's vector is its own row, so a gradient by row shows which titles a position reads.
    heard = jax.jit(jax.jacrev(lambda t: outputs(m, variables, some, t)[0] @ ways))(t_VxD)
    heard_LxL = np.abs(np.asarray(heard)).sum(2)[:, 2 : 2 + L]
    assert (heard_LxL[np.tril_indices(L)] > 0).all()
    assert (heard_LxL[np.triu_indices(L, 1)] == 0).all()


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
def test_padding_changes_nothing_bit_for_bit(kind):
    m, variables = started(kind)
    some = window([[0, 0, 3, 4, 5, 6]])
    other = some._replace(time_BxL=some.time_BxL.at[:, :2].set(7), until_BxL=some.until_BxL.at[:, :1].set(9))
    np.testing.assert_array_equal(
        outputs(m, variables, some)[:, 2:], outputs(m, variables, other)[:, 2:]
    )  # what the padding's places hold


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
def test_rows_are_independent(kind):
    m, variables = started(kind)
    both = window(np.random.default_rng(2).integers(2, V, (2, L)))
    alone = jax.tree.map(lambda x: x[1:], both)
    np.testing.assert_allclose(
        outputs(m, variables, both)[1], outputs(m, variables, alone)[0], rtol=1e-5, atol=1e-6
    )


def test_unscaled_inputs_are_the_vectors_themselves():
    m, variables = started("gru4rec", embedding_spread=0.5)
    plain = m.clone(config=replace(m.config, scaled_inputs=False))
    some = window([[3, 4, 5, 6, 7, 8]])
    (t_VxD,) = m.apply(variables, TABLE, method="catalogue")
    scaled, of_larger = (
        model.apply(variables, some, (vectors,))
        for model, vectors in ((m, t_VxD), (plain, t_VxD * m.config.width**0.5))
    )
    np.testing.assert_allclose(of_larger, scaled, rtol=1e-6)
    assert np.abs(np.asarray(plain.apply(variables, some, (t_VxD,)) - scaled)).max() > 1e-3


def test_waits_are_from_each_play_to_the_one_after_a_place():
    at = np.array([[100, 160, 4000]], np.uint32)
    until = np.array([[160, 4000, 90_000]], np.uint32)
    buckets = np.asarray(
        time_since_previous(ItemWindow(jnp.ones((1, 3), jnp.int32), jnp.asarray(at), jnp.asarray(until)))
    )[0]
    for i in range(3):
        for j in range(i + 1):
            bucket = np.floor(2 * np.log1p(int(until[0, i]) - int(at[0, j])))
            assert buckets[i, j] == min(bucket, TIME_GAP_BUCKETS - 1)


def test_hstu_reads_the_time_of_the_next_title():
    m, variables = started("hstu", embedding_spread=0.5)
    some = window([[3, 4, 5, 6, 7, 8]])
    soon = some.time_BxL[:, -1] + 5
    later = some._replace(until_BxL=some.until_BxL.at[:, -1].set(soon))
    here, there = outputs(m, variables, some), outputs(m, variables, later)
    assert np.abs(np.asarray(here - there))[0, -1].max() > 1e-5
    np.testing.assert_array_equal(here[0, :-1], there[0, :-1])


def _silu(x):
    return x / (1 + np.exp(-x))


def _norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def test_hstu_is_its_equations_written_as_loops():
    """Zhai et al. 2024, Eq. 1 to 3, place by place and head by head, in float64."""
    m, variables = started("hstu", embedding_spread=0.5)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    # Biases start small: here they should matter.
    rng = np.random.default_rng(5)
    for b in range(2):
        for name in ("position_bias", "time_bias"):
            bias = p["layers"][f"block_{b}"]["bias"]
            bias[name] = rng.normal(size=bias[name].shape)
    variables = {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)}
    some = window([[0, 3, 4, 4, 9, 6]])
    titles, at, until = (np.asarray(x)[0] for x in some[:3])
    of_title = p["title"]["vectors"]["title_id"]["embedding"]
    x = [
        of_title[t] * np.sqrt(D) + p["position"][L - 1 - i] if t else np.zeros(D)
        for i, t in enumerate(titles)
    ]
    for b in range(2):
        q = p["layers"][f"block_{b}"]
        parts = [np.split(_silu(_norm(h, q["norm"]) @ q["uvqk"]["kernel"]), 4) for h in x]
        new = []
        for i in range(L):
            y = np.zeros(D)
            for head in range(2):
                of = slice(head * D // 2, (head + 1) * D // 2)
                for j in range(1, i + 1):
                    bucket = min(
                        int(np.floor(2 * np.log1p(int(until[i]) - int(at[j])))), TIME_GAP_BUCKETS - 1
                    )
                    bias = q["bias"]["position_bias"][i - j] + q["bias"]["time_bias"][bucket]
                    score = parts[i][2][of] @ parts[j][3][of] + bias
                    y[of] += _silu(score) / L * parts[j][1][of]
            gated = _norm(y, q["gated_norm"]) * parts[i][0]
            new.append(x[i] + gated @ q["out"]["kernel"] + q["out"]["bias"])
        x = new
    wanted = np.stack([_norm(h, p["layers"]["norm"]) for h in x])
    np.testing.assert_allclose(outputs(m, variables, some)[0, 1:], wanted[1:], rtol=2e-4, atol=2e-5)


def test_titles_are_read_and_scored_by_one_table_as_wide_as_the_model():
    _, variables = started("sasrec")
    assert set(variables["params"]) == {"title", "position", "layers"}
    more = (ID, FeatureSpec("year", "number", "title", 3))
    m = model("sasrec", features=more)
    table = TitleTable(TABLE.categories, jnp.ones((V, 1)))
    wide = m.init(jax.random.key(1), window([[0, 0, 3, 4, 5, 6]]), table, method="of_table")
    assert wide["params"]["title"]["kernel"].shape == (D + 3, D)  # the ids' width and the year's, projected
    assert m.apply(wide, table, method="catalogue")[0].shape == (V, D)


def test_with_two_tables_what_is_read_is_not_what_is_scored():
    m, variables = started("sasrec", two_tables=True)
    assert {"title", "scored"} <= set(variables["params"])
    catalogue = m.apply(variables, TABLE, method="catalogue")
    assert np.abs(np.asarray(catalogue[0] - catalogue[1])).max() > 0.01
    np.testing.assert_array_equal(m.apply(variables, catalogue, method="candidates"), catalogue[1])
    some, ways = window([[3, 4, 5, 6, 7, 8]]), jnp.arange(1.0, D + 1)
    heard = jax.grad(lambda c: (m.apply(variables, some, c) @ ways).sum())(catalogue)
    assert np.abs(np.asarray(heard[0])).max() > 0
    assert np.abs(np.asarray(heard[1])).max() == 0


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
def test_with_cosine_both_ends_have_length_one(kind):
    m, variables = started(kind, cosine=True)
    some = window(np.random.default_rng(3).integers(2, V, (2, L)))
    catalogue = m.apply(variables, TABLE, method="catalogue")
    lengths = np.linalg.norm(outputs(m, variables, some), axis=-1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    of_titles = np.linalg.norm(m.apply(variables, catalogue, method="candidates"), axis=-1)
    np.testing.assert_allclose(of_titles[2:], 1.0, rtol=1e-5)
    assert np.isfinite(of_titles).all()  # padding's, whose length is 0, too


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
def test_dropout_is_of_training_and_of_each_rows_key(kind):
    m, variables = started(kind, dropout=0.5)
    some = window([[3, 4, 5, 6, 7, 8]] * 2)
    some = some._replace(time_BxL=some.time_BxL[:1].repeat(2, 0), until_BxL=some.until_BxL[:1].repeat(2, 0))
    key = jnp.asarray([[1, 2], [3, 4]], jnp.uint32)
    still = outputs(m, variables, some)
    np.testing.assert_array_equal(still[0], still[1])
    moved = outputs(m, variables, some, key=key)
    assert np.abs(np.asarray(moved[0] - moved[1])).max() > 1e-3
    np.testing.assert_array_equal(moved[0], outputs(m, variables, some, key=key[::-1])[1])


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind='transformer'"):
        started("transformer")


@pytest.mark.parametrize("cosine", [False, True])
def test_projected_scores_are_products_of_projected_outputs_and_titles(cosine):
    plain, some = model("sasrec"), window([[0, 2, 3, 4, 5, 6]])
    projected, variables = started("sasrec", project=4, cosine=cosine)
    params = variables["params"]
    catalogue = projected.apply(variables, TABLE, method="catalogue")
    inner = {name: x for name, x in params.items() if not name.endswith("_projection")}
    h_BxLxD = plain.apply({"params": inner}, some, catalogue)
    of_user, of_title = (params[f"{name}_projection"]["kernel"] for name in ("user", "title"))
    assert of_user.shape == of_title.shape == (D, 4)
    users, titles = np.asarray(h_BxLxD @ of_user), np.asarray(catalogue[0] @ of_title)
    if cosine:
        lengths = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (users, titles))
        users, titles = (x / np.maximum(n, 1e-6) for x, n in zip((users, titles), lengths, strict=True))
    np.testing.assert_allclose(projected.apply(variables, some, catalogue), users, rtol=1e-5, atol=1e-6)
    made = projected.apply(variables, catalogue, method="candidates")
    np.testing.assert_allclose(made, titles, rtol=1e-5, atol=1e-6)
