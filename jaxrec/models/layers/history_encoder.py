"""The experts' input (Eq. 4): titles, interactions, context and position of a history."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.batch import History
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

# Buckets of the time since a play, two to each factor of e: each ends 1.65 times as long ago as the one
# before, for a sitting's minutes, a day and a season differ by factors. The last begins 69 years ago.
TIME_GAP_BUCKETS = 44


def time_gap_bucket(age: jax.Array) -> jax.Array:
    """The bucket, below GAPS, of a title last played `age` = log1p(seconds) ago."""
    return jnp.clip(jnp.floor(2.0 * age), 0, TIME_GAP_BUCKETS - 1).astype(jnp.int32)


def _interaction_numbers(features: tuple[FeatureSpec, ...], history: History) -> jax.Array:
    """[R, L, n]: the declared interaction features, brought to about -1 to 1."""
    scaled = {
        "completion": lambda: 2.0 * history.completion - 1.0,
        "sessions": lambda: jnp.log1p(history.sessions) - 1.0,
        "age": lambda: (history.age - 12.0) / 4.0,  # e**12 s is two days; e**16, three months
    }
    columns = [scaled[f.name]() for f in features]
    return jnp.stack(columns, axis=-1) if columns else jnp.zeros((*history.title.shape, 0))


# What a title's position in its history is, [R, L], to look a vector up with.
POSITIONS: dict[str, Callable[[History], jax.Array] | None] = {
    "index": lambda history: history.newer,
    "time_gap": lambda history: time_gap_bucket(history.age),
    "none": None,
}


class HistoryEncoder(Parameters):
    """The experts' input x [R, L, D] (Eq. 4): a projection of title, interaction and context, plus position.

    Summed from the parts' projections, which is the Dense layer of their concatenation with the
    context worked out once a request. A position is learned: "index" counts from the newest, so neither
    the amount of padding nor a row's other histories shift it; "time_gap" is the `gap` since the title's
    last play; "none" leaves the order out. Padding's places are zero, whatever they held.
    """

    features: tuple[FeatureSpec, ...]  # those read of interactions
    title: int  # width of a title's vector
    context: int  # width of the context's
    width: int
    positions: int  # of the longest history
    kind: str = "index"  # of position, one of POSITIONS
    target: bool = False  # whether candidates join the history

    def setup(self):
        self.numbers = [Dense(self.dtype, f.width, name=f.name) for f in self.features]
        interaction = sum(f.width for f in self.features)
        kernel = self.weight("kernel", kernel_init, self.title + interaction + self.context, self.width)
        self.of_title, self.of_interaction, self.of_context = jnp.split(
            kernel, [self.title, self.title + interaction]
        )
        if POSITIONS[self.kind] is not None:
            count = TIME_GAP_BUCKETS if self.kind == "time_gap" else self.positions
            self.position = self.weight("position", embedding_init, count, self.width)
        if self.target:
            self.of_target = self.weight("target", embedding_init, self.width)
        self.bias = self.weight("bias", nn.initializers.zeros, self.width)

    def candidates(self, titles: TitleLookup, context_BxF: jax.Array) -> jax.Array:
        """x [B, C, D] of candidates that join the history: with a learned position of their own, and without
        interactions, of which there are none yet."""
        of_request_BxD = context_BxF @ self.of_context
        of_request_BxD = of_request_BxD + broadcast(self.bias + self.of_target, of_request_BxD.shape)
        x_BxCxD = titles.through("history", self.of_title)
        return x_BxCxD + broadcast(of_request_BxD[:, None], x_BxCxD.shape)

    def __call__(self, history: History, titles: TitleLookup, context_BxF: jax.Array) -> jax.Array:
        numbers = _interaction_numbers(self.features, history).astype(self.dtype)
        parts = [nn.relu(dense(numbers[..., i : i + 1])) for i, dense in enumerate(self.numbers)]
        interaction_RxLxF = jnp.concatenate([numbers[..., :0], *parts], axis=-1)
        x = titles.through("history", self.of_title) + matmul(interaction_RxLxF, self.of_interaction)
        of_request_BxD = context_BxF @ self.of_context
        of_request_BxD = of_request_BxD + broadcast(self.bias, of_request_BxD.shape)
        x = x + embedding_lookup(of_request_BxD, history.example, mode="clip")
        place = POSITIONS[self.kind]
        if place is not None:
            x = x + embedding_lookup(self.position, place(history), mode="clip")
        return jnp.where((history.title > 0)[..., None], x, jnp.zeros((), x.dtype))
