"""Tables of the values of a policy: under the truth of the simulated service, and under reward models."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = {
    "value": "value", "value@1": "value@1", "value@10": "value@10", "kl": "KL", "entropy": "entropy",
    "efficiency": "efficiency",
}  # fmt: skip
_NAMES = {"model": "model", "choice": "true choice", "frontier": "best at that KL"}
_NAME_WIDTH, _WIDTH = 18, 12  # characters


def truth_lines(truth: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table.

    Args:
        truth: JSON values, as `evaluation.truth.of_policy.evaluate_policy` returns them.
    """
    head = f"{'':<{_NAME_WIDTH}}" + "".join(f"{label:>{_WIDTH}}" for label in _COLUMNS.values())
    body = [
        f"{label:<{_NAME_WIDTH}}" + "".join(f"{_cell(truth[row].get(name)):>{_WIDTH}}" for name in _COLUMNS)
        for row, label in _NAMES.items()
    ]
    lines = ["policy under the truth: mean enjoyment, KL to the true choice and entropy in nats", head, *body]
    if truth["model"]["interval"]:
        lines.append(
            "95% interval of the model's value: {:.4f} to {:.4f}".format(*truth["model"]["interval"])
        )
    return [*lines, f"{truth['queries']:,} queries of {truth['users']:,} users"]


_R2 = {"models": "reward models", "user_mean": "user means", "title_mean": "title means",
       "both_means": "both means"}  # fmt: skip


def reward_model_lines(rewards: Mapping[str, Any]) -> list[str]:
    """Return the lines of values under reward models; what the models explain comes first.

    Args:
        rewards: JSON values, as `analysis.reward_models.with_reward_models` adds them.
    """
    lines = [f"policy under {rewards['models']} reward models of {rewards['workdir']}: {rewards['reward']}"]
    if rewards["r2"]:
        r2 = ", ".join(f"{label} {_cell(rewards['r2'][name])}" for name, label in _R2.items())
        lines.append(f"R^2 of the rewards of test targets: {r2}")
    lines.append(f"value {_cell(rewards['value'])}")
    if rewards["interval"]:
        low, high = rewards["interval"]
        lines[-1] += f", 95% interval {low:.4f} to {high:.4f}"
    if rewards["high"]:
        of_ranks = {name: x for name, x in rewards["high"].items() if name != "targets"}
        ranks = "".join(f", {name} {_cell(x)}" for name, x in of_ranks.items())
        lines.append(f"{rewards['high']['targets']:,} targets of high reward{ranks}")
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
