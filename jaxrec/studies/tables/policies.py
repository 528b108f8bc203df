"""Markdown tables of the values of policies: under the truth, at equal KL, under reward models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries
from jaxrec.core.json_io import write_text
from jaxrec.studies.policies.pairs import PAIR_COLUMNS
from jaxrec.studies.tables import text

FIGURE = "policies.svg"
_POLICY = ("value", "kl", "efficiency", "value@1", "value@10", "entropy", "validation", "ndcg@10")


def policy_table(block: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return the lines of the values of policies: `policy_results.policy_block`.

    The first line has R^2 of the reward models and of means, where reward models measure the policies.

    Args:
        block: JSON values of the table.
        measured: Those of the reward models; {} without.
    """
    lines = _r2_lines(measured)
    lines += [f"Values under the truth at {block['queries']:,} queries of {block['users']:,} users; the true "
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


_ENDS = (
    "Best rows less the rows at the ends of the range of the setting. The optimum lies within the range "
    "where both differences are shown:"
)
_EQUAL = (
    "Best rows are those of the highest value at validation queries. At equal KL both methods are "
    "interpolated between their rows, at the KL of the best row that goes less far."
)
_NO_TRUTH = (
    "These data have no truth: how users would have enjoyed other titles is not known. Policies are measured "
    "by reward models alone. "
)
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
        return _measured_lines(block["measured"], _NO_TRUTH)
    lines = ["", "## Value against KL", "", f"![Value against KL, with the best at each KL]({FIGURE})", ""]
    lines += text.header("method", "best row, by validation", "value", "KL", "validation value")
    for curve in block["curves"]:
        best = next(row for row in curve["rows"] if row["row"] == curve["best"])
        spreads = [text.spread(best[name]) for name in ("value", "kl", "validation")]
        lines.append(text.line(curve["curve"], curve["best"], *spreads))
    lines += _end_lines(block["ends"])
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


def _end_lines(ends: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the best row of each method against the ends of the range of its setting."""
    if not ends:
        return []
    lines = ["", _ENDS, ""]
    lines += text.header(
        "method", "row", "less", "difference", "95% interval", "verdict", "seeds: mean ± sd (p, n)"
    )
    for end in ends:
        for part in end["parts"]:
            of_seeds = text.of_seeds(part["difference"]["over_seeds"])
            cells = _tested(part["difference"])
            lines.append(text.line(end["curve"], end["best"], part["end"], *cells, of_seeds))
    return lines


def premise_lines(premise: Mapping[str, Any]) -> list[str]:
    """Return the lines of `policies.premises.curve_premise`."""
    lines = ["", f"## {premise['name']}", ""]
    if not premise["points"]:
        return [*lines, "Not run."]
    better, worse = premise["better"], premise["worse"]
    lines += [f"Differences are {better} less {worse}. {_EQUAL}", ""]
    lines += text.header(
        premise["key"], better, "value", "KL", worse, "value", "KL", "best less best", "95% interval",
        "verdict", "equal KL", "at equal KL, seeds: mean ± sd (p, n)",
    )  # fmt: skip
    for point in premise["points"]:
        rows = [
            cell for side in ("better", "worse")
            for cell in (point[side]["row"], *(text.spread(point[side][name]) for name in ("value", "kl")))
        ]  # fmt: skip
        cells, equal = ["-", "not reached"], point["equal_kl"]
        if equal:
            cells = [text.number(equal["kl"], ".3f"), text.of_seeds(equal["over_seeds"])]
        lines.append(text.line(f"{point['value']:g}", *rows, *_tested(point["difference"]), *cells))
    lines += ["", "All rows:", "", *text.header(premise["key"], "row", "value", "KL", "validation value")]
    for point in premise["points"]:
        for row in point["rows"]:
            spreads = [text.spread(row[name]) for name in ("value", "kl", "validation")]
            lines.append(text.line(f"{point['value']:g}", row["row"], *spreads))
    return lines


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


def _measured_lines(measured: Mapping[str, Any], *notes: str) -> list[str]:
    """Return the table of policies under the reward models of other runs, and notes before it."""
    if not measured:
        return []
    percent_of = measured["percent_of"]
    lines = ["", f"## Under the reward models of `{measured['measured_by']}`", "", *notes]
    lines += [*_r2_lines(measured),
             "Metrics of ranks are of the targets whose reward is in the top fifth. Percentages are over "
             f"`{percent_of}`.", ""]  # fmt: skip
    percent = (f"{label}, %" for label in _MEASURES.values())
    lines += text.header("row", "value", *percent, f"less {percent_of}", "95% interval", "verdict")
    for row in measured["rows"]:
        cells = [_percent(row["percent"].get(name)) for name in _MEASURES]
        lines.append(text.line(row["row"], text.spread(row["value"]), *cells, *_tested(row["difference"])))
    return lines


def _r2_lines(measured: Mapping[str, Any]) -> list[str]:
    """Return the line of R^2 of reward models and of means, and an empty one."""
    if not measured:
        return []
    r2 = ", ".join(f"{name.replace('_', ' ')} {text.spread(x)}" for name, x in measured["r2"].items())
    return [f"R^2 of the rewards of test targets: {r2}.", ""]


def _tested(difference: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of a comparison: mean and interval over users, and the verdict."""
    if not difference:
        return [""] * 3
    users = difference["over_users"]
    return [text.number(users["mean"], "+.4f"), text.interval(users), difference["verdict"]]


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
