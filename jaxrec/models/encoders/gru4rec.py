"""GRU4Rec (Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert
from jaxrec.models.encoders.base import PackedTitles, SequenceEncoder, SequencePositions
from jaxrec.models.layers.dense import Dense, Parameters, kernel_init
from jaxrec.models.layers.pooling import LastPosition
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id


class Gru(Parameters):
    """Gated recurrent units (their Eq. 1 to 4) along rows [R, L, D], with D units; the state h starts from 0
    where a request begins:

    z = sigmoid(W_z x + U_z h), r = sigmoid(W_r x + U_r h), n = tanh(W x + U (r * h)), h = (1 - z) h + z n.
    """

    @nn.compact
    def __call__(self, x_RxLxD: jax.Array, begins_RxL: jax.Array) -> jax.Array:
        D = x_RxLxD.shape[-1]
        of_x_RxLx3D = Dense(self.dtype, 3 * D, name="input")(x_RxLxD)
        of_gates = self.weight("gates", kernel_init, D, 2 * D)
        of_state = self.weight("state", kernel_init, D, D)

        def place(h_RxD: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            of_x_Rx3D, begins_R = at
            h_RxD = jnp.where(begins_R[:, None], jnp.zeros((), h_RxD.dtype), h_RxD)
            gates_Rx2D = nn.sigmoid(of_x_Rx3D[:, : 2 * D] + h_RxD @ of_gates)
            z_RxD, r_RxD = jnp.split(gates_Rx2D, 2, axis=-1)
            n_RxD = jnp.tanh(of_x_Rx3D[:, 2 * D :] + (r_RxD * h_RxD) @ of_state)
            h_RxD = (1.0 - z_RxD) * h_RxD + z_RxD * n_RxD
            return h_RxD, h_RxD

        along = jnp.moveaxis(of_x_RxLx3D, 1, 0), begins_RxL.T
        _, h_LxRxD = jax.lax.scan(place, jnp.zeros_like(x_RxLxD[:, 0]), along)
        return jnp.moveaxis(h_LxRxD, 0, 1)


def states(
    dtype: str, f: Expert, path: tuple[str, ...], h_RxLxD: jax.Array, begins_RxL: jax.Array,
    key_RxLx2: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """`f.layers` of units one on the other, [R, L, D], with dropout on what each gives; their parameters are
    of the module that calls, whose `path` numbers the draws."""
    chex.assert_rank(h_RxLxD, 3, custom_message="h_RxLxD")
    chex.assert_shape(begins_RxL, h_RxLxD.shape[:2], custom_message="begins_RxL")
    for i in range(f.num_layers):
        h_RxLxD = Gru(dtype, name=f"gru_{i}")(h_RxLxD, begins_RxL)
        if key_RxLx2 is not None and f.dropout:
            keep, _ = dropout_mask(key_RxLx2, layer_id((*path, str(i))), h_RxLxD.shape[-1], f.dropout)
            h_RxLxD = dropout(h_RxLxD, keep, f.dropout)
    return h_RxLxD


def encode_positions(
    dtype: str, fields: Expert, attention: str, path: tuple[str, ...], positions: SequencePositions
) -> jax.Array:
    """Encode every position of whole sequences; see `encoders.base.PositionEncoder`."""
    present = positions.present_BxL
    begins_BxL = present & jnp.pad(~present[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return states(dtype, fields, path, positions.x_BxLxD, begins_BxL, positions.key_BxLx2)


class Gru4Rec(SequenceEncoder):
    """Each request's titles to one vector [B, D]: the state after its newest title. `layers` of units, with
    dropout on what each gives; `heads` and `feedforward` say nothing here."""

    @nn.compact
    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        of_RxL, h_RxLxD = titles.example_RxL, titles.x_RxLxD
        begins_RxL = jnp.pad(of_RxL[:, 1:] != of_RxL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        h_RxLxD = states(self.dtype, self.fields, self.path, h_RxLxD, begins_RxL, titles.key_RxLx2)
        return LastPosition(self.dtype, name="newest")(h_RxLxD, of_RxL, examples)
