"""Frozen parameters, and the anchor that pulls parameters to where they started: `config.Start`.

Without either, all functions return their arguments, so that the program of a step has no more operations.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.checkpoints.warm_start import matches
from jaxrec.config.schema import Start


def has_anchor(start: Start) -> bool:
    """Return True if the training state holds the reference of an anchor."""
    return bool(start.workdir) and start.anchor > 0


def restrain_gradients(start: Start, gradients: Any, params: Any, reference: Any, anchored: Any) -> Any:
    """Return gradients with that of the anchor, and 0 for frozen parameters.

    The anchor adds anchor / 2 |params - reference|^2 to the loss (L2-SP, Li et al. 2018), over the values
    that were taken.

    Args:
        start: Settings of the start.
        gradients: Tree as `params`.
        params: Tree of parameters.
        reference: First values, a tree as `params`; not read without an anchor.
        anchored: Bool, True where a value was taken, a tree as `params`; not read without an anchor.
    """
    if has_anchor(start):
        gradients = jax.tree.map(
            lambda g, p, first, taken: g + start.anchor * (p - jnp.where(taken, first, p)),
            gradients,
            params,
            reference,
            anchored,
        )
    if not start.freeze:
        return gradients
    return _where_frozen(start, jax.tree.map(jnp.zeros_like, gradients), gradients)


def keep_frozen(start: Start, before: Any, after: Any) -> Any:
    """Return the parameters after an update, without any change of the frozen ones.

    A gradient of 0 is not enough: decoupled weight decay and kept moments move a parameter too.
    """
    return _where_frozen(start, before, after) if start.freeze else after


def _where_frozen(start: Start, frozen: Any, other: Any) -> Any:
    """Return a tree of the leaves of `frozen` whose names `start.freeze` matches, and of `other`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a, b: a if matches(jax.tree_util.keystr(path, simple=True, separator="/"), start.freeze)
        else b,
        frozen, other,
    )  # fmt: skip
