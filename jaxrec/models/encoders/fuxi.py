"""FuXi-alpha: separate attention channels for content, position and time.

Ye et al., FuXi-alpha: Scaling Recommendation Model with Feature Interaction Enhanced Transformer, WWW 2025
(arXiv 2502.03036), with the norms, activations and dropout of the authors' code. Differences from that code:
times and their buckets are those of `hstu`, and a layer norm follows the last block, as in the other
encoders.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert
from jaxrec.models.encoders import hstu
from jaxrec.models.encoders.hstu import HstuBlock, RelativeBias, VisiblePositions
from jaxrec.models.layers.attention import Before, KeysValues, append_keys_values, scores
from jaxrec.models.layers.dense import Dense, broadcast
from jaxrec.models.layers.normalization import rms_normalize
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id


class FuxiBlock(HstuBlock):
    """FuXi block: adaptive multi-channel self-attention (AMS), then a multi-stage feed-forward net (MFFN).

    U, V, Q, K = SiLU(W' rms(x)), where U is three times as wide as the others. For each head, the channel of
    content is A V with A = SiLU(Q K^T) / N where the mask allows attention; those of position and time are
    P V and T V, where P and T are the learned numbers of `RelativeBias`, shared by the heads. AMS(x) is
    rms([P V, T V, A V]) * U. MFFN: y = W_0 AMS(x) + b_0 + x, and z = y + W_2 (SiLU(W_1 rms(y)) * W_3 rms(y)).
    Norms have no learned scale. Dropout applies to AMS(x) and to rms(y).

    Call, keys and values are those of `HstuBlock`.

    Attributes:
        feedforward: Hidden width of the MFFN as a multiple of D.
    """

    feedforward: float = 1.0

    @classmethod
    def of_expert(cls, dtype: str, f: Expert, name: str) -> "FuxiBlock":
        """Construct a block of an expert."""
        return cls(dtype, f.num_heads, f.max_len, f.dropout, f.mlp_ratio, name=name)

    @nn.compact
    def __call__(
        self,
        x_RxLxD: jax.Array,
        visible: VisiblePositions,
        key_RxLx2: jax.Array | None,
        before: Before | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        R, L, D = x_RxLxD.shape
        uvqk = nn.silu(Dense(self.dtype, 6 * D, bias=False, name="uvqk")(rms_normalize(x_RxLxD)))
        u_RxLx3D, *vqk = jnp.split(uvqk, [3 * D, 4 * D, 5 * D], axis=-1)
        v_RxLxHxd, q_RxLxHxd, k_RxLxHxd = (y.reshape(R, L, self.heads, -1) for y in vqk)
        k_RxMxHxd, v_RxMxHxd = append_keys_values(before, k_RxLxHxd, v_RxLxHxd)
        channels = self._channels(visible, q_RxLxHxd, k_RxMxHxd, v_RxMxHxd)
        ams_RxLx3D = rms_normalize(jnp.concatenate(channels, axis=-1).reshape(R, L, 3 * D)) * u_RxLx3D
        ams_RxLx3D = self._dropout("ams", ams_RxLx3D, key_RxLx2)
        y = Dense(self.dtype, D, name="out")(ams_RxLx3D) + x_RxLxD
        z = self._dropout("mffn", rms_normalize(y), key_RxLx2)
        hidden = round(self.feedforward * D)
        gate, value = (Dense(self.dtype, hidden, bias=False, name=n)(z) for n in ("gate", "hidden"))
        z = Dense(self.dtype, D, bias=False, name="feedforward_out")(nn.silu(gate) * value)
        return y + z, (k_RxLxHxd, v_RxLxHxd)

    def _channels(self, visible: VisiblePositions, q_RxLxHxd, k_RxMxHxd, v_RxMxHxd) -> tuple[jax.Array, ...]:
        """Return the channels of position, time and content, [R, L, H, d] each."""
        bias = RelativeBias(self.dtype, self.window, name="bias")
        position_LxM, time_RxLxM = bias.terms(visible.gaps_RxLxM, visible.apart_LxM)
        a_RxHxLxM = nn.silu(scores(q_RxLxHxd, k_RxMxHxd)) / self.window
        a_RxHxLxM = jnp.where(visible.seen_RxLxM[:, None], a_RxHxLxM, 0.0).astype(v_RxMxHxd.dtype)
        shared = (broadcast(position_LxM, visible.seen_RxLxM.shape), time_RxLxM)
        return *(
            jnp.einsum("blm,bmhd->blhd", jnp.where(visible.seen_RxLxM, w_RxLxM, 0.0), v_RxMxHxd)
            for w_RxLxM in shared
        ), jnp.einsum("bhlm,bmhd->blhd", a_RxHxLxM, v_RxMxHxd)

    def _dropout(self, name: str, x: jax.Array, key_RxLx2: jax.Array | None) -> jax.Array:
        """Return x [R, L, width] with dropout, if there are keys."""
        if key_RxLx2 is None or not self.dropout:
            return x
        keep, _ = dropout_mask(key_RxLx2, layer_id((*self.path, name)), x.shape[-1], self.dropout)
        return dropout(x, keep, self.dropout)


encode_positions = partial(hstu.encode_positions, kind=FuxiBlock)
encode_with_keys = partial(hstu.encode_with_keys, kind=FuxiBlock)


class Fuxi(hstu.Hstu):
    """FuXi-alpha expert: the vector of an example is its newest title's normalized output, [B, D].

    `attention` has no effect.
    """

    kind = FuxiBlock
