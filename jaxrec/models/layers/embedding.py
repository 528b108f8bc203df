"""Embeddings of categories and projections of numbers, concatenated.

Id 0 is padding everywhere: it looks nothing up, adds nothing and gets no gradient. Number columns
arrive standardised. A number becomes ReLU(Dense(width)), so that a threshold in it can be learned.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import (
    Dense,
    Parameters,
    embedding_lookup,
    uniform_init,
)


def select_features(features: Sequence[FeatureSpec], reads: tuple[str, ...]) -> tuple[FeatureSpec, ...]:
    """The features whose names are among `reads`; all of them where that is empty."""
    return tuple(f for f in features if not reads or f.name in reads)


class CategoryEmbedding(Parameters):
    """Ids [..., columns] to the mean [..., width] of their embeddings, over the entries that are not 0."""

    size: int
    width: int
    spread: float = 0.2  # standard deviation of the embeddings at the start

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.weight("embedding", uniform_init(self.spread), self.size, self.width)
        given = (ids > 0)[..., None]
        rows = jnp.where(given, embedding_lookup(table, ids), jnp.zeros((), table.dtype))
        if ids.shape[-1] == 1:
            return rows[..., 0, :]
        return rows.sum(-2) / jnp.maximum(given.sum(-2), 1).astype(table.dtype)


class FeatureEncoder(Parameters):
    """The vectors of `features`, concatenated in their order: categories [..., c], numbers [..., n].

    Columns are consumed in order, those of numbers apart from the others; those of features not among
    `reads` are skipped. Without features, [..., 0].
    """

    features: tuple[FeatureSpec, ...]
    reads: tuple[str, ...] = ()  # names; empty: all
    spread: float = 0.2  # of embeddings at the start

    @nn.compact
    def __call__(self, categories: jax.Array, numbers: jax.Array) -> jax.Array:
        parts, category, number = [jnp.zeros((*categories.shape[:-1], 0), self.dtype)], 0, 0
        wanted = select_features(self.features, self.reads)
        for f in self.features:
            if f.kind == "number":
                x = numbers[..., number : number + f.columns]
                if f in wanted:
                    parts.append(nn.relu(Dense(self.dtype, f.width, name=f.name)(x)))
                number += f.columns
            else:
                ids = categories[..., category : category + f.columns]
                if f in wanted:
                    parts.append(
                        CategoryEmbedding(self.dtype, f.size, f.width, self.spread, name=f.name)(ids)
                    )
                category += f.columns
        return jnp.concatenate(parts, axis=-1)
