"""Page of several runs side by side: metrics, paired tests, curves, settings that differ."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxrec.core.ids import CATALOGUE, LABELS, LISTS
from jaxrec.core.json_io import write_text
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.reporting.dry_run_report import config_leaves
from jaxrec.reporting.pages import figures
from jaxrec.reporting.pages.context import series_of
from jaxrec.reporting.pages.elements import Html, folded, join, number, page, section, section_key, table, tag
from jaxrec.reporting.pages.quality import ACCURACY, EXPOSURE, halves
from jaxrec.reporting.pages.run_files import RunFiles
from jaxrec.reporting.result_table import METRICS, blocks
from jaxrec.reporting.tables.labels import METRICS as LABEL_METRICS
from jaxrec.reporting.tables.labels import interval_text

_CURVES = {  # title -> split, key and vertical axis
    "Validation loss": ("validation", "loss", "loss"),
    "Validation NDCG@1, enabled list": ("validation", "enabled/ndcg@1", "NDCG@1"),
    "Validation NDCG@10, all titles": ("validation", f"{CATALOGUE}/ndcg@10", "NDCG@10"),
    "Training speed": ("train", "examples_per_second", "examples per second"),
}
_MISSING = "–"
_UNFOLDED = 30  # rows of a table that is not folded


def comparison_page(runs: Sequence[RunFiles], tests: Sequence[Mapping[str, Any] | str]) -> str:
    """Return the page as HTML.

    Args:
        runs: Contents of the workdirs; the first is the one that the others are compared with.
        tests: For each other run, the result of `evaluation.per_user.compare` of that run minus the first, or
            the reason that there is none.
    """
    letters = [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(len(runs))]
    contents = {
        "Metrics": _metrics(runs, letters),
        "Paired tests": join(_tests(letters, tests)),
        "Training": _training(runs, letters),
        "Settings that differ": _settings(runs, letters),
    }
    sections = {name: section(section_key(name), name, content) for name, content in contents.items()}
    return page("Runs side by side", _introduction(runs, letters), sections)


def write_comparison_page(
    runs: Sequence[RunFiles], tests: Sequence[Mapping[str, Any] | str], out: str | AnyPath
) -> AnyPath:
    """Write the page to `out` and return the path; arguments are those of `comparison_page`."""
    path = as_path(out)
    write_text(path, comparison_page(runs, tests))
    return path


def _introduction(runs: Sequence[RunFiles], letters: Sequence[str]) -> Html:
    rows = [
        [letter, run.result["name"], run.workdir, f"{run.result['which']}, step {run.result['step']:,}",
         run.result["split"], str(run.result["dataset"])[:12]]
        for letter, run in zip(letters, runs, strict=True)
    ]  # fmt: skip
    listed = table(["", "name", "workdir", "checkpoint", "split", "dataset"], rows, words=True)
    if len({(run.result["dataset"], run.result["split"]) for run in runs}) == 1:
        return listed
    return join([listed, tag("p", "The runs were evaluated on different queries: differences are no effect "
                                  "of the model alone.")])  # fmt: skip


def _metrics(runs: Sequence[RunFiles], letters: Sequence[str]) -> Html:
    """Return a table for each list and K, and for all titles, with one column per run."""
    tables = []
    by_k = [{k: lists for k, lists, _ in blocks(run.result)} for run in runs]
    for k in sorted({k for one in by_k for k in one}):
        for name in LISTS:
            values = [one.get(k, {}).get(name) for one in by_k]
            measured = [halves(run.measured, name, "model") if k == 1 else {} for run in runs]
            tables.append(_table(f"{name} list, K={k}", METRICS, letters, values, measured))
    ranked = [run.result.get(CATALOGUE, {}).get("model") for run in runs]
    measured = [halves(run.measured, CATALOGUE, "model") for run in runs]
    tables.append(_table("all titles", ACCURACY | EXPOSURE, letters, ranked, measured))
    shown = [one for one in tables if one]
    note = "± is half of a 95% interval of one run. The paired tests compare the runs user by user."
    return join([tag("p", note, class_="note"), tag("div", *shown, class_="tables")]) if shown else Html("")


def _table(
    title: str, metrics: Mapping[str, str], letters: Sequence[str],
    values: Sequence[Mapping[str, Any] | None], measured: Sequence[Mapping[str, float | None]],
) -> Html:  # fmt: skip
    """Return a table of metrics by run, or nothing where no run has a value; the best value is marked."""
    if not any(values):
        return Html("")
    rows = []
    for metric, label in metrics.items():
        of_runs = [(one or {}).get(metric) for one in values]
        present = [value for value in of_runs if value is not None]
        if not present:
            continue
        best = max(present) if metric not in EXPOSURE and len({*present}) > 1 else None
        cells = [
            _marked(number(value, half.get(metric)), value is not None and value == best)
            for value, half in zip(of_runs, measured, strict=True)
        ]
        rows.append([label, *cells])
    return table(["", *letters], rows, title)


def _marked(cell: Html, is_best: bool) -> Html:
    return tag("strong", cell) if is_best else cell


def _tests(letters: Sequence[str], tests: Sequence[Mapping[str, Any] | str]) -> Iterator[Html]:
    """Yield the paired tests of each run against the first."""
    for letter, result in zip(letters[1:], tests, strict=True):
        title = f"{letter} minus {letters[0]}"
        if isinstance(result, str):
            yield tag("p", f"{title}: no test. {result}")
            continue
        yield from _label_tests(title, result.get(LABELS, {}))
        if not result["metrics"]:
            continue
        rows = []
        for column, label in _tested_columns(result["metrics"]).items():
            users = result["metrics"][column]["users"]
            low, high = users["interval"]
            rows.append([
                label, join([f"{users['mean']:+.4f}", tag("small", f"{low:+.4f} to {high:+.4f}")]),
                number(users["t_p"], form=".2g"), number(users["wilcoxon_p"], form=".2g"),
                number(users["effect"], form=".3f"),
            ])  # fmt: skip
        count = next(iter(result["metrics"].values()))["users"]["n"]
        head = ["", "difference", "t-test p", "Wilcoxon p", "effect d"]
        yield table(head, rows, f"{title}, over {count:,} users")
    note = (
        "The difference is the mean over users, with its bootstrap 95% interval below it. Tests are "
        "two-sided and paired by user; the levels are not corrected for the number of tests."
    )
    if not all(isinstance(result, str) for result in tests):
        yield tag("p", note, class_="note")


def _label_tests(title: str, labels: Mapping[str, Any]) -> Iterator[Html]:
    """Yield the differences of AUC of the heads that predict a label in both runs."""
    rows = []
    for name, compared in labels.items():
        metric, _, head = name.partition("/")
        users = compared["users"]
        interval = tag("small", interval_text(users["interval"], "+.4f"))
        values = (number(compared[run]) for run in ("first", "second"))
        difference = join([number(users["mean"], form="+.4f"), interval])
        rows.append(
            [f"{LABEL_METRICS[metric]}, {head}", *values, difference, number(users["t_p"], form=".2g")]
        )
    if rows:
        yield table(["", *title.split(" minus "), "difference", "p"], rows, f"{title}, labels")


def _tested_columns(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of a comparison that the page shows, each with its label."""
    names = {name: f"{name} list" for name in LISTS} | {CATALOGUE: "all titles"}
    shown = {name: ACCURACY if name == CATALOGUE else METRICS for name in names}
    return {
        f"{name}/{metric}": f"{label}, {names[name]}"
        for name in names
        for metric, label in shown[name].items()
        if f"{name}/{metric}" in metrics
    }


def _training(runs: Sequence[RunFiles], letters: Sequence[str]) -> Html:
    drawn = []
    for title, (split, key, ylabel) in _CURVES.items():
        series = [
            series_of(run.lines, split, key, f"run {letter}")
            for letter, run in zip(letters, runs, strict=True)
        ]
        if any(len(one.at) for one in series):
            drawn.append(figures.figure_element(title, figures.curves(series, "epoch", ylabel)))
    return tag("div", *drawn, class_="figures") if drawn else Html("")


def _settings(runs: Sequence[RunFiles], letters: Sequence[str]) -> Html:
    """Return the fields of the configs that differ between the runs."""
    leaves = [dict(config_leaves(run.config)) for run in runs]
    keys = dict.fromkeys(key for one in leaves for key in one)
    rows = [
        # A long name may be broken after a dot or an underscore.
        [join(re.split(r"(?<=[._])", key), "<wbr>"), *(one.get(key, _MISSING) for one in leaves)]
        for key in keys
        if len({str(one.get(key, _MISSING)) for one in leaves}) > 1
    ]
    fields = table(["field", *letters], rows, words=True) if rows else Html("")
    return folded(f"{len(rows)} fields", fields) if len(rows) > _UNFOLDED else fields
