"""Implementations of attention: equality with a loop, and their choice by device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Model
from jaxrec.config.tree import choices
from jaxrec.core.errors import InputError
from jaxrec.models.layers import attention

# Rows with several histories, with one, with padding at either end, with only padding; odd and even lengths.
EXAMPLES = {
    7: [[0, 0, 0, 1, 1, 2, 9], [3, 3, 3, 3, 3, 3, 3], [9, 9, 4, 4, 9, 9, 9], [9] * 7],
    4: [[0, 1, 2, 3], [4, 4, 4, 4], [5, 6, 6, 9], [9, 9, 9, 7]],
}


def make_inputs(length, dtype):
    R, H, d = 4, 3, 8
    q, k, v = jax.random.normal(jax.random.key(0), (3, R, length, H, d), jnp.dtype(dtype))
    example_RxL = jnp.asarray(EXAMPLES[length])
    return q, k, v, example_RxL[:, :, None] == example_RxL[:, None]


def loop_attention(q, k, v, mask):
    """Compute attention in float64 by a loop over rows, positions and heads."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for r, i, h in np.ndindex(q.shape[:3]):
        keys = np.asarray(mask)[r, i]
        e = np.exp(k[r, keys, h] @ q[r, i, h] / np.sqrt(q.shape[-1]))
        out[r, i, h] = e @ v[r, keys, h] / e.sum()
    return out


def values_and_gradients(attend, q, k, v, mask):
    def total(q, k, v):
        out = attend(q, k, v, mask).astype(jnp.promote_types(q.dtype, jnp.float32))
        return (out * jnp.arange(out.size).reshape(out.shape) / out.size).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


CPU_CASES = [
    (name, dtype)
    for dtype in ("float64", "float32", "bfloat16")
    for name in attention.allowed_forms("cpu", dtype, 8)
]


@pytest.mark.parametrize("length", EXAMPLES)
@pytest.mark.parametrize("name, dtype", CPU_CASES)
def test_implementations_equal_einsum_and_a_loop(name, dtype, length):
    tolerance = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 0.03}[dtype]
    with jax.enable_x64(dtype == "float64"):
        q, k, v, mask = make_inputs(length, dtype)
        actual = values_and_gradients(attention.FORMS[name].attend, q, k, v, mask)
        expected = values_and_gradients(
            attention.einsum, *(x.astype(actual[0].dtype) for x in (q, k, v)), mask
        )
        assert attention.FORMS[name].attend(q, k, v, mask).dtype == jnp.dtype(dtype)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a.astype(b.dtype), b, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(actual[0], loop_attention(q, k, v, mask), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name, dtype", [x for x in CPU_CASES if x[1] != "float64"])
def test_fully_masked_rows_are_finite(name, dtype):
    q, k, v, mask = make_inputs(4, dtype)
    assert np.isfinite(attention.FORMS[name].attend(q, k, v, jnp.zeros_like(mask)).astype(jnp.float32)).all()


def test_allowed_forms_by_device_and_dtype():
    assert attention.allowed_forms("cpu", "float64", 8) == ("einsum",)
    assert attention.allowed_forms("cpu", "float32", 8) == ("einsum", "dot_product")
    assert attention.allowed_forms("gpu", "bfloat16", 8) == ("einsum", "dot_product", "pallas")
    for backend, dtype, width in (("gpu", "float64", 8), ("tpu", "bfloat16", 8), ("gpu", "bfloat16", 129)):
        assert "pallas" not in attention.allowed_forms(backend, dtype, width)


def test_implementations_that_are_not_allowed_are_rejected():
    allowed = "auto, einsum, dot_product"
    with pytest.raises(
        InputError, match=f"^model.attention_impl='pallas' must be one of {allowed}: on cpu, in bf"
    ):
        attention.attend("pallas", *make_inputs(4, "bfloat16"))


def test_names_equal_the_allowed_config_values():
    assert choices(Model, "attention_impl") == ("auto", *attention.FORMS)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_auto_chooses_an_allowed_implementation(backend, monkeypatch):
    for dtype in ("float64", "float32", "bfloat16"):
        assert attention.choose_form(backend, dtype, 12) in attention.allowed_forms(backend, dtype, 12)
    monkeypatch.setitem(attention._FASTEST, (backend, "bfloat16"), "dot_product")
    assert attention.choose_form(backend, "bfloat16", 12) == "dot_product"


def test_attend_uses_the_named_implementation(monkeypatch):
    """The implementations return their names; "auto" is the fastest."""
    forms = {name: attention.AttentionForm(lambda *_, name=name: name) for name in attention.FORMS}
    monkeypatch.setattr(attention, "FORMS", forms)
    monkeypatch.setitem(attention._FASTEST, ("cpu", "float32"), "dot_product")
    inputs = make_inputs(7, "float32")
    assert [attention.attend(name, *inputs) for name in (*forms, "auto")] == [*forms, "dot_product"]


def test_weighted_sum_is_the_same_with_and_without_gradient():
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        s = jnp.asarray(r.normal(size=(2, 3, 4, 4))).at[0, :, 1].set(-1e9)  # fully masked
        v = jnp.asarray(r.normal(size=(2, 4, 3, 5)))
        expected, actual = jax.vjp(attention.weighted_sum, s, v)[0], attention.weighted_sum(s, v)
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-14)
