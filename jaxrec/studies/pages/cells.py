"""Cells and lines of Markdown tables: numbers, spreads, intervals and p-values as text."""

import math
from collections.abc import Mapping
from typing import Any


def is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def number(value: float | None, form: str = ".4f") -> str:
    """Return the text of a number, such as .3591 or +.0021; unknown: a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:{form}}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{form}}"


def spread(summary: Mapping[str, float]) -> str:
    """Return the mean and standard deviation as .3591 ± .0021; for one seed, .3591."""
    deviation = f" ± {number(summary['sd'])}" if is_finite(summary["sd"]) else ""
    return f"{number(summary['mean'])}{deviation}"


def p_value(value: float | None) -> str:
    """Return the text of a p-value, "<.0001" below 1e-4."""
    if value is None or not math.isfinite(value):
        return "-"
    return "<.0001" if value < 1e-4 else number(value)


def interval(test: Mapping[str, Any], form: str = "+.4f") -> str:
    return "[{}, {}]".format(*(number(value, form) for value in test["interval"]))


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> list[str]:
    return [line(*cells), line(*("---" for _ in cells))]
