"""Every form of attention is the plain one, and what may be chosen where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.validation import NAMES
from jaxrec.core.errors import InputError
from jaxrec.models.layers import attention

# Rows of several histories, of one, with padding at either end, of padding alone; an odd length and an even.
EXAMPLES = {
    7: [[0, 0, 0, 1, 1, 2, 9], [3, 3, 3, 3, 3, 3, 3], [9, 9, 4, 4, 9, 9, 9], [9] * 7],
    4: [[0, 1, 2, 3], [4, 4, 4, 4], [5, 6, 6, 9], [9, 9, 9, 7]],
}


def given(length, dtype):
    R, H, d = 4, 3, 8
    q, k, v = jax.random.normal(jax.random.key(0), (3, R, length, H, d), jnp.dtype(dtype))
    of_RxL = jnp.asarray(EXAMPLES[length])
    return q, k, v, of_RxL[:, :, None] == of_RxL[:, None]


def plainly(q, k, v, same):
    """A loop over rows, heads and places."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for r, i, h in np.ndindex(q.shape[:3]):
        seen = np.asarray(same)[r, i]
        e = np.exp(k[r, seen, h] @ q[r, i, h] / np.sqrt(q.shape[-1]))
        out[r, i, h] = e @ v[r, seen, h] / e.sum()
    return out


def values_and_gradients(attend, q, k, v, same):
    def total(q, k, v):
        out = attend(q, k, v, same).astype(jnp.promote_types(q.dtype, jnp.float32))
        return (out * jnp.arange(out.size).reshape(out.shape) / out.size).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


HERE = [
    (name, dtype)
    for dtype in ("float64", "float32", "bfloat16")
    for name in attention.allowed_forms("cpu", dtype, 8)
]


@pytest.mark.parametrize("length", EXAMPLES)
@pytest.mark.parametrize("name, dtype", HERE)
def test_a_form_is_the_plain_one(name, dtype, length):
    close = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 0.03}[dtype]
    with jax.enable_x64(dtype == "float64"):
        q, k, v, same = given(length, dtype)
        found = values_and_gradients(attention.FORMS[name].attend, q, k, v, same)
        wanted = values_and_gradients(attention.einsum, *(x.astype(found[0].dtype) for x in (q, k, v)), same)
        assert attention.FORMS[name].attend(q, k, v, same).dtype == jnp.dtype(dtype)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a.astype(b.dtype), b, rtol=close, atol=close)
        np.testing.assert_allclose(found[0], plainly(q, k, v, same), rtol=close, atol=close)


@pytest.mark.parametrize("length", EXAMPLES)
def test_what_cudnn_is_given(length, monkeypatch):
    """Rows of an even length, of which jax's own form makes the plain one."""
    seen, ours = [], jax.nn.dot_product_attention

    def kernel(q, k, v, *, mask, implementation):
        seen.append((q.shape[1], mask.shape[2:], implementation))
        return ours(q, k, v, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    q, k, v, same = given(length, "float32")
    found, wanted = (values_and_gradients(f, q, k, v, same) for f in (attention.cudnn, attention.einsum))
    even = length + length % 2
    assert seen == [(even, (even, even), "cudnn")]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("name, dtype", [x for x in HERE if x[1] != "float64"])
def test_a_place_that_sees_none_comes_back_finite(name, dtype):
    q, k, v, same = given(4, dtype)
    assert np.isfinite(attention.FORMS[name].attend(q, k, v, jnp.zeros_like(same)).astype(jnp.float32)).all()


def test_what_can_be_had_where():
    assert attention.allowed_forms("cpu", "float64", 8) == ("einsum", "broadcast")
    assert attention.allowed_forms("cpu", "float32", 8) == ("einsum", "dot_product", "broadcast")
    of_gpu = ("einsum", "dot_product", "cudnn", "broadcast", "pallas")
    assert attention.allowed_forms("gpu", "bfloat16", 8) == of_gpu
    for backend, dtype, width in (("gpu", "float32", 8), ("tpu", "bfloat16", 8), ("gpu", "bfloat16", 12)):
        assert "cudnn" not in attention.allowed_forms(backend, dtype, width)


def test_a_form_that_cannot_be_had_is_refused():
    others = "auto, einsum, dot_product, broadcast"
    with pytest.raises(InputError, match=f"^model.attention='cudnn' must be one of {others}: on cpu, in bf"):
        attention.attend("cudnn", *given(4, "bfloat16"))


def test_the_names_of_the_config():
    assert NAMES["model.attention"] == ("auto", *attention.FORMS)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_auto_takes_what_can_be_had(backend, monkeypatch):
    for dtype in ("float64", "float32", "bfloat16"):
        assert attention.choose_form(backend, dtype, 12) in attention.allowed_forms(backend, dtype, 12)
    monkeypatch.setitem(attention._FASTEST, (backend, "bfloat16"), "broadcast")
    assert attention.choose_form(backend, "bfloat16", 12) == "broadcast"


def test_a_name_is_obeyed_and_auto_is_the_choice(monkeypatch):
    """Of forms that can all be had, each of which says its name."""
    forms = {name: attention.AttentionForm(lambda *_, name=name: name) for name in attention.FORMS}
    monkeypatch.setattr(attention, "FORMS", forms)
    monkeypatch.setitem(attention._FASTEST, ("cpu", "float32"), "broadcast")
    given_ = given(7, "float32")
    assert [attention.attend(name, *given_) for name in (*forms, "auto")] == [*forms, "broadcast"]


def test_without_a_gradient_the_weights_are_the_same():
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        s = jnp.asarray(r.normal(size=(2, 3, 4, 4))).at[0, :, 1].set(-1e9)  # a place that sees none
        v = jnp.asarray(r.normal(size=(2, 4, 3, 5)))
        plain, found = jax.vjp(attention.weighted_sum, s, v)[0], attention.weighted_sum(s, v)
        np.testing.assert_allclose(found, plain, rtol=1e-13, atol=1e-14)
