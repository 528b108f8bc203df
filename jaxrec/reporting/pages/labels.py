"""Section of a report on heads that predict a label or a reward: metrics, intervals, calibration."""

from jaxrec.core.ids import LABEL_BASELINES, LABELS
from jaxrec.reporting.pages import figures
from jaxrec.reporting.pages.elements import Html, join, number, table, tag
from jaxrec.reporting.pages.run_files import RunFiles
from jaxrec.reporting.tables.labels import finite, interval_text, of_baselines, shown_metrics

_NOTE = (
    "Of the title that a user watched next, where its label is known. AUC: probability that a positive has "
    "a higher prediction than a negative, ties counting half. AUC in users: the mean of the users that have "
    "both, weighted by their queries. Log loss in nats. Calibration error: mean gap of ten bins. Intervals "
    "are 95% bootstrap intervals over users. Title rate: the label's mean in training, of the title. User "
    "rate: the mean of the user's earlier labels in the split. Both rates: a logistic regression on their "
    "logits, fitted on the validation rows."
)


def labels(run: RunFiles) -> Html:
    """Return a table of the metrics of each head, and a figure of the calibration of probabilities."""
    heads = run.result.get(LABELS, {})
    if not heads:
        return Html("")
    metrics = shown_metrics(heads)
    rows = []
    for head, values in heads.items():
        counts = (f"{values['queries']:,}", number(values["mean"]))
        rows.append([head, *counts, *(_cell(values.get(metric)) for metric in metrics)])
        for name, baseline in of_baselines(run.result.get(LABEL_BASELINES, {}), head).items():
            rows.append([f"{head}: {name}", "", "", *(_cell(baseline.get(metric)) for metric in metrics)])
    parts = [
        tag("p", _NOTE, class_="note"),
        table(["head", "queries", "mean label", *metrics.values()], rows),
    ]
    series = [
        figures.Series(head, bins["observed"], bins["half"], bins["predicted"])
        for head, values in heads.items()
        if (bins := values.get("calibration"))
    ]
    if series:
        svg = figures.calibration(series, "predicted probability of the label", "observed mean")
        drawn = figures.figure_element("Calibration of labels", svg)
        parts.append(tag("div", drawn, class_="figures"))
    return join(parts)


def _cell(metric: dict | None) -> Html:
    """Return a value with its interval below it."""
    if metric is None or not finite(metric["value"]):
        return number(None)
    return join([number(metric["value"]), tag("small", interval_text(metric["interval"], ".4f"))])
