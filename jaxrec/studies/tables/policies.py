"""Markdown tables of the values of policies: under the truth, at equal KL, under reward models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries
from jaxrec.core.json_io import write_text
from jaxrec.studies.policies.pairs import PAIR_COLUMNS
from jaxrec.studies.tables import text

FIGURE = "policies.svg"
_POLICY = ("value", "kl", "efficiency", "value@1", "value@10", "entropy", "validation", "ndcg@10")


def policy_table(block: Mapping[str, Any]) -> list[str]:
    """Return the lines of the values of policies: `policy_results.policy_block`."""
    lines = [f"Values under the truth at {block['queries']:,} queries of {block['users']:,} users; the true "
             f"choice has the value {text.number(block['choice']['value'])}.", ""]  # fmt: skip
    lines += text.header("row", *_POLICY, "difference of value", "95% interval", "verdict", "visible")
    for row in block["rows"]:
        spreads = [text.spread(row["metrics"][name]) if name in row["metrics"] else "-" for name in _POLICY]
        difference, cells = row["difference"], [""] * 4
        if difference:
            users = difference["over_users"]
            mean = f"{text.number(users['mean'], '+.4f')} to {row['against']}"
            cells = [mean, text.interval(users), difference["verdict"], text.number(users["smallest"])]
        lines.append(text.line(row["label"], *spreads, *cells))
    return lines


_PAIRS = (
    "Mean log probabilities of winners and losers at the first and the last line of metrics: both may fall."
)
_MEASURES = {"value": "value", "ndcg@10": "NDCG@10", "recall@10": "HR@10", "mrr@10": "MRR@10"}


def curve_lines(block: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the lines of `policies.curves.policy_curves`, and write the figure of value against KL.

    Args:
        block: JSON values.
        folder: Folder of the study.
    """
    if not block["curves"]:
        return _measured_lines(block["measured"])
    lines = ["", "## Value against KL", "", f"![Value against KL, with the best at each KL]({FIGURE})", ""]
    lines += text.header("method", "best row, by validation", "value", "KL", "validation value")
    for curve in block["curves"]:
        best = next(row for row in curve["rows"] if row["row"] == curve["best"])
        spreads = [text.spread(best[name]) for name in ("value", "kl", "validation")]
        lines.append(text.line(curve["curve"], curve["best"], *spreads))
    if block["equal_kl"]:
        lines += ["", "Best rows less another method at the same KL, interpolated between its rows:", ""]
        lines += text.header("method", "row", "less", "difference, ± over seeds")
        for pair in block["equal_kl"]:
            difference = pair["difference"]
            spread = f" ± {text.number(difference['sd'])}" if text.is_finite(difference["sd"]) else ""
            mean = text.number(difference["mean"], "+.4f")
            lines.append(text.line(pair["curve"], pair["row"], pair["other"], mean + spread))
    _write_figure(block, folder)
    return lines + _measured_lines(block["measured"])


def _write_figure(block: Mapping[str, Any], folder: Path) -> None:
    with hide_libraries(*UNUSED_LIBRARIES):  # see jaxrec.train
        from jaxrec.reporting.pages import figures

    series = []
    for curve in block["curves"]:
        points = sorted((row["kl"]["mean"], row["value"]["mean"]) for row in curve["rows"])
        kl, value = zip(*points, strict=True)
        series.append(figures.Series(curve["curve"], value, at=kl))
    kl, value = zip(*block["frontier"], strict=True)
    series.append(figures.Series("best at that KL", value, at=kl))
    write_text(folder / FIGURE, figures.curves(series, "KL to the true choice, nats", "value"))


def _measured_lines(measured: Mapping[str, Any]) -> list[str]:
    """Return the table of policies under the reward models of other runs."""
    if not measured:
        return []
    r2 = ", ".join(f"{name.replace('_', ' ')} {text.spread(x)}" for name, x in measured["r2"].items())
    percent_of = measured["percent_of"]
    lines = ["", f"## Under the reward models of `{measured['measured_by']}`", "",
             f"R^2 of the rewards of test targets: {r2}. Metrics of ranks are of the targets whose reward is "
             f"in the top fifth. Percentages are over `{percent_of}`.", ""]  # fmt: skip
    lines += text.header("row", "value", *(f"{label}, %" for label in _MEASURES.values()))
    for row in measured["rows"]:
        cells = [_percent(row["percent"].get(name)) for name in _MEASURES]
        lines.append(text.line(row["row"], text.spread(row["value"]), *cells))
    return lines


def _percent(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "-"
    spread = f" ± {summary['sd']:.1f}" if text.is_finite(summary["sd"]) else ""
    return f"{summary['mean']:+.1f}{spread}"


def pair_lines(by_row: Mapping[str, Any]) -> list[str]:
    """Return the lines of `policies.pairs.pair_metrics`.

    Args:
        by_row: JSON values; {} without a row that learns from pairs.
    """
    if not by_row:
        return []
    lines = ["", "## Pairs", "", _PAIRS, ""]
    lines += text.header("row", *(column.replace("/", ", ") for column in PAIR_COLUMNS))
    for name, metrics in by_row.items():
        lines.append(text.line(name, *(text.spread(metrics[column]) for column in PAIR_COLUMNS)))
    return lines
