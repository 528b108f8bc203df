"""Terms and statistics of the gate: entropy (Eq. 10), load balancing, use of the experts."""

import jax
import jax.numpy as jnp
import numpy as np

_MIN_LOAD = 1e-6  # bounds the gradient towards an expert that no example uses


def entropy(gate: jax.Array) -> jax.Array:
    """Entropy [...] in nats of gate [..., E].

    A gate weight of 0 adds nothing to the value or to the gradient.
    """
    safe = jnp.where(gate > 0, gate, 1.0)
    return -(safe * jnp.log(safe)).sum(-1)


def load_balancing_loss(gate: jax.Array, expert_load: jax.Array) -> jax.Array:
    """Load-balancing loss [...]: the sum over experts of gate log(expert_load).

    If `expert_load` is the mean gate, the mean of this loss is -H(mean gate), with the same gradient. The
    loss falls if experts that all users choose lose weight to the other experts. As in the load-balancing
    loss of Switch Transformers (Fedus, Zoph & Shazeer 2022), there is one value per example, so per-device
    batches need no communication for it.

    Args:
        gate: gate weights [..., E].
        expert_load: [E], the mean gate of the step before.
    """
    return (gate * jnp.log(jnp.maximum(expert_load, _MIN_LOAD))).sum(-1)


def gate_statistics(means: dict[str, float]) -> dict[str, float]:
    """Compute how evenly and how selectively experts are used, in nats.

    Eq. 10 does not prevent all users from choosing one expert. "gate_information" is the information that the
    choice of an expert carries about the user: the entropy of the mean gate minus the mean entropy. It is 0
    if all users choose alike.

    Args:
        means: the metrics of `objective`, each sum divided by its count.

    Returns:
        "gate_entropy_of_mean" and "gate_information"; {} without a gate.
    """
    gate = np.array([value for name, value in means.items() if name.removeprefix("gate_").isdigit()])
    if not gate.size:
        return {}
    entropy_of_mean = float(-np.sum(gate * np.log(np.where(gate > 0, gate, 1.0))))
    return {
        "gate_entropy_of_mean": entropy_of_mean,
        "gate_information": entropy_of_mean - means["gate_entropy"],
    }
