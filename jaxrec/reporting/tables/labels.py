"""Metrics of predicted labels, and differences of AUC, as rows of tables."""

import math
from collections.abc import Mapping
from typing import Any

METRICS = {
    "auc": "AUC", "gauc": "AUC in users", "log_loss": "log loss", "calibration_error": "calibration error",
    "mse": "squared error", "r2": "R^2", "correlation": "correlation",
}  # fmt: skip
BASELINES = {"title_rate": "title rate", "user_rate": "user rate", "both": "both rates"}
_WIDTHS = (18, 18, 9, 9, 22)  # head, metric, value or difference, visible; interval


def shown_metrics(labels: Mapping[str, Any]) -> dict[str, str]:
    """Return the metrics that any head has, in the order of METRICS, with their names for readers."""
    return {key: name for key, name in METRICS.items() if any(key in head for head in labels.values())}


def finite(value: float | None) -> bool:
    """Return True for a number; None and NaN stand for a metric that is not defined."""
    return value is not None and math.isfinite(value)


def interval_text(interval: Any, form: str) -> str:
    """Return the text of an interval, such as [0.7012, 0.7310]; a dash where it is not defined."""
    if interval is None or not all(finite(end) for end in interval):
        return "-"
    return f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def label_lines(labels: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of labels: for each head and metric the value and its interval.

    A line for each baseline of a head follows.

    Args:
        labels: `labels` of a result.
        baselines: `label_baselines` of the result; empty for none.
    """
    head_width, metric_width, width, _, interval_width = _WIDTHS
    heading = f"{'':<{metric_width}}{'value':>{width}}{'95% interval':>{interval_width}}"
    lines = [f"{'Labels':<{head_width}}{heading}"]
    for head, values in labels.items():
        mean = f"{values['mean']:.4f}" if finite(values["mean"]) else "-"
        counts = f"{values['queries']:,} queries of {values['users']:,} users with a known label, mean {mean}"
        name = head
        for metric, label in METRICS.items():
            if metric in values:
                value, interval = values[metric]["value"], values[metric]["interval"]
                number = f"{value:.4f}" if finite(value) else "-"
                text = interval_text(interval, ".4f")
                lines.append(
                    f"{name:<{head_width}}{label:<{metric_width}}{number:>{width}}{text:>{interval_width}}"
                )
                name = ""
        lines.append(f"{'':<{head_width}}{counts}")
        for baseline, of_head in of_baselines(baselines, head).items():
            lines.append(f"{'':<{head_width}}{baseline:<11} {_baseline_text(of_head)}")
    return lines


def category_lines(categories: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of heads that predict categories of the next title."""
    head_width, metric_width, width, _, interval_width = _WIDTHS
    title, rows = (
        "Categories",
        {"accuracy": "accuracy", "most_frequent": "most frequent", "log_loss": "log loss"},
    )
    lines = [f"{title:<{head_width}}{'':<{metric_width}}{'value':>{width}}{'95% interval':>{interval_width}}"]
    for head, values in categories.items():
        name = head
        for metric, label in rows.items():
            value, text = values[metric]["value"], interval_text(values[metric]["interval"], ".4f")
            number = f"{value:.4f}" if finite(value) else "-"
            lines.append(
                f"{name:<{head_width}}{label:<{metric_width}}{number:>{width}}{text:>{interval_width}}"
            )
            name = ""
        counts = f"{values['queries']:,} queries of {values['users']:,} users with a known category"
        lines.append(f"{'':<{head_width}}{counts}")
    return lines


def of_baselines(baselines: Mapping[str, Any], head: str) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of each baseline of a head, by the baseline's name for readers."""
    return {BASELINES.get(key, key): heads[head] for key, heads in baselines.items() if head in heads}


def _baseline_text(values: Mapping[str, Any]) -> str:
    """Return the metrics of a baseline in one line, the AUC with its interval."""
    texts = {
        metric: f"{values[metric]['value']:.4f}" if finite(values[metric]["value"]) else "-"
        for metric in ("auc", "gauc", "log_loss")
        if metric in values
    }
    text = f"AUC {texts['auc']} {interval_text(values['auc']['interval'], '.4f')}"
    if "gain" in values:  # of an early label
        gain = values["gain"]
        value = f"{gain['value']:+.4f}" if finite(gain["value"]) else "-"
        return f"{text}, the model {value} {interval_text(gain['interval'], '+.4f')}"
    return f"{text}, in users {texts['gauc']}, log loss {texts['log_loss']}"


def difference_lines(labels: Mapping[str, Any]) -> list[str]:
    """Return the lines of differences of AUC between two runs.

    Args:
        labels: `labels` of a comparison: "auc/<head>" and "gauc/<head>" -> statistics.
    """
    head_width, metric_width, width, visible, interval_width = _WIDTHS
    lines = [
        f"{'AUC of':<{head_width}}{'':<{metric_width}}{'first':>{width}}{'second':>{width}}"
        f"{'difference':>12}{'95% interval':>{interval_width}}{'visible':>{visible}}{'p':>9}"
    ]
    for name, compared in labels.items():
        metric, _, head = name.partition("/")
        users = compared["users"]
        numbers = "".join(f"{compared[run]:>{width}.4f}" for run in ("first", "second"))
        lines.append(
            f"{head:<{head_width}}{METRICS[metric]:<{metric_width}}{numbers}{users['mean']:>+12.4f}"
            f"{interval_text(users['interval'], '+.4f'):>{interval_width}}{users['smallest']:>{visible}.4f}"
            f"{users['t_p']:>9.2g}"
        )
    return lines
