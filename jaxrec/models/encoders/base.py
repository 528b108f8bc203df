"""The interface of sequence encoders: what they read, keep and return."""

from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp

from jaxrec.config.schema import Expert
from jaxrec.models.layers.attention import KeysValues
from jaxrec.models.layers.dense import (
    Parameters,
)
from jaxrec.models.layers.rng import fold_in


class PackedTitles(NamedTuple):
    """What experts read: rows of titles, of one request or of several. A request's titles lie side by
    side, the oldest first: encoders with an order go by it."""

    x_RxLxD: jax.Array
    example_RxL: jax.Array  # whose title it is; `examples` or more for padding
    age_RxL: jax.Array  # log1p(seconds since its last play)
    key_RxLx2: jax.Array | None  # for dropout


def causal_mask(example_RxL: jax.Array) -> jax.Array:
    """[R, L, L]: what each title sees where order counts, itself and the older ones of its request."""
    same_RxLxL = example_RxL[:, :, None] == example_RxL[:, None, :]
    return same_RxLxL & jnp.tri(example_RxL.shape[1], dtype=bool)


def append_candidates(titles: PackedTitles, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> PackedTitles:
    """Each request's titles [B, L], a request a row, once for each candidate, which joins them as the newest:
    rows [B * C, L + 1], every one an example of its own. A candidate's age is 0: its play would be now."""
    chex.assert_rank(x_BxCxD, 3, custom_message="x_BxCxD")
    chex.assert_shape(titles.x_RxLxD, (len(x_BxCxD), None, x_BxCxD.shape[2]), custom_message="titles.x_RxLxD")
    (B, C, D), L = x_BxCxD.shape, titles.x_RxLxD.shape[1]
    x_BxCxLxD = jnp.broadcast_to(titles.x_RxLxD[:, None], (B, C, L, D))
    x_NxLxD = jnp.concatenate([x_BxCxLxD, x_BxCxD[:, :, None]], axis=2).reshape(B * C, L + 1, D)
    there_NxL = jnp.pad(jnp.repeat(titles.example_RxL < B, C, axis=0), ((0, 0), (0, 1)), constant_values=True)
    example_NxL = jnp.where(there_NxL, jnp.arange(B * C)[:, None], B * C)
    age_NxL = jnp.pad(jnp.repeat(titles.age_RxL, C, axis=0), ((0, 0), (0, 1)))
    key_NxLx2 = None
    if key_BxCx2 is not None:
        key_NxLx2 = fold_in(key_BxCx2.reshape(B * C, 1, 2), jnp.arange(L, -1, -1)[None])
    return PackedTitles(x_NxLxD, example_NxL, age_NxL, key_NxLx2)


def is_present(titles: PackedTitles) -> jax.Array:
    """[B, L] bool: whether there is a title, a request a row."""
    return titles.example_RxL < len(titles.example_RxL)


def candidate_keys(key_BxCx2: jax.Array | None) -> jax.Array | None:
    """Of each candidate as its sequence's newest title, for dropout; what `joined` gives it."""
    return None if key_BxCx2 is None else fold_in(key_BxCx2, jnp.int32(0))


class KVCache(NamedTuple):
    """What a causal expert keeps of histories, a request a row, for candidates to come: no place of a history
    sees them, so that it is worked out once for all (M-FALCON; Zhai et al. 2024, 3.4 and appendix H)."""

    layers: tuple[KeysValues, ...]  # of each block
    there_BxL: jax.Array  # of `there`
    age_BxL: jax.Array

    def seen_by(self, candidates: int) -> jax.Array:
        """[B, C, L + C]: each candidate sees the whole history and itself, and no other candidate."""
        (B, L), C = self.there_BxL.shape, candidates
        history_BxCxL = jnp.broadcast_to(self.there_BxL[:, None], (B, C, L))
        itself_BxCxC = jnp.broadcast_to(jnp.eye(C, dtype=bool), (B, C, C))
        return jnp.concatenate([history_BxCxL, itself_BxCxC], axis=2)


class SequencePositions(NamedTuple):
    """Consecutive plays of B users, right-aligned, as encoders of whole sequences read them."""

    x_BxLxD: jax.Array
    present_BxL: jax.Array  # bool
    time_gaps_BxLxL: jax.Array  # bucket of the time from each play (last axis) to the query of a position
    key_BxLx2: jax.Array | None  # for dropout

    @property
    def example_BxL(self) -> jax.Array:
        """The row of each position, B for padding."""
        rows = len(self.present_BxL)
        return jnp.where(self.present_BxL, jnp.arange(rows)[:, None], rows)


class PositionEncoder(Protocol):
    """A causal encoder of whole sequences: outputs [B, L, D], each of its position and those before it.

    Its parameters are those of the module that calls, whose `path` numbers the draws.
    """

    def __call__(
        self, dtype: str, fields: Expert, attention: str, path: tuple[str, ...], positions: SequencePositions
    ) -> jax.Array: ...


class SequenceEncoder(Parameters):
    """A kind of expert: each request's titles to one vector, `kind(titles, examples)` [B, D].

    Where each candidate joins the history as its newest title, histories, a request a row, are remembered
    once, and candidates join them, some or all at a time. Here that is the plain form, each candidate's
    sequence by itself; a causal kind works a history out once.
    """

    fields: Expert
    attention: str = "auto"  # or one of `attention.FORMS`, for encoders with softmax attention

    def encode_history(self, titles: PackedTitles) -> Any:
        """What `join` needs of the histories."""
        return titles

    def join(self, remembered: Any, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        """Each candidate's vector [B * C, D], which no other candidate moves."""
        B, C, _ = x_BxCxD.shape
        return self(append_candidates(remembered, x_BxCxD, key_BxCx2), B * C)
