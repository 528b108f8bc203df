"""Section of a report on slices: quality by slice, regret against another run, and what may explain it."""

from collections.abc import Mapping
from typing import Any

from jaxrec.reporting.pages.elements import Html, folded, join, number, table, tag
from jaxrec.reporting.pages.run_files import RunFiles
from jaxrec.reporting.tables.slices import WHY, mark, shown_columns

_NOTE = (
    "Intervals are 95% bootstrap intervals over users. Regret: the mean of the users' differences, the other "
    "run minus this one; a model that was trained on a slice alone is a weak rival where the slice is small. "
    "Marked slices are significant at a false discovery rate of 5% over all slices (Benjamini-Hochberg). "
    "Visible: the smallest difference that a paired t-test detects with 80% power. Unseen: share of targets "
    "whose title no training user played. JS: Jensen-Shannon divergence in bits of the slice's targets from "
    "those of all queries, beside that of as many random queries. New: share of targets whose first play was "
    "at most 7 days before."
)


def slices(run: RunFiles) -> Html:
    """Return the tables of every slicing of the result; nothing without slices."""
    result = run.result.get("slices", {})
    if not result:
        return Html("")
    parts = [tag("p", _NOTE, class_="note")]
    if result["against"]:
        parts.append(tag("p", f"Regret is against {result['against']}.", class_="note"))
    for name, part in result["by"].items():
        parts += [_quality(name, part, column) for column in shown_columns(result)]
        parts.append(folded(f"Why, by {name}", _why(part)))
    return join(parts)


def _quality(name: str, part: Mapping[str, Any], column: str) -> Html:
    """Return the table of one metric by slice."""
    of_metric = part["metrics"][column]
    regrets = {
        kind: part[kind][column] for kind in ("regret", "oracle_regret") if column in part.get(kind, {})
    }
    head = ["", "queries", "users", "mean"]
    for kind in regrets:
        head += ["regret" if kind == "regret" else "regret to the oracle", "q", ""]
    rows = []
    for i, label in enumerate(part["slices"]):
        row = [label, f"{part['queries'][i]:,}", f"{part['users'][i]:,}", _with_interval(of_metric, i)]
        for of_kind in regrets.values():
            row += [_with_interval(of_kind, i, "+.4f"), number(of_kind["q"][i]), mark(of_kind, i)]
        rows.append([*row, number((next(iter(regrets.values())) if regrets else of_metric)["visible"][i])])
    return table([*head, "visible"], rows, f"{column} by {name}")


def _with_interval(values: Mapping[str, Any], i: int, form: str = ".4f") -> Html:
    """Return a mean with its interval below it."""
    mean, low, high = (values[key][i] for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return number(mean)
    return join([number(mean, None, form), tag("small", f"{low:{form}} to {high:{form}}")])


def _why(part: Mapping[str, Any]) -> Html:
    rows = [[label, *(number(part["why"][key][i]) for key in WHY)] for i, label in enumerate(part["slices"])]
    return table(["", *WHY.values()], rows)
