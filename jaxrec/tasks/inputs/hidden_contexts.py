"""Contexts hidden in training, so that a model serves requests that lack some: `sampling.context_dropout`."""

import jax
import jax.numpy as jnp

from jaxrec.core.ids import PAD, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers import rng

_DRAW = 0xC0DE  # layer id of the draw


def hide_contexts(
    categories: jax.Array, numbers: jax.Array, features: tuple[FeatureSpec, ...], rate: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Replace the values of each feature by those of a missing one, with a probability, each by itself.

    A missing category is the unknown one, missing text has no n-gram, a missing title is the padding, and a
    missing number is the mean, 0.

    Args:
        categories: [B, columns] ids.
        numbers: [B, columns] standardised numbers.
        features: Features of the context, in the order of their columns.
        rate: Probability.
        key: [B, 2] uint32, one key for each example.
    """
    hidden_BxF = rng.uniform((len(features),), key, _DRAW) < rate
    of_ids = [i for i, f in enumerate(features) if f.kind != "number" for _ in range(f.columns)]
    of_numbers = [i for i, f in enumerate(features) if f.kind == "number" for _ in range(f.columns)]
    missing = [PAD if features[i].kind in ("text", "title") else UNKNOWN for i in of_ids]
    return (
        jnp.where(hidden_BxF[:, jnp.array(of_ids, int)], jnp.array(missing, categories.dtype), categories),
        jnp.where(hidden_BxF[:, jnp.array(of_numbers, int)], jnp.zeros((), numbers.dtype), numbers),
    )
