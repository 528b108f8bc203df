"""Kernels equal plain implementations: interpreted on a CPU, compiled on a GPU."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.kernels import attention as attention_module
from jaxrec.models.kernels import layer_norm, pallas
from jaxrec.models.layers import attention, dense, normalization

TOLERANCE = {"float32": 2e-6, "bfloat16": 0.03}


@pytest.fixture(autouse=True)
def exact_matmuls():
    """Full float32 precision, because the default matmul of a GPU has fewer bits."""
    with jax.default_matmul_precision("highest"):
        yield


def to_float64(x):
    return np.asarray(x, np.float64)


def value_and_gradients(f, *args, cotangent):
    value, pullback = jax.vjp(jax.jit(f), *args)
    return value, *pullback(cotangent.astype(value.dtype))


def assert_close(actual, expected, tolerance):
    """Compare arrays with a tolerance relative to the largest entry."""
    for a, b in zip(actual, expected, strict=True):
        assert np.abs(to_float64(a) - to_float64(b)).max() <= tolerance * np.abs(to_float64(b)).max()


def make_inputs(R, L, H, d, dtype):
    """Return q, k and v, the mask of rows with several histories, and a gradient."""
    r = np.random.default_rng(0)
    qkv, g = (jnp.asarray(r.normal(size=(R, L, n * H * d)), dtype) for n in (3, 1))
    example = np.sort(r.integers(0, 3, (R, L)), axis=1)
    return qkv, jnp.asarray(example[:, :, None] == example[:, None]), g


# The two windows of the paper; programs of one row and of several rows, the last program with fewer; other
# head widths; one more head than a program has; the longest row.
SHAPES = [(9, 7, 12, 8), (5, 20, 12, 8), (3, 5, 2, 16), (4, 3, 5, 5), (1, 1, 1, 20), (2, 64, 1, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_kernel_equals_einsum(shape, dtype):
    qkv, mask, g = make_inputs(*shape, dtype)
    heads = shape[2]

    def plain_attention(x):
        return attention.einsum(*attention.split_fused(x, heads), mask).reshape(g.shape)

    actual = value_and_gradients(lambda x: attention_module.attend(x, mask, heads), qkv, cotangent=g)
    expected = value_and_gradients(plain_attention, qkv.astype("float32"), cotangent=g)
    assert_close(actual, expected, TOLERANCE[dtype])
    assert all(x.dtype == dtype for x in actual)


def test_position_with_empty_mask_gets_zeros_and_no_gradient():
    qkv, mask, g = make_inputs(3, 7, 2, 8, "float32")
    mask = mask.at[1, 2].set(False).at[1, :, 2].set(False)
    y, d_qkv = value_and_gradients(lambda x: attention_module.attend(x, mask, 2), qkv, cotangent=g)
    assert not y[1, 2].any() and not d_qkv[1, 2].any()
    assert np.isfinite(y).all() and np.isfinite(d_qkv).all() and y[1, 1].all()


def test_kernel_computes_rows_up_to_its_maximum_length(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    form = attention.FORMS["pallas"]._replace(fused=lambda *_: "the kernel")
    monkeypatch.setitem(attention.FORMS, "pallas", form)
    monkeypatch.setattr(attention_module, "MAX_LENGTH", 7)
    assert attention.attend_fused("auto", *make_inputs(2, 7, 2, 8, "bfloat16")[:2], 2) == "the kernel"
    qkv, mask, _ = make_inputs(2, 8, 2, 8, "bfloat16")
    expected = attention.einsum(*attention.split_fused(qkv, 2), mask).reshape(2, 8, 16)
    np.testing.assert_array_equal(
        to_float64(attention.attend_fused("auto", qkv, mask, 2)), to_float64(expected)
    )


def test_gpu_uses_the_layer_norm_kernel_in_supported_dtypes(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(layer_norm, "fused_layer_norm", lambda x, *_: 2 * x)
    with jax.enable_x64(True):
        x = jnp.ones((2, 3))
        for dtype, uses_kernel in (("float32", True), ("bfloat16", True), ("float64", False)):
            y, _ = normalization.LayerNorm(dtype).init_with_output(jax.random.key(0), x)
            assert (y == 2).all() == uses_kernel


@pytest.mark.parametrize("shape", [(5, 7, 96), (3, 20, 32), (70, 10, 100), (1, 1, 8)], ids=str)
@pytest.mark.parametrize("dtype, stored", [*((d, d) for d in TOLERANCE), ("bfloat16", "float32")])
def test_layer_norm_kernel_equals_plain_layer_norm(shape, dtype, stored):
    """Scale and bias may be stored in a wider dtype; their gradients have it."""
    r = np.random.default_rng(0)
    x, g = (jnp.asarray(3.0 * r.normal(size=shape) + 1.0, dtype) for _ in range(2))
    scale_and_bias = [jnp.asarray(r.normal(size=shape[-1]), dtype).astype(stored) for _ in range(2)]
    actual = value_and_gradients(layer_norm.fused_layer_norm, x, *scale_and_bias, cotangent=g)
    expected = value_and_gradients(
        normalization.normalize, *(y.astype("float32") for y in (x, *scale_and_bias)), cotangent=g
    )
    assert_close(actual, expected, 2 * TOLERANCE[dtype])
    assert [y.dtype for y in actual] == [dtype, dtype, stored, stored]


@pytest.mark.parametrize("mode", ["clip", "fill", None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_few_rows_are_summed_by_a_matmul(mode, dtype, monkeypatch):
    """Cover ids out of range, where the mode defines their gradient."""
    r = np.random.default_rng(0)
    x, g = jnp.asarray(r.normal(size=(6, 4)), dtype), jnp.asarray(r.normal(size=(50, 3, 4)), dtype)
    ids = jnp.asarray(r.integers(0 if mode is None else -3, 6 if mode is None else 9, (50, 3)))
    ids = jnp.where(ids < 0, 7, ids) if mode == "fill" else ids  # "fill": negative ids count from the end

    def lookup(y):
        return dense.embedding_lookup(y, ids, mode, 0.0 if mode == "fill" else None)

    def gradient(y):
        return jax.vjp(lookup, y)[1](g.astype(y.dtype))[0]

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    expected = gradient(x.astype("float32"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    actual = gradient(x)
    assert actual.dtype == dtype and "scatter" not in str(jax.make_jaxpr(gradient)(x))
    np.testing.assert_allclose(
        to_float64(actual), to_float64(expected), **{k: TOLERANCE[dtype] for k in ("rtol", "atol")}
    )


@pytest.mark.parametrize("backend, capability, has_compiler, available", [
    ("gpu", "9.0", True, True),
    ("gpu", "8.0", True, True),
    ("gpu", "7.5", True, False),  # too old for the compiler
    ("gpu", "gfx942", True, True),
    ("gpu", "9.0", False, False),  # a jax without the compiler
    ("tpu", "", True, False),
])  # fmt: skip
def test_kernels_are_available_on_supported_devices(
    backend, capability, has_compiler, available, monkeypatch
):
    """On other devices XLA compiles the plain implementation."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    monkeypatch.setattr(pallas, "_has_triton_compiler", lambda: has_compiler)
    assert pallas.is_available(backend, "bfloat16") == available and not pallas.is_available(
        backend, "float64"
    )
    assert attention.choose_form(backend, "bfloat16", 8) == ("pallas" if available else "einsum")
    assert ("pallas" in attention.allowed_forms(backend, "bfloat16", 8)) == available
    assert attention.choose_form(backend, "bfloat16", 256) == "einsum"  # wider than a program allows


def test_last_program_does_not_write_out_of_range(monkeypatch):
    """An interpreter does not report writes to memory out of range."""
    for module in (attention_module, layer_norm):
        monkeypatch.setattr(module, "program_id", lambda axis: 4)
    monkeypatch.setattr(attention_module, "load", lambda reference, indices, mask: mask)
    position, in_range, mask = attention_module._positions(
        attention_module.make_tiling(9, 7, 2, 8), None
    )  # two rows per program
    np.testing.assert_array_equal(np.flatnonzero(in_range), np.arange(7))
    np.testing.assert_array_equal(position[in_range], np.arange(8 * 7, 9 * 7))
    assert mask[:7, :7].all() and mask.sum() == 7 * 7
    monkeypatch.setattr(layer_norm, "_MAX_NUMBERS", 2 * 32)  # two rows of 20 with padding per program
    (row, column), mask, _ = layer_norm._indices(9, 20)
    assert mask.sum() == 20 and np.unique(np.broadcast_to(row, mask.shape)[mask]) == [8]
    assert np.broadcast_to(column, mask.shape)[mask].max() == 19
