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
    EncodedPositions,
    KVCache,
    PackedTitles,
    SequenceEncoder,
    SequencePositions,
    candidate_keys,
    causal_mask,
    is_present,
)
from jaxrec.models.encoders.transformer import TransformerBlock, TransformerStack
from jaxrec.models.layers.attention import EarlierKeys
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


def encode_with_keys(
    dtype: str,
    fields: Expert,
    attention: str,
    positions: SequencePositions,
    earlier: EarlierKeys | None = None,
    kind: Callable[..., Any] = TransformerBlock,
) -> EncodedPositions:
    """Encode every position of whole sequences, or one position more; see `encoders.base.CachedEncoder`.

    Args:
        dtype: Compute dtype.
        fields: Config of the encoder.
        attention: "auto" or one of `attention.FORMS`.
        positions: B sequences of L positions; of one position with `earlier`.
        earlier: Keys and values of earlier positions; None: there are none.
        kind: Class of the blocks, as in `TransformerStack`.
    """
    stack = causal_stack(dtype, fields, attention, kind)
    if earlier is not None:
        return EncodedPositions(
            *stack.with_keys(positions.x_BxLxD, earlier.seen_Bx1xM1, positions.key_BxLx2, earlier.layers)
        )
    if block_local.has_chunks(positions):
        (B, L), chunks = positions.present_BxL.shape, block_local.chunks_of(positions)
        summaries = block_local.chunk_summaries(dtype, fields.num_layers, B)
        others = block_local.keys_of_other_chunks(summaries, chunks)
        h_RxwxD, layers = stack.with_keys(chunks.x_RxwxD, chunks.seen_RxwxM, chunks.key_Rxwx2, others)
        return block_local.encoded_chunks(h_RxwxD, layers, summaries, chunks, L)
    mask = causal_mask(positions.example_BxL)
    return EncodedPositions(*stack.with_keys(positions.x_BxLxD, mask, positions.key_BxLx2))


def encode_positions(
    dtype: str,
    fields: Expert,
    attention: str,
    path: tuple[str, ...],
    positions: SequencePositions,
    kind: Callable[..., Any] = TransformerBlock,
) -> jax.Array:
    """Encode every position of whole sequences, [B, L, D]; see `encoders.base.PositionEncoder`.

    `path` is not used; the other arguments are those of `encode_with_keys`.
    """
    return encode_with_keys(dtype, fields, attention, positions, kind=kind).h_BxLxD


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
