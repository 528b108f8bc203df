"""Embeddings of categories and projections of numbers, concatenated.

Id 0 is padding everywhere: it has no embedding, adds nothing and gets no gradient. Number columns are
standardised. A number is encoded as ReLU(Dense(width)), so that a threshold can be learned.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.codes import CodeEmbedding
from jaxrec.models.layers.dense import (
    Dense,
    Parameters,
    embedding_lookup,
    uniform_init,
)


def select_features(features: Sequence[FeatureSpec], names: tuple[str, ...]) -> tuple[FeatureSpec, ...]:
    """Select features by name, in the order of `features`.

    Args:
        features: features of any table.
        names: names of the selected features; empty: all.
    """
    return tuple(f for f in features if not names or f.name in names)


class CategoryEmbedding(Parameters):
    """Mean embedding [..., width] of the nonzero ids in int32 ids [..., columns].

    The result is 0 where all ids are 0.

    Attributes:
        size: Number of ids, padding included.
        width: Width of the embeddings.
        init_std: Standard deviation of the initial embeddings.
    """

    size: int
    width: int
    init_std: float = 0.2

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Embed ids [..., columns]; 0 without a nonzero id."""
        table = self.weight("embedding", uniform_init(self.init_std), self.size, self.width)
        present = (ids > 0)[..., None]
        rows = jnp.where(present, embedding_lookup(table, ids), jnp.zeros((), table.dtype))
        if ids.shape[-1] == 1:
            return rows[..., 0, :]
        return rows.sum(-2) / jnp.maximum(present.sum(-2), 1).astype(table.dtype)


class FeatureEncoder(Parameters):
    """Concatenated vectors of features, in the order of `features`.

    Features not in `feature_names`, and those of kind "title", are skipped. Without selected features the
    result is [..., 0].

    Attributes:
        feature_names: Names of the selected features; empty: all.
        init_std: Standard deviation of the initial embeddings.
        text: Module that encodes the ids of text, shared with other encoders; None: no text is selected.
    """

    features: tuple[FeatureSpec, ...]
    feature_names: tuple[str, ...] = ()
    init_std: float = 0.2
    text: nn.Module | None = None

    @nn.compact
    def __call__(self, categories: jax.Array, numbers: jax.Array) -> jax.Array:
        """Encode the features of [...] entities.

        Args:
            categories: ids [..., category columns], in the order of `features`.
            numbers: [..., number columns], in the order of `features`.

        Returns:
            [..., sum of widths].
        """
        vectors, category, number = [jnp.zeros((*categories.shape[:-1], 0), self.dtype)], 0, 0
        selected = select_features(self.features, self.feature_names)
        for f in self.features:
            if f.kind == "number":
                x = numbers[..., number : number + f.columns]
                if f in selected:
                    vectors.append(nn.relu(Dense(self.dtype, f.width, name=f.name)(x)))
                number += f.columns
            else:
                ids = categories[..., category : category + f.columns]
                if f in selected and f.kind == "text":
                    assert self.text is not None
                    vectors.append(self.text(ids))
                elif f in selected and f.kind == "codes":
                    embed = CodeEmbedding(self.dtype, f.size, f.width, self.init_std, name=f.name)
                    vectors.append(embed(ids))
                elif f in selected and f.kind != "title":  # of `models.features.source_title`
                    vectors.append(
                        CategoryEmbedding(self.dtype, f.size, f.width, self.init_std, name=f.name)(ids)
                    )
                category += f.columns
        return jnp.concatenate(vectors, axis=-1)
