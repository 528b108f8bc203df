"""Closing table of a run, as text, and test.json.

`result` is the `result` of `evaluation.evaluator.evaluate`. Its keys are `lists` and `baselines` (K=1),
`lists_k3` and `baselines_k3` (each of the next three titles is a query), `gate`
(`evaluation.gate_analysis.gate_report`), `by_hard`, `catalogue` (`evaluation.results.whole_catalogue`),
`truth` (`evaluation.truth.of_policy.evaluate_policy`), `labels`
(`evaluation.labels.predictions.label_metrics`), `label_baselines`
(`evaluation.labels.rates.baseline_metrics`), `categories`
(`evaluation.labels.of_states.category_metrics`), `gradients` (`evaluation.details.gradients`), `session`
(`evaluation.sessions.of_session.evaluate_sessions`), `delay`
(`evaluation.delays.of_delay.evaluate_delays`), `slices` (`evaluation.slices.results.with_slices`),
`segments` (`live_events.slates.quality.with_segments`),
`dataset`, `step` and `seconds`.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxrec.core.ids import CATALOGUE, LABEL_BASELINES, LABELS, REWARDS, SERVED, TRUTH
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath
from jaxrec.reporting.tables.delays import delay_lines
from jaxrec.reporting.tables.gradients import gradient_lines
from jaxrec.reporting.tables.labels import category_lines, label_lines
from jaxrec.reporting.tables.segments import segment_lines
from jaxrec.reporting.tables.sessions import session_lines
from jaxrec.reporting.tables.slices import slice_lines
from jaxrec.reporting.tables.truth import reward_model_lines, truth_lines

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
TEST_JSON = "test.json"
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


def blocks(result: Mapping[str, Any]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Return (K, metrics of the model, metrics of the other rows) for each K."""
    keys = [
        (int(key.removeprefix("lists_k")) if key != "lists" else 1, key)
        for key in result
        if key == "lists" or key.startswith("lists_k")
    ]
    out = []
    for k, key in sorted(keys):
        corrected = result.get(key.replace("lists", "corrected"))
        others = {"model, corrected": corrected} if corrected else {}
        out.append((k, result[key], others | result[key.replace("lists", "baselines")]))
    return out


def list_rows(lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
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
    for k, lists, baselines in blocks(result):
        drawn = {name: values for name, values in lists.items() if name != SERVED}
        lines += ["", *_lists_table(k, drawn, baselines)] if drawn else []
        if SERVED in lists:
            lines += ["", *_lists_table(k, {SERVED: lists[SERVED]}, baselines)]
    if CATALOGUE in result:
        lines += ["", *_catalogue_table(result[CATALOGUE])]
    if TRUTH in result:
        lines += ["", *truth_lines(result[TRUTH])]
    if REWARDS in result:
        lines += ["", *reward_model_lines(result[REWARDS])]
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
    if result.get(LABELS):
        lines += ["", *label_lines(result[LABELS], result.get(LABEL_BASELINES, {}))]
    if "categories" in result:
        lines += ["", *category_lines(result["categories"])]
    if "session" in result:
        lines += ["", *session_lines(result)]
    if "delay" in result:
        lines += ["", *delay_lines(result["delay"])]
    if "gradients" in result:
        lines += ["", *gradient_lines(result["gradients"])]
    if "segments" in result:
        lines += ["", *segment_lines(result["segments"])]
    if "slices" in result:
        lines += ["", *slice_lines(result["slices"])]
    fractions = oracle_fraction(result)
    lines += [""] if fractions else []
    for name, fraction in fractions.items():
        lines.append(f"{name}: {fraction:.0%} of the way from popularity to the oracle, on NDCG@1")
    return "\n".join(lines)


def _lists_table(k: int, lists: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of candidate lists for one K: of drawn lists, or of the served list."""
    width = _COLUMN_WIDTH * len(METRICS)
    first = next(iter(lists.values()))
    title = f"K={k}"
    head = f"{title:<{_LABEL_WIDTH}}" + "".join(
        f"{name if name == SERVED else 'PHNS-' + name:>{width}}" for name in lists
    )
    names = " " * _LABEL_WIDTH + "".join(
        f"{label:>{_COLUMN_WIDTH}}" for _ in lists for label in METRICS.values()
    )
    body = [
        f"{label:<{_LABEL_WIDTH}}"
        + "".join(f"{_cell(row[name][m]):>{_COLUMN_WIDTH}}" for name in lists for m in METRICS)
        for label, row in list_rows(lists, baselines).items()
    ]
    return [head, names, *body, f"{first['examples']:,} queries of {first['users']:,} users"]


_CATALOGUE_METRICS = {
    "hr@1": "HR@1", "hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@10": "MRR@10", "coverage@10": "coverage",
    "novelty@10": "novelty", "popularity_lift@10": "lift",
}  # fmt: skip
SEEN = {
    "all": "all that the user played excluded", "stored": "history excluded", "kept": "history included",
}  # fmt: skip


def _catalogue_table(catalogue: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of rankings of all titles.

    The table shows a selection of the metrics in test.json and eval-*.json.
    """
    seen = catalogue.get("seen", "stored" if catalogue.get("filtered") else "kept")  # results before "seen"
    columns = _CATALOGUE_METRICS | ({"ild@10": "ILD@10"} if "diversity" in catalogue else {})
    if "true_choice@10" in catalogue["model"]:
        columns |= {"true_choice@10": "p(choice)"}
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
    if cold := catalogue.get("cold_targets"):
        count += f"; the target of {cold:,} is cold: not played in training"
    title = f"all {catalogue['titles']:,} titles, {SEEN[seen]}"
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
    path = workdir / TEST_JSON
    write_json(path, result)
    return path
