"""Adam, weight decay, ReduceLROnPlateau and warm-up as one optax chain: Adam, decay, plateau, minus rate.

The plateau's state lives in the chain's, so a checkpoint of the optimizer holds all there is. Every
update takes `value`, a validation loss, and `fresh`, whether it is a new one:
`update(gradients, state, params, value=v, fresh=f)`. `step` applies it too, and is where
`optimizer.lazy` acts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from jaxrec.config.schema import Optimizer
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SHARDED

DECAYS = ("decoupled", "coupled")
SPARES = ("nothing", "biases_and_norms")
TABLES = ("embedding", SHARDED)  # last names of parameters that are tables of rows, [..., width]

# Rows of a table that a lazy step updates at a time. What lies past the last touched row is wasted, and
# 1,024 rows of 64 stay in a CPU's cache: 4,096 took longer.
_ROWS = 1024

Moments = tuple[jax.Array, jax.Array, jax.Array]  # Adam's two and the parameter itself
Rule = Callable[[jax.Array, Moments], Moments]  # of gradients and what they move, row by row


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


def _decays(spares: str, params: Any) -> Any:
    """True for each parameter that decays: a bias has "bias" among its name's words, a norm's is "scale". A
    task's log variance never does: it would draw the task's weight to 1."""

    def decays(path, _) -> bool:
        name = str(path[-1].key)
        if name == "log_variance":
            return False
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
    adam = optax.scale_by_adam(b2=config.b2)
    first = (adam, decay) if config.decay == "decoupled" else (decay, adam)
    rate: optax.GradientTransformation = optax.scale(-config.learning_rate)
    if config.warmup:
        rate = optax.scale_by_schedule(lambda count: -config.learning_rate * _warmed(count, config.warmup))
    return optax.chain(*first, plateau(config.plateau_factor, config.plateau_patience), rate)


def _warmed(count: jax.Array, steps: int) -> jax.Array:
    """The share of the rate that step `count` takes, from 1 / steps at step 0 to 1 at step `steps` - 1."""
    return jnp.minimum((count + 1) / steps, 1.0)


def step(
    config: Optimizer, gradients: Any, state: Any, params: Any, *,
    value: jax.Array | float, fresh: jax.Array | bool, at_a_time: int = _ROWS,
) -> tuple[Any, Any]:  # fmt: skip
    """(parameters, state) after one update of `make(config)`'s chain.

    With `config.lazy`, a table's row whose gradient is all zero keeps its moments and its value, weight
    decay included, as with PyTorch's SparseAdam; every other row gets the chain's own update. The bias
    correction counts all steps, not those that touched the row: one count serves every parameter, and
    the state's tree is the same as without `lazy`. Any number of rows may be touched.
    On two CPU cores it pays only where few rows of very many are touched (20 thousand of a million: 1.4
    times plain Adam's speed) and is slower elsewhere: `python -m benchmarks.optimizer`.
    """
    tx = make(config)
    if not config.lazy:
        updates, state = tx.update(gradients, state, params, value=value, fresh=fresh)
        return apply(params, updates), state
    adam = DECAYS.index(config.decay)  # its place in the chain: a coupled decay comes before it

    def chain(gradients: Any, mu: Any, nu: Any, params: Any) -> tuple[Any, tuple[Any, Any, Any]]:
        own = (*state[:adam], state[adam]._replace(mu=mu, nu=nu), *state[adam + 1 :])
        updates, after = tx.update(gradients, own, params, value=value, fresh=fresh)
        return after, (after[adam].mu, after[adam].nu, apply(params, updates))

    def rule(gradient: jax.Array, rows: Moments) -> Moments:
        found = chain(*({TABLES[0]: x} for x in (gradient, *rows)))[1]
        return found[0][TABLES[0]], found[1][TABLES[0]], found[2][TABLES[0]]

    whole = (gradients, state[adam].mu, state[adam].nu, params)
    after, others = chain(*map(_without_tables, whole))
    other = zip(*map(jax.tree.leaves, others), strict=True)
    new = []
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    for (path, _), gradient, *rows in zip(paths, *map(jax.tree.leaves, whole), strict=True):
        new.append(lazily(rule, gradient, tuple(rows), at_a_time) if _is_table(path) else next(other))
    mu, nu, params = (jax.tree.unflatten(tree, leaves) for leaves in zip(*new, strict=True))
    return params, (*after[:adam], after[adam]._replace(mu=mu, nu=nu), *after[adam + 1 :])


def _is_table(path: Any) -> bool:
    return path[-1].key in TABLES


def _without_tables(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, x: None if _is_table(path) else x, tree)


def lazily(rule: Rule, gradient: jax.Array, rows: Moments, at_a_time: int) -> Moments:
    """`rule` where `gradient` [..., width] is not all zero in its row; the other rows stay as they are.

    Touched rows are gathered, updated and scattered back `at_a_time`, for as many rounds as there are
    touched rows: none is lost, and the tables are written in place (under a `lax.cond` XLA copies them).
    A table of no more rows than that is updated whole and masked.
    """
    if gradient.ndim > 2:
        flat, *old = (y.reshape(-1, y.shape[-1]) for y in (gradient, *rows))
        found = lazily(rule, flat, (old[0], old[1], old[2]), at_a_time)
        mu, nu, x = (y.reshape(gradient.shape) for y in found)
        return mu, nu, x
    size = len(gradient)
    touched = ~(jnp.abs(gradient).max(1) == 0)  # a NaN touches; `any` is three times as slow on a CPU
    if size <= at_a_time:
        mu, nu, x = (
            jnp.where(touched[:, None], y, old) for y, old in zip(rule(gradient, rows), rows, strict=True)
        )
        return mu, nu, x
    rounds = -(-size // at_a_time)
    (which,) = jnp.nonzero(touched, size=rounds * at_a_time, fill_value=size)

    def some(i: jax.Array, rows: Moments) -> Moments:
        at = jax.lax.dynamic_slice(which, (i * at_a_time,), (at_a_time,))
        g, mu, nu, x = (
            table.at[at].get(mode="fill", fill_value=0, indices_are_sorted=True)
            for table in (gradient, *rows)
        )
        new = rule(g, (mu, nu, x))
        mu, nu, x = (
            table.at[at].set(y, mode="drop", indices_are_sorted=True)
            for table, y in zip(rows, new, strict=True)
        )
        return mu, nu, x

    return jax.lax.fori_loop(0, (touched.sum() + at_a_time - 1) // at_a_time, some, rows)


def averaged(config: Optimizer, average: Any, params: Any, step: jax.Array) -> Any:
    """The moving average of the parameters with those after `step` (from 0) joined in: d average +
    (1 - d) params, d = min(`config.average`, (1 + step) / (10 + step)), so that the first values are
    soon forgotten (Polyak & Juditsky 1992; the ramp is TensorFlow's ExponentialMovingAverage)."""
    decay = jnp.minimum(config.average, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a + (1 - decay).astype(a.dtype) * (p - a), average, params)


def learning_rate(state: Any, config: Optimizer) -> jax.Array:
    """The rate the next update starts from: the config's, as far as the plateau has lowered it and the
    warm-up has raised it."""
    rate = config.learning_rate * state[2].scale
    return rate * _warmed(state[3].count, config.warmup) if config.warmup else rate


apply = optax.apply_updates  # (params, updates) -> params
norm = optax.tree.norm  # of a tree of gradients
