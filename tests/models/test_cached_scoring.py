"""Candidates that share a pass over the history (M-FALCON): equal to a sequence each, the plain form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.core.registry import ENCODERS, resolve
from jaxrec.models.cached_scoring import score_in_groups
from jaxrec.models.encoders.base import PackedTitles, SequenceEncoder, append_candidates
from jaxrec.models.layers import rng
from jaxrec.models.layers.attention import allowed_forms

CAUSAL = ("sasrec", "hstu", "ligr", "fuxi")
B, C, L, D, WINDOW = 4, 5, 6, 8, 6


def made(kind, dtype="float64", dropout=0.0, form="auto"):
    """An expert of this kind, titles of four requests (one full, one without any), candidates, and parameters
    none of which is 0 or 1."""
    r = np.random.default_rng(0)
    module = resolve(ENCODERS[kind])(dtype, Expert(WINDOW, 2, 2, 1.5, dropout, kind), form)
    shown = np.arange(L)[None] >= np.array([0, 2, 5, 6])[:, None]
    age = np.where(shown, np.log1p(np.sort(10 ** r.uniform(0, 7, (B, L)))[:, ::-1]), 0.0)
    keys = rng.row_keys(0, 0, jnp.arange(B))
    titles = PackedTitles(
        jnp.asarray(r.normal(size=(B, L, D)), dtype),
        jnp.asarray(np.where(shown, np.arange(B)[:, None], B)),
        jnp.asarray(age, dtype),
        rng.fold_in(keys[:, None], jnp.arange(L - 1, -1, -1)) if dropout else None,
    )
    x_BxCxD = jnp.asarray(r.normal(size=(B, C, D)), dtype)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), titles, B))
    variables = jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape) * 0.7, x.dtype), shapes)
    key_BxCx2 = rng.fold_in(keys[:, None], jnp.arange(C)) if dropout else None
    return module, variables, titles, x_BxCxD, key_BxCx2


def plain(module, variables, titles, x_BxCxD, key_BxCx2):
    """One by one; where titles are dropped, of every candidate's history those of the shared one."""
    each = append_candidates(titles, x_BxCxD, key_BxCx2)
    if key_BxCx2 is not None:
        history_NxLx2 = jnp.repeat(titles.key_RxLx2, C, axis=0)
        each = each._replace(key_RxLx2=each.key_RxLx2.at[:, :-1].set(history_NxLx2))
    return module.apply(variables, each, B * C)


def shared(module, variables, titles, x_BxCxD, key_BxCx2):
    return module.apply(variables, method=lambda m: m.join(m.encode_history(titles), x_BxCxD, key_BxCx2))


def value_and_slopes(form, module, variables, titles, x_BxCxD, key_BxCx2):
    """Return the outputs of a form, and the gradients by parameters, titles and candidates."""

    def value(variables, x_RxLxD, x_BxCxD):
        outputs = form(module, variables, titles._replace(x_RxLxD=x_RxLxD), x_BxCxD, key_BxCx2)
        return (outputs**3).sum(), outputs

    arguments = variables, titles.x_RxLxD, x_BxCxD
    return jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(*arguments)


def assert_equal(module, *arguments):
    slopes, wanted = value_and_slopes(plain, module, *arguments)
    others, actual = value_and_slopes(shared, module, *arguments)
    assert actual.shape == (B * C, D) and np.std(wanted, axis=0).mean() > 0.1
    np.testing.assert_allclose(actual, wanted, atol=1e-10)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-10 * (1 + np.abs(a).max()))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_shared_pass_is_one_by_one(kind, dropout):
    with jax.enable_x64(True):
        assert_equal(*made(kind, dropout=dropout))


@pytest.mark.parametrize("form", allowed_forms("cpu", "float32", 4))
def test_so_in_every_form_of_attention(form):
    module, *arguments = made("sasrec", "float32", form=form)
    actual, wanted = (jax.jit(of, static_argnums=0)(module, *arguments) for of in (shared, plain))
    np.testing.assert_allclose(actual, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", CAUSAL)
def test_no_candidate_moves_another_and_none_the_history(kind):
    module, variables, titles, x_BxCxD, _ = made(kind, "float32")

    def one(x_BxCxD):
        return (shared(module, variables, titles, x_BxCxD, None).reshape(B, C, D)[1, 2] ** 3).sum()

    slopes = np.array(jax.jit(jax.grad(one))(x_BxCxD))
    assert np.all(slopes[1, 2])
    slopes[1, 2] = 0
    assert not slopes.any()


# ---------------------------------------------------------------- the whole model

MIXED = (
    Expert(3, 1, 2, 1.0, 0.2, "hstu"),
    Expert(6, 1, 2, 1.0, 0.2, "sasrec"),
    Expert(4, 1, 2, 1.0, 0.2, "transformer"),
)


@pytest.fixture(scope="module")
def mixed(case):
    return case(target_in_sequence=True, experts=MIXED, tasks=("ctr", "ranking"))


def test_each_reads_its_own_window(mixed):
    run = jax.jit(lambda v: mixed.model.apply(v, mixed.history, mixed.table, method="encode_history"))
    for expert, history in zip(MIXED, run(mixed.variables).experts, strict=True):
        age = history.age_RxL if expert.encoder == "transformer" else history.age_BxL
        np.testing.assert_array_equal(age, mixed.history.age[:, -expert.max_len :])


def loss(c):
    """Return the scores and their gradients by all parameters, newly compiled."""

    def value(variables):
        out = c.model.apply(variables, c.history, c.candidate, c.table, 1.0)
        return (out.scores["ctr"] * jnp.arange(1.0, 5)).sum() + (out.scores["ranking"] ** 2).sum(), out

    return jax.jit(jax.grad(value, has_aux=True))(c.variables)


def test_a_model_of_several_kinds_and_windows(mixed, monkeypatch):
    slopes, out = loss(mixed)
    for kind in CAUSAL:
        for method in ("encode_history", "join"):
            monkeypatch.setattr(resolve(ENCODERS[kind]), method, getattr(SequenceEncoder, method))
    wanted_slopes, wanted = loss(mixed)
    assert wanted.scores["ctr"].std(1).min() > 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), out, wanted)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(wanted_slopes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * (1 + np.abs(b).max()))


@pytest.mark.parametrize("most", [3, 9])
def test_in_groups_as_at_once(mixed, most):
    run = jax.jit(
        lambda v: score_in_groups(
            partial(mixed.model.apply, v),
            mixed.history,
            mixed.candidate,
            mixed.table,
            1.0,
            ("ranking",),
            most,
        )
    )
    scores, gate_BxCxE = run(mixed.variables)
    out = mixed()
    assert {*scores} == {"ranking"} and scores["ranking"].shape == (5, 4)
    np.testing.assert_allclose(scores["ranking"], out.scores["ranking"], atol=1e-6)
    np.testing.assert_allclose(gate_BxCxE, out.clean_gate_BxE, atol=1e-6)


@pytest.mark.parametrize("kind", CAUSAL)
def test_operations_fall(kind):
    """The model computes L + C positions, not C (L + 1).

    The last layer of a history gives keys and values only.
    """
    module, variables, titles, x_BxCxD, _ = made(kind, "float32")

    def operations(form):
        return jax.jit(form, static_argnums=0).lower(module, *arguments).compile().cost_analysis()["flops"]

    arguments = variables, titles, x_BxCxD, None
    assert operations(shared) < 0.45 * operations(plain)  # of places, 11 / 35
