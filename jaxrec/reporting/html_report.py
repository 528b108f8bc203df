"""A run's result for people: test.json, the closing table, report.html.

`result` is what `evaluation.judge` gives: `lists` and `baselines` (K=1), `lists_k3` and `baselines_k3`
(the next three titles as queries of their own), `gate` (`gating.use`), `by_hard`, `catalogue`
(`evaluation.whole_catalogue`), `dataset`, `step`, `seconds`.
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
_GATE = {
    "by_history": "titles shown",
    "by_gap": "since the last play",
    "by_mood": "size of the mood: how far it moves what is chosen",
}
_LABEL, _COLUMN = 18, 9  # characters


# ---------------------------------------------------------------- numbers


def way_covered(result: Mapping[str, Any]) -> dict[str, float]:
    """Of each list, (model - popularity) / (oracle - popularity) on NDCG@1; {} where no oracle is known."""
    baselines = result.get("baselines", {})
    if "oracle" not in baselines:
        return {}
    covered = {}
    for name, model in result["lists"].items():
        low, high = (baselines[row][name]["ndcg@1"] for row in ("popularity", "oracle"))
        if high > low:
            covered[name] = (model["ndcg@1"] - low) / (high - low)
    return covered


def _blocks(result: Mapping[str, Any]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """(K, the model's lists, the baselines) of each K judged."""
    found = [
        (int(key.removeprefix("lists_k")) if key != "lists" else 1, key)
        for key in result
        if key == "lists" or key.startswith("lists_k")
    ]
    return [(k, result[key], result[key.replace("lists", "baselines")]) for k, key in sorted(found)]


def _rows(lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each row of a table by its label: the model, then the rules and the oracle."""
    return {"model": lists} | {NAMES.get(name, name): rows for name, rows in baselines.items()}


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


# ---------------------------------------------------------------- the closing table


def table(result: Mapping[str, Any]) -> str:
    """The closing table, plain text in under 100 columns."""
    lines = [
        f"{result['name']}: {result['which']} checkpoint, step {result['step']:,}, {result['split']} users"
    ]
    for k, lists, baselines in _blocks(result):
        lines += ["", *_block(k, lists, baselines)] if lists else []
    if CATALOGUE in result:
        lines += ["", *_catalogue(result[CATALOGUE])]
    if "by_hard" in result:
        lines += ["", "NDCG@1 by hard negatives in the enabled list (K=1)"]
        for line in zip(*_by_hard(result["by_hard"]), strict=True):
            lines.append(f"{line[0]:<{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in line[1:]))
    if "gate" in result:
        lines += ["", _gate(result["gate"])]
    covered = way_covered(result)
    lines += [""] if covered else []
    for name, share in covered.items():
        lines.append(f"{name}: {share:.0%} of the way from popularity to the oracle, on NDCG@1")
    return "\n".join(lines)


def _block(k: int, lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[str]:
    width = _COLUMN * len(METRICS)
    some = next(iter(lists.values()))
    title = f"K={k}"
    head = f"{title:<{_LABEL}}" + "".join(f"{'PHNS-' + name:>{width}}" for name in lists)
    names = " " * _LABEL + "".join(f"{label:>{_COLUMN}}" for _ in lists for label in METRICS.values())
    body = [
        f"{label:<{_LABEL}}" + "".join(f"{_cell(row[name][m]):>{_COLUMN}}" for name in lists for m in METRICS)
        for label, row in _rows(lists, baselines).items()
    ]
    return [head, names, *body, f"{some['examples']:,} queries of {some['users']:,} users"]


_FULL = {
    "hr@1": "HR@1", "hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@10": "MRR@10", "coverage@10": "coverage",
    "novelty@10": "novelty", "popularity_lift@10": "lift",
}  # fmt: skip


def _catalogue(found: Mapping[str, Any]) -> list[str]:
    """Some of what was found over all titles; test.json and eval-*.json have all."""
    seen = "those of the history left out" if found["filtered"] else "those of the history among them"
    heads = "".join(f"{label:>{_COLUMN + 1}}" for label in _FULL.values())
    staged = ("retrieval_head", "two_stage") if "retrieved" in found else ()
    body = [
        f"{name.replace('_', ' '):<{_LABEL}}"
        + "".join(f"{_cell(found[name].get(m)):>{_COLUMN + 1}}" for m in _FULL)
        for name in ("model", *staged, "popularity")
    ]
    if staged:
        body.append(
            f"two stages, of {found['retrieved']:,}, keep {found['kept']:.1%} of the model's first titles"
        )
    count = f"{found['examples']:,} queries of {found['users']:,} users"
    return [f"all {found['titles']:,} titles, {seen}", f"{'':<{_LABEL}}{heads}", *body, count]


def _gate(gate: Mapping[str, Any]) -> str:
    weights = ", ".join(f"{w:.3f}" for w in gate["mean"])
    told = f"{gate['information']:.4f} nats{', collapsed' if gate['collapsed'] else ''}"
    return f"gate: mean weights {weights}; entropy {gate['entropy']:.3f}; mutual information {told}"


def _by_hard(by_hard: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], ...]:
    """Rows as columns: a label, then a cell for each number of hard negatives."""
    counts = sorted(by_hard, key=int)
    return (
        ["hard negatives", "queries", "model"],
        *([n, f"{by_hard[n]['examples']:,}", _cell(by_hard[n]["ndcg@1"])] for n in counts),
    )


# ---------------------------------------------------------------- files


def write_test_json(workdir: AnyPath, result: Mapping[str, Any]) -> AnyPath:
    path = workdir / "test.json"
    write_json(path, result)
    return path


def write(workdir: AnyPath, result: Mapping[str, Any]) -> None:
    """test.json and report.html of a finished run."""
    write_test_json(workdir, result)
    html(workdir, result, read_metrics(workdir / METRICS_FILE))


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{overflow-x:auto;background:#f6f6f6;padding:1rem;font-size:13px;line-height:1.35}"
    "svg{max-width:100%;height:auto}"
)


def html(workdir: AnyPath, result: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> AnyPath:
    """report.html, which needs no other file: the table, the plots of metrics.jsonl's `lines`, the config."""
    name = markup.escape(str(result["name"]))
    config = workdir / "config.json"
    settings = config.read_bytes().decode() if config.exists() else ""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>",
        f"<h1>{name}</h1><p>dataset {markup.escape(str(result['dataset']))}, {result['seconds']:,.0f} s</p>",
        f"<pre>{markup.escape(table(result))}</pre>",
        *(f"<h2>{markup.escape(title)}</h2>{svg}" for title, svg in _plots(result, list(lines)).items()),
        f"<h2>Config</h2><pre>{markup.escape(settings)}</pre>" if settings else "",
        f"<h2>Result</h2><pre>{markup.escape(json.dumps(plain(result), indent=1))}</pre></html>",
    ]
    path = workdir / "report.html"
    write_text(path, "\n".join(parts))
    return path


# ---------------------------------------------------------------- plots


def _series(lines: Sequence[Mapping[str, Any]], split: str, key: str) -> tuple[list[float], list[float]]:
    """Epochs and values; a value that was not finite (null) leaves a gap."""
    found = [line for line in lines if line["split"] == split and key in line]
    values = [math.nan if line[key] is None else line[key] for line in found]
    return [line["epoch"] for line in found], values


def _keys(lines: Sequence[Mapping[str, Any]], split: str, start: str) -> list[str]:
    """Keys of a split's lines that begin with `start`, in order of appearance."""
    return list(
        dict.fromkeys(k for line in lines if line["split"] == split for k in line if k.startswith(start))
    )


def _plots(result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Title -> SVG of each plot that has something to show."""
    wanted = {
        "Loss": [("train", "loss"), ("validation", "loss")],
        "Validation NDCG@1": [("validation", f"{name}/ndcg@1") for name in result.get("lists", ())],
        "Validation NDCG@10, all titles": [("validation", f"{CATALOGUE}/ndcg@10")],
        "Training examples a second": [("train", "examples_per_second")],
        "Gate": [(split, key) for split in ("train", "validation") for key in _keys(lines, split, "gate")],
    }
    plots = {}
    for title, series in wanted.items():
        drawn = [(f"{split} {key}", *_series(lines, split, key)) for split, key in series]
        if any(xs for _, xs, _ in drawn):
            plots[title] = _svg(lambda ax, drawn=drawn: _curves(ax, drawn))
    for key, what in _GATE.items():
        if groups := result.get("gate", {}).get(key):
            plots[f"Gate's weights by {what}"] = _svg(lambda ax, groups=groups: _weights(ax, groups))
    if "by_hard" in result:
        title = "NDCG@1 by hard negatives in the enabled list"
        plots[title] = _svg(lambda ax: _bars(ax, result["by_hard"]))
    return plots


def _curves(ax: Axes, drawn: Sequence[tuple[str, list[float], list[float]]]) -> None:
    for label, xs, ys in drawn:
        if xs:
            ax.plot(xs, ys, label=label, marker="o" if len(xs) < 50 else "", markersize=3)
    ax.set_xlabel("epoch")
    ax.legend()
    ax.grid(alpha=0.3)


def _bars(ax: Axes, by_hard: Mapping[str, Mapping[str, Any]]) -> None:
    counts = sorted(by_hard, key=int)
    bars = ax.bar([int(n) for n in counts], [by_hard[n]["ndcg@1"] for n in counts])
    ax.bar_label(bars, [f"{by_hard[n]['examples']:,}" for n in counts])
    ax.set_xlabel("hard negatives in the list (above: queries)")
    ax.grid(axis="y", alpha=0.3)


def _weights(ax: Axes, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Each group's mean weights, one expert's on the other's."""
    names, base = list(groups), [0.0] * len(groups)
    for e in range(len(groups[names[0]]["weights"])):
        share = [groups[name]["weights"][e] for name in names]
        bars = ax.bar(names, share, bottom=base, label=f"expert {e}")
        base = [b + s for b, s in zip(base, share, strict=True)]
    ax.bar_label(bars, [f"{groups[name]['queries']:,}" for name in names])
    ax.margins(y=0.1)
    ax.legend(loc="lower right")
    ax.grid(axis="y", alpha=0.3)


def effects(lines: Mapping[str, Sequence[tuple[float, float, float, float]]], across: str, up: str) -> str:
    """SVG of effects against a premise's strength: of each line (strength, mean, low, high), the interval
    as a bar."""

    def draw(ax: Axes) -> None:
        ax.axhline(0, color="black", linewidth=0.8)
        for label, points in lines.items():
            xs, means, lows, highs = (list(column) for column in zip(*points, strict=True))
            below = [m - low for m, low in zip(means, lows, strict=True)]
            above = [high - m for m, high in zip(means, highs, strict=True)]
            ax.errorbar(xs, means, yerr=(below, above), label=label, marker="o", capsize=4)
        ax.set_xlabel(across)
        ax.set_ylabel(up)
        ax.legend()
        ax.grid(alpha=0.3)

    return _svg(draw)


def _svg(draw: Any) -> str:
    """The plot as an SVG element, the same bytes for the same numbers."""
    with rc_context({"svg.hashsalt": "jaxrec", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
