"""Sections of a report around the quality: training, example users, data, config and environment."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrec.core.ids import CATALOGUE, LISTS, SPLITS
from jaxrec.reporting.pages import figures
from jaxrec.reporting.pages.elements import Html, folded, join, number, table, tag
from jaxrec.reporting.pages.run_files import RunFiles
from jaxrec.reporting.result_table import METRICS

_PLOTS = {  # title -> vertical axis, and (split, key, label) of each curve
    "Loss": ("loss", (("train", "loss", "training"), ("validation", "loss", "validation"))),
    "Validation NDCG@1": (
        "NDCG@1", tuple(("validation", f"{name}/ndcg@1", f"{name} list") for name in LISTS)
    ),
    "Validation NDCG@10, all titles": (
        "NDCG@10", (("validation", f"{CATALOGUE}/ndcg@10", "all titles"),)
    ),
    "Learning rate": ("learning rate", (("train", "learning_rate", "training"),)),
    "Training speed": ("examples per second", (("train", "examples_per_second", "training"),)),
}  # fmt: skip

_FROM_ZERO = ("Learning rate", "Training speed")


def series_of(lines: Iterable[Mapping[str, Any]], split: str, key: str, label: str) -> figures.Series:
    """Return a key of metrics.jsonl as a curve over epochs; null, for a value not finite, becomes NaN."""
    matching = [line for line in lines if line["split"] == split and key in line]
    values = [math.nan if line[key] is None else line[key] for line in matching]
    return figures.Series(label, values, (), [line["epoch"] for line in matching])


def training(run: RunFiles) -> Html:
    """Return the curves of the training."""
    drawn = []
    for title, (ylabel, keys) in _PLOTS.items():
        series = [s for key in keys if len((s := series_of(run.lines, *key)).at)]
        if _has_points(series):
            svg = figures.curves(series, "epoch", ylabel, from_zero=title in _FROM_ZERO)
            drawn.append(figures.figure_element(title, svg))
    gate = [key for key in dict.fromkeys(k for line in run.lines for k in line) if _is_weight(key)]
    weights = [series_of(run.lines, "train", key, f"expert {int(key[5:]) + 1}") for key in gate]
    if _has_points(weights):
        drawn.append(
            figures.figure_element("Mean weights of the gate", figures.curves(weights, "epoch", "weight"))
        )
    return tag("div", *drawn, class_="figures") if drawn else Html("")


def _is_weight(key: str) -> bool:
    return key.startswith("gate_") and key[5:].isdigit()


def _has_points(series: Sequence[figures.Series]) -> bool:
    return any(math.isfinite(value) for one in series for value in one.values if value is not None)


# ---------------------------------------------------------------- example users


def example_users(run: RunFiles) -> Html:
    """Return histories and recommendations of a few users, by the names of titles."""
    examples = run.measured.get("examples")
    if not examples or not examples["users"]:
        return Html("")
    note = (
        f"The last query of each of {len(examples['users'])} {run.result['split']} users, titles "
        f"{examples['order']}. Users are numbered; their keys are not stored. "
        "evaluate.report_users=0 leaves this section out."
    )
    return join([
        tag("p", note, class_="note"),
        tag("div", *(_example(user) for user in examples["users"]), class_="users"),
    ])  # fmt: skip


def _example(user: Mapping[str, Any]) -> Html:
    following = f"Watched next: {user['next']['title']}{_completion(user['next'])}; rank {user['rank']:,}"
    history = [tag("li", f"{play['title']}{_completion(play)}") for play in user["history"]]
    best = [
        tag("li", tag("strong", f"{title['title']} (watched next)") if title["next"] else title["title"])
        for title in user["recommended"]
    ]
    count = f"History, newest first ({len(history)} of {user['plays']:,})"
    return tag(
        "article",
        tag("h3", f"User {user['user']}"),
        tag("p", following),
        tag(
            "section",
            tag("div", tag("h4", count), tag("ul", *history) if history else tag("p", "empty")),
            tag("div", tag("h4", "Recommended"), tag("ol", *best)),
        ),
    )


def _completion(play: Mapping[str, Any]) -> str:
    if play.get("completion") is None:
        return ""
    abandoned = ", abandoned" if play.get("abandoned") else ""
    return f" ({play['completion']:.0%}{abandoned})"


# ---------------------------------------------------------------- data


def data(run: RunFiles) -> Html:
    """Return the counts of the dataset, and the statistics of check.json."""
    return join([_dataset(run.measured.get("data", {})), _check(run.check.get("statistics", {}))])


def _dataset(manifest: Mapping[str, Any]) -> Html:
    if not manifest:
        return Html("")
    splits = [
        [split, f"{manifest['splits'][split]['users']:,}", f"{manifest['splits'][split]['examples']:,}"]
        for split in SPLITS
    ]
    rows = manifest["rows"]
    counts = [["rows read", f"{rows['read']:,}"], ["duplicate rows", f"{rows['copies']:,}"]]
    counts += [[f"rows dropped: {reason}", f"{count:,}"] for reason, count in rows["dropped"].items()]
    counts += [["titles", f"{manifest['titles']:,}"]]
    if "hard_fill_rate" in manifest:
        counts += [["filled fraction of the pool of hard negatives", f"{manifest['hard_fill_rate']:.1%}"]]
    tables = (
        table(["split", "users", "examples"], splits, "Prepared dataset"),
        table(["", "count"], counts, "Source"),
    )
    return tag("div", *tables, class_="tables")


def _check(statistics: Mapping[str, Any]) -> Html:
    """Return the statistics of `prepare --check`; the examples of dropped rows are left out, as user data."""
    if not statistics:
        return Html("")
    text = (
        f"Check of the source: {statistics['rows']:,} rows from {statistics['first_day']} to "
        f"{statistics['last_day']}, {statistics['users']:,} users, {statistics['titles_played']:,} of "
        f"{statistics['titles']:,} titles played."
    )
    quantiles = [
        [f"{float(q):.0%}", f"{titles:,}"] for q, titles in statistics.get("titles_per_user", {}).items()
    ]
    tables, drawn = [], Html("")
    if quantiles:
        tables.append(table(["quantile of users", "titles"], quantiles, "Titles per user"))
    if dropped := statistics.get("dropped"):
        rows = [[reason, f"{entry['rows']:,}"] for reason, entry in dropped.items()]
        tables.append(table(["reason", "rows"], rows, "Invalid rows"))
    if thresholds := statistics.get("thresholds"):
        rows = [
            [f"{t['threshold']:g}", f"{t['abandoned']:.1%}", f"{t['users']:.1%}", f"{t['hard_fill']:.1%}"]
            for t in thresholds
        ]
        head = ["threshold", "titles below", "users with one", "hard slots filled"]
        tables.append(table(head, rows, "Threshold of abandonment"))
        svg = figures.histogram(statistics["completion_histogram"], "completion", "fraction of titles")
        drawn = tag("div", figures.figure_element("Completion of played titles", svg), class_="figures")
    return join([tag("p", text), drawn, tag("div", *tables, class_="tables")])


# ---------------------------------------------------------------- config, environment, other evaluations


def evaluations(others: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return a table of evaluations of other splits, checkpoints or datasets in the workdir."""
    rows = []
    for name, result in others.items():
        values = [result.get("lists", {}).get(one, {}).get("ndcg@1") for one in ("enabled", "disabled")]
        ranked = result.get(CATALOGUE, {}).get("model", {}).get("ndcg@10")
        rows.append(
            [name, result.get("split"), f"{result.get('which')}, step {result.get('step', 0):,}",
             *map(number, (*values, ranked))]
        )  # fmt: skip
    head = ["file", "split", "checkpoint", f"{METRICS['ndcg@1']}, enabled", "disabled", "NDCG@10, all titles"]
    return table(head, rows, "Other evaluations in the workdir") if rows else Html("")


def details(run: RunFiles) -> Html:
    """Return config, environment and result, folded."""
    environment = [[name, value] for name, value in run.measured.get("environment", {}).items()]
    return join([
        folded("Config", tag("pre", json.dumps(run.config, indent=1, ensure_ascii=False)))
        if run.config else "",
        folded("Environment of the evaluation", table(["", "version"], environment, words=True))
        if environment else "",
        folded("Result", tag("pre", json.dumps(run.result, indent=1, ensure_ascii=False))),
        evaluations(run.others),
    ])  # fmt: skip
