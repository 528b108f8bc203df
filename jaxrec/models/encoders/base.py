"""Interface of sequence encoders: inputs, cached keys and values, outputs.

Axis letters: R rows of L titles, B examples, C candidates, N = B * C sequences, D width.
"""

from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import Expert
from jaxrec.models.layers.attention import EarlierKeys, KeysValues
from jaxrec.models.layers.dense import Parameters, embedding_lookup
from jaxrec.models.layers.rng import fold_in


class PackedTitles(NamedTuple):
    """Input of the experts: rows of titles of one or of several examples.

    The titles of an example are adjacent, the oldest first. Encoders that depend on order use this order.

    Attributes:
        x_RxLxD: Encoded titles.
        example_RxL: int32 index of the example that owns the title; the number of examples or more at
            padding.
        age_RxL: log1p(seconds since the title's last play).
        key_RxLx2: uint32 keys for dropout; None for no dropout.
    """

    x_RxLxD: jax.Array
    example_RxL: jax.Array
    age_RxL: jax.Array
    key_RxLx2: jax.Array | None


def causal_mask(example_RxL: jax.Array) -> jax.Array:
    """Causal attention mask [R, L, L] bool.

    Each title attends to itself and to the older titles of its example.
    """
    same_RxLxL = example_RxL[:, :, None] == example_RxL[:, None, :]
    return same_RxLxL & jnp.tri(example_RxL.shape[1], dtype=bool)


def take_positions(titles: PackedTitles, index_RxL: jax.Array) -> PackedTitles:
    """Gather titles by flat indices into the rows; padding if out of range."""
    x_NxD, example_N = titles.x_RxLxD.reshape(-1, titles.x_RxLxD.shape[-1]), titles.example_RxL.reshape(-1)
    x = embedding_lookup(x_NxD, index_RxL, mode="fill", fill=0)
    # The example index of padding is larger than that of any example, so padding belongs to no example.
    example = example_N.at[index_RxL].get(mode="fill", fill_value=np.iinfo(np.int32).max)
    age = jnp.take(titles.age_RxL.reshape(-1), index_RxL, mode="fill", fill_value=0)
    key = titles.key_RxLx2
    if key is not None:
        key = jnp.take(key.reshape(-1, 2), index_RxL, axis=0, mode="clip")
    return PackedTitles(x, example, age, key)


def append_candidates(titles: PackedTitles, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> PackedTitles:
    """Repeat histories for each candidate and append it as the newest title.

    The age of a candidate is 0, because its play would be now.

    Args:
        titles: Histories [B, L], one example per row.
        x_BxCxD: Encoded candidates.
        key_BxCx2: uint32 keys of the candidates; None for no dropout.

    Returns:
        Rows [B * C, L + 1], each of an example of its own.
    """
    chex.assert_rank(x_BxCxD, 3, custom_message="x_BxCxD")
    chex.assert_shape(titles.x_RxLxD, (len(x_BxCxD), None, x_BxCxD.shape[2]), custom_message="titles.x_RxLxD")
    (B, C, D), L = x_BxCxD.shape, titles.x_RxLxD.shape[1]
    x_BxCxLxD = jnp.broadcast_to(titles.x_RxLxD[:, None], (B, C, L, D))
    x_NxLxD = jnp.concatenate([x_BxCxLxD, x_BxCxD[:, :, None]], axis=2).reshape(B * C, L + 1, D)
    valid_NxL = jnp.pad(jnp.repeat(titles.example_RxL < B, C, axis=0), ((0, 0), (0, 1)), constant_values=True)
    example_NxL = jnp.where(valid_NxL, jnp.arange(B * C)[:, None], B * C)
    age_NxL = jnp.pad(jnp.repeat(titles.age_RxL, C, axis=0), ((0, 0), (0, 1)))
    key_NxLx2 = None
    if key_BxCx2 is not None:
        key_NxLx2 = fold_in(key_BxCx2.reshape(B * C, 1, 2), jnp.arange(L, -1, -1)[None])
    return PackedTitles(x_NxLxD, example_NxL, age_NxL, key_NxLx2)


def is_present(titles: PackedTitles) -> jax.Array:
    """Return a mask [B, L] bool, False at padding, for one example per row."""
    return titles.example_RxL < len(titles.example_RxL)


def candidate_keys(key_BxCx2: jax.Array | None) -> jax.Array | None:
    """Derive the dropout keys of candidates, equal to those of `append_candidates`.

    Args:
        key_BxCx2: uint32 keys of the candidates; None for no dropout.

    Returns:
        [B, C, 2] uint32; None without keys.
    """
    return None if key_BxCx2 is None else fold_in(key_BxCx2, jnp.int32(0))


class KVCache(NamedTuple):
    """Cached keys and values of histories in a causal expert, one example per row.

    No position of a history attends to a candidate, so a history is encoded once for all candidates
    (M-FALCON; Zhai et al. 2024, 3.4 and appendix H).

    Attributes:
        layers: Keys and values of each block.
        there_BxL: Bool, from `is_present`.
        age_BxL: log1p(seconds since the title's last play).
    """

    layers: tuple[KeysValues, ...]
    there_BxL: jax.Array
    age_BxL: jax.Array

    def seen_by(self, candidates: int) -> jax.Array:
        """Attention mask of C candidates, [B, C, L + C] bool.

        Each candidate attends to the whole history and to itself, and to no other candidate.
        """
        (B, L), C = self.there_BxL.shape, candidates
        history_BxCxL = jnp.broadcast_to(self.there_BxL[:, None], (B, C, L))
        itself_BxCxC = jnp.broadcast_to(jnp.eye(C, dtype=bool), (B, C, C))
        return jnp.concatenate([history_BxCxL, itself_BxCxC], axis=2)


class SequencePositions(NamedTuple):
    """Input of position encoders: consecutive plays of B users, right-aligned.

    Attributes:
        x_BxLxD: Encoded plays.
        present_BxL: Bool, False at padding.
        time_gaps_BxLxL: int32 bucket of the time from each play (last axis) to the query of a position.
        key_BxLx2: uint32 keys for dropout; None for no dropout.
        time_BxL: uint32 seconds since 1970 of the plays.
        until_BxL: uint32 seconds since 1970 of the queries of the positions.
        span: Positions of a chunk of block-local attention (`encoders.block_local`); 0: dense attention.
    """

    x_BxLxD: jax.Array
    present_BxL: jax.Array
    time_gaps_BxLxL: jax.Array
    key_BxLx2: jax.Array | None
    time_BxL: jax.Array
    until_BxL: jax.Array
    span: int = 0

    @property
    def example_BxL(self) -> jax.Array:
        """Row index of each position, int32 [B, L]; B for padding."""
        rows = len(self.present_BxL)
        return jnp.where(self.present_BxL, jnp.arange(rows)[:, None], rows)


class EncodedPositions(NamedTuple):
    """Outputs of positions, with what later positions read of them.

    Attributes:
        h_BxLxD: Outputs.
        layers: Keys and values [B, L, H, d] of each layer.
        means: Summaries [B, n, H, d] of the chunks, of each layer; empty with dense attention.
    """

    h_BxLxD: jax.Array
    layers: tuple[KeysValues, ...]
    means: tuple[KeysValues, ...] = ()


class PositionEncoder(Protocol):
    """Causal encoder of whole sequences, with an output for every position.

    The output [B, L, D] of a position depends on the inputs up to that position. The parameters belong to the
    calling module. The `path` of that module gives the layer ids of the dropout draws.
    """

    def __call__(
        self, dtype: str, fields: Expert, attention: str, path: tuple[str, ...], positions: SequencePositions
    ) -> jax.Array: ...


class CachedEncoder(Protocol):
    """Position encoder whose keys and values are cached: `models.sequences.position_cache`."""

    def __call__(
        self, dtype: str, fields: Expert, attention: str, positions: SequencePositions,
        earlier: EarlierKeys | None = None,
    ) -> EncodedPositions: ...  # fmt: skip


class SequenceEncoder(Parameters):
    """Expert that encodes the titles of each example as one vector.

    `expert(titles, examples)` returns [B, D], where B is `examples`.

    With the target in the sequence, each candidate is appended to the history as the newest title.
    `encode_history` encodes histories once, one example per row, and `join` encodes groups of candidates. In
    this base class, `join` encodes the whole sequence of each candidate. Causal encoders override both
    methods and encode a history once.

    Attributes:
        fields: Config of the expert.
        attention: "auto" or one of `attention.FORMS`, for encoders with softmax attention.
    """

    fields: Expert
    attention: str = "auto"

    def outputs(self, titles: PackedTitles, examples: int) -> tuple[jax.Array, jax.Array | None]:
        """Return the vectors [B, D], and the output [R, L, D] of each title; None without such outputs.

        Args:
            titles: Rows of titles.
            examples: Number of examples B.
        """
        return self(titles, examples), None

    def encode_history(self, titles: PackedTitles) -> Any:
        """Return the encoded histories that `join` reads.

        Args:
            titles: Histories [B, L], one example per row.
        """
        return titles

    def join(self, histories: Any, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        """Encode each candidate as the newest title of its history.

        The vector of a candidate does not depend on the other candidates.

        Args:
            histories: From `encode_history`.
            x_BxCxD: Encoded candidates.
            key_BxCx2: uint32 keys of the candidates; None for no dropout.

        Returns:
            Vectors [B * C, D].
        """
        B, C, _ = x_BxCxD.shape
        return self(append_candidates(histories, x_BxCxD, key_BxCx2), B * C)
