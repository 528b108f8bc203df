"""Weights of the tasks in Eq. 15 that move in training: by uncertainty, or by averaging. Never the entropy's.

What a device needs of it is in the training state: a parameter, or the means of the last epochs' losses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PARAMETERS = "weighting"  # in the tree of parameters: {"log_variance": [T]}
_TEMPERATURE = 2.0  # of the dynamic weight average, as its authors have it


def init_log_variances(fixed: jax.Array) -> dict[str, jax.Array]:
    """The parameters of `uncertainty`, which start from the fixed weights [T]."""
    return {"log_variance": -jnp.log(fixed)}


def uncertainty_weights(parameters: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Weights [T] exp(-s), and what joins the loss, the sum of s / 2, for a learned log variance s a task
    (Kendall, Gal & Cipolla, CVPR 2018), in the customary form exp(-s) L + s / 2.

    The optimizer spares s its decay, which would pull every weight to 1.
    """
    s = parameters["log_variance"]
    return jnp.exp(-s), s.sum() / 2.0


class LossAverages(NamedTuple):
    """The tasks' losses as an epoch goes, and the means of the last two: [0] the last, [1] that before."""

    total: jax.Array  # [T] float32, over the epoch's examples so far
    examples: jax.Array  # float32, how many those are
    means: jax.Array  # [2, T] float32


def init_averages(tasks: int) -> LossAverages:
    """Before the first step."""
    return LossAverages(jnp.zeros(tasks, jnp.float32), jnp.float32(0), jnp.ones((2, tasks), jnp.float32))


def averaged_weights(averages: LossAverages, epoch: jax.Array, fixed: jax.Array) -> jax.Array:
    """Dynamic weight average (Liu, Johns & Davison, CVPR 2019): the fixed weights [T] times T softmax(r / 2),
    r the last epoch's mean loss over that of the epoch before it; in the first two epochs the fixed ones.
    """
    last, before = averages.means
    ratio = jnp.where(before > 0, last / before, 1.0)  # a loss that was 0 says nothing
    moving = len(fixed) * jax.nn.softmax(ratio / _TEMPERATURE)
    return fixed * jnp.where(epoch < 2, 1.0, moving)


def update_averages(
    averages: LossAverages, total: jax.Array, count: jax.Array, ends: jax.Array
) -> LossAverages:
    """With a step's summed losses [T] over `count` examples; `ends` says that it is an epoch's last step."""
    total = averages.total + total.astype(jnp.float32)
    count = averages.examples + count.astype(jnp.float32)
    shifted = jnp.stack([total / jnp.maximum(count, 1.0), averages.means[0]])
    going = LossAverages(total, count, averages.means)
    over = LossAverages(jnp.zeros_like(total), jnp.zeros_like(count), shifted)
    return jax.tree.map(lambda a, b: jnp.where(ends, a, b), over, going)
