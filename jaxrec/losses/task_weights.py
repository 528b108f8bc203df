"""Task weights of Eq. 15 that change in training: by uncertainty or by averaging.

The weight of the entropy term never changes. The state of the weights is in the training state: a parameter,
or the means of the losses in the last epochs. Axis letter: T tasks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PARAMETERS = "weighting"  # key in the tree of parameters: {"log_variance": [T]}
_TEMPERATURE = 2.0  # of the dynamic weight average, the value of its paper


def init_log_variances(fixed: jax.Array) -> dict[str, jax.Array]:
    """Initial parameters of `uncertainty_weights`, whose weights are the fixed weights.

    Args:
        fixed: weights [T], above 0.

    Returns:
        {"log_variance": -log(fixed) [T]}.
    """
    return {"log_variance": -jnp.log(fixed)}


def uncertainty_weights(parameters: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Task weights from a learned log variance s per task.

    The method is that of Kendall, Gal & Cipolla (CVPR 2018) in its usual form exp(-s) L + s / 2. The
    optimizer applies no weight decay to s, because decay would pull every weight to 1.

    Args:
        parameters: {"log_variance": s [T]}.

    Returns:
        The weights exp(-s) [T], and the addend of the loss: the sum of s / 2.
    """
    s = parameters["log_variance"]
    return jnp.exp(-s), s.sum() / 2.0


class LossAverages(NamedTuple):
    """Losses of the tasks in the current epoch, and their means in the last two.

    Attributes:
        total: [T] float32, sums over the examples of the epoch so far.
        examples: float32 scalar, number of examples in `total`.
        means: [2, T] float32: [0] of the last epoch, [1] of the epoch before.
    """

    total: jax.Array
    examples: jax.Array
    means: jax.Array


def init_averages(tasks: int) -> LossAverages:
    """Averages before the first step, for `tasks` = T tasks."""
    return LossAverages(jnp.zeros(tasks, jnp.float32), jnp.float32(0), jnp.ones((2, tasks), jnp.float32))


def averaged_weights(averages: LossAverages, epoch: jax.Array, fixed: jax.Array) -> jax.Array:
    """Dynamic weight average (Liu, Johns & Davison, CVPR 2019).

    The weights are fixed * T softmax(r / 2), where r is the mean loss of the last epoch divided by the mean
    loss of the epoch before it. In the first two epochs they are the fixed weights.

    Args:
        averages: mean losses of the last two epochs.
        epoch: scalar, from 0.
        fixed: weights [T] of the config.

    Returns:
        Weights [T].
    """
    last, before = averages.means
    ratio = jnp.where(before > 0, last / before, 1.0)  # a loss of 0 gives no ratio
    relative = len(fixed) * jax.nn.softmax(ratio / _TEMPERATURE)
    return fixed * jnp.where(epoch < 2, 1.0, relative)


def update_averages(
    averages: LossAverages, total: jax.Array, count: jax.Array, ends: jax.Array
) -> LossAverages:
    """Return the averages after a step, and shift the means at the end of an epoch.

    Args:
        averages: the averages before the step.
        total: losses [T], summed over the examples of the step.
        count: number of examples in the step.
        ends: bool scalar, True for the last step of an epoch.
    """
    total = averages.total + total.astype(jnp.float32)
    count = averages.examples + count.astype(jnp.float32)
    shifted = jnp.stack([total / jnp.maximum(count, 1.0), averages.means[0]])
    in_epoch = LossAverages(total, count, averages.means)
    after_epoch = LossAverages(jnp.zeros_like(total), jnp.zeros_like(count), shifted)
    return jax.tree.map(lambda a, b: jnp.where(ends, a, b), after_epoch, in_epoch)
