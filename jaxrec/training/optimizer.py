"""Adam, weight decay, ReduceLROnPlateau and warm-up as one optax chain: Adam, decay, plateau, minus rate.

The plateau's state lives in the chain's, so a checkpoint of the optimizer holds all there is. Every
update takes `value`, a validation loss, and `fresh`, whether it is a new one:
`update(gradients, state, params, value=v, fresh=f)`. `step` applies the update too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from jaxrec.config.schema import Optimizer


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
        # Over an axis of one, optax's branches are both taken and one is chosen: a device that has to branch
        # asks its host, and waits.
        several = jax.tree.map(lambda x: x[None], (state, jnp.asarray(value)))
        _, moved = jax.vmap(lambda one, value: inner.update({}, one, params, value=value))(*several)
        state = jax.tree.map(lambda new, old: jnp.where(fresh, new[0], old), moved, state)
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _decays(params: Any) -> Any:
    """Return True for each parameter that decays, as in PyTorch all but a task's log variance.

    Decay would pull the log variance to 0, and so the task's weight to 1.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[-1].key) != "log_variance", params)


def make(config: Optimizer) -> optax.GradientTransformationExtraArgs:
    """Return the chain.

    "decoupled" decay is added to Adam's step; "coupled" decay to the gradient, as PyTorch's Adam does.
    """
    decay = optax.add_decayed_weights(config.weight_decay, _decays)
    adam = optax.scale_by_adam(b2=config.beta2)
    first = (adam, decay) if config.weight_decay_mode == "decoupled" else (decay, adam)
    rate: optax.GradientTransformation = optax.scale(-config.learning_rate)
    if config.warmup_steps:
        rate = optax.scale_by_schedule(
            lambda count: -config.learning_rate * _warmup(count, config.warmup_steps)
        )
    return optax.chain(*first, plateau(config.plateau_factor, config.plateau_patience), rate)


def _warmup(count: jax.Array, steps: int) -> jax.Array:
    """Return the fraction of the rate at step `count`: 1 / steps at step 0, 1 from step `steps` - 1 on."""
    return jnp.minimum((count + 1) / steps, 1.0)


def step(
    config: Optimizer, gradients: Any, state: Any, params: Any, *,
    value: jax.Array | float, fresh: jax.Array | bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Return (parameters, state) after one update of the chain of `config`."""
    updates, state = make(config).update(gradients, state, params, value=value, fresh=fresh)
    return apply(params, updates), state


def averaged(config: Optimizer, average: Any, params: Any, step: jax.Array) -> Any:
    """The moving average of the parameters with those after `step` (from 0) joined in: d average +
    (1 - d) params, d = min(`config.ema_decay`, (1 + step) / (10 + step)), so that the first values are
    soon forgotten (Polyak & Juditsky 1992; the ramp is TensorFlow's ExponentialMovingAverage)."""
    decay = jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a + (1 - decay).astype(a.dtype) * (p - a), average, params)


def learning_rate(state: Any, config: Optimizer) -> jax.Array:
    """The rate the next update starts from: the config's, as far as the plateau has lowered it and the
    warm-up has raised it."""
    rate = config.learning_rate * state[2].scale
    return rate * _warmup(state[3].count, config.warmup_steps) if config.warmup_steps else rate


apply = optax.apply_updates  # (params, updates) -> params
norm = optax.tree.norm  # of a tree of gradients
