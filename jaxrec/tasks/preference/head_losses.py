"""Losses of values and reward models beside an objective of post-training, and metrics of the objective.

Axis letters: B rows, L positions, M reward models.
"""

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Config
from jaxrec.losses.preference import Choices, Objective, soft_value_loss, value_loss
from jaxrec.models.layers import rng
from jaxrec.tasks.outputs import Sums

_BOOTSTRAP = rng.layer_id(("bootstrap",))
_POISSON = (0.36788, 0.73576, 0.91970, 0.98101, 0.99634)  # distribution function of a Poisson mean of 1


def head_losses(
    choices: Choices, rewards_MxBxL: jax.Array, user_B: jax.Array, baseline: str, config: Config
) -> tuple[jax.Array, Sums]:
    """Return the summed losses, a scalar, of the baseline and of the reward models, and their metrics.

    Args:
        choices: Logged choices, with the baseline and the observed rewards.
        rewards_MxBxL: Rewards of the chosen titles by the reward models.
        user_B: uint32 numbers of the users.
        baseline: Name of the baseline that the objective subtracts.
        config: Config of the run.
    """
    total, sums, count = jnp.zeros(()), {}, choices.known.sum()
    if baseline in ("title", "value"):
        loss = value_loss(choices.baseline, choices).sum()
        total, sums["value_error"] = total + loss, (2 * loss, count)
    elif baseline == "soft":
        loss = soft_value_loss(choices.baseline, choices, config.post.beta).sum()
        total, sums["soft_value_loss"] = total + loss, (loss, count)
    if len(rewards_MxBxL):
        weight_MxBx1 = bootstrap_weights(user_B, len(rewards_MxBxL), config.train.seed)[:, :, None]
        losses = jax.vmap(value_loss, (0, None))(rewards_MxBxL, choices)
        total = total + (weight_MxBx1 * losses).sum()
        sums["reward_error"] = 2 * losses.mean(0).sum(), count
    return total, sums


def bootstrap_weights(user_B: jax.Array, models: int, seed: int) -> jax.Array:
    """Return the weights [M, B] of users in the bootstrap samples of the reward models.

    A weight is a Poisson number of mean 1 (Poisson bootstrap), a function of the user, the model and the
    seed. A single model has all users.
    """
    if models == 1:
        return jnp.ones((1, len(user_B)))
    uniform_BxM = rng.uniform((models,), rng.row_keys(seed, 0, user_B), _BOOTSTRAP)
    return (uniform_BxM.T[..., None] > jnp.asarray(_POISSON)).sum(-1).astype(jnp.float32)


def metrics_of(objective: Objective, choices: Choices) -> Sums:
    """Return sums and counts of the objective and its weights; the count of the loss is their sum."""
    chosen = choices.chosen.sum()
    return {
        "loss": (objective.total, objective.weight.sum()),
        "nll": (-jnp.where(choices.chosen, choices.log_pi, 0.0).sum(), chosen),
        "reward": (jnp.where(choices.known, choices.reward, 0.0).sum(), choices.known.sum()),
        "weight": (objective.weight.sum(), chosen),
        "squared_weight": (jnp.square(objective.weight).sum(), chosen),
        "clipped": (objective.clipped.sum(), chosen),
    }
