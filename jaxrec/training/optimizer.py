"""Adam, weight decay, ReduceLROnPlateau and warm-up as one optax chain: Adam, decay, plateau, minus rate.

The state of the plateau is part of the chain's state, so a checkpoint of the optimizer is complete. Every
update takes `value`, a validation loss, and `fresh`, True if the loss is new:
`update(gradients, state, params, value=v, fresh=f)`. `step` applies the update too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from jaxrec.config.schema import Optimizer
from jaxrec.models.kernels.adam_update import AdamRule, AdamScalars, Leaves, fused_adam
from jaxrec.runtime.mesh import merge_sharded, split_sharded

_BETA1, _EPSILON = 0.9, 1e-8  # Adam's decay of the first moment, and the number added to its denominator


def plateau(factor: float, patience: int) -> optax.GradientTransformationExtraArgs:
    """Return PyTorch's ReduceLROnPlateau as a transformation of updates.

    The mode is "min", with a relative threshold of 1e-4. Only fresh values change the state.
    `optax.contrib.reduce_on_plateau` uses the value of every update, also the placeholder before the first
    evaluation: a placeholder of 0 would stay the best value forever. Its patience is one less than PyTorch's.

    Args:
        factor: Factor of the learning rate after a plateau, in (0, 1]; 1 keeps the rate.
        patience: Number of evaluations without improvement before the rate is reduced.
    """
    if factor == 1.0:  # optax rejects a factor of 1
        return _plateau(reduce_on_plateau(factor=0.5, min_scale=1.0))
    return _plateau(reduce_on_plateau(factor=factor, patience=patience + 1, rtol=1e-4, accumulation_size=1))


def _plateau(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Return `inner`, which scales the updates by a value, updated by fresh values only."""

    def update(updates, state, params=None, *, value, fresh, **_):
        # Under vmap both branches of optax are computed and one is selected. A branch on the device would
        # wait for the host.
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
    """Return the chain: Adam, weight decay, plateau, and minus the learning rate.

    "decoupled" decay is added to Adam's step (Loshchilov & Hutter 2019); "coupled" decay is added to the
    gradient, as in PyTorch's Adam. The first moment decays by 0.9.

    Args:
        config: Settings of the optimizer.
    """
    decay = optax.add_decayed_weights(config.weight_decay, _decays)
    adam = optax.scale_by_adam(b1=_BETA1, b2=config.beta2, eps=_EPSILON)
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
    """Return (parameters, state) after one update of the chain of `config`.

    Args:
        config: Settings of the optimizer.
        gradients: Tree of gradients, as `params`.
        state: State of the chain.
        params: Tree of parameters.
        value: The last validation loss, a scalar.
        fresh: True if no earlier update has used `value`.
    """
    updates, state = make(config).update(gradients, state, params, value=value, fresh=fresh)
    return apply(params, updates), state


def fused_step(
    config: Optimizer, gradient_sums: Any, divisor: jax.Array, state: Any, params: Any, *,
    value: jax.Array | float, fresh: jax.Array | bool,
) -> tuple[Any, Any, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """Return what `step` returns, by few kernels, and the squared norms of the mean gradient.

    Results differ from those of `step` by rounding. Inside a mapped step, for float32 parameters on a GPU.

    Args:
        config: Settings of the optimizer.
        gradient_sums: Tree as `params`; the gradient is this sum divided by `divisor`.
        divisor: Scalar.
        state: State of the chain.
        params: Tree of parameters.
        value: The last validation loss, a scalar.
        fresh: True if no earlier update has used `value`.

    Returns:
        Parameters, state, and the squared norms over replicated and over sharded parameters.
    """
    at = 0 if config.weight_decay_mode == "decoupled" else 1
    adam = state[at]
    # The chain of a tree without parameters: the counts and the plateau of this update.
    empty = [adam._replace(mu={}, nu={}) if i == at else part for i, part in enumerate(state)]
    _, after = make(config).update({}, tuple(empty), {}, value=value, fresh=fresh)
    count = after[at].count.astype(jnp.float32)
    rate = learning_rate((*after[:3], state[3]), config)
    rule = AdamRule(_BETA1, config.beta2, _EPSILON, coupled=at == 1)
    scalars = AdamScalars(divisor, 1 - _BETA1**count, 1 - config.beta2**count, rate)
    trees, squares = [], []
    for tree in zip(*map(split_sharded, (gradient_sums, params, adam.mu, adam.nu)), strict=True):
        leaves, decays = Leaves(*map(jax.tree.leaves, tree)), jax.tree.leaves(_decays(tree[1]))
        updated, square = fused_adam(rule, scalars, leaves, [config.weight_decay * d for d in decays])
        trees.append([jax.tree.unflatten(jax.tree.structure(tree[1]), x) for x in updated])
        squares.append(square)
    params, mu, nu = (merge_sharded(sharded, replicated) for sharded, replicated in zip(*trees, strict=True))
    after = tuple(part._replace(mu=mu, nu=nu) if i == at else part for i, part in enumerate(after))
    return params, after, (squares[1], squares[0])


def averaged(config: Optimizer, average: Any, params: Any, step: jax.Array) -> Any:
    """Return the moving average of the parameters after a step.

    The average is d average + (1 - d) params with d = min(`config.ema_decay`, (1 + step) / (10 + step)), so
    that the first values have little weight (Polyak & Juditsky 1992; the ramp is that of TensorFlow's
    ExponentialMovingAverage).

    Args:
        config: Settings with `ema_decay`, in [0, 1).
        average: Average before the step, a tree as `params`.
        params: Parameters after the step.
        step: Scalar, the step, from 0.
    """
    decay = jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a + (1 - decay).astype(a.dtype) * (p - a), average, params)


def learning_rate(state: Any, config: Optimizer) -> jax.Array:
    """Return the learning rate of the next update, a scalar.

    The rate is the config's, multiplied by the factors of the plateau and of the warm-up.

    Args:
        state: State of the chain.
        config: Settings of the optimizer.
    """
    rate = config.learning_rate * state[2].scale
    return rate * _warmup(state[3].count, config.warmup_steps) if config.warmup_steps else rate


apply = optax.apply_updates  # (params, updates) -> params
norm = optax.tree.norm  # of a tree of gradients
