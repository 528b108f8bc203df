"""Sections of a report on quality: cards, tables of results, breakdowns, calibration, gate."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrec.core.ids import CATALOGUE, LISTS, SERVED
from jaxrec.reporting.pages import figures
from jaxrec.reporting.pages.elements import Html, folded, join, number, table, tag
from jaxrec.reporting.pages.run_files import RunFiles
from jaxrec.reporting.result_table import METRICS, NAMES, SEEN, blocks, list_rows, oracle_fraction

ACCURACY = {"hr@1": "HR@1", "hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@10": "MRR@10"}
EXPOSURE = {
    "coverage@10": "coverage", "novelty@10": "novelty", "popularity_lift@10": "popularity lift",
    "ild@10": "diversity", "true_choice@10": "true choice",
}  # fmt: skip
_ORDERS = {
    "model": "model", "model_mmr": "model, diverse lists", "model_uncorrected": "model, uncorrected",
    "retrieval_head": "retrieval head", "two_stage": "two stages", "popularity": "popularity",
    "popularity_7_days": "popularity of 7 days",
}  # fmt: skip
_GATE_GROUPS = {
    "by_history": "number of titles in the history",
    "by_gap": "time since the last play",
    "by_mood": "strength of the mood (its effect on the choice of titles)",
}
_LABELS = {name: f"{name} list" for name in LISTS} | {CATALOGUE: "all titles"}
_ROWS = {label: name for name, label in NAMES.items()} | {"model, corrected": "corrected"}
_INTERVAL = "± is half of a 95% interval; the queries of a user are one cluster."


def halves(measured: Mapping[str, Any], name: str, order: str) -> Mapping[str, float | None]:
    """Return metric -> half of the interval of an order on a list, {} where it was not measured."""
    return measured.get("intervals", {}).get(name, {}).get(order, {})


def cards(run: RunFiles) -> Html:
    """Return the headline figures as cards."""
    result, shown = run.result, []
    for name, values in result.get("lists", {}).items():
        half = halves(run.measured, name, "model").get("ndcg@1")
        popular = result.get("baselines", {}).get("popularity", {}).get(name, {}).get("ndcg@1")
        beside = f"popularity {popular:.4f}" if popular is not None else ""
        shown.append((f"NDCG@1, {_LABELS.get(name, name)}", number(values["ndcg@1"], half), beside))
    if CATALOGUE in result:
        for metric in ("hr@10", "ndcg@10"):
            values, popular = result[CATALOGUE]["model"], result[CATALOGUE].get("popularity", {}).get(metric)
            half = halves(run.measured, CATALOGUE, "model").get(metric)
            beside = f"popularity {popular:.4f}" if popular is not None else ""
            shown.append((f"{ACCURACY[metric]}, all titles", number(values[metric], half), beside))
    for name, fraction in oracle_fraction(result).items():
        what = "of the way from popularity to the oracle"
        shown.append((f"NDCG@1, {_LABELS.get(name, name)}", Html(f"{fraction:.0%}"), what))
    counts = next(iter([*result.get("lists", {}).values(), result.get(CATALOGUE)]), None)
    if counts:
        shown.append((f"{result['split']} queries", Html(f"{counts['examples']:,}"),
                      f"of {counts['users']:,} users"))  # fmt: skip
    return tag("div", *(tag("div", tag("span", label), tag("b", value), tag("span", beside))
                        for label, value, beside in shown), class_="cards")  # fmt: skip


# ---------------------------------------------------------------- tables of results


def candidate_lists(run: RunFiles) -> Html:
    """Return a table for each K and candidate list: the model beside the baselines."""
    tables = []
    for k, lists, baselines in blocks(run.result):
        for name in lists:
            rows = [
                [label, *_metric_cells(by_list[name], _half(run, k, name, label), METRICS)]
                for label, by_list in list_rows(lists, baselines).items()
                if name in by_list
            ]
            counts = lists[name]
            caption = f"{_LABELS.get(name, name)}, K={k}: {counts['examples']:,} queries"
            tables.append(table(["", *METRICS.values()], rows, caption, own=0))
    if not tables:
        return Html("")
    note = (
        "The title that a user watched next is ranked among sampled titles. Enabled lists contain titles "
        "that this user abandoned; disabled lists contain none. With K=3 each of the next three titles is a "
        "query."
    )
    if SERVED in run.result.get("lists", {}):
        note += " Served lists contain titles that were shown at the request and not chosen."
    interval = f" {_INTERVAL}" if "intervals" in run.measured else ""
    heads = run.result.get("heads", {})
    measured = [
        table(["head", *values], [[head, *(number(v) for v in values.values())]])
        for head, values in heads.items()
    ]
    return join([tag("p", note + interval, class_="note"), tag("div", *tables, class_="tables"), *measured])


def _half(run: RunFiles, k: int, name: str, label: str) -> Mapping[str, float | None]:
    return halves(run.measured, name, _ROWS.get(label, label)) if k == 1 else {}


def _metric_cells(
    values: Mapping[str, Any], half: Mapping[str, float | None], columns: Mapping[str, str]
) -> list[Html]:
    return [number(values.get(metric), half.get(metric)) for metric in columns]


def catalogue(run: RunFiles) -> Html:
    """Return the tables of rankings of all titles: accuracy, and exposure of the recommended titles."""
    result = run.result.get(CATALOGUE)
    if not result:
        return Html("")
    orders = {name: label for name, label in _ORDERS.items() if name in result}
    accuracy = [
        [label, *_metric_cells(result[name], halves(run.measured, CATALOGUE, name), ACCURACY)]
        for name, label in orders.items()
    ]
    columns = {m: label for m, label in EXPOSURE.items() if any(m in result[name] for name in orders)}
    exposure = [[label, *_metric_cells(result[name], {}, columns)] for name, label in orders.items()]
    seen = result.get("seen", "stored" if result.get("filtered") else "kept")
    note = f"All {result['titles']:,} titles are ranked, {SEEN[seen]}."
    if repeated := result.get("repeated_targets"):
        note += f" The target of {repeated:,} queries was played before, and competes."
    if cold := result.get("cold_targets"):
        note += f" The target of {cold:,} queries is cold: no training user played it."
    exposed = (
        "Of the ten best titles of each query. Coverage: fraction of all titles that any user is shown. "
        "Novelty: mean of -log2 of the share of plays, in bits. Popularity lift: mean plays of the titles "
        "shown, divided by the mean plays of the titles that users watched next."
    )
    if "ild@10" in columns:
        exposed += " Diversity: mean cosine distance of two titles of a list."
    parts = [tag("p", f"{note} {_INTERVAL if 'intervals' in run.measured else ''}", class_="note")]
    tables = [table(["", *ACCURACY.values()], accuracy, "Accuracy", own=0)]
    if columns:
        shown = table(["", *columns.values()], exposure, "What is recommended", own=0)
        tables.append(tag("div", shown, tag("p", exposed, class_="note")))
    if "retrieved" in result:
        kept = f"Two stages with {result['retrieved']:,} retrieved titles show {result['kept']:.1%} of the "
        parts.append(tag("p", f"{kept} top titles of the model.", class_="note"))
    return join([*parts, tag("div", *tables, class_="tables")])


# ---------------------------------------------------------------- groups of queries


def breakdowns(run: RunFiles) -> Html:
    """Return a figure and a folded table for each grouping of the queries."""
    parts = [join(_breakdown(one)) for one in run.measured.get("breakdowns", {}).values()]
    by_hard = run.result.get("by_hard", {})
    if len(by_hard) > 1:
        counts = sorted(by_hard, key=int)
        names = [f"{n} ({by_hard[n]['examples']:,})" for n in counts]
        series = [figures.Series("model", [by_hard[n]["ndcg@1"] for n in counts])]
        svg = figures.dots(names, {"NDCG@1, enabled list": series})
        parts.append(figures.figure_element("By number of hard negatives in the list (and queries)", svg))
    if not any(parts):
        return Html("")
    note = "Bars are 95% intervals; the queries of a user are one cluster."
    return join([tag("p", note, class_="note"), tag("div", *parts, class_="figures")])


def _breakdown(one: Mapping[str, Any]) -> Iterator[Html]:
    """Yield the figure of a grouping, and its numbers in one folded table per list."""
    panels, tables = {}, []
    for key, by_order in one["values"].items():
        name, _, metric = key.partition("/")
        label = f"{(METRICS | ACCURACY)[metric]}, {_LABELS.get(name, name)}"
        panels[label] = [figures.Series(order, v["mean"], v["half"]) for order, v in by_order.items()]
        rows = [
            [group, f"{one['queries'][i]:,}", f"{one['users'][i]:,}",
             *(number(v["mean"][i], v["half"][i]) for v in by_order.values())]
            for i, group in enumerate(one["groups"])
        ]  # fmt: skip
        tables.append(table(["", "queries", "users", *by_order], rows, label))
    # Three panels are too narrow side by side.
    drawn = [dict(list(panels.items())[i : i + 2]) for i in range(0, len(panels), 2)]
    if drawn:
        svgs = join(figures.dots(one["groups"], two) for two in drawn)
        yield tag("div", figures.figure_element(f"By {one['title']}", svgs), folded("Numbers", *tables))


def calibration(run: RunFiles) -> Html:
    """Return the figures of predicted clicks and completions against what happened."""
    measured, parts = run.measured.get("calibration", {}), []
    if click := measured.get("click"):
        series = [_bins(_LABELS.get(name, name), bins) for name, bins in click.items()]
        svg = figures.calibration(series, "predicted probability of a click", "observed fraction of clicks")
        errors = ", ".join(f"{bins['error']:.4f} ({_LABELS.get(n, n)})" for n, bins in click.items())
        note = f"A click is the title that was watched next among the candidates. Mean gap: {errors}."
        parts.append(figures.figure_element("Click", svg, note))
    if completion := measured.get("completion"):
        svg = figures.calibration(
            [_bins("watched titles", completion)], "predicted completion", "observed completion"
        )
        note = f"Of the title that was watched next. Mean gap: {completion['error']:.4f}."
        parts.append(figures.figure_element("Completion", svg, note))
    if not parts:
        return Html("")
    text = "Predictions in ten bins of about equal size, on a sample of the queries. Bars are 95% intervals."
    return join([tag("p", text, class_="note"), tag("div", *parts, class_="figures")])


def _bins(label: str, bins: Mapping[str, Any]) -> figures.Series:
    return figures.Series(label, bins["observed"], bins["half"], bins["predicted"])


def gate(run: RunFiles) -> Html:
    """Return the use of the experts: mean weights, and weights by group of queries."""
    report = run.result.get("gate")
    if not report:
        return Html("")
    experts = [f"expert {i + 1}" for i in range(len(report["mean"]))]
    for i, expert in enumerate(run.config.get("model", {}).get("experts", [])[: len(experts)]):
        if length := expert.get("max_len", expert.get("window")):
            experts[i] += f", {length} titles"
    text = (
        f"Entropy of the weights {report['entropy']:.3f} nats. Mutual information of expert and user "
        f"{report['information']:.4f} nats: "
        + ("the gate gives all users nearly the same weights." if report["collapsed"]
           else "the weights depend on the user.")
    )  # fmt: skip
    weights = [[name, number(w, form=".3f")] for name, w in zip(experts, report["mean"], strict=True)]
    means = table(["expert", "mean weight"], weights)
    drawn = []
    for key, title in _GATE_GROUPS.items():
        if groups := report.get(key):
            series = [
                figures.Series(name, [group["weights"][e] for group in groups.values()])
                for e, name in enumerate(experts)
            ]
            names = [f"{name} ({group['queries']:,})" for name, group in groups.items()]
            svg = figures.stacked_bars(names, series, "mean weight")
            drawn.append(figures.figure_element(f"Weights by {title} (and queries)", svg))
    return join([tag("p", text), means, tag("div", *drawn, class_="figures") if drawn else ""])
