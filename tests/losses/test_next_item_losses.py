"""Next-title losses: values worked by hand, equal implementations, memory bounds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import NextItem
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.registry import NEXT_ITEM_LOSSES
from jaxrec.losses import full_softmax, next_item, sampled_losses
from jaxrec.losses.sampled_losses import bce, gbce, sampled_softmax

LN2, LN3 = 0.6931472, 1.0986123
R, L, D, V, N = 3, 5, 4, 11, 6
T = 0.5  # temperature


def make_inputs(seed=0, positions=(R, L), titles=V, dtype=np.float32):
    """Return h, titles and target; a third of the positions have no target."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(*positions, D))
    target = rng.integers(FIRST_TITLE, titles, positions) * (rng.random(positions) < 0.67)
    vectors = rng.normal(size=(titles, D))
    return jnp.asarray(h, dtype), jnp.asarray(vectors, dtype), jnp.asarray(target, jnp.int32)


def make_negatives(shape=(R, L, N), seed=1):
    """Return negatives that include absent ids and targets of their own position."""
    return jnp.asarray(np.random.default_rng(seed).integers(1, V, shape) % (V - 1), jnp.int32)


def plain_softmax(h, titles, target, temperature):
    scores = jnp.einsum("rld,vd->rlv", h, titles[FIRST_TITLE:]) / temperature
    log_p = jax.nn.log_softmax(scores, axis=-1)
    log_p_target = jnp.take_along_axis(log_p, jnp.maximum(target - FIRST_TITLE, 0)[..., None], -1)[..., 0]
    return jnp.where(target >= FIRST_TITLE, -log_p_target, 0.0)


def with_gradients(loss, h, titles):
    """Return values and the gradients of a sum with a different weight per position."""

    def total(h, titles):
        values = loss(h, titles)
        return (values * (1 + jnp.arange(values.size).reshape(values.shape))).sum(), values

    gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(h, titles)
    return values, *gradients


def assert_close(actual, expected, rtol=2e-5):
    for a, b in zip(actual, expected, strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(np.asarray(a), b, rtol=rtol, atol=rtol * abs(b).max())


# Scores of titles 2, 3, 4 at temperature .5: ln 1, ln 2, ln 3. Ids 0 and 1 would have far higher scores.
HAND = jnp.array([[50.0], [50.0], [0.0], [LN2], [LN3]])
AT_ONE = jnp.full((1, 1, 1), 0.5)


@pytest.mark.parametrize("budget", [1, 2**20])
def test_softmax_by_hand(budget):
    actual = full_softmax.softmax(AT_ONE, HAND, jnp.array([[4]]), 0.5, budget)
    assert_close([actual], [[[LN2]]])  # probability 3 / (1 + 2 + 3)


@pytest.mark.parametrize("positions", [1, 2, 4, 7, 15, 100])
def test_chunked_softmax_equals_plain_softmax(positions):
    h, titles, target = make_inputs()
    chunked = with_gradients(lambda h, t: full_softmax.softmax(h, t, target, T, positions * V * 4), h, titles)
    assert_close(chunked, with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles))
    assert not np.asarray(chunked[2][:FIRST_TITLE]).any()


def test_softmax_with_title_gradient_in_blocks(monkeypatch):
    monkeypatch.setattr(full_softmax, "_TITLE_GRADIENT_ROWS", 40)
    titles = 2 * 40 + 7
    h, vectors, target = make_inputs(titles=titles)
    chunked = with_gradients(lambda h, t: full_softmax.softmax(h, t, target, T, 4 * titles * 4), h, vectors)
    assert_close(chunked, with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, vectors))


def test_softmax_of_bfloat16_inputs_is_float32():
    h, titles, target = make_inputs(dtype=jnp.bfloat16)
    values, d_h, d_titles = with_gradients(
        lambda h, t: full_softmax.softmax(h, t, target, T, 7 * V * 4), h, titles
    )
    assert (values.dtype, d_h.dtype, d_titles.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    h, titles = h.astype(jnp.float32), titles.astype(jnp.float32)
    expected = with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles)
    assert_close([values], expected[:1])
    assert_close([d_h.astype(jnp.float32), d_titles.astype(jnp.float32)], expected[1:], rtol=1e-2)


@pytest.mark.parametrize(("budget", "logits"), [(100 * 2**20, 100 * 2**20), (1, 3 * 4_000_000)])
def test_memory_of_softmax_over_a_million_titles(budget, logits):
    """Temporaries: budget or 3 times one position's logits, 3 arrays like h, 2 blocks."""
    titles, width, positions = 1_000_000, 64, (16, 256)

    def total(h, vectors, target):
        return full_softmax.softmax(h, vectors, target, 1.0, budget).sum()

    shapes = [((*positions, width), jnp.float32), ((titles, width), jnp.float32), (positions, jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(*s) for s in shapes]
    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*arguments).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    h_bytes, block_bytes = 4 * np.prod(positions) * width, 4 * full_softmax._TITLE_GRADIENT_ROWS * width
    assert 0.9 * logits < used <= logits + 3 * h_bytes + 2 * block_bytes
    assert 3 * h_bytes + 2 * block_bytes < 0.03 * 4 * titles * width  # a copy of the titles would exceed it


# ---------------------------------------------------------------- over sampled titles

SAMPLED = {
    "sampled_softmax": lambda h, t, y, n: sampled_softmax(h, t, y, n, None, T),
    "log_q": lambda h, t, y, n: sampled_softmax(h, t, y, n, jnp.log(1.0 + jnp.arange(len(t))), T),
    "bce": lambda h, t, y, n: bce(h, t, y, n, T),
    "gbce": lambda h, t, y, n: gbce(h, t, y, n, T, 0.75),
}


def reference(name, h, titles, target, negatives):
    """Compute the loss in float64, one position at a time."""
    h, titles, target, negatives = (np.asarray(x) for x in (h, titles, target, negatives))
    values = np.zeros(target.shape)
    for r, position in np.ndindex(target.shape):
        y = target[r, position]
        if y < FIRST_TITLE:
            continue
        ids = negatives[r, position] if negatives.ndim == 3 else negatives[r]
        ids = np.array([i for i in ids if i >= FIRST_TITLE and i != y], int)
        scores = titles[[y, *ids]].astype(float) @ h[r, position].astype(float) / T
        if name == "log_q":
            scores -= np.log(1.0 + np.array([y, *ids]))
        if "bce" in name:
            alpha = negatives.shape[-1] / (len(titles) - FIRST_TITLE - 1)
            beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha) if name == "gbce" else 1.0
            terms = np.log1p(np.exp(np.where(np.arange(len(scores)) == 0, -scores, scores)))
            values[r, position] = (beta * terms[0] + terms[1:].sum()) / len(terms)
        else:
            values[r, position] = np.log(np.exp(scores).sum()) - scores[0]
    return values


@pytest.fixture(params=["gathered", "dense"])
def _implementation(request, monkeypatch):
    """Each implementation for [R, L, N], with chunks that do not divide R L."""
    monkeypatch.setattr(sampled_losses, "_DENSE_UP_TO", {"gathered": 0, "dense": V}[request.param])
    width = {"gathered": (1 + N) * D, "dense": V}[request.param]
    monkeypatch.setattr(sampled_losses, "_CHUNK_BYTES", {jax.default_backend(): 4 * 4 * width})


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.usefixtures("_implementation")
def test_negatives_per_position_equal_the_plain_implementation(name):
    """Plain: a gather and autodiff. Gradients of repeated negatives add up."""
    h, titles, target = make_inputs()
    negatives = make_negatives().at[..., -1].set(make_negatives()[..., 0])
    log_q = jnp.log(1.0 + jnp.arange(V)) if name == "log_q" else jnp.zeros(V)
    alpha = N / (V - FIRST_TITLE - 1)
    beta = 1 - 0.75 * (1 - alpha) if name == "gbce" else 1.0

    def plain(h, titles):
        ids = jnp.concatenate([target[..., None], negatives], -1)
        s = jnp.einsum("rld,rlnd->rln", h, titles[ids]) / T - log_q[ids]
        mask = ((ids >= FIRST_TITLE) & (ids != target[..., None])).at[..., 0].set(True)
        if "bce" in name:
            terms = -jax.nn.log_sigmoid(jnp.where(jnp.arange(1 + N) == 0, s, -s))
            values = (jnp.where(mask, terms, 0.0).at[..., 0].multiply(beta)).sum(-1) / mask.sum(-1)
        else:
            values = -jax.nn.log_softmax(jnp.where(mask, s, -jnp.inf), -1)[..., 0]
        return jnp.where(target >= FIRST_TITLE, values, 0.0)

    actual = with_gradients(jax.checkpoint(lambda h, t: SAMPLED[name](h, t, target, negatives)), h, titles)
    assert_close(actual, with_gradients(plain, h, titles))


def test_implementation_is_chosen_by_shape():
    def is_dense(V, N):
        h, ids = jax.ShapeDtypeStruct((2, 3, D), jnp.float32), jax.ShapeDtypeStruct((2, 3, N), jnp.int32)
        titles, target = jax.ShapeDtypeStruct((V, D), jnp.float32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
        arguments = (h, titles, target, ids)
        text = str(jax.make_jaxpr(lambda *a: bce(*a, 1.0))(*arguments))
        return f",{V}] = dot_general" in text

    assert is_dense(V=16 * 5, N=4)
    assert not is_dense(V=16 * 5 + 1, N=4)


@pytest.mark.parametrize("shape", [(R, L, N), (R, N)], ids=["per_position", "per_sequence"])
@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.usefixtures("_implementation")
def test_sampled_losses_equal_their_definitions(name, shape):
    h, titles, target = make_inputs()
    negatives = make_negatives(shape)
    equals_target = np.asarray(negatives == (target[..., None] if len(shape) == 3 else target[:, :1]))
    assert equals_target.any()
    assert (np.asarray(negatives) < FIRST_TITLE).any()
    actual = SAMPLED[name](h, titles, target, negatives)
    assert_close([actual], [reference(name, h, titles, target, negatives)])


@pytest.mark.parametrize("name", SAMPLED)
def test_negatives_per_row_equal_the_same_negatives_per_position(name):
    h, titles, target = make_inputs()
    negatives = make_negatives((R, N))
    repeated = jnp.broadcast_to(negatives[:, None], (R, L, N))
    assert_close(
        with_gradients(lambda h, t: SAMPLED[name](h, t, target, negatives), h, titles),
        with_gradients(lambda h, t: SAMPLED[name](h, t, target, repeated), h, titles),
    )


def test_sampled_softmax_with_all_titles_equals_softmax():
    """The target, also a negative, counts once; a constant log_q changes nothing."""
    h, titles, target = make_inputs()
    all_titles = jnp.broadcast_to(jnp.arange(V), (R, V))
    expected = with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles)
    for log_q in (None, jnp.full(V, -3.0)):
        actual = with_gradients(
            lambda h, t, q=log_q: sampled_softmax(h, t, target, all_titles, q, T), h, titles
        )
        assert_close(actual, expected)


def test_log_q_by_hand():
    """exp(score - log_q) is 3 / 3 for target 4, 1 / .5 for title 2, 2 / 2 for title 3."""
    log_q = jnp.log(jnp.array([0.0, 0.0, 0.5, 2.0, 3.0]))
    actual = sampled_softmax(AT_ONE, HAND, jnp.array([[4]]), jnp.array([[[2, 3, 4]]]), log_q, 0.5)
    assert_close([actual], [[[np.log(4.0)]]])


def test_bce_and_gbce_by_hand():
    """Target ln 3: softplus(-ln 3) = ln 4/3. Negatives ln 1 and ln 2: ln 2 and ln 3."""
    arguments = (AT_ONE, HAND, jnp.array([[4]]), jnp.array([[[2, 3]]]), 0.5)
    first, rest = np.log(4 / 3), LN2 + LN3
    assert_close([bce(*arguments)], [[[(first + rest) / 3]]])
    assert_close([gbce(*arguments, 0.0)], [[[(first + rest) / 3]]])
    one = (*arguments[:3], jnp.array([[[2]]]), 0.5)  # alpha = 1 / 2: beta = .5 at t = 1, .625 at .75
    assert_close([gbce(*one, 1.0)], [[[(0.5 * first + LN2) / 2]]])
    assert_close([gbce(*one, 0.75)], [[[(0.625 * first + LN2) / 2]]])


@pytest.mark.parametrize("name", NEXT_ITEM_LOSSES)
@pytest.mark.usefixtures("_implementation")
def test_positions_without_target_have_no_value_and_no_gradient(name):
    """Also if the target is the unknown title or the outputs are NaN."""
    h, titles, target = make_inputs()
    target = target.at[0, 0].set(0).at[0, 1].set(1)
    no_target = target < FIRST_TITLE
    config = replace(NextItem(), loss=name, temperature=T)
    log_q, negatives = jnp.zeros(V).at[0].set(-jnp.inf), make_negatives()

    def loss(h, t):
        return next_item.next_item_loss(next_item.Positions(h, t, target, negatives, log_q), config)

    clean = with_gradients(loss, h, titles)
    with_nan = with_gradients(loss, jnp.where(no_target[..., None], jnp.nan, h), titles)
    for a, b in zip(clean, with_nan, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(np.asarray(clean[2])).all()
    assert not np.asarray(clean[0])[no_target].any()
    assert (np.asarray(clean[0])[~no_target] > 0).all()
    assert not np.asarray(clean[1])[no_target].any()


def test_next_title_passes_the_config_fields():
    h, titles, target = make_inputs()
    negatives, log_q = make_negatives(), jnp.log(1.0 + jnp.arange(V))
    c = NextItem(temperature=T, calibration=0.75)
    expected = {
        "softmax": plain_softmax(h, titles, target, T),
        "sampled_softmax": SAMPLED["log_q"](h, titles, target, negatives),
        "bce": SAMPLED["bce"](h, titles, target, negatives),
        "gbce": SAMPLED["gbce"](h, titles, target, negatives),
    }
    for name, value in expected.items():
        actual = next_item.next_item_loss(
            next_item.Positions(h, titles, target, negatives, log_q), replace(c, loss=name)
        )
        assert_close([actual], [value])
