"""Intent: predicted categories of the next title, as a part of the user's vector.

Oh et al., IntentRec: Predicting User Session Intent with Hierarchical Multi-Task Learning, arXiv 2408.05353.
"""

import jax
import jax.numpy as jnp

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.models.layers.dense import Mlp, Parameters, at_least_float32

_NO_CATEGORY = -1e9  # logit of padding and of the unknown category, whose probability is then 0


class Intent(Parameters):
    """Predicted categories of the next title and their mean embedding.

    Attributes:
        hidden: Hidden widths of the MLP.
        categories: Number of category ids G.
    """

    hidden: tuple[int, ...]
    categories: int

    def setup(self):
        """Create the layers."""
        self.mlp = Mlp(self.dtype, self.hidden, self.categories, name="mlp")

    def __call__(self, user_BxU: jax.Array, embedding_GxF: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the expected embeddings [B, F] and the logits [B, G] of the categories.

        Args:
            user_BxU: Vectors of the users.
            embedding_GxF: Embeddings of the categories.
        """
        logits_BxG = self.mlp(user_BxU).astype(at_least_float32(self.dtype))
        # The first ids of a category are those of the first ids of titles: padding and unknown.
        logits_BxG = jnp.where(jnp.arange(self.categories) >= FIRST_TITLE, logits_BxG, _NO_CATEGORY)
        return jax.nn.softmax(logits_BxG).astype(self.dtype) @ embedding_GxF, logits_BxG
