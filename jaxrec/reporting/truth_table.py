"""Table of the values of a policy under the truth of the simulated service."""

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


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
