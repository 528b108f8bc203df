"""Title vectors from the id and the metadata, mixed by the title's age and plays (`model.entity="mixed"`).

The vector of a title is e = g e_id + (1 - g) W e_meta, with g = sigmoid(MLP(log1p age, log1p plays)). The
gate is learned: a title with few plays can be near its metadata, a title with many near the embedding of its
id. The mixture follows Foundation Model for Personalized Recommendation (Netflix TechBlog, 2025).

Axis letters: W width of the embedding of an id, F width of the metadata.
"""

from collections.abc import Sequence

import chex
import jax
from flax import linen as nn

from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import Mlp, Parameters, at_least_float32, kernel_init
from jaxrec.models.layers.embedding import select_features

MIXED = "mixed"
_GATE_HIDDEN = (16,)


def title_width(features: Sequence[FeatureSpec], names: tuple[str, ...], entity: str) -> int:
    """Return the width of a title vector.

    Args:
        features: Title features.
        names: Names of the selected features; empty: all.
        entity: `model.entity`.
    """
    selected = select_features(features, names)
    if entity == MIXED:
        selected = tuple(f for f in selected if f.name == TITLE_ID)
    return sum(f.width for f in selected)


class EntityMixture(Parameters):
    """Mixture [..., W] of the embedding of an id and the projected metadata.

    Attributes:
        width: Width W.
    """

    width: int

    @nn.compact
    def __call__(self, id_vector: jax.Array, metadata: jax.Array, maturity: jax.Array | None) -> jax.Array:
        """Mix the vectors of [...] titles.

        Args:
            id_vector: Embeddings [..., W] of the ids.
            metadata: Vectors [..., F] of the other features.
            maturity: [..., 2], log1p of the age in days and log1p of the plays.

        Raises:
            ValueError: The title table has no maturity.
        """
        if maturity is None:
            raise ValueError("entity='mixed' needs a title table with maturity: `tasks.inputs.title_tables`")
        chex.assert_shape(maturity, (*id_vector.shape[:-1], 2), custom_message="maturity [..., 2]")
        odds = Mlp(self.dtype, _GATE_HIDDEN, 1, name="gate")(maturity.astype(self.dtype))
        g = nn.sigmoid(odds.astype(at_least_float32(self.dtype))).astype(id_vector.dtype)
        kernel = self.weight("kernel", kernel_init, metadata.shape[-1], self.width)
        return g * id_vector + (1 - g) * (metadata @ kernel)
