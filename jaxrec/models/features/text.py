"""Vectors of text from the ids of its hashed n-grams: a mean of embeddings, and presence."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.ids import PAD, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import Parameters
from jaxrec.models.layers.embedding import CategoryEmbedding


class TextEmbedding(Parameters):
    """Vectors [..., width] of text: the mean embedding of its n-grams, then 1, or zeros without an n-gram.

    The text features of a model share one instance, so that a query and a name have the same n-grams.

    Attributes:
        size: Number of ids, padding and unknown included; these two stand for no text.
        width: Width of the vectors.
        init_std: Standard deviation of the initial embeddings.
    """

    size: int
    width: int
    init_std: float = 0.2

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Encode the ids [..., n-grams] of text."""
        ids = jnp.where(ids > UNKNOWN, ids, PAD)
        table = self.dtype, self.size, self.width - 1, self.init_std
        mean = CategoryEmbedding(*table, name="hashed_ngrams")(ids)
        return jnp.concatenate([mean, (ids > PAD).any(-1, keepdims=True).astype(mean.dtype)], axis=-1)


def text_embedding(
    dtype: str, features: Iterable[FeatureSpec], names: tuple[str, ...], init_std: float
) -> TextEmbedding | None:
    """Return the embedding that selected text features share; None without one.

    Args:
        dtype: Compute dtype.
        features: Features of titles and of the context.
        names: Names of the selected features; empty: all.
        init_std: Standard deviation of the initial embeddings.
    """
    for f in features:
        if f.kind == "text" and (not names or f.name in names):
            return TextEmbedding(dtype, f.size, f.width, init_std, name="text")
    return None
