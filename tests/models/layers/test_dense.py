"""Dense layers and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.layers.dense import matmul


@pytest.mark.parametrize("leading", [(5,), (3, 4)])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6), ("bfloat16", 2e-2)])
def test_matmul_and_its_gradients_equal_jnp_matmul(leading, dtype, tolerance):
    r = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        x, kernel, dy = (jnp.asarray(r.normal(size=s), dtype) for s in ((*leading, 6), (6, 2), (*leading, 2)))
        y, pullback = jax.vjp(matmul, x, kernel)
        y_plain, pullback_plain = jax.vjp(jnp.matmul, x, kernel)
        for actual, expected in zip((y, *pullback(dy)), (y_plain, *pullback_plain(dy)), strict=True):
            assert actual.dtype == expected.dtype == dtype and actual.shape == expected.shape
            np.testing.assert_allclose(
                np.float64(actual), np.float64(expected), rtol=tolerance, atol=tolerance
            )
