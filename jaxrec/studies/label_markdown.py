"""Tables of predicted labels as Markdown."""

import math
from collections.abc import Callable, Mapping
from typing import Any

_DECIDED = {"shown": "higher", "reversed": "lower"}


def label_tables(labels: Mapping[str, Any], number: Callable[..., str]) -> list[str]:
    """Return the lines of the tables of a study's labels, one table for each head.

    Args:
        labels: `label_results.label_blocks`.
        number: Function from a number, and a format, to its text.
    """
    lines: list[str] = []
    for head, block in labels.items():
        lines += ["", f"### {head}: {block['positives']:,} positives", ""]
        lines += _header("row", "AUC", "95% interval", "AUC in users", "difference", "95% interval",
                         "verdict", "visible")  # fmt: skip
        lines += [_row_line(row, block["rows"], number) for row in block["rows"]]
        lines += [_line(name.replace("_", " "), number(value), *[""] * 6)
                  for name, value in block["baselines"].items()]  # fmt: skip
    return lines


def _row_line(row: Mapping[str, Any], rows: list[Mapping[str, Any]], number: Callable[..., str]) -> str:
    auc, gauc, seeds = row["auc"], row["gauc"], row["seeds"]
    spread = f" ± {number(auc['sd'])}" if seeds > 1 else ""
    cells = [f"{number(auc['mean'])}{spread}", _interval(auc["interval"], number), number(gauc["mean"])]
    difference = row["differences"].get("auc")
    if not difference:
        return _line(row["label"], *cells, *[""] * 4)
    users = difference["over_users"]
    label = next(other["label"] for other in rows if other["row"] == row["against"])
    verdict = _DECIDED.get(difference["verdict"], "cannot be decided")
    return _line(
        row["label"], *cells, f"{number(users['mean'], '+.4f')} to {label}",
        _interval(users["interval"], number, "+.4f"), verdict, number(users["smallest"]),
    )  # fmt: skip


def _interval(ends: Any, number: Callable[..., str], form: str = ".4f") -> str:
    if any(end is None or math.isnan(end) for end in ends):
        return "-"
    return "[{}, {}]".format(*(number(end, form) for end in ends))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _header(*cells: str) -> list[str]:
    return [_line(*cells), _line(*("---" for _ in cells))]
