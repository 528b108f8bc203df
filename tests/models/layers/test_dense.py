"""The plain layers the others share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.layers.dense import matmul


@pytest.mark.parametrize("leading", [(5,), (3, 4)])
@pytest.mark.parametrize("dtype, apart", [("float64", 1e-14), ("float32", 1e-6), ("bfloat16", 2e-2)])
def test_a_product_and_its_gradients_are_those_of_the_operator(leading, dtype, apart):
    r = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        x, kernel, of_y = (
            jnp.asarray(r.normal(size=s), dtype) for s in ((*leading, 6), (6, 2), (*leading, 2))
        )
        found, pull = jax.vjp(matmul, x, kernel)
        plain, pull_plain = jax.vjp(jnp.matmul, x, kernel)
        for ours, jaxs in zip((found, *pull(of_y)), (plain, *pull_plain(of_y)), strict=True):
            assert ours.dtype == jaxs.dtype == dtype and ours.shape == jaxs.shape
            np.testing.assert_allclose(np.float64(ours), np.float64(jaxs), rtol=apart, atol=apart)
