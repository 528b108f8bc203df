"""Cells and lines of the Markdown tables of a study: numbers, intervals and p-values."""

import math
from collections.abc import Mapping
from typing import Any


def is_finite(value: float | None) -> bool:
    """Return True for a number that is neither unknown nor infinite."""
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


def p(value: float | None) -> str:
    """Return the text of a p-value, "<.0001" below 1e-4."""
    if value is None or not math.isfinite(value):
        return "-"
    return "<.0001" if value < 1e-4 else number(value)


def interval(test: Mapping[str, Any], form: str = "+.4f") -> str:
    """Return the text of an interval, such as [+.0011, +.0031]."""
    return "[{}, {}]".format(*(number(value, form) for value in test["interval"]))


def of_seeds(seeds: Mapping[str, Any]) -> str:
    """Return the mean and deviation of a difference over seeds, with the p-value and their number."""
    spread_text = f"{number(seeds['mean'], '+.4f')} ± {number(seeds['sd'])}"
    return f"{spread_text} ({p(seeds['p'])}, {seeds['n']})"


def line(*cells: str) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [line(*cells), line(*("---" for _ in cells))]
