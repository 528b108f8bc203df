"""Markdown tables of predicted labels: one for each head."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrec.studies.tables import text

EXPLANATION = (
    "AUC of each predicted label, mean over the seeds; with folds each seed tests other users. Intervals and "
    "differences are by bootstrap over users. *Higher* and *lower* where the tests over users and over seeds "
    "agree at 5%; *visible* is the smallest difference that the test over users detects with a power of 80%."
)

_DECIDED = {"shown": "higher", "reversed": "lower"}


def label_tables(labels: Mapping[str, Any]) -> list[str]:
    """Return the lines of the tables of a study's labels, one table for each head.

    Args:
        labels: `blocks.labels.label_blocks`.
    """
    lines: list[str] = []
    for head, block in labels.items():
        lines += ["", f"### {head}: {block['positives']:,} positives", ""]
        lines += text.header("row", "AUC", "95% interval", "AUC in users", "difference", "95% interval",
                         "verdict", "visible")  # fmt: skip
        lines += [_label_line(row, block["rows"]) for row in block["rows"]]
        lines += [text.line(name.replace("_", " "), text.number(value), *[""] * 6)
                  for name, value in block["baselines"].items()]  # fmt: skip
        lines += _observed_lines(block.get("observed", ()))
    return lines


def _observed_lines(observed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of early labels: their AUC, and that of a row which reads them minus it."""
    if not observed:
        return []
    head = text.header("early label alone", "AUC", "95% interval", "row", "gain of the row", "95% interval")
    return ["", *head, *(
        text.line(line["label"], text.number(line["auc"]["value"]), text.interval(line["auc"], ".4f"),
                  line["row"],
                  text.number(line["gain"]["value"], "+.4f"), text.interval(line["gain"], "+.4f"))
        for line in observed
    )]  # fmt: skip


def _label_line(row: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> str:
    auc, gauc, seeds = row["auc"], row["gauc"], row["seeds"]
    spread = f" ± {text.number(auc['sd'])}" if seeds > 1 else ""
    cells = [f"{text.number(auc['mean'])}{spread}", text.interval(auc, ".4f"), text.number(gauc["mean"])]
    difference = row["differences"].get("auc")
    if not difference:
        return text.line(row["label"], *cells, *[""] * 4)
    users = difference["over_users"]
    label = next(other["label"] for other in rows if other["row"] == row["against"])
    verdict = _DECIDED.get(difference["verdict"], "cannot be decided")
    return text.line(
        row["label"], *cells, f"{text.number(users['mean'], '+.4f')} to {label}",
        text.interval(users), verdict, text.number(users["smallest"]),
    )  # fmt: skip
