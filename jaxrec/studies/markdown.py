"""study.md: a study's results as Markdown, with one plot for each premise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries
from jaxrec.core.ids import DRAWN_LISTS, LISTS, SERVED, TRUTH
from jaxrec.core.json_io import write_text
from jaxrec.studies.tables import labels, text
from jaxrec.studies.tables.delays import delay_table
from jaxrec.studies.tables.policies import curve_lines, pair_lines, policy_table, premise_lines

_RULES = {"popularity": "popularity", "item_to_item": "item to item", "oracle": "oracle, p/q"}
_METRICS = {"ndcg@1": "NDCG@1", "ndcg@5": "NDCG@5", "recall@5": "Recall@5", "mrr@5": "MRR@5"}
_EXPLANATION = (
    "Figures are means over queries, ± the standard deviation over seeds. Differences are in NDCG@1, of "
    "users' means, averaged over the seeds; intervals are 95% bootstrap intervals over users. A claim is "
    "*shown* where the paired t-tests over users and over seeds are both significant at 5%, two-sided; "
    "*reversed* where both are significant in the other direction; otherwise *not significant*. Levels are "
    "not corrected for the number of claims. *Visible* is the smallest difference that a test would detect "
    "with a power of 80%."
)
_NON_INFERIORITY = (
    "A claim with a margin is one of non-inferiority: it is *shown* where the lower ends of the one-sided "
    "95% intervals over users and over seeds are both above -margin, and *reversed* where both upper ends "
    "are below."
)
_AUC = (
    "A difference of AUC is tested over users by the standard error of bootstrap resamples of the users, and "
    "has no signed-rank test."
)


# ---------------------------------------------------------------- tables


def _figures_line(
    label: str, figures: Mapping[str, Any], paper: Mapping[str, float], last: tuple[str, str]
) -> str:
    """Return a table line: label, each metric beside the paper's figure, `last`."""
    cells = []
    for metric in _METRICS:
        summary = figures.get(metric)
        cells += [text.spread(summary) if summary else "-", text.number(paper.get(metric))]
    return text.line(label, *cells, *last)


def _block(table: Mapping[str, Any], name: str, next_k: int) -> list[str]:
    """Return the lines for one candidate list at one K.

    The line of a row has the row's figures and the paper's. A row with several heads has a further line
    for each head.
    """
    block = name if next_k == 1 else f"{name}_k{next_k}"
    metrics = [cell for label in _METRICS.values() for cell in (label, "paper")]
    title = f"{name} list" if name == SERVED else f"PHNS-{name}"
    lines = ["", f"### {title}, K={next_k}", "", *text.header("row", *metrics, "difference", "95% interval")]
    labels = {row["row"]: row["label"] for row in table["rows"]}
    for row in table["rows"]:
        difference = row.get("differences", {}).get(block)
        last = (
            (text.number(difference["over_users"]["mean"], "+.4f"), text.interval(difference["over_users"]))
            if difference
            else ("", "")
        )
        if difference and row["against"] != table["rows"][0]["row"]:
            last = (f"{last[0]} to {labels.get(row['against'], row['against'])}", last[1])
        after = f", after {labels.get(row['after'], row['after'])}" if row["after"] else ""
        lines.append(
            _figures_line(
                row["label"] + after, row.get("figures", {}).get(block, {}), row["paper"].get(block, {}), last
            )
        )
        for head, blocks in row.get("other_heads", {}).items():
            lines.append(_figures_line(f"- by its {head} head", blocks.get(block, {}), {}, ("", "")))
    for rule, label in _RULES.items():
        if next_k == 1 and rule in table["baselines"]:
            lines.append(_figures_line(label, table["baselines"][rule].get(block, {}), {}, ("", "")))
    visible = table["visible"].get(block)
    if visible:
        users, seeds = text.number(visible["users"]), text.number(visible["seeds"])
        over = f"over seeds {seeds}" if seeds != "-" else "over one seed nothing"
        lines += ["", f"Visible in every row's difference: over users {users}, {over}."]
    return lines


def _table(table: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table; `measured` has the reward models of all policies, {} without."""
    queries = ", ".join(f"{n:,}" for n in sorted({*table["queries"].values()}))
    users = ", ".join(f"{n:,}" for n in sorted({*table["users"].values()}))
    lines = ["", f"## {table['title']}", ""]
    has_run, has_figures = (any(row.get(key) for row in table["rows"]) for key in ("seeds", "figures"))
    if has_figures or not has_run:
        lines.append(f"{queries} queries of {users} users (K=1); differences are to the first row.")
        for next_k in table["next_k"]:
            for name in (name for name in LISTS if name in table["queries"] or name in DRAWN_LISTS):
                lines += _block(table, name, next_k)
    if table["policies"]:
        lines += policy_table(table["policies"], measured)
    if table["delays"]:
        lines += delay_table(table["delays"])
    elsewhere = table["policies"] or table["delays"] or table["labels"]
    if has_run and not has_figures and not elsewhere:
        lines.append("The rows rank no candidate list, and no truth is known of them.")
    if table["labels"]:
        lines += ["", labels.EXPLANATION, *labels.label_tables(table["labels"])]
    return lines


# ---------------------------------------------------------------- claims


def _k(comparison: Mapping[str, Any]) -> str:
    """Return K; a dash for the AUC of a label."""
    return "-" if "/" in comparison["list"] else str(comparison["next_k"])


def _statement(claim: Mapping[str, Any]) -> str:
    """Return the name of a claim, its metric unless it is NDCG@1 or named as the list, and its margin."""
    parts = []
    if claim["metric"] not in ("ndcg@1", claim["list"]):
        parts.append(_METRICS.get(claim["metric"], claim["metric"].upper()))
    if claim["margin"]:
        lows = [
            low for part in claim["parts"] for low, _ in part["one_sided"].values() if text.is_finite(low)
        ]
        lowest = text.number(min(lows, default=None), "+.4f")
        parts.append(f"margin {text.number(claim['margin'])}, lowest end {lowest}")
    return claim["claim"] + (f" ({'; '.join(parts)})" if parts else "")


def _comparison_line(label: str, verdict: str, comparison: Mapping[str, Any]) -> str:
    users, seeds = comparison["over_users"], comparison["over_seeds"]
    return text.line(
        label, comparison["list"], _k(comparison), verdict,
        text.number(users["mean"], "+.4f"), text.interval(users),
        text.number(comparison.get("paper"), "+.4f"),
        text.number(users["effect"], "+.3f"), f"{users['t']:.2f} ({text.p(users['t_p'])})",
        f"{text.p(users['wilcoxon_p'])} ({users['zeros']:,} of {users['n']:,})",
        text.of_seeds(seeds),
        text.number(users["smallest"]), text.number(seeds["smallest"]),
    )  # fmt: skip


def _claims(claims: list[Mapping[str, Any]]) -> list[str]:
    lines = ["", "## Claims", ""]
    lines += text.header(
        "claim", "list", "K", "verdict", "difference", "95% interval", "paper", "d_z", "t (p)",
        "Wilcoxon p (equal users dropped)", "seeds: mean ± sd (p, n)", "visible: users", "visible: seeds",
    )  # fmt: skip
    for claim in claims:
        comparisons = claim["parts"]
        verdict = f"**{claim['verdict']}**"
        if len(comparisons) == 1:
            lines.append(_comparison_line(_statement(claim), verdict, comparisons[0]))
        else:
            lines.append(text.line(_statement(claim), claim["list"], _k(claim), verdict, *[""] * 9))
            lines += [
                _comparison_line(f"- {c['better']} over {c['worse']}", c["verdict"], c) for c in comparisons
            ]
        lines += [_comparison_line("- both by the CTR head", c["verdict"], c) for c in claim["by_ctr_head"]]
    return lines


def _choices(choices: list[Mapping[str, Any]]) -> list[str]:
    """Return the table of rows that were chosen on validation."""
    lines = ["", "## Chosen on validation", ""]
    lines += text.header("choice", "row", "metric of validation", "mean over the seeds", "")
    for choice in choices:
        for row, mean in choice["rows"].items():
            mark = "chosen" if row == choice["row"] else ""
            lines.append(text.line(choice["name"], row, choice["metric"], text.number(mean), mark))
    return lines


# ---------------------------------------------------------------- premises


def _premise(premise: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the lines of a premise and write its plot, an SVG file, to `folder`."""
    lines = ["", f"## {premise['name'][:1].upper()}{premise['name'][1:]}", ""]
    if not premise["points"]:
        return [*lines, "Not run."]
    series = {
        (name if name == TRUTH else f"PHNS-{name}"): [
            (p["value"], p["over_users"]["mean"], *p["over_users"]["interval"]) for p in points
        ]
        for name, points in premise["points"].items()
    }
    first = next(iter(premise["points"].values()))[0]
    setting, metric = premise["key"].rpartition(".")[2], premise["metric"]
    path = folder / f"premise-{setting}-{first['better'].split('-')[0]}-{first['worse'].split('-')[0]}.svg"
    with hide_libraries(*UNUSED_LIBRARIES):  # see jaxrec.train
        from jaxrec.reporting.pages import figures

    write_text(path, figures.effects(series, premise["key"], f"difference in {_METRICS.get(metric, metric)}"))
    lines += [f"![{premise['name']}]({path.name})", ""]
    lines += text.header(
        "list", premise["key"], "verdict", "difference", "95% interval", "seeds: mean ± sd (p, n)"
    )
    for name, points in premise["points"].items():
        for point in points:
            seeds = point["over_seeds"]
            spread = text.of_seeds(seeds)
            mean, interval = (
                text.number(point["over_users"]["mean"], "+.4f"),
                text.interval(point["over_users"]),
            )
            lines.append(text.line(name, f"{point['value']:g}", point["verdict"], mean, interval, spread))
    return lines


# ---------------------------------------------------------------- gates


def _gates(gates: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## The gate",
        "",
        "In nats, on held-out users, without noise; information is H(mean) - mean H.",
        "",
    ]
    lines += text.header("row", "mean weights", "entropy", "of the mean", "information", "collapsed")
    for row, gate in gates.items():
        weights = ", ".join(text.spread(weight) for weight in gate["mean"])
        figures = (text.spread(gate[name]) for name in ("entropy", "entropy_of_mean", "information"))
        lines.append(text.line(row, weights, *figures, f"{gate['collapsed']} of {gate['seeds']}"))
    return lines


# ---------------------------------------------------------------- report


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write study.md and the plots of the premises to `folder`.

    Args:
        folder: Folder of the study; it exists.
        result: Content of study.json.
    """
    seeds, count = ", ".join(map(str, result["seeds"])), f"{result['done']} of {result['runs']}"
    lines = [
        f"# Study {result['study']}", "",
        f"{result['date']}, {result['machine']}; seeds {seeds}; {count} trainings.",
        "", _EXPLANATION,
    ]  # fmt: skip
    if any(claim["margin"] for claim in result["claims"]):
        lines += ["", _NON_INFERIORITY]
    if any(claim["list"].startswith(("auc/", "gauc/")) for claim in result["claims"]):
        lines += ["", _AUC]
    if result["claims"]:
        lines += _claims(result["claims"])
    if result.get("choices"):
        lines += _choices(result["choices"])
    for table in result["tables"].values():
        lines += _table(table, result["policies"].get("measured", {}))
    lines += curve_lines(result["policies"], folder)
    lines += pair_lines(result.get("pairs", {}))
    for premise in result["premises"]:
        lines += _premise(premise, folder)
    for premise in result.get("methods", ()):
        lines += premise_lines(premise)
    if result["gates"]:
        lines += _gates(result["gates"])
    write_text(folder / "study.md", "\n".join(lines) + "\n")


def summary(result: Mapping[str, Any]) -> str:
    """Return the terminal summary: the count of finished trainings, a line per claim.

    Args:
        result: Content of study.json.
    """
    lines = [f"{result['done']} of {result['runs']} trainings of study {result['study']}"]
    for claim in result["claims"]:
        means = ", ".join(text.number(part["over_users"]["mean"], "+.4f") for part in claim["parts"])
        k = _k(claim)
        where = f"{claim['list']:<10}" + (f"K={k}  " if k != "-" else "     ")
        lines.append(f"{_statement(claim):<52}{where}{claim['verdict']:<17}{means}")
    return "\n".join(lines)
