"""Our kernels are what XLA makes of the plain form: interpreted on a CPU, compiled where there is a GPU."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.kernels import attention as attention_module
from jaxrec.models.kernels import layer_norm, pallas
from jaxrec.models.layers import attention, dense, normalization

CLOSE = {"float32": 2e-6, "bfloat16": 0.03}


@pytest.fixture(autouse=True)
def exact_products():
    """A GPU's products of float32 are of fewer bits unless asked for."""
    with jax.default_matmul_precision("highest"):
        yield


def wide(x):
    return np.asarray(x, np.float64)


def value_and_gradients(f, *given, of_value):
    value, pull = jax.vjp(jax.jit(f), *given)
    return value, *pull(of_value.astype(value.dtype))


def assert_same(found, plain, close):
    """Each array to a share of its largest entry."""
    for a, b in zip(found, plain, strict=True):
        assert np.abs(wide(a) - wide(b)).max() <= close * np.abs(wide(b)).max()


def rows(R, L, H, d, dtype):
    """q, k and v, a row of several histories, and a gradient."""
    r = np.random.default_rng(0)
    qkv, g = (jnp.asarray(r.normal(size=(R, L, n * H * d)), dtype) for n in (3, 1))
    of = np.sort(r.integers(0, 3, (R, L)), axis=1)
    return qkv, jnp.asarray(of[:, :, None] == of[:, None]), g


# The paper's two windows; programs of one row and of several, the last with fewer; heads of other widths; one
# more head than a program takes; the longest row.
SHAPES = [(9, 7, 12, 8), (5, 20, 12, 8), (3, 5, 2, 16), (4, 3, 5, 5), (1, 1, 1, 20), (2, 64, 1, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", CLOSE)
def test_attention_of_short_rows_is_einsum(shape, dtype):
    qkv, same, g = rows(*shape, dtype)
    heads = shape[2]

    def plainly(x):
        return attention.einsum(*attention.split_fused(x, heads), same).reshape(g.shape)

    found = value_and_gradients(lambda x: attention_module.attend(x, same, heads), qkv, of_value=g)
    plain = value_and_gradients(plainly, qkv.astype("float32"), of_value=g)
    assert_same(found, plain, CLOSE[dtype])
    assert all(x.dtype == dtype for x in found)


def test_a_place_that_sees_none_gets_zeros_and_gives_no_gradient():
    qkv, same, g = rows(3, 7, 2, 8, "float32")
    same = same.at[1, 2].set(False).at[1, :, 2].set(False)
    y, of_qkv = value_and_gradients(lambda x: attention_module.attend(x, same, 2), qkv, of_value=g)
    assert not y[1, 2].any() and not of_qkv[1, 2].any()
    assert np.isfinite(y).all() and np.isfinite(of_qkv).all() and y[1, 1].all()


def test_rows_no_longer_than_the_kernel_takes_go_through_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    taken = attention.FORMS["pallas"]._replace(joined=lambda *_: "the kernel")
    monkeypatch.setitem(attention.FORMS, "pallas", taken)
    monkeypatch.setattr(attention_module, "LONGEST", 7)
    assert attention.attend_fused("auto", *rows(2, 7, 2, 8, "bfloat16")[:2], 2) == "the kernel"
    qkv, same, _ = rows(2, 8, 2, 8, "bfloat16")
    plain = attention.einsum(*attention.split_fused(qkv, 2), same).reshape(2, 8, 16)
    np.testing.assert_array_equal(wide(attention.attend_fused("auto", qkv, same, 2)), wide(plain))


def test_a_gpu_norms_by_the_kernel_what_it_can(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(layer_norm, "normed", lambda x, *_: 2 * x)
    with jax.enable_x64(True):
        x = jnp.ones((2, 3))
        for dtype, by_kernel in (("float32", True), ("bfloat16", True), ("float64", False)):
            y, _ = normalization.LayerNorm(dtype).init_with_output(jax.random.key(0), x)
            assert (y == 2).all() == by_kernel


@pytest.mark.parametrize("shape", [(5, 7, 96), (3, 20, 32), (70, 10, 100), (1, 1, 8)], ids=str)
@pytest.mark.parametrize("dtype", CLOSE)
def test_a_norm(shape, dtype):
    r = np.random.default_rng(0)
    x, g = (jnp.asarray(3.0 * r.normal(size=shape) + 1.0, dtype) for _ in range(2))
    of_column = [jnp.asarray(r.normal(size=shape[-1]), dtype) for _ in range(2)]
    found = value_and_gradients(layer_norm.normed, x, *of_column, of_value=g)
    plain = value_and_gradients(
        normalization.normalize, *(y.astype("float32") for y in (x, *of_column)), of_value=g
    )
    assert_same(found, plain, 2 * CLOSE[dtype])
    assert all(y.dtype == dtype for y in found)


@pytest.mark.parametrize("mode", ["clip", "fill", None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_look_ups_of_few_rows_are_added_up_by_a_product(mode, dtype, monkeypatch):
    """With numbers past either end, as far as the mode knows what to do with them."""
    r = np.random.default_rng(0)
    x, g = jnp.asarray(r.normal(size=(6, 4)), dtype), jnp.asarray(r.normal(size=(50, 3, 4)), dtype)
    ids = jnp.asarray(r.integers(0 if mode is None else -3, 6 if mode is None else 9, (50, 3)))
    ids = jnp.where(ids < 0, 7, ids) if mode == "fill" else ids  # there, numbers below 0 count from the end

    def look_up(y):
        return dense.embedding_lookup(y, ids, mode, 0.0 if mode == "fill" else None)

    def gradient(y):
        return jax.vjp(look_up, y)[1](g.astype(y.dtype))[0]

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    plain = gradient(x.astype("float32"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = gradient(x)
    assert found.dtype == dtype and "scatter" not in str(jax.make_jaxpr(gradient)(x))
    np.testing.assert_allclose(wide(found), wide(plain), **{k: CLOSE[dtype] for k in ("rtol", "atol")})


@pytest.mark.parametrize("backend, capability, there, had", [
    ("gpu", "9.0", True, True),
    ("gpu", "8.0", True, True),
    ("gpu", "7.5", True, False),  # its compiler knows none so old
    ("gpu", "gfx942", True, True),
    ("gpu", "9.0", False, False),  # a jax that has dropped it
    ("tpu", "", True, False),
])  # fmt: skip
def test_where_kernels_can_be_had(backend, capability, there, had, monkeypatch):
    """Elsewhere XLA compiles the plain form."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    monkeypatch.setattr(pallas, "_is_there", lambda: there)
    assert pallas.is_available(backend, "bfloat16") == had and not pallas.is_available(backend, "float64")
    assert attention.choose_form(backend, "bfloat16", 8) == ("pallas" if had else "einsum")
    assert ("pallas" in attention.allowed_forms(backend, "bfloat16", 8)) == had
    assert attention.choose_form(backend, "bfloat16", 256) == "einsum"  # heads that no program holds


def test_a_last_program_keeps_within_the_rows_there_are(monkeypatch):
    """Beyond them lies other memory, which an interpreter would not show to be written."""
    for module in (attention_module, layer_norm):
        monkeypatch.setattr(module, "number", lambda axis: 4)
    monkeypatch.setattr(attention_module, "load", lambda reference, at, mask: mask)
    place, there, same = attention_module._mine(
        attention_module.tiles(9, 7, 2, 8), None
    )  # two rows a program
    np.testing.assert_array_equal(np.flatnonzero(there), np.arange(7))
    np.testing.assert_array_equal(place[there], np.arange(8 * 7, 9 * 7))
    assert same[:7, :7].all() and same.sum() == 7 * 7
    monkeypatch.setattr(layer_norm, "_NUMBERS", 2 * 32)  # two rows of 20 and padding a program
    (row, column), mask, _ = layer_norm._mine(9, 20)
    assert mask.sum() == 20 and np.unique(np.broadcast_to(row, mask.shape)[mask]) == [8]
    assert np.broadcast_to(column, mask.shape)[mask].max() == 19
