"""SASRec: causal self-attention over the history.

Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Expert
from jaxrec.models.encoders import block_local
from jaxrec.models.encoders.base import (
    KVCache,
    PackedTitles,
    SequenceEncoder,
    SequencePositions,
    candidate_keys,
    causal_mask,
    is_present,
)
from jaxrec.models.encoders.transformer import TransformerBlock, TransformerStack
from jaxrec.models.layers.pooling import LastPosition


def causal_stack(
    dtype: str, f: Expert, attention: str, kind: Callable[..., Any] = TransformerBlock
) -> TransformerStack:
    """Construct the blocks of an expert; the calling module owns the parameters.

    Args:
        dtype: Compute dtype.
        f: Config of the expert.
        attention: "auto" or one of `attention.FORMS`.
        kind: Class of the blocks, as in `TransformerStack`.
    """
    return TransformerStack(
        dtype, f.num_layers, f.num_heads, f.mlp_ratio, f.dropout, attention, kind, name="encoder"
    )


def encode_positions(
    dtype: str,
    fields: Expert,
    attention: str,
    path: tuple[str, ...],
    positions: SequencePositions,
    kind: Callable[..., Any] = TransformerBlock,
) -> jax.Array:
    """Encode every position of whole sequences; see `encoders.base.PositionEncoder`.

    Args:
        dtype: Compute dtype.
        fields: Config of the encoder.
        attention: "auto" or one of `attention.FORMS`.
        path: Not used.
        positions: B sequences of L positions.
        kind: Class of the blocks, as in `TransformerStack`.

    Returns:
        Outputs [B, L, D].
    """
    stack = causal_stack(dtype, fields, attention, kind)
    if block_local.has_chunks(positions):
        chunks = block_local.chunks_of(positions)
        others = block_local.keys_of_other_chunks(dtype, fields.num_layers, positions, chunks)
        h_RxwxD, _ = stack.with_keys(chunks.x_RxwxD, chunks.seen_RxwxM, chunks.key_Rxwx2, others)
        return block_local.from_chunks(h_RxwxD, *positions.present_BxL.shape)
    return stack(positions.x_BxLxD, causal_mask(positions.example_BxL), positions.key_BxLx2)


class SasRec(SequenceEncoder):
    """SASRec expert: the vector of an example is the output of its newest title.

    A call returns [B, D]. Each title attends to itself and to the older titles (Kang & McAuley 2018). All
    candidates of a history share one encoding of the history.
    """

    kind: ClassVar[Callable[..., Any]] = TransformerBlock  # class of the blocks

    def setup(self):
        """Create the blocks and the pooling."""
        self.encoder = causal_stack(self.dtype, self.fields, self.attention, self.kind)
        self.newest = LastPosition(self.dtype, name="newest")

    def __call__(self, titles: PackedTitles, examples: int) -> jax.Array:
        return self.outputs(titles, examples)[0]

    def outputs(self, titles: PackedTitles, examples: int) -> tuple[jax.Array, jax.Array]:
        """Return the vectors [B, D] and the outputs [R, L, D]; see `SequenceEncoder.outputs`."""
        owner_RxL = titles.example_RxL
        h_RxLxD = self.encoder(titles.x_RxLxD, causal_mask(owner_RxL), titles.key_RxLx2)
        return self.newest(h_RxLxD, owner_RxL, examples), h_RxLxD

    def encode_history(self, titles: PackedTitles) -> KVCache:
        """Return the cached keys and values of histories [B, L], one example per row."""
        mask_RxLxL = causal_mask(titles.example_RxL)
        _, layers = self.encoder.with_keys(titles.x_RxLxD, mask_RxLxL, titles.key_RxLx2)
        return KVCache(layers, is_present(titles), titles.age_RxL)

    def join(self, histories: KVCache, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        """Encode candidates from cached histories, [B * C, D]; see `SequenceEncoder.join`."""
        B, C, _ = x_BxCxD.shape
        key = candidate_keys(key_BxCx2)
        h_BxCxD, _ = self.encoder.with_keys(x_BxCxD, histories.seen_by(C), key, histories.layers)
        return self.newest(h_BxCxD, jnp.arange(B * C).reshape(B, C), B * C)
