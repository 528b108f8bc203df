"""Rewards of a global batch, around which values and reward models predict, and fixed policies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Config
from jaxrec.core.batch import HostBatch
from jaxrec.core.row_format import Layout
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.preference.compared import FixedPolicy
from jaxrec.tasks.preference.inputs import row_rewards
from jaxrec.tasks.ranking_inputs import decode


class BatchContext(NamedTuple):
    """Rewards of the global batch, and fixed policies.

    Attributes:
        mean: Mean reward.
        soft: beta log of the mean of exp(reward / beta).
        has_title: [V] bool, True for ids with a title; None: all from FIRST_TITLE on.
        reference: Policy that the training started with; None unless the objective reads it.
        old: Policy that draws titles; None unless the objective is "ppo".
    """

    mean: jax.Array
    soft: jax.Array
    has_title: jax.Array | None = None
    reference: FixedPolicy | None = None
    old: FixedPolicy | None = None


def reward_context(
    host: HostBatch, layout: Layout, config: Config, has_title: jax.Array | None
) -> BatchContext:  # fmt: skip
    """Return the rewards of the global batch, without policies; called inside a mapped step.

    Args:
        host: The per-device batch.
        layout: Shape of the dataset's rows.
        config: Config of the run.
        has_title: [V] bool, True for ids with a title; None: all from FIRST_TITLE on.
    """
    rows = decode(host.words, layout.row_dtype())
    rewards, post = row_rewards(rows, config, layout, config.post.reward), config.post
    known = rewards.known & jnp.asarray(host.valid)[:, None]
    high = jax.lax.pmax(jnp.where(known, rewards.reward, -jnp.inf).max(), AXIS)
    high = jnp.where(jnp.isfinite(high), high, 0.0)
    total, exponential, count = jax.lax.psum(
        (
            jnp.where(known, rewards.reward, 0.0).sum(),
            jnp.where(known, jnp.exp((rewards.reward - high) / post.beta), 0.0).sum(),
            known.sum(),
        ),
        AXIS,
    )
    count = jnp.maximum(count, 1)
    tiny = jnp.finfo(exponential.dtype).tiny
    soft = high + post.beta * jnp.log(jnp.maximum(exponential / count, tiny))
    return BatchContext(total / count, soft, has_title)
