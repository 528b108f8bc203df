"""Replacement of titles by the unknown title, so that its vector is trained."""

import jax
import jax.numpy as jnp

from jaxrec.core.ids import PAD, UNKNOWN
from jaxrec.models.layers import rng

_UNKNOWN_DRAW = 0x0BAD  # layer id of the draw


def mask_to_unknown(title: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Replace a fraction of titles by the unknown title; padding stays.

    Args:
        title: [...] ids.
        rate: Probability of a replacement.
        key: [..., 2] uint32, one key for each title.
    """
    hidden = rng.uniform((), key, _UNKNOWN_DRAW) < rate
    return jnp.where(hidden & (title != PAD), UNKNOWN, title)
