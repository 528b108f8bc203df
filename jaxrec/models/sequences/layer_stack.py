"""Position encoder of a next-item model: whole windows, or one position more from cached keys and values.

Axis letters: B users, L positions, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert
from jaxrec.core.batch import Known
from jaxrec.core.registry import ALL_SEQUENCE_ENCODERS, CACHED_ENCODERS, resolve
from jaxrec.models.encoders.base import CachedEncoder, PositionEncoder, SequencePositions
from jaxrec.models.encoders.block_local import chunk_summaries
from jaxrec.models.features.tokens import TokenInputs
from jaxrec.models.layers.dense import Parameters
from jaxrec.models.layers.history_encoder import elapsed_bucket
from jaxrec.models.sequences import position_cache
from jaxrec.models.sequences.position_cache import Keys, PositionCache


class _WindowFields(NamedTuple):
    """Fields of `ItemWindow`: a NamedTuple has no other base class."""

    title_BxL: jax.Array
    time_BxL: jax.Array
    until_BxL: jax.Array
    tokens: TokenInputs | None = None


class ItemWindow(_WindowFields, Known):
    """Consecutive plays of B users, or tokens, right-aligned, with the time of each next one.

    Attributes:
        title_BxL: int32, 0 for padding.
        time_BxL: uint32 seconds since 1970.
        until_BxL: uint32 seconds since 1970, the time of the next play, which is the time of the request.
        tokens: Fields of tokens of several kinds; None for plays.
    """

    __slots__ = ()


def time_since_previous(window: ItemWindow) -> jax.Array:
    """Time-gap buckets [B, L, L] int32 between each play and each position's query.

    The second axis is the position, whose query is at the time of the position's next play. The last axis is
    the play. The buckets are those of `time_gap_bucket`. Values for plays after the position are not
    meaningful.
    """
    return elapsed_bucket(window.until_BxL, window.time_BxL)


class LayerStack(Parameters):
    """Position encoder of the configured kind, [B, L, D] to [B, L, D].

    The output of a position depends on the inputs up to that position.

    Attributes:
        fields: Config of the encoder.
        attention: "auto" or one of `attention.FORMS`.
        encoder: As in `NextItemModel`.
        span: Positions of a chunk of block-local attention; 0: dense attention.
    """

    fields: Expert
    attention: str = "auto"
    encoder: str = ""
    span: int = 0

    def __call__(self, window: ItemWindow, x_BxLxD: jax.Array, key_BxLx2: jax.Array | None) -> jax.Array:
        """Return the outputs of whole windows."""
        return self.encoded(window, x_BxLxD, key_BxLx2)[0]

    @nn.compact
    def encoded(
        self, window: ItemWindow, x_BxLxD: jax.Array, key_BxLx2: jax.Array | None,
        cache: PositionCache | None = None, capacity: int = 0,
    ) -> tuple[jax.Array, PositionCache | None]:  # fmt: skip
        """Return the outputs [B, L, D], and the cache of the positions if one is wanted.

        Args:
            window: Windows; of one position with a cache.
            x_BxLxD: Inputs of the positions.
            key_BxLx2: uint32 keys for dropout; None for no dropout.
            cache: Cache of the positions before. None: the windows are whole.
            capacity: Columns of the cache that is made of whole windows; 0: no cache.
        """
        positions = SequencePositions(
            x_BxLxD, window.title_BxL > 0, time_since_previous(window), key_BxLx2,
            window.time_BxL, window.until_BxL, self.span,
        )  # fmt: skip
        if cache is not None:
            return self._extended(positions, cache)
        if capacity:
            return self._cached(positions, capacity)
        encode: PositionEncoder = (
            resolve(self.encoder) if self.encoder else ALL_SEQUENCE_ENCODERS.resolve(self.fields.encoder)
        )
        return encode(self.dtype, self.fields, self.attention, self.path, positions), None

    @property
    def _is_local(self) -> bool:
        """True if attention is block-local at the full length."""
        return 0 < self.span < self.fields.max_len

    def _cached(self, positions: SequencePositions, capacity: int) -> tuple[jax.Array, PositionCache]:
        """Return the outputs of whole windows and their cache; chunks are those of the columns."""
        encode: CachedEncoder = resolve(CACHED_ENCODERS[self.fields.encoder])
        length = positions.x_BxLxD.shape[1]
        if self._is_local:  # the last chunk ends with empty columns, in a window longer than one chunk
            empty = max(-length % self.span, 2 * self.span - length)
            x, present, time, until = (
                jnp.pad(x, ((0, 0), (0, empty), *[(0, 0)] * (x.ndim - 2)))
                for x in (positions.x_BxLxD, positions.present_BxL, positions.time_BxL, positions.until_BxL)
            )
            gaps = elapsed_bucket(until, time)
            positions = SequencePositions(x, present, gaps, None, time, until, self.span)
        made = encode(self.dtype, self.fields, self.attention, positions)
        keys, h_BxLxD = (
            Keys(made.layers, positions.present_BxL, positions.time_BxL),
            made.h_BxLxD[:, :length],
        )
        if self._is_local:
            return h_BxLxD, position_cache.block_local_cache(keys, made.means, length, self.span, capacity)
        return h_BxLxD, position_cache.dense_cache(keys, length, capacity)

    def _extended(
        self, positions: SequencePositions, cache: PositionCache
    ) -> tuple[jax.Array, PositionCache]:
        """Return the output [B, 1, D] of one position more, and the cache with it."""
        encode: CachedEncoder = resolve(CACHED_ENCODERS[self.fields.encoder])
        span, own = self.span if self._is_local else 0, (positions.present_BxL, positions.time_BxL)
        if span:
            summaries = chunk_summaries(self.dtype, self.fields.num_layers, len(positions.x_BxLxD))
            present_Bxw = cache.recent.present_BxC[:, :span]
            means = [
                summary.means(present_Bxw, k[:, :span], v[:, :span])
                for summary, (k, v) in zip(summaries, cache.recent.layers, strict=True)
            ]
            cache = position_cache.begin_chunk(cache, means, span)
        earlier = position_cache.earlier_keys(cache, *own, span)
        made = encode(self.dtype, self.fields, self.attention, positions, earlier)
        return made.h_BxLxD, position_cache.with_column(cache, made.layers, *own, span)
