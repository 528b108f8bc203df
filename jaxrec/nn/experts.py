"""The mixture: experts over windows of the history (3.2.2) and the gate that weighs them (3.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Titles(NamedTuple):
    """What experts read: rows of titles, of one request or of several."""

    x_RxLxD: jax.Array
    example_RxL: jax.Array  # whose title it is; `examples` or more for padding
    key_RxLx2: jax.Array | None  # for dropout


class Pool(Parameters):
    """Attention pooling (Eq. 7 and 8): each request's titles among [R, L, D] to one vector, [B, D].

    Padding gets no weight; a request without titles pools to a learned vector.
    """

    @nn.compact
    def __call__(self, h_RxLxD: jax.Array, example_RxL: jax.Array, examples: int) -> jax.Array:
        D, wide = h_RxLxD.shape[-1], at_least_float32(self.dtype)
        h_NxD, of_N = h_RxLxD.reshape(-1, D), example_RxL.reshape(-1)
        s_N = (h_NxD @ self.weight("attention", small_init, D)).astype(wide)
        # Any shift leaves a softmax as it is; the largest score keeps its exponentials from overflowing.
        largest_B = jax.ops.segment_max(jax.lax.stop_gradient(s_N), of_N, examples)
        e_N = jnp.exp(s_N - largest_B.at[of_N].get(mode="fill", fill_value=0.0))
        total_B = jax.ops.segment_sum(e_N, of_N, examples)
        there_B = jax.ops.segment_sum(jnp.ones_like(e_N), of_N, examples) > 0
        alpha_N = e_N / jnp.where(there_B, total_B, 1.0).at[of_N].get(mode="fill", fill_value=1.0)
        weighted_NxD = alpha_N[:, None] * h_NxD.astype(wide)
        pooled_BxD = jax.ops.segment_sum(weighted_NxD, of_N, examples).astype(self.dtype)
        empty_D = self.weight("empty", embedding_init, D)
        return jnp.where(there_B[:, None], pooled_BxD, empty_D)


class Expert(Parameters):
    """Each request's titles to one vector [B, D]."""

    fields: ExpertFields

    @nn.compact
    def __call__(self, titles: Titles, examples: int) -> jax.Array:
        f, of_RxL = self.fields, titles.example_RxL
        same_RxLxL = of_RxL[:, :, None] == of_RxL[:, None, :]
        encoder = Encoder(self.dtype, f.layers, f.heads, f.feedforward, f.dropout, name="encoder")
        h_RxLxD = encoder(titles.x_RxLxD, same_RxLxL, titles.key_RxLx2)
        return Pool(self.dtype, name="pool")(h_RxLxD, of_RxL, examples)


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
