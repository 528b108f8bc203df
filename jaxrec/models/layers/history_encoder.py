"""Input of the experts (Eq. 4): titles, interactions, context and position.

Axis letters: R rows of L positions, B examples, C candidates, D width, F features.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.batch import History
from jaxrec.core.ids import INTERACTION_FEATURES
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import (
    Dense,
    Parameters,
    broadcast,
    embedding_init,
    embedding_lookup,
    kernel_init,
    matmul,
)
from jaxrec.models.layers.title_encoder import TitleLookup

# Buckets of the time since a play, two per factor of e: each bucket ends at 1.65 times the time of the bucket
# before, because minutes, days and seasons differ by factors. The last bucket begins at 69 years.
TIME_GAP_BUCKETS = 44


def time_gap_bucket(age: jax.Array) -> jax.Array:
    """Return the bucket of a time gap, int32 from 0 to TIME_GAP_BUCKETS - 1.

    Args:
        age: [...] log1p(seconds) since the last play.

    Returns:
        [...] int32.
    """
    return jnp.clip(jnp.floor(2.0 * age), 0, TIME_GAP_BUCKETS - 1).astype(jnp.int32)


def elapsed_bucket(until_RxL: jax.Array, time_RxM: jax.Array) -> jax.Array:
    """Return the `time_gap_bucket` [R, L, M] of the seconds from M plays to L queries.

    Buckets of plays after a query are not meaningful.

    Args:
        until_RxL: uint32 seconds since 1970 of the queries.
        time_RxM: uint32 seconds since 1970 of the plays.
    """
    seconds = until_RxL[:, :, None].astype(jnp.int32) - time_RxM[:, None].astype(jnp.int32)
    return time_gap_bucket(jnp.log1p(jnp.maximum(seconds, 0).astype(jnp.float32)))


# Numbers of a play [R, L] by interaction feature, scaled to about -1 to 1.
_SCALED: dict[str, Callable[[History], jax.Array]] = {
    "completion": lambda history: 2.0 * history.past.completion - 1.0,
    "sessions": lambda history: jnp.log1p(history.sessions) - 1.0,
    "age": lambda history: (history.age - 12.0) / 4.0,  # e**12 s is two days; e**16, three months
}


def _numbers_of_signal(values: jax.Array) -> jax.Array:
    """Value and presence [R, L, 2] of a signal [R, L], whose NaN is no event.

    A standardised number has one value for the many titles without an event, and another one far away. Here
    no event is (0, 0), and an event is a value and 1, so that an event of value 0 differs from none.
    """
    present = ~jnp.isnan(values)
    return jnp.stack([jnp.where(present, values, 0.0), present.astype(values.dtype)], axis=-1)


# Positions [R, L] of titles in their history, by config value: the indices of learned position vectors.
POSITIONS: dict[str, Callable[[History], jax.Array] | None] = {
    "index": lambda history: history.newer,
    "time_gap": lambda history: time_gap_bucket(history.age),
    "none": None,
}


class HistoryEncoder(Parameters):
    """Projection of title, interaction and context, plus position (Eq. 4).

    The projections of title, interaction and context are summed. This equals a Dense layer of their
    concatenation, but the context is projected once per example. Positions have learned vectors: "index"
    counts from the newest title, so it depends neither on the amount of padding nor on other histories of the
    row; "time_gap" is the `time_gap_bucket` since the last play of the title; "none" leaves the order out.
    Padding positions are 0 for any input.

    Attributes:
        features: Selected interaction features.
        title_width: Width of a title vector.
        context_width: Width of the context's vector.
        width: Width D of the result.
        positions: Number of positions of the longest history.
        position_kind: a key of POSITIONS.
        has_candidates: True if candidates are appended to the history.
        signals: Names of the columns of `history.past.signals`.
    """

    features: tuple[FeatureSpec, ...]
    title_width: int
    context_width: int
    width: int
    positions: int
    position_kind: str = "index"
    has_candidates: bool = False
    signals: tuple[str, ...] = ()

    def setup(self):
        """Create the parameters."""
        self.numbers = [Dense(self.dtype, f.width, name=f.name) for f in self.features]
        interaction = sum(f.width for f in self.features)
        kernel = self.weight(
            "kernel", kernel_init, self.title_width + interaction + self.context_width, self.width
        )
        self.of_title, self.interaction_kernel, self.context_kernel = jnp.split(
            kernel, [self.title_width, self.title_width + interaction]
        )
        if POSITIONS[self.position_kind] is not None:
            count = TIME_GAP_BUCKETS if self.position_kind == "time_gap" else self.positions
            self.position = self.weight("position", embedding_init, count, self.width)
        if self.has_candidates:
            self.target = self.weight("target", embedding_init, self.width)
        self.bias = self.weight("bias", nn.initializers.zeros, self.width)

    def candidates(self, titles: TitleLookup, context_BxF: jax.Array) -> jax.Array:
        """Encode candidates to append to the history.

        Candidates have a learned position of their own and no interactions yet.

        Args:
            titles: vectors of candidates [B, C].
            context_BxF: vectors of the contexts.

        Returns:
            [B, C, D].
        """
        context_BxD = context_BxF @ self.context_kernel
        context_BxD = context_BxD + broadcast(self.bias + self.target, context_BxD.shape)
        x_BxCxD = titles.through("history", self.of_title)
        return x_BxCxD + broadcast(context_BxD[:, None], x_BxCxD.shape)

    def __call__(self, history: History, titles: TitleLookup, context_BxF: jax.Array) -> jax.Array:
        """Encode histories.

        Args:
            history: histories of B examples.
            titles: vectors of `history.title` [R, L].
            context_BxF: vectors of the contexts.

        Returns:
            [R, L, D].
        """
        chex.assert_rank(history.title, 2, custom_message="history.title [R, L]")
        chex.assert_rank(context_BxF, 2, custom_message="context_BxF")
        encoded = [
            nn.relu(dense(self._interaction(f.name, history)))
            for f, dense in zip(self.features, self.numbers, strict=True)
        ]
        none = jnp.zeros((*history.title.shape, 0), self.dtype)
        interaction_RxLxF = jnp.concatenate([none, *encoded], axis=-1)
        x = titles.through("history", self.of_title) + matmul(interaction_RxLxF, self.interaction_kernel)
        context_BxD = context_BxF @ self.context_kernel
        context_BxD = context_BxD + broadcast(self.bias, context_BxD.shape)
        x = x + embedding_lookup(context_BxD, history.example, mode="clip")
        position = POSITIONS[self.position_kind]
        if position is not None:
            x = x + embedding_lookup(self.position, position(history), mode="clip")
        return jnp.where((history.title > 0)[..., None], x, jnp.zeros((), x.dtype))

    def _interaction(self, name: str, history: History) -> jax.Array:
        """Return the inputs [R, L, 1] of an interaction feature, or [R, L, 2] of a signal."""
        if name in INTERACTION_FEATURES:
            return _SCALED[name](history)[..., None].astype(self.dtype)
        return _numbers_of_signal(history.past.signals[..., self.signals.index(name)]).astype(self.dtype)
