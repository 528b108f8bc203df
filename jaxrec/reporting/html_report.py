"""Reports on the result of a run: test.json, the closing table, report.html.

`result` is the `result` of `evaluation.evaluator.evaluate`. Its keys are `lists` and `baselines` (K=1),
`lists_k3` and `baselines_k3` (each of the next three titles is a query), `gate`
(`evaluation.gate_analysis.gate_report`), `by_hard`, `catalogue` (`evaluation.results.whole_catalogue`),
`dataset`, `step` and `seconds`.
"""

import html as markup
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrec.core.ids import CATALOGUE
from jaxrec.core.json_io import plain, write_json, write_text
from jaxrec.core.paths import AnyPath
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

METRICS = {"ndcg@1": "NDCG@1", "ndcg@5": "NDCG@5", "recall@5": "Recall@5", "mrr@5": "MRR@5"}
NAMES = {
    "popularity": "popularity",
    "abandoned_rule": "abandoned last",
    "in_history_rule": "in history first",
    "not_in_history_rule": "in history last",
    "item_to_item": "item to item",
    "oracle": "oracle, p/q",
    "oracle_p": "oracle, p alone",
}
_GATE_GROUPS = {
    "by_history": "number of titles in the history",
    "by_gap": "time since the last play",
    "by_mood": "strength of the mood (its effect on the choice of titles)",
}
_LABEL_WIDTH, _COLUMN_WIDTH = 18, 9  # characters


# ---------------------------------------------------------------- numbers


def oracle_fraction(result: Mapping[str, Any]) -> dict[str, float]:
    """Return (model - popularity) / (oracle - popularity) on NDCG@1 for each list.

    The fraction may be below 0 or above 1. Lists on which the oracle does not exceed popularity are omitted.
    Without an oracle the result is {}.
    """
    baselines = result.get("baselines", {})
    if "oracle" not in baselines:
        return {}
    fractions = {}
    for name, model in result["lists"].items():
        low, high = (baselines[row][name]["ndcg@1"] for row in ("popularity", "oracle"))
        if high > low:
            fractions[name] = (model["ndcg@1"] - low) / (high - low)
    return fractions


def _blocks(result: Mapping[str, Any]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Return (K, metrics of the model, metrics of the other rows) for each K."""
    keys = [
        (int(key.removeprefix("lists_k")) if key != "lists" else 1, key)
        for key in result
        if key == "lists" or key.startswith("lists_k")
    ]
    blocks = []
    for k, key in sorted(keys):
        corrected = result.get(key.replace("lists", "corrected"))
        others = {"model, corrected": corrected} if corrected else {}
        blocks.append((k, result[key], others | result[key.replace("lists", "baselines")]))
    return blocks


def _rows(lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a table by label: the model, the rules and the oracle."""
    return {"model": lists} | {NAMES.get(name, name): rows for name, rows in baselines.items()}


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


# ---------------------------------------------------------------- the closing table


def format_table(result: Mapping[str, Any]) -> str:
    """Format the closing table as plain text of under 100 columns."""
    lines = [
        f"{result['name']}: {result['which']} checkpoint, step {result['step']:,}, {result['split']} users"
    ]
    for k, lists, baselines in _blocks(result):
        lines += ["", *_lists_table(k, lists, baselines)] if lists else []
    if CATALOGUE in result:
        lines += ["", *_catalogue_table(result[CATALOGUE])]
    if "by_hard" in result:
        lines += ["", "NDCG@1 by hard negatives in the enabled list (K=1)"]
        for line in zip(*_by_hard_columns(result["by_hard"]), strict=True):
            lines.append(
                f"{line[0]:<{_LABEL_WIDTH}}" + "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in line[1:])
            )
    if "gate" in result:
        lines += ["", _gate_line(result["gate"])]
    for head, values in result.get("heads", {}).items():
        lines += ["", f"head {head}: " + ", ".join(f"{m} {_cell(value)}" for m, value in values.items())]
    fractions = oracle_fraction(result)
    lines += [""] if fractions else []
    for name, fraction in fractions.items():
        lines.append(f"{name}: {fraction:.0%} of the way from popularity to the oracle, on NDCG@1")
    return "\n".join(lines)


def _lists_table(k: int, lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of all candidate lists for one K."""
    width = _COLUMN_WIDTH * len(METRICS)
    first = next(iter(lists.values()))
    title = f"K={k}"
    head = f"{title:<{_LABEL_WIDTH}}" + "".join(f"{'PHNS-' + name:>{width}}" for name in lists)
    names = " " * _LABEL_WIDTH + "".join(
        f"{label:>{_COLUMN_WIDTH}}" for _ in lists for label in METRICS.values()
    )
    body = [
        f"{label:<{_LABEL_WIDTH}}"
        + "".join(f"{_cell(row[name][m]):>{_COLUMN_WIDTH}}" for name in lists for m in METRICS)
        for label, row in _rows(lists, baselines).items()
    ]
    return [head, names, *body, f"{first['examples']:,} queries of {first['users']:,} users"]


_CATALOGUE_METRICS = {
    "hr@1": "HR@1", "hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@10": "MRR@10", "coverage@10": "coverage",
    "novelty@10": "novelty", "popularity_lift@10": "lift",
}  # fmt: skip
_SEEN = {
    "all": "all that the user played excluded", "stored": "history excluded", "kept": "history included",
}  # fmt: skip


def _catalogue_table(catalogue: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of rankings of all titles.

    The table shows a selection of the metrics in test.json and eval-*.json.
    """
    seen = catalogue.get("seen", "stored" if catalogue.get("filtered") else "kept")  # results before "seen"
    columns = _CATALOGUE_METRICS | ({"ild@10": "ILD@10"} if "diversity" in catalogue else {})
    heads = "".join(f"{label:>{_COLUMN_WIDTH + 1}}" for label in columns.values())
    orders = (
        "model", "model_mmr", "model_uncorrected", "retrieval_head", "two_stage", "popularity",
        "popularity_7_days",
    )  # fmt: skip
    body = [
        f"{name.replace('_', ' '):<{_LABEL_WIDTH}}"
        + "".join(f"{_cell(catalogue[name].get(m)):>{_COLUMN_WIDTH + 1}}" for m in columns)
        for name in orders
        if name in catalogue
    ]
    if "diversity" in catalogue:
        body.append(f"model mmr: lists chosen with diversity {catalogue['diversity']:g}")
    if "retrieved" in catalogue:
        body.append(
            f"two stages with {catalogue['retrieved']:,} retrieved titles show {catalogue['kept']:.1%} "
            "of the model's top titles"
        )
    count = f"{catalogue['examples']:,} queries of {catalogue['users']:,} users"
    if repeated := catalogue.get("repeated_targets"):
        count += f"; the target of {repeated:,} was played before, and competes"
    title = f"all {catalogue['titles']:,} titles, {_SEEN[seen]}"
    return [title, f"{'':<{_LABEL_WIDTH}}{heads}", *body, count]


def _gate_line(gate: Mapping[str, Any]) -> str:
    weights = ", ".join(f"{w:.3f}" for w in gate["mean"])
    information = f"{gate['information']:.4f} nats{', collapsed' if gate['collapsed'] else ''}"
    return f"gate: mean weights {weights}; entropy {gate['entropy']:.3f}; mutual information {information}"


def _by_hard_columns(by_hard: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], ...]:
    """Return a column of labels, then a column for each number of hard negatives."""
    counts = sorted(by_hard, key=int)
    return (
        ["hard negatives", "queries", "model"],
        *([n, f"{by_hard[n]['examples']:,}", _cell(by_hard[n]["ndcg@1"])] for n in counts),
    )


# ---------------------------------------------------------------- files


def write_test_json(workdir: AnyPath, result: Mapping[str, Any]) -> AnyPath:
    """Write test.json to a workdir and return its path."""
    path = workdir / "test.json"
    write_json(path, result)
    return path


def write_report(workdir: AnyPath, result: Mapping[str, Any]) -> None:
    """Write test.json and report.html of a finished run."""
    write_test_json(workdir, result)
    write_html(workdir, result, read_metrics(workdir / METRICS_FILE))


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{overflow-x:auto;background:#f6f6f6;padding:1rem;font-size:13px;line-height:1.35}"
    "svg{max-width:100%;height:auto}"
)


def write_html(workdir: AnyPath, result: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> AnyPath:
    """Write report.html, a self-contained page: table, plots, config and result.

    Args:
        workdir: Directory of the run; its config.json is included if present.
        result: Result of the evaluation.
        lines: Lines of metrics.jsonl, for the plots.

    Returns:
        The path of report.html.
    """
    name = markup.escape(str(result["name"]))
    config = workdir / "config.json"
    config_text = config.read_bytes().decode() if config.exists() else ""
    sections = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>",
        f"<h1>{name}</h1><p>dataset {markup.escape(str(result['dataset']))}, {result['seconds']:,.0f} s</p>",
        f"<pre>{markup.escape(format_table(result))}</pre>",
        *(f"<h2>{markup.escape(title)}</h2>{svg}" for title, svg in _plots(result, list(lines)).items()),
        f"<h2>Config</h2><pre>{markup.escape(config_text)}</pre>" if config_text else "",
        f"<h2>Result</h2><pre>{markup.escape(json.dumps(plain(result), indent=1))}</pre></html>",
    ]
    path = workdir / "report.html"
    write_text(path, "\n".join(sections))
    return path


# ---------------------------------------------------------------- plots


def _series(lines: Sequence[Mapping[str, Any]], split: str, key: str) -> tuple[list[float], list[float]]:
    """Return epochs and values of a key; null, for a value not finite, becomes NaN."""
    matching = [line for line in lines if line["split"] == split and key in line]
    values = [math.nan if line[key] is None else line[key] for line in matching]
    return [line["epoch"] for line in matching], values


def _keys(lines: Sequence[Mapping[str, Any]], split: str, start: str) -> list[str]:
    """Return the keys of a split that begin with `start`, in order of appearance."""
    return list(
        dict.fromkeys(k for line in lines if line["split"] == split for k in line if k.startswith(start))
    )


def _plots(result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return heading -> SVG for each plot that has data."""
    series_by_plot = {
        "Loss": [("train", "loss"), ("validation", "loss")],
        "Validation NDCG@1": [("validation", f"{name}/ndcg@1") for name in result.get("lists", ())],
        "Validation NDCG@10, all titles": [("validation", f"{CATALOGUE}/ndcg@10")],
        "Training examples per second": [("train", "examples_per_second")],
        "Gate": [(split, key) for split in ("train", "validation") for key in _keys(lines, split, "gate")],
    }
    plots = {}
    for title, series in series_by_plot.items():
        curves = [(f"{split} {key}", *_series(lines, split, key)) for split, key in series]
        if any(xs for _, xs, _ in curves):
            plots[title] = _svg(lambda ax, curves=curves: _draw_curves(ax, curves))
    for key, grouping in _GATE_GROUPS.items():
        if groups := result.get("gate", {}).get(key):
            plots[f"Gate weights by {grouping}"] = _svg(lambda ax, groups=groups: _draw_gate(ax, groups))
    if "by_hard" in result:
        title = "NDCG@1 by hard negatives in the enabled list"
        plots[title] = _svg(lambda ax: _draw_by_hard(ax, result["by_hard"]))
    return plots


def _draw_curves(ax: Axes, curves: Sequence[tuple[str, list[float], list[float]]]) -> None:
    """Draw (label, epochs, values) of each curve."""
    for label, xs, ys in curves:
        if xs:
            ax.plot(xs, ys, label=label, marker="o" if len(xs) < 50 else "", markersize=3)
    ax.set_xlabel("epoch")
    ax.legend()
    ax.grid(alpha=0.3)


def _draw_by_hard(ax: Axes, by_hard: Mapping[str, Mapping[str, Any]]) -> None:
    counts = sorted(by_hard, key=int)
    bars = ax.bar([int(n) for n in counts], [by_hard[n]["ndcg@1"] for n in counts])
    ax.bar_label(bars, [f"{by_hard[n]['examples']:,}" for n in counts])
    ax.set_xlabel("hard negatives in the list (above: queries)")
    ax.grid(axis="y", alpha=0.3)


def _draw_gate(ax: Axes, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the mean weights of each group as bars with the experts stacked."""
    names, base = list(groups), [0.0] * len(groups)
    for e in range(len(groups[names[0]]["weights"])):
        weights = [groups[name]["weights"][e] for name in names]
        bars = ax.bar(names, weights, bottom=base, label=f"expert {e}")
        base = [b + w for b, w in zip(base, weights, strict=True)]
    ax.bar_label(bars, [f"{groups[name]['queries']:,}" for name in names])
    ax.margins(y=0.1)
    ax.legend(loc="lower right")
    ax.grid(axis="y", alpha=0.3)


def effects(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]], xlabel: str, ylabel: str
) -> str:
    """Plot effects against the strength of a premise, with intervals as error bars.

    Args:
        lines: Label of each line -> its points (strength, mean, low, high).
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.

    Returns:
        An SVG element.
    """

    def draw(ax: Axes) -> None:
        ax.axhline(0, color="black", linewidth=0.8)
        for label, points in lines.items():
            xs, means, lows, highs = (list(column) for column in zip(*points, strict=True))
            below = [m - low for m, low in zip(means, lows, strict=True)]
            above = [high - m for m, high in zip(means, highs, strict=True)]
            ax.errorbar(xs, means, yerr=(below, above), label=label, marker="o", capsize=4)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.legend()
        ax.grid(alpha=0.3)

    return _svg(draw)


def _svg(draw: Any) -> str:
    """Return a plot as an SVG element, with equal bytes for equal numbers."""
    with rc_context({"svg.hashsalt": "jaxrec", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
