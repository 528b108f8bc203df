"""Adam, weight decay and ReduceLROnPlateau as one optax chain: Adam, decay, plateau, minus rate.

The plateau's state lives in the chain's, so a checkpoint of the optimizer holds all there is. Every
update takes `value`, a validation loss, and `fresh`, whether it is a new one:
`update(gradients, state, params, value=v, fresh=f)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from jaxrec.config import Optimizer
from jaxrec.errors import InputError

DECAYS = ("decoupled", "coupled")
SPARES = ("nothing", "biases_and_norms")


def plateau(factor: float, patience: int) -> optax.GradientTransformationExtraArgs:
    """PyTorch's ReduceLROnPlateau (mode "min", relative threshold 1e-4), moved by fresh values only.

    optax's own acts on the value of every update, a stand-in before the first evaluation included
    (a 0 there is a best that nothing improves on), and counts patience one lower than PyTorch.
    """
    if factor == 1.0:  # optax refuses a factor that lowers nothing
        return _plateau(reduce_on_plateau(factor=0.5, min_scale=1.0))
    return _plateau(reduce_on_plateau(factor=factor, patience=patience + 1, rtol=1e-4, accumulation_size=1))


def _plateau(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`inner`, which looks at a value and scales the updates, moved by fresh values only."""

    def update(updates, state, params=None, *, value, fresh, **_):
        _, moved = inner.update({}, state, params, value=jnp.asarray(value))
        state = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), moved, state)
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _decays(spares: str, params: Any) -> Any:
    """True for each parameter that decays: a bias has "bias" among its name's words, a norm's is "scale"."""

    def decays(path, _) -> bool:
        name = str(path[-1].key)
        return spares == "nothing" or not (name == "scale" or "bias" in name.split("_"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make(config: Optimizer) -> optax.GradientTransformationExtraArgs:
    """The chain. "decoupled" decay joins Adam's step; "coupled" joins the gradient, as PyTorch's Adam does.

    Raises InputError for a `decay` or `decay_spares` there is none of.
    """
    for key, allowed in (("decay", DECAYS), ("decay_spares", SPARES)):
        if getattr(config, key) not in allowed:
            raise InputError(f"optimizer.{key}={getattr(config, key)!r} must be one of {', '.join(allowed)}")
    decay = optax.add_decayed_weights(
        config.weight_decay, lambda params: _decays(config.decay_spares, params)
    )
    adam = optax.scale_by_adam()
    first = (adam, decay) if config.decay == "decoupled" else (decay, adam)
    return optax.chain(
        *first,
        plateau(config.plateau_factor, config.plateau_patience),
        optax.scale(-config.learning_rate),
    )


def learning_rate(state: Any, config: Optimizer) -> jax.Array:
    """The rate the next update starts from: the config's, as far as the plateau has lowered it."""
    return config.learning_rate * state[2].scale


apply = optax.apply_updates  # (params, updates) -> params
norm = optax.tree.norm  # of a tree of gradients
