"""Positions of windows that train the decoder in a step.

Axis letters: B windows, L positions, P trained positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.models.layers import rng

_PLACES = rng.layer_id(("codes", "places"))


class Places(NamedTuple):
    """Positions of windows that train the decoder.

    Attributes:
        position: [B, P] int32 positions of the window.
        target: [B, P] int32 next titles, 0 where a window has fewer positions with one; [B, P, m] the titles
            of sessions.
    """

    position: jax.Array
    target: jax.Array


def draw_places(
    target_BxL: jax.Array, count: int, key_Bx2: jax.Array, first_BxL: jax.Array | None = None
) -> Places:
    """Draw `count` positions of each window among those that have a next title, without replacement.

    Args:
        target_BxL: int32 next titles, 0 for none.
        count: Number of positions P, at most L.
        key_Bx2: uint32 keys of the windows.
        first_BxL: Bool, positions that are drawn before all others; None: all are alike.
    """
    uniform_BxL = rng.uniform((target_BxL.shape[1],), key_Bx2, _PLACES)
    if first_BxL is not None:
        uniform_BxL = jnp.where(first_BxL, uniform_BxL - 1.0, uniform_BxL)
    order_BxL = jnp.where(target_BxL > 0, uniform_BxL, 2.0)
    position_BxP = jnp.argsort(order_BxL, axis=1)[:, :count].astype(jnp.int32)
    return Places(position_BxP, jnp.take_along_axis(target_BxL, position_BxP, axis=1))
