"""Encoders of whole sequences: neither the content nor the amount of padding changes an output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import PAD
from jaxrec.core.registry import SEQUENCE_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.next_item import ItemWindow, LayerStack, NextItemModel

V, D, B, L = 20, 8, 3, 6
PADDING = 2  # leading positions of every row
FIELDS = {"max_len": L, "num_layers": 2, "num_heads": 2, "mlp_ratio": 1.0, "dropout": 0.5}


def make_window():
    r = np.random.default_rng(0)
    title_BxL = r.integers(2, V, (B, L))
    title_BxL[:, :PADDING] = PAD
    time_BxL = np.sort(r.integers(1e9, 1.2e9, (B, L + 1)), axis=1).astype(np.uint32)
    return ItemWindow(jnp.asarray(title_BxL), jnp.asarray(time_BxL[:, :-1]), jnp.asarray(time_BxL[:, 1:]))


def random_parameters(init):
    """Draw all parameters.

    With the initial zeros of biases, padding has neither keys nor values, and attention to padding would be
    without effect.
    """
    r = np.random.default_rng(1)
    abstract = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape, scale=0.5), x.dtype), abstract)


@pytest.mark.parametrize("dropout", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_the_content_of_padding_changes_no_output_bit_for_bit(encoder, dropout):
    stack, window = LayerStack("float32", Expert(encoder=encoder, **FIELDS)), make_window()
    x_BxLxD = jax.random.normal(jax.random.key(2), (B, L, D))
    key_BxLx2 = jax.random.bits(jax.random.key(3), (B, L, 2), jnp.uint32) if dropout else None
    variables = random_parameters(lambda key: stack.init(key, window, x_BxLxD, None))
    encode = jax.jit(lambda window, x: stack.apply(variables, window, x, key_BxLx2)[:, PADDING:])
    other_x_BxLxD = x_BxLxD.at[:, :PADDING].set(100.0 * x_BxLxD[:, -PADDING:])
    other_window = window._replace(
        time_BxL=window.time_BxL.at[:, :PADDING].set(7), until_BxL=window.until_BxL.at[:, :PADDING].set(9)
    )
    np.testing.assert_array_equal(encode(window, x_BxLxD), encode(other_window, other_x_BxLxD))


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_the_amount_of_padding_changes_no_output(encoder):
    """Outputs and gradients of the same plays in a window without padding are equal."""
    features = (FeatureSpec("title_id", "category", "title", D, V),)
    config = Model(D, (Expert(encoder=encoder, **FIELDS),), embedding_init_std=0.5)
    model, window = NextItemModel("float32", features, V, config), make_window()
    table = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))
    variables = random_parameters(lambda key: model.init(key, window, table, method="of_table"))
    weights_BxMxD = jax.random.normal(jax.random.key(4), (B, L - PADDING, D))

    @jax.jit
    def loss(variables, window):
        outputs = model.apply(variables, window, table, method="of_table")[:, -(L - PADDING) :]
        return (outputs * weights_BxMxD).sum(), outputs

    unpadded = jax.tree.map(lambda x: x[:, PADDING:], window)
    (_, actual), gradient = jax.value_and_grad(loss, has_aux=True)(variables, window)
    (_, expected), expected_gradient = jax.value_and_grad(loss, has_aux=True)(variables, unpadded)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, expected_gradient
    )
