"""Mixture of experts over windows of the history (3.2.2), and gate (3.2.3)."""

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
    """Softmax temperature at a step, annealed exponentially from `start` to `final`.

    Args:
        step: Number of the step, from 0; may be traced.
        total_steps: Number of steps of the run; may be traced.
        start: Temperature at step 0.
        final: Temperature at the end of the annealing and after it.
        anneal: Fraction of `total_steps` during which the temperature changes, in [0, 1].
    """
    progress = jnp.clip(step / jnp.maximum(anneal * total_steps, 1e-9), 0.0, 1.0)
    return start * (final / start) ** progress


class TransformerExpert(SequenceEncoder):
    """Transformer expert: attention pools the titles of an example to one vector.

    A call returns [B, D]. Each title attends to all titles of its example (Eq. 6 to 8).
    """

    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        return self.outputs(titles, examples)[0]

    @nn.compact
    def outputs(self, titles: PackedTitles, examples: int) -> tuple[jax.Array, jax.Array]:
        f, owner_RxL = self.fields, titles.example_RxL
        mask_RxLxL = owner_RxL[:, :, None] == owner_RxL[:, None, :]
        encoder = TransformerStack(
            self.dtype, f.num_layers, f.num_heads, f.mlp_ratio, f.dropout, self.attention, name="encoder"
        )
        h_RxLxD = encoder(titles.x_RxLxD, mask_RxLxL, titles.key_RxLx2)
        return AttentionPooling(self.dtype, name="pool")(h_RxLxD, owner_RxL, examples), h_RxLxD


class Gate(Parameters):
    """Gate of the experts (Eq. 9), from user features and the vectors of all experts.

    A call returns routing weights [B, E].

    Attributes:
        fields: Config of the gate.
    """

    fields: GateConfig

    @nn.compact
    def __call__(
        self,
        user_BxF: jax.Array,
        experts: Sequence[jax.Array],
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Compute the routing weights with and without noise.

        The noise is drawn for each expert, because one draw for all experts would cancel in the softmax.

        Args:
            user_BxF: Encoded user features.
            experts: Vectors [B, D] of the experts.
            temperature: Softmax temperature.
            key_Bx2: uint32 keys of the examples; None for no noise.

        Returns:
            Weights [B, E] with noise, and weights [B, E] without noise; each row adds to 1.
        """
        chex.assert_rank(user_BxF, 2, custom_message="user_BxF")
        chex.assert_shape(list(experts), (len(user_BxF), None), custom_message="experts [B, D]")
        x = jnp.concatenate([user_BxF, *experts], axis=-1)
        z_BxE = Mlp(self.dtype, self.fields.hidden, len(experts), name="mlp")(x)
        z_BxE = z_BxE.astype(at_least_float32(self.dtype))
        clean_BxE = jax.nn.softmax(z_BxE / temperature, axis=-1)
        if key_Bx2 is None or self.fields.noise_std == 0.0:
            return clean_BxE, clean_BxE
        noise_BxE = normal((len(experts),), key_Bx2, layer_id(self.path), z_BxE.dtype)
        noisy_BxE = z_BxE + self.fields.noise_std * noise_BxE
        return jax.nn.softmax(noisy_BxE / temperature, axis=-1), clean_BxE
