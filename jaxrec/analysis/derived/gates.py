"""Gates of mixtures in probability space: fits on queries whose targets are known."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.tasks.mixture.task import log_weights

Form = Literal["learned", "uniform", "best", "average"]
FORMS: tuple[Form, ...] = ("learned", "uniform", "best", "average")
HIDDEN = 16  # width of the hidden layer of a learned gate
SCALES = np.geomspace(0.1, 10.0, 81)  # of a ranking model's scores, for probabilities of a list
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the squared kernels of the gate
_FOLDS, _STEPS, _RATE = 3, 250, 0.05
_NEVER = -40.0  # logit of a member that "best" leaves out


class Fitted(NamedTuple):
    """Parameters of a mixture besides those of its members, and how well it fits.

    Attributes:
        gate: Layers of the gate.
        hidden: Widths of its hidden layers.
        report: JSON values: mean -log p of validation targets, and mean weights.
    """

    gate: dict[str, Any]
    hidden: tuple[int, ...]
    report: dict[str, Any]


def target_log_p(scores_QxC: np.ndarray, present_QxC: np.ndarray, scale: float) -> np.ndarray:
    """Return the log softmax [Q] of the first candidate's score."""
    s = np.where(present_QxC, scale * scores_QxC.astype(np.float64), -np.inf)
    top = np.max(s, axis=1, keepdims=True, initial=-1e9)
    return s[:, 0] - top[:, 0] - np.log(np.exp(s - top).sum(1))


def fit(form: Form, z_QxZ: np.ndarray, log_p_QxLxM: np.ndarray, user: np.ndarray) -> Fitted:
    """Return the gate of a form, and its report."""
    Z, M = z_QxZ.shape[1], log_p_QxLxM.shape[2]
    report: dict[str, Any] = {}
    hidden: tuple[int, ...] = ()
    if form == "learned":
        penalty = choose_penalty(z_QxZ, log_p_QxLxM, user, np.ones(len(z_QxZ)))
        gate, hidden = learned(z_QxZ, log_p_QxLxM, np.ones(len(z_QxZ)), penalty), (HIDDEN,)
        report["penalty"] = penalty
    else:
        gate = {"0": {"kernel": np.zeros((Z, M)), "bias": np.zeros(M)}}
        if form == "best":
            gate["0"]["kernel"] = best_by_slice(z_QxZ, log_p_QxLxM)
    gate = jax.tree.map(lambda x: np.asarray(x, np.float32), gate)
    weights = np.exp(np.asarray(log_weights(gate, jnp.asarray(z_QxZ))))
    members = [float(-np.nanmean(log_p_QxLxM[:, :, m])) for m in range(M)]
    report |= {
        "queries": len(z_QxZ), "loss": float(loss_of(gate, z_QxZ, log_p_QxLxM, np.ones(len(z_QxZ)))),
        "loss_of_members": members, "mean_weights": weights.mean(0).tolist(),
    }  # fmt: skip
    return Fitted(gate, hidden, report)


def best_by_slice(z_QxZ: np.ndarray, log_p_QxLxM: np.ndarray) -> np.ndarray:
    """Return logits [Z, M] that choose, for each one-hot input, the member with the highest mean log p.

    Inputs that are no one-hot category have logits of 0. A category that no query has gets the best of all.
    """
    mean_QxM = np.nanmean(log_p_QxLxM, axis=1)
    overall, out = int(np.argmax(mean_QxM.mean(0))), np.zeros((z_QxZ.shape[1], mean_QxM.shape[1]))
    for column in range(z_QxZ.shape[1]):
        x = z_QxZ[:, column]
        if not np.isin(x, (0.0, 1.0)).all():
            continue
        best = int(np.argmax(mean_QxM[x > 0].mean(0))) if (x > 0).any() else overall
        out[column] = _NEVER
        out[column, best] = 0.0
    return out


def choose_penalty(
    z_QxZ: np.ndarray, log_p_QxLxM: np.ndarray, user: np.ndarray, weight_Q: np.ndarray
) -> float:
    """Return the penalty with the lowest loss of users whose fold did not fit the gate.

    Args:
        z_QxZ: Inputs of the gate.
        log_p_QxLxM: log p of the targets by list and member; NaN without a list.
        user: [Q] users, from 0.
        weight_Q: Weights of the queries; those of weight 0 neither fit nor count.
    """
    fold = np.random.default_rng(0).permutation(int(user.max()) + 1)[user] % _FOLDS
    losses = []
    for penalty in _PENALTIES:
        total = 0.0
        for one in range(_FOLDS):
            gate = learned(z_QxZ, log_p_QxLxM, (fold != one) * weight_Q, penalty)
            total += float(loss_of(gate, z_QxZ, log_p_QxLxM, (fold == one) * weight_Q))
        losses.append(total / _FOLDS)
    return _PENALTIES[int(np.argmin(losses))]


def loss_of(gate: Any, z_QxZ: Any, log_p_QxLxM: Any, weight_Q: Any) -> jax.Array:
    """Return the mean of -log sum w p over lists and queries, weighed by query."""
    has_QxL = ~jnp.isnan(log_p_QxLxM).any(axis=2)
    log_p = jnp.where(has_QxL[..., None], log_p_QxLxM, 0.0)
    log_mix_QxL = jax.nn.logsumexp(log_weights(gate, jnp.asarray(z_QxZ))[:, None] + log_p, axis=2)
    weight_QxL = jnp.asarray(weight_Q)[:, None] * has_QxL
    return -(log_mix_QxL * weight_QxL).sum() / jnp.maximum(weight_QxL.sum(), 1.0)


def learned(z_QxZ: np.ndarray, log_p_QxLxM: np.ndarray, weight_Q: np.ndarray, penalty: float) -> Any:
    """Return the gate of least loss plus penalty times the squared kernels, by Adam from a fixed start."""
    Z, M = z_QxZ.shape[1], log_p_QxLxM.shape[2]
    rng = np.random.default_rng(0)
    start = {
        "0": {"kernel": rng.normal(size=(Z, HIDDEN)) / np.sqrt(Z), "bias": np.zeros(HIDDEN)},
        "1": {"kernel": 0.1 * rng.normal(size=(HIDDEN, M)), "bias": np.zeros(M)},
    }
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    data = tuple(jnp.asarray(x, jnp.float32) for x in (z_QxZ, log_p_QxLxM, weight_Q))
    return _adam(start, *data, jnp.float32(penalty))


@partial(jax.jit)
def _adam(gate: Any, z_QxZ: Any, log_p_QxLxM: Any, weight_Q: Any, penalty: Any) -> Any:
    """Return parameters after `_STEPS` full-batch steps of Adam, whose rate falls to 0 linearly."""

    def loss(gate: Any) -> jax.Array:
        squares = sum(jnp.square(layer["kernel"]).sum() for layer in gate.values())
        return loss_of(gate, z_QxZ, log_p_QxLxM, weight_Q) + penalty * squares / len(gate["0"]["kernel"])

    def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
        gate, mean, square = carry
        gradient = jax.grad(loss)(gate)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g * g, square, gradient)
        rate = _RATE * (1 - t / _STEPS)
        at = t + 1.0
        gate = jax.tree.map(
            lambda x, m, s: x - rate * (m / (1 - 0.9**at)) / (jnp.sqrt(s / (1 - 0.99**at)) + 1e-8),
            gate, mean, square,
        )  # fmt: skip
        return (gate, mean, square), None

    zeros = jax.tree.map(jnp.zeros_like, gate)
    return jax.lax.scan(step, (gate, zeros, zeros), jnp.arange(_STEPS, dtype=jnp.float32))[0][0]
