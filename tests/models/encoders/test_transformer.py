"""Tests of the transformer encoder: norm, padding, choice of the attention implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.encoders import transformer
from jaxrec.models.encoders.transformer import TransformerStack
from jaxrec.models.layers.normalization import LayerNorm

VALID = jnp.array([[False, True, True, True], [True] * 4, [False, False, False, True], [False] * 4])
MASK = VALID[:, :, None] == VALID[:, None, :]  # padding attends to padding
ENCODER = TransformerStack("float32", 2, 3, 2.0, 0.5)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(ENCODER.init)(jax.random.key(0), jnp.zeros((1, 4, 12)), MASK[:1], None)


def test_layer_norm():
    result = LayerNorm("float32").apply(
        {"params": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 0.5])}}, jnp.array([[1.0, 3.0]])
    )
    np.testing.assert_allclose(result, [[-1.0, 2.5]], rtol=1e-5)


def test_padding_affects_no_other_position_and_stays_finite(variables):
    x = jax.random.normal(jax.random.key(1), (4, 4, 12))
    run = jax.jit(lambda x: ENCODER.apply(variables, x, MASK, None))
    other = jnp.where(VALID[..., None], x, 100.0)
    assert np.array_equal(run(x)[VALID], run(other)[VALID])
    grad = jax.jit(jax.grad(lambda x: jnp.where(VALID[..., None], run(x), 0).sum()))(x)
    assert not np.any(grad[~VALID])
    assert np.isfinite(run(other)).all()


def test_keys_have_no_bias(variables):
    attention = variables["params"]["block_0"]["attention"]
    assert {*attention} == {"kernel", "query_bias", "value_bias", "out"}


def test_width_must_divide_by_heads():
    with pytest.raises(ValueError, match=r"model.width=12 must divide by heads=5"):
        TransformerStack("float32", 1, 5, 1.0, 0.0).init(
            jax.random.key(0), jnp.zeros((1, 4, 12)), MASK[:1], None
        )


def test_blocks_use_the_selected_attention_implementation(variables, monkeypatch):
    calls = []
    for name in ("attend", "attend_fused"):
        original = getattr(transformer, name)

        def record(form, *arguments, original=original, name=name):
            calls.append((name, form))
            return original(form, *arguments)

        monkeypatch.setattr(transformer, name, record)
    x = jax.random.normal(jax.random.key(1), (4, 4, 12))
    encoder = ENCODER.clone(form="dot_product")
    jax.eval_shape(lambda: encoder.apply(variables, x, MASK, None))
    jax.eval_shape(lambda: ENCODER.apply(variables, x, MASK, None))
    assert calls == [("attend_fused", "dot_product")] * 2 + [("attend_fused", "auto")] * 2
    calls.clear()

    def encode_with_cache():
        cache = encoder.apply(variables, x, MASK, None, method="with_keys")[1]
        joint_mask = jnp.concatenate([MASK, MASK], axis=2)
        return encoder.apply(variables, x, joint_mask, None, cache, method="with_keys")

    jax.eval_shape(encode_with_cache)
    assert calls == [("attend_fused", "dot_product")] * 2 + [("attend", "dot_product")] * 2
