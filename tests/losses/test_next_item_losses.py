"""Losses over the catalogue: values worked by hand, chunked and plain forms equal, memory as promised."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import NextTitle
from jaxrec.config.validation import NAMES
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.losses import next_item

LN2, LN3 = 0.6931472, 1.0986123
R, L, D, V, N = 3, 5, 4, 11, 6
T = 0.5  # temperature


def given(seed=0, places=(R, L), titles=V, dtype=np.float32):
    """h, titles, target: a third of the places have none."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(*places, D))
    target = rng.integers(FIRST_TITLE, titles, places) * (rng.random(places) < 0.67)
    vectors = rng.normal(size=(titles, D))
    return jnp.asarray(h, dtype), jnp.asarray(vectors, dtype), jnp.asarray(target, jnp.int32)


def drawn(shape=(R, L, N), seed=1):
    """Negatives among which are absent ones, and some that are their place's target."""
    return jnp.asarray(np.random.default_rng(seed).integers(1, V, shape) % (V - 1), jnp.int32)


def plain_softmax(h, titles, target, temperature):
    scores = jnp.einsum("rld,vd->rlv", h, titles[FIRST_TITLE:]) / temperature
    shares = jax.nn.log_softmax(scores, axis=-1)
    found = jnp.take_along_axis(shares, jnp.maximum(target - FIRST_TITLE, 0)[..., None], -1)[..., 0]
    return jnp.where(target >= FIRST_TITLE, -found, 0.0)


def with_gradients(loss, h, titles):
    """Values, and the gradients of a sum that weighs every place otherwise."""

    def total(h, titles):
        values = loss(h, titles)
        return (values * (1 + jnp.arange(values.size).reshape(values.shape))).sum(), values

    gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(h, titles)
    return values, *gradients


def close(got, wanted, rtol=2e-5):
    for a, b in zip(got, wanted, strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(np.asarray(a), b, rtol=rtol, atol=rtol * abs(b).max())


# Scores of titles 2, 3, 4 at temperature .5: ln 1, ln 2, ln 3; titles 0 and 1 would be far ahead.
HAND = jnp.array([[50.0], [50.0], [0.0], [LN2], [LN3]])
AT_ONE = jnp.full((1, 1, 1), 0.5)


@pytest.mark.parametrize("budget", [1, 2**20])
def test_softmax_by_hand(budget):
    got = next_item.softmax(AT_ONE, HAND, jnp.array([[4]]), 0.5, budget)
    close([got], [[[LN2]]])  # 3 of 1 + 2 + 3


@pytest.mark.parametrize("places", [1, 2, 4, 7, 15, 100])
def test_softmax_in_chunks_is_the_plain_one(places):
    h, titles, target = given()
    chunked = with_gradients(lambda h, t: next_item.softmax(h, t, target, T, places * V * 4), h, titles)
    close(chunked, with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles))
    assert not np.asarray(chunked[2][:FIRST_TITLE]).any()


def test_softmax_where_the_titles_gradient_is_made_in_parts(monkeypatch):
    monkeypatch.setattr(next_item, "_TITLES_AT_A_TIME", 40)
    titles = 2 * 40 + 7
    h, vectors, target = given(titles=titles)
    chunked = with_gradients(lambda h, t: next_item.softmax(h, t, target, T, 4 * titles * 4), h, vectors)
    close(chunked, with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, vectors))


def test_softmax_of_half_precision_is_given_in_float32():
    h, titles, target = given(dtype=jnp.bfloat16)
    values, of_h, of_titles = with_gradients(
        lambda h, t: next_item.softmax(h, t, target, T, 7 * V * 4), h, titles
    )
    assert (values.dtype, of_h.dtype, of_titles.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    h, titles = h.astype(jnp.float32), titles.astype(jnp.float32)
    wanted = with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles)
    close([values], wanted[:1])
    close([of_h.astype(jnp.float32), of_titles.astype(jnp.float32)], wanted[1:], rtol=1e-2)


@pytest.mark.parametrize(("budget", "logits"), [(100 * 2**20, 100 * 2**20), (1, 3 * 4_000_000)])
def test_memory_of_softmax_over_a_million_titles(budget, logits):
    """The budget or a place's logits thrice, 3 arrays as h, 2 parts: nothing else of V's or h's size."""
    titles, width, places = 1_000_000, 64, (16, 256)

    def total(h, vectors, target):
        return next_item.softmax(h, vectors, target, 1.0, budget).sum()

    shapes = [((*places, width), jnp.float32), ((titles, width), jnp.float32), (places, jnp.int32)]
    shaped = [jax.ShapeDtypeStruct(*s) for s in shapes]
    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shaped).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    of_h, part = 4 * np.prod(places) * width, 4 * next_item._TITLES_AT_A_TIME * width
    assert 0.9 * logits < used <= logits + 3 * of_h + 2 * part
    assert 3 * of_h + 2 * part < 0.03 * 4 * titles * width  # so that a copy of the titles would be seen


# ---------------------------------------------------------------- over sampled titles

SAMPLED = {
    "sampled_softmax": lambda h, t, y, n: next_item.sampled_softmax(h, t, y, n, None, T),
    "log_q": lambda h, t, y, n: next_item.sampled_softmax(h, t, y, n, jnp.log(1.0 + jnp.arange(len(t))), T),
    "bce": lambda h, t, y, n: next_item.bce(h, t, y, n, T),
    "gbce": lambda h, t, y, n: next_item.gbce(h, t, y, n, T, 0.75),
}


def reference(name, h, titles, target, negatives):
    """A place at a time, in float64."""
    h, titles, target, negatives = (np.asarray(x) for x in (h, titles, target, negatives))
    values = np.zeros(target.shape)
    for r, place in np.ndindex(target.shape):
        y = target[r, place]
        if y < FIRST_TITLE:
            continue
        ids = negatives[r, place] if negatives.ndim == 3 else negatives[r]
        ids = np.array([i for i in ids if i >= FIRST_TITLE and i != y], int)
        scores = titles[[y, *ids]].astype(float) @ h[r, place].astype(float) / T
        if name == "log_q":
            scores -= np.log(1.0 + np.array([y, *ids]))
        if "bce" in name:
            alpha = negatives.shape[-1] / (len(titles) - FIRST_TITLE - 1)
            beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha) if name == "gbce" else 1.0
            terms = np.log1p(np.exp(np.where(np.arange(len(scores)) == 0, -scores, scores)))
            values[r, place] = (beta * terms[0] + terms[1:].sum()) / len(terms)
        else:
            values[r, place] = np.log(np.exp(scores).sum()) - scores[0]
    return values


@pytest.fixture(params=["gathered", "dense"])
def _form(request, monkeypatch):
    """Each form of what places have of their own, in chunks that do not divide R L."""
    monkeypatch.setattr(next_item, "_DENSE_UP_TO", {"gathered": 0, "dense": V}[request.param])
    row = {"gathered": (1 + N) * D, "dense": V}[request.param]
    monkeypatch.setattr(next_item, "_PART_BYTES", {jax.default_backend(): 4 * 4 * row})


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.usefixtures("_form")
def test_places_own_negatives_in_chunks_have_the_gradients_of_the_plain_form(name):
    """The plain form: the vectors of every place's negatives, and autodiff. Repeated negatives add up."""
    h, titles, target = given()
    negatives = drawn().at[..., -1].set(drawn()[..., 0])
    log_q = jnp.log(1.0 + jnp.arange(V)) if name == "log_q" else jnp.zeros(V)
    alpha = N / (V - FIRST_TITLE - 1)
    beta = 1 - 0.75 * (1 - alpha) if name == "gbce" else 1.0

    def plain(h, titles):
        ids = jnp.concatenate([target[..., None], negatives], -1)
        s = jnp.einsum("rld,rlnd->rln", h, titles[ids]) / T - log_q[ids]
        counts = ((ids >= FIRST_TITLE) & (ids != target[..., None])).at[..., 0].set(True)
        if "bce" in name:
            terms = -jax.nn.log_sigmoid(jnp.where(jnp.arange(1 + N) == 0, s, -s))
            values = (jnp.where(counts, terms, 0.0).at[..., 0].multiply(beta)).sum(-1) / counts.sum(-1)
        else:
            values = -jax.nn.log_softmax(jnp.where(counts, s, -jnp.inf), -1)[..., 0]
        return jnp.where(target >= FIRST_TITLE, values, 0.0)

    got = with_gradients(jax.checkpoint(lambda h, t: SAMPLED[name](h, t, target, negatives)), h, titles)
    close(got, with_gradients(plain, h, titles))


def test_the_form_is_chosen_by_shape():
    def chosen(V, N):
        h, ids = jax.ShapeDtypeStruct((2, 3, D), jnp.float32), jax.ShapeDtypeStruct((2, 3, N), jnp.int32)
        titles, target = jax.ShapeDtypeStruct((V, D), jnp.float32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
        arguments = (h, titles, target, ids)
        text = str(jax.make_jaxpr(lambda *a: next_item.bce(*a, 1.0))(*arguments))
        return f",{V}] = dot_general" in text

    assert chosen(V=16 * 5, N=4)
    assert not chosen(V=16 * 5 + 1, N=4)


@pytest.mark.parametrize("shape", [(R, L, N), (R, N)], ids=["place", "sequence"])
@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.usefixtures("_form")
def test_sampled_losses_are_their_definitions(name, shape):
    h, titles, target = given()
    negatives = drawn(shape)
    same = np.asarray(negatives == (target[..., None] if len(shape) == 3 else target[:, :1]))
    assert same.any()
    assert (np.asarray(negatives) < FIRST_TITLE).any()
    got = SAMPLED[name](h, titles, target, negatives)
    close([got], [reference(name, h, titles, target, negatives)])


@pytest.mark.parametrize("name", SAMPLED)
def test_shared_negatives_are_each_places_own_repeated(name):
    h, titles, target = given()
    negatives = drawn((R, N))
    each = jnp.broadcast_to(negatives[:, None], (R, L, N))
    close(
        with_gradients(lambda h, t: SAMPLED[name](h, t, target, negatives), h, titles),
        with_gradients(lambda h, t: SAMPLED[name](h, t, target, each), h, titles),
    )


def test_against_every_title_sampled_softmax_is_the_softmax():
    """The target is among the negatives and does not count twice; a log_q alike for all changes nothing."""
    h, titles, target = given()
    every = jnp.broadcast_to(jnp.arange(V), (R, V))
    wanted = with_gradients(lambda h, t: plain_softmax(h, t, target, T), h, titles)
    for log_q in (None, jnp.full(V, -3.0)):
        got = with_gradients(
            lambda h, t, q=log_q: next_item.sampled_softmax(h, t, target, every, q, T), h, titles
        )
        close(got, wanted)


def test_log_q_by_hand():
    """Scores less log_q: target 4 has 3 / 3, of the negatives title 2 has 1 / .5 and title 3 2 / 2."""
    log_q = jnp.log(jnp.array([0.0, 0.0, 0.5, 2.0, 3.0]))
    got = next_item.sampled_softmax(AT_ONE, HAND, jnp.array([[4]]), jnp.array([[[2, 3, 4]]]), log_q, 0.5)
    close([got], [[[np.log(4.0)]]])


def test_bce_and_gbce_by_hand():
    """Target at ln 3: softplus(-ln 3) = ln 4/3; negatives ln 1 and ln 2: ln 2 and ln 3."""
    arguments = (AT_ONE, HAND, jnp.array([[4]]), jnp.array([[[2, 3]]]), 0.5)
    first, rest = np.log(4 / 3), LN2 + LN3
    close([next_item.bce(*arguments)], [[[(first + rest) / 3]]])
    close([next_item.gbce(*arguments, 0.0)], [[[(first + rest) / 3]]])
    one = (*arguments[:3], jnp.array([[[2]]]), 0.5)  # alpha = 1 / 2: beta = .5 at t = 1, .625 at .75
    close([next_item.gbce(*one, 1.0)], [[[(0.5 * first + LN2) / 2]]])
    close([next_item.gbce(*one, 0.75)], [[[(0.625 * first + LN2) / 2]]])


@pytest.mark.parametrize("name", NAMES["next_title.loss"])
@pytest.mark.usefixtures("_form")
def test_no_target_no_value_and_no_gradient_not_even_a_nan(name):
    """Whatever stands where there is no target: also the unknown title, and outputs that are no numbers."""
    h, titles, target = given()
    target = target.at[0, 0].set(0).at[0, 1].set(1)
    none = target < FIRST_TITLE
    config = replace(NextTitle(), loss=name, temperature=T)
    log_q, negatives = jnp.zeros(V).at[0].set(-jnp.inf), drawn()

    def loss(h, t):
        return next_item.next_title(h, t, target, negatives, log_q, config)

    clean = with_gradients(loss, h, titles)
    spoilt = with_gradients(loss, jnp.where(none[..., None], jnp.nan, h), titles)
    for a, b in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(np.asarray(clean[2])).all()
    assert not np.asarray(clean[0])[none].any()
    assert (np.asarray(clean[0])[~none] > 0).all()
    assert not np.asarray(clean[1])[none].any()


def test_names_of_losses_are_those_a_config_may_use():
    assert tuple(next_item.LOSSES) == NAMES["next_title.loss"]


def test_a_configs_fields_reach_its_loss():
    h, titles, target = given()
    negatives, log_q = drawn(), jnp.log(1.0 + jnp.arange(V))
    c = NextTitle(temperature=T, calibration=0.75)
    wanted = {
        "softmax": plain_softmax(h, titles, target, T),
        "sampled_softmax": SAMPLED["log_q"](h, titles, target, negatives),
        "bce": SAMPLED["bce"](h, titles, target, negatives),
        "gbce": SAMPLED["gbce"](h, titles, target, negatives),
    }
    for name, value in wanted.items():
        got = next_item.next_title(h, titles, target, negatives, log_q, replace(c, loss=name))
        close([got], [value])
