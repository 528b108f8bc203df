"""Vectors of titles from their codes: the embeddings of all prefixes of a code, summed.

Titles that share a prefix share its vector, so that a title with few plays has what was learned from titles
of its clusters. The codes are those of generative models (TIGER, arXiv 2305.05065; OneRec, arXiv 2502.18965).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.layers.dense import Parameters, embedding_lookup, uniform_init


class CodeEmbedding(Parameters):
    """Sum [..., width] of the embeddings of the prefixes of a code; 0 without a code.

    The parameter is named unlike the embedding of a category, whose rows have keys.

    Attributes:
        size: Number of ids of prefixes, 0 for none included.
        width: Width of the vectors.
        init_std: Standard deviation of the initial vectors.
    """

    size: int
    width: int
    init_std: float = 0.2

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Embed int32 ids [..., levels] of prefixes, 0 for none."""
        std = self.init_std / ids.shape[-1] ** 0.5  # of a sum of independent vectors: that of a category
        table = self.weight("prefixes", uniform_init(std), self.size, self.width)
        rows = embedding_lookup(table, ids)
        return jnp.where((ids > 0)[..., None], rows, jnp.zeros((), table.dtype)).sum(-2)
