"""The mixture: experts over windows of the history (3.2.2) and the gate that weighs them (3.2.3)."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Gate as GateConfig
from jaxrec.models.encoders.base import PackedTitles, SequenceEncoder
from jaxrec.models.encoders.transformer import TransformerStack
from jaxrec.models.layers.dense import Mlp, Parameters, at_least_float32
from jaxrec.models.layers.pooling import AttentionPooling
from jaxrec.models.layers.rng import layer_id, normal


def gate_temperature(step, total_steps, start: float, final: float, anneal: float):
    """The softmax temperature at `step` of `total_steps`: exponentially from `start` to `final` over
    the first share `anneal` of them, then `final`. `step` and `total_steps` may be traced."""
    passed = jnp.clip(step / jnp.maximum(anneal * total_steps, 1e-9), 0.0, 1.0)
    return start * (final / start) ** passed


class TransformerExpert(SequenceEncoder):
    """Each request's titles to one vector [B, D]: every one sees the others, and attention pools them."""

    @nn.compact
    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        f, of_RxL = self.fields, titles.example_RxL
        same_RxLxL = of_RxL[:, :, None] == of_RxL[:, None, :]
        encoder = TransformerStack(
            self.dtype, f.num_layers, f.num_heads, f.mlp_ratio, f.dropout, self.attention, name="encoder"
        )
        h_RxLxD = encoder(titles.x_RxLxD, same_RxLxL, titles.key_RxLx2)
        return AttentionPooling(self.dtype, name="pool")(h_RxLxD, of_RxL, examples)


# The kinds whose softmax attention has the forms of `model.attention_impl`; the others have none to choose.
SOFTMAX_ENCODERS = ("transformer", "sasrec")


class Gate(Parameters):
    """Routing weights (Eq. 9) from the customer's vector and every expert's."""

    fields: GateConfig

    @nn.compact
    def __call__(
        self,
        customer_BxF: jax.Array,
        experts: Sequence[jax.Array],
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Two [B, E], each row adding to 1: the weights to mix with, and the same without noise.

        The noise is drawn for each expert, for one draw shared by all would cancel in the softmax.
        """
        chex.assert_rank(customer_BxF, 2, custom_message="customer_BxF")
        chex.assert_shape(list(experts), (len(customer_BxF), None), custom_message="experts [B, D]")
        x = jnp.concatenate([customer_BxF, *experts], axis=-1)
        z_BxE = Mlp(self.dtype, self.fields.hidden, len(experts), name="mlp")(x)
        z_BxE = z_BxE.astype(at_least_float32(self.dtype))
        clean_BxE = jax.nn.softmax(z_BxE / temperature, axis=-1)
        if key_Bx2 is None or self.fields.noise_std == 0.0:
            return clean_BxE, clean_BxE
        noise_BxE = normal((len(experts),), key_Bx2, layer_id(self.path), z_BxE.dtype)
        noisy_BxE = z_BxE + self.fields.noise_std * noise_BxE
        return jax.nn.softmax(noisy_BxE / temperature, axis=-1), clean_BxE
