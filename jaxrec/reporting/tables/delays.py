"""Table of an evaluation of scores that were computed hours before the request."""

from collections.abc import Mapping
from typing import Any

_NAMES = {"hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@100": "MRR@100"}
_WIDTH, _LABEL = 18, 22  # characters


def delay_lines(delay: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table.

    Args:
        delay: Of `evaluation.delays.of_delay.evaluate_delays`.
    """
    lines = [
        f"All titles by hours from the scores to the request, 95% intervals over {delay['users']:,} users; "
        f"{delay['queries']:,} queries, {delay['left_out']:,} without a play so long before",
        "hours".ljust(_LABEL) + "".join(name.rjust(_WIDTH) for name in _NAMES.values()),
    ]
    for values in (delay["metrics"], delay["differences"]):
        for label, of in values.items():
            lines.append(label.ljust(_LABEL) + "".join(_cell(*of[name]).rjust(_WIDTH) for name in _NAMES))
    return lines


def _cell(mean: float | None, half: float | None) -> str:
    return "-" if mean is None else f"{mean:.4f}" + ("" if half is None else f" ±{half:.4f}")
