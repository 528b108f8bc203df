"""The mixture: experts over windows of the history (3.2.2) and the gate that weighs them (3.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.nn.draws import layer_number, normal
from jaxrec.nn.layers import Mlp, Parameters, at_least_float32, embedding_init, small_init
from jaxrec.nn.transformer import Encoder


@dataclass(frozen=True)
class ExpertFields:
    """One expert: it sees the last `window` titles through an encoder of its own."""

    window: int
    layers: int
    heads: int
    feedforward: float  # hidden width as a multiple of the model's
    dropout: float


@dataclass(frozen=True)
class GateFields:
    hidden: tuple[int, ...]
    noise: float  # standard deviation of the noise on the logits in training


def temperature(step, total_steps, start: float, final: float, anneal: float):
    """The softmax temperature at `step` of `total_steps`: exponentially from `start` to `final` over
    the first share `anneal` of them, then `final`. `step` and `total_steps` may be traced."""
    passed = jnp.clip(step / jnp.maximum(anneal * total_steps, 1e-9), 0.0, 1.0)
    return start * (final / start) ** passed


class Pool(Parameters):
    """Attention pooling (Eq. 7 and 8): [B, L, D] to [B, D].

    Padding gets no weight; a row of padding alone pools to a learned vector.
    """

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array, valid_BxL: jax.Array) -> jax.Array:
        D = h_BxLxD.shape[-1]
        s_BxL = (h_BxLxD @ self.weight("attention", small_init, D)).astype(at_least_float32(self.dtype))
        alpha_BxL = jax.nn.softmax(jnp.where(valid_BxL, s_BxL, -1e9), axis=-1).astype(self.dtype)
        pooled_BxD = (alpha_BxL[..., None] * h_BxLxD).sum(1)
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(valid_BxL.any(-1)[:, None], pooled_BxD, empty_D)


class Expert(Parameters):
    """The history's rows [B, L, D] to one vector [B, D], of which only the last `window` columns count."""

    fields: ExpertFields

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, valid_BxL: jax.Array, key_Bx2: jax.Array | None) -> jax.Array:
        f = self.fields
        x_BxLxD, valid_BxL = x_BxLxD[:, -f.window :], valid_BxL[:, -f.window :]
        encoder = Encoder(self.dtype, f.layers, f.heads, f.feedforward, f.dropout, name="encoder")
        return Pool(self.dtype, name="pool")(encoder(x_BxLxD, valid_BxL, key_Bx2), valid_BxL)


class Gate(Parameters):
    """Routing weights (Eq. 9) from the customer's vector and every expert's."""

    fields: GateFields

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
        x = jnp.concatenate([customer_BxF, *experts], axis=-1)
        z_BxE = Mlp(self.dtype, self.fields.hidden, len(experts), name="mlp")(x)
        z_BxE = z_BxE.astype(at_least_float32(self.dtype))
        clean_BxE = jax.nn.softmax(z_BxE / temperature, axis=-1)
        if key_Bx2 is None or self.fields.noise == 0.0:
            return clean_BxE, clean_BxE
        noise_BxE = normal((len(experts),), key_Bx2, layer_number(self.path), z_BxE.dtype)
        noisy_BxE = z_BxE + self.fields.noise * noise_BxE
        return jax.nn.softmax(noisy_BxE / temperature, axis=-1), clean_BxE
