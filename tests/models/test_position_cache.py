"""One position more from cached keys and values, equal to a pass over the whole window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import PastOutcome
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.tokens import NextRequest, TokenInputs
from jaxrec.models.next_item import ItemWindow, NextItemModel

V, L, B, W = 30, 12, 3, 4
FEATURES = (FeatureSpec("title_id", "category", "title", 8, V, 0),)
CASES = [(encoder, span) for encoder in ("sasrec", "ligr", "hstu") for span in (0, W)] + [("fuxi", 0)]


def model_of(encoder="sasrec", span=0, position="none", **fields):
    expert = Expert(L, 2, 2, 1.0, 0.0, encoder)
    model = Model(
        width=8, experts=(expert,), dropout=0.0, head="dot", embedding_init_std=0.3, position=position,
        attention_span=span, **fields,
    )  # fmt: skip
    return NextItemModel("float32", FEATURES, V, model, token_kinds=2)


def make_window(seed=0):
    """Return windows of L columns: whole, of which the first 5 are padding, and of which all but 3 are."""
    r = np.random.default_rng(seed)
    title = r.integers(2, V, (B, L))
    title[1, :5], title[2, :-3] = 0, 0
    time = np.sort(r.integers(1e9, 1.0001e9, (B, L + 1)), axis=1).astype(np.uint32)
    past = PastOutcome(
        jnp.asarray(r.random((B, L)), jnp.float32), None,
        jnp.asarray(r.integers(1, 4, (B, L)), jnp.uint32), jnp.asarray(r.random((B, L)), jnp.float32),
    )  # fmt: skip
    tokens = TokenInputs(past, NextRequest(None, None, None))
    return ItemWindow(jnp.asarray(title), jnp.asarray(time[:, :-1]), jnp.asarray(time[:, 1:]), tokens)


def columns(window, start, end):
    return jax.tree.map(lambda x: x[:, start:end], window)


def prepared(model):
    """Return parameters whose summaries differ from plain means, and the title vectors."""
    window, vectors = make_window(), jax.random.normal(jax.random.key(1), (V, 8))
    params = jax.jit(model.init)(jax.random.key(0), window, (vectors,))["params"]
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape)  # noqa: E731
    return jax.tree.map(noise, params), (vectors,)


@pytest.mark.parametrize(("encoder", "span"), CASES)
def test_positions_one_by_one_equal_a_pass_over_the_whole_window(encoder, span):
    model = model_of(encoder, span)
    params, catalogue = prepared(model)
    window = make_window()
    whole = np.asarray(jax.jit(model.apply)({"params": params}, window, catalogue))
    extend = jax.jit(lambda w, cache: model.apply({"params": params}, w, catalogue, cache, method="extend"))
    present = np.asarray(window.title_BxL > 0)
    for start in (1, W, 2 * W + 3):
        outputs, cache = model.apply(
            {"params": params}, columns(window, 0, start), catalogue, L, method="encode_history"
        )
        outputs = [np.asarray(outputs)]
        for at in range(start, L):
            output, cache = extend(columns(window, at, at + 1), cache)
            outputs.append(np.asarray(output))
        made = np.concatenate(outputs, axis=1)
        assert int(cache.length) == L
        scale = np.abs(whole[present]).max()
        np.testing.assert_allclose(made[present] / scale, whole[present] / scale, atol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_outputs_from_the_cache_are_projected_as_those_of_a_whole_pass(cosine):
    model = model_of(project=4, cosine=cosine)
    params, catalogue = prepared(model)
    window = make_window()
    whole = np.asarray(model.apply({"params": params}, window, catalogue))
    outputs, cache = model.apply(
        {"params": params}, columns(window, 0, L - 1), catalogue, L, method="encode_history"
    )
    last, _ = model.apply({"params": params}, columns(window, L - 1, L), catalogue, cache, method="extend")
    assert whole.shape == (B, L, 4)
    made = np.concatenate([outputs, last], axis=1)
    np.testing.assert_allclose(made[0], whole[0], rtol=1e-4, atol=1e-5)


def test_the_cache_of_block_local_attention_holds_two_chunks_and_summaries():
    model = model_of(span=W)
    params, catalogue = prepared(model)
    _, cache = model.apply(
        {"params": params}, columns(make_window(), 0, 5), catalogue, L, method="encode_history"
    )
    assert {k.shape for pair in cache.recent.layers for k in pair} == {(B, 2 * W, 2, 4)}
    assert {k.shape for pair in cache.summaries.layers for k in pair} == {(B, L // W, 2, 4)}
    dense = model_of()
    _, cache = dense.apply(
        {"params": prepared(dense)[0]}, columns(make_window(), 0, 5), catalogue, L, method="encode_history"
    )
    assert cache.summaries is None and cache.recent.layers[0][0].shape == (B, L, 2, 4)


def test_a_row_of_padding_stays_padding():
    model = model_of("hstu", W)
    params, catalogue = prepared(model)
    window, extend = make_window(), jax.jit(
        lambda w, cache: model.apply({"params": params}, w, catalogue, cache, method="extend")
    )  # fmt: skip
    _, cache = model.apply({"params": params}, columns(window, 0, 6), catalogue, L, method="encode_history")
    for at in range(6, 10):
        output, cache = extend(columns(window, at, at + 1), cache)
        assert np.isfinite(np.asarray(output)).all()
    assert not np.asarray(cache.recent.present_BxC)[2, W : W + 1].any()  # column 8 of the last row
    output, _ = extend(columns(window, 10, 11), cache)
    alone, _ = model.apply({"params": params}, columns(window, 0, 11), catalogue, L, method="encode_history")
    np.testing.assert_allclose(output[:, 0], alone[:, 10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "capacity", "message"),
    [
        (model_of(position="index"), L, "position='index' must be 'none'"),
        (model_of("gru4rec"), L, "encoder='gru4rec' must be one of"),
        (model_of(span=W), 10, "capacity=10 must be from 3 to max_len=12, a multiple of span=4"),
        (model_of(), L + 1, "capacity=13 must be from 3 to max_len=12"),
        (model_of(), 2, "capacity=2 must be from 3"),
    ],
)
def test_models_that_cannot_be_cached_are_refused(model, capacity, message):
    window, vectors = columns(make_window(), 0, 3), (jnp.zeros((V, 8)),)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda key: model.init(key, window, vectors, capacity, method="encode_history"), jax.random.key(0)
        )
