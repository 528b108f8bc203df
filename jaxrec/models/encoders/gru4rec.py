"""GRU4Rec: gated recurrent units over the history.

Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.
"""

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
    """Layer of D gated recurrent units, [R, L, D] to [R, L, D].

    The equations are 1 to 4 of Hidasi et al. 2016: z = sigmoid(W_z x + U_z h), r = sigmoid(W_r x + U_r h),
    n = tanh(W x + U (r * h)), h = (1 - z) h + z n.

    The state h is reset to 0 at the first title of each example.
    """

    @nn.compact
    def __call__(self, x_RxLxD: jax.Array, begins_RxL: jax.Array) -> jax.Array:
        D = x_RxLxD.shape[-1]
        input_RxLx3D = Dense(self.dtype, 3 * D, name="input")(x_RxLxD)
        gates_kernel = self.weight("gates", kernel_init, D, 2 * D)
        state_kernel = self.weight("state", kernel_init, D, D)

        def step(h_RxD: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            input_Rx3D, begins_R = inputs
            h_RxD = jnp.where(begins_R[:, None], jnp.zeros((), h_RxD.dtype), h_RxD)
            gates_Rx2D = nn.sigmoid(input_Rx3D[:, : 2 * D] + h_RxD @ gates_kernel)
            z_RxD, r_RxD = jnp.split(gates_Rx2D, 2, axis=-1)
            n_RxD = jnp.tanh(input_Rx3D[:, 2 * D :] + (r_RxD * h_RxD) @ state_kernel)
            h_RxD = (1.0 - z_RxD) * h_RxD + z_RxD * n_RxD
            return h_RxD, h_RxD

        inputs = jnp.moveaxis(input_RxLx3D, 1, 0), begins_RxL.T
        _, h_LxRxD = jax.lax.scan(step, jnp.zeros_like(x_RxLxD[:, 0]), inputs)
        return jnp.moveaxis(h_LxRxD, 0, 1)


def states(
    dtype: str, f: Expert, path: tuple[str, ...], h_RxLxD: jax.Array, begins_RxL: jax.Array,
    key_RxLx2: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """Apply `f.num_layers` stacked GRU layers, with dropout on the output of each.

    Args:
        dtype: Compute dtype.
        f: Config of the expert.
        path: Path of the calling module, which owns the parameters; gives the layer ids of the draws.
        h_RxLxD: Inputs.
        begins_RxL: Bool, True at the first title of each example.
        key_RxLx2: uint32 keys; None for no dropout.

    Returns:
        Outputs [R, L, D] of the last layer.
    """
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
    """Encode every position of whole sequences; see `encoders.base.PositionEncoder`.

    Args:
        dtype: Compute dtype.
        fields: Config of the encoder.
        attention: Not used.
        path: Path of the calling module, which owns the parameters.
        positions: B sequences of L positions.

    Returns:
        Outputs [B, L, D].
    """
    present = positions.present_BxL
    begins_BxL = present & jnp.pad(~present[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return states(dtype, fields, path, positions.x_BxLxD, begins_BxL, positions.key_BxLx2)


class Gru4Rec(SequenceEncoder):
    """GRU4Rec expert: the vector of an example is the state after its newest title.

    A call returns [B, D]. Dropout applies to the output of each of the `num_layers`. `num_heads` and
    `mlp_ratio` have no effect.
    """

    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        return self.outputs(titles, examples)[0]

    @nn.compact
    def outputs(self, titles: PackedTitles, examples: int) -> tuple[jax.Array, jax.Array]:
        owner_RxL, h_RxLxD = titles.example_RxL, titles.x_RxLxD
        begins_RxL = jnp.pad(owner_RxL[:, 1:] != owner_RxL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        h_RxLxD = states(self.dtype, self.fields, self.path, h_RxLxD, begins_RxL, titles.key_RxLx2)
        return LastPosition(self.dtype, name="newest")(h_RxLxD, owner_RxL, examples), h_RxLxD
