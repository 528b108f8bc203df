"""Results of a study as one JSON object: table rows, verdicts, premise points.

Figures are means over queries, as in the paper. Tests use the users' means. A row's spread is the standard
deviation over seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.core.ids import DRAWN_LISTS, LISTS, TRUTH
from jaxrec.evaluation import statistics
from jaxrec.evaluation.metrics import FULL, METRICS, suffix
from jaxrec.studies.blocks.delays import delay_block
from jaxrec.studies.blocks.labels import label_blocks
from jaxrec.studies.choices import choose, claims_on_rows
from jaxrec.studies.comparisons import METRIC, Comparisons, RowResults
from jaxrec.studies.plan import (
    PREMISE,
    TRUTH_METRICS,
    Claim,
    Premise,
    ResultTable,
    Row,
    Study,
    premise_row,
)
from jaxrec.studies.policies.curves import policy_curves
from jaxrec.studies.policies.premises import curve_premise
from jaxrec.studies.policies.values import policy_block

TASK = "ctr"  # head that single-task and multi-task rows have in common


# ---------------------------------------------------------------- tables


def _mean_and_sd(values: Iterable[float]) -> dict[str, float]:
    """Return the mean and sample standard deviation; a single value's is NaN."""
    array = np.array(list(values))
    return {"mean": float(array.mean()), "sd": float(array.std(ddof=1)) if len(array) > 1 else math.nan}


def _blocks(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return block (`enabled`, `enabled_k3`, ...) -> metric -> mean and sd.

    The figures come from the keys `lists`, `lists_k3`, ... of the runs' results.
    """
    keys = [key for key in results[0] if key == "lists" or key.startswith("lists_k")]
    return {
        name + key.removeprefix("lists"): {
            metric: _mean_and_sd(result[key][name][metric] for result in results) for metric in METRICS
        }
        for key in keys
        for name in results[0][key]
    }


def _row_json(
    row: Row, table: ResultTable, against: str, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return a table row: figures, and differences from the row `against`."""
    paper = {
        f"{name}{suffix(k)}": dict(zip(METRICS, figures, strict=True))
        for (name, k), figures in row.paper.items()
    }
    out = {"row": row.name, "label": row.tables[table.name], "paper": paper, "against": against}
    out["after"] = row.after
    runs = row_results.get(row.name, {})
    if not runs:
        return out | {"seeds": []}
    results = [run.result for run in runs.values()]
    heads = results[0].get("other_heads", {})
    return out | {
        "seeds": sorted(runs),
        "figures": _blocks(results),
        "other_heads": {head: _blocks([result["other_heads"][head] for result in results]) for head in heads},
        "differences": {
            f"{name}{suffix(k)}": comparisons.compare(row.name, against, name, k)
            for name in results[0].get("lists", {})
            for k in table.next_k
            if against != row.name
        },
    }


def _table_json(
    study: Study, table: ResultTable, row_results: RowResults, comparisons: Comparisons
) -> dict[str, Any]:
    """Return a table: rows, query and user counts, baselines, visible differences.

    `visible` is the largest, over the rows of a block, of the smallest difference that the test detects.
    """
    rows = [row for row in study.rows(study.base) if table.name in row.tables]
    row_json = [_row_json(row, table, row.against or rows[0].name, row_results, comparisons) for row in rows]
    first = next(iter(row_results.get(rows[0].name, {}).values()), None)
    baselines = first.result.get("baselines", {}) if first else {}
    rules = {name: {"lists": lists} for name, lists in baselines.items()}
    visible = {}
    for block in (f"{name}{suffix(k)}" for name in LISTS for k in table.next_k):
        differences = [row["differences"][block] for row in row_json if row.get("differences", {}).get(block)]
        if differences:
            visible[block] = {
                over: _largest_finite(difference[f"over_{over}"]["smallest"] for difference in differences)
                for over in ("users", "seeds")
            }
    lists = first.result.get("lists", {}) if first else {}
    return {
        "title": table.title, "next_k": table.next_k, "rows": row_json, "visible": visible,
        "queries": {name: values["examples"] for name, values in lists.items()},
        "users": {name: values["users"] for name, values in lists.items()},
        "baselines": {name: _blocks([of_rule]) for name, of_rule in rules.items()},
        "labels": label_blocks(rows, table.name, row_results, comparisons),
        "policies": policy_block(rows, table.name, row_results, comparisons),
        "delays": delay_block(rows, table.name, row_results, comparisons),
    }  # fmt: skip


def _largest_finite(values: Iterable[float]) -> float:
    """Return the largest finite value; NaN where no value is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return max(finite, default=math.nan)


_GATE = ("entropy", "entropy_of_mean", "information")  # keys of the evaluation's `gate` object


def _gates_json(row_results: RowResults) -> dict[str, Any]:
    """Return row -> usage of the experts over the seeds, for rows with a gate."""
    out = {}
    for row, runs in row_results.items():
        gates = [run.result["gate"] for run in runs.values() if "gate" in run.result]
        if gates:
            weights = zip(*(gate["mean"] for gate in gates), strict=True)
            out[row] = {
                "mean": [_mean_and_sd(expert_weights) for expert_weights in weights],
                "collapsed": sum(gate["collapsed"] for gate in gates),
                "seeds": len(gates),
            } | {name: _mean_and_sd(gate[name] for gate in gates) for name in _GATE}
    return out


# ---------------------------------------------------------------- claims and premises


def _claim_json(
    claim: Claim, study: Study, comparisons: Comparisons, row_results: RowResults
) -> list[dict[str, Any]]:
    """Return one verdict per list and K, or one verdict on an AUC.

    A list and K are left out where a pair has no comparison.
    """
    if claim.metric in TRUTH_METRICS:
        metric = claim.metric.removeprefix(f"{TRUTH}/")
        return _verdicts(claim, study, claim.metric, 1, [], [
            comparisons.compare(*pair, TRUTH, 1, "", metric) for pair in claim.pairs
        ])  # fmt: skip
    if claim.metric not in (*METRICS, *FULL):
        return _verdicts(claim, study, claim.metric, 1, [], [
            comparisons.compare_auc(*pair, claim.metric) for pair in claim.pairs
        ])  # fmt: skip
    out = []
    for name in claim.lists:
        for k in claim.next_k:
            parts = [comparisons.compare(*pair, name, k, "", claim.metric) for pair in claim.pairs]
            by_task = [
                comparisons.compare(*pair, name, k, TASK, claim.metric)
                for pair in claim.pairs
                if all(parts) and _heads_differ(row_results, pair)
            ]
            out += _verdicts(claim, study, name, k, by_task, parts)
    return out


def _verdicts(
    claim: Claim, study: Study, name: str, next_k: int, by_task: list[Any], parts: list[dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """Return the verdict of a claim on one list or AUC, or nothing where a pair has no comparison.

    Args:
        claim: The claim.
        study: The study.
        name: Candidate list, or name of the AUC.
        next_k: K, the number of next titles.
        by_task: Comparisons by the head that all rows have.
        parts: Comparison of each pair.
    """
    if not all(parts):
        return []
    rows = {row.name: row for row in study.rows(study.base)}
    complete = [
        part | {"paper": _paper_difference(rows, part) if claim.metric == METRIC else None,
                "verdict": _verdict(part, claim.margin)}
        for part in parts
        if part
    ]  # fmt: skip
    return [{
        "claim": claim.name, "list": name, "next_k": next_k, "metric": claim.metric, "margin": claim.margin,
        "parts": complete,
        "by_ctr_head": [part | {"verdict": _verdict(part, claim.margin)} for part in by_task],
        "verdict": statistics.combine_verdicts(part["verdict"] for part in complete),
    }]  # fmt: skip


def _verdict(comparison: Mapping[str, Any], margin: float) -> str:
    """Return the verdict of a comparison: of non-inferiority with a margin above 0, else of superiority."""
    if not margin:
        return comparison["verdict"]
    ends = comparison["one_sided"]
    return statistics.non_inferiority(ends["over_users"], ends["over_seeds"], margin)


def _heads_differ(row_results: RowResults, pair: tuple[str, str]) -> bool:
    """Return True where a row of the pair has several heads.

    A row with several heads may rank by another head than CTR. A difference between the rows may then come
    from the head and not from the objective.
    """
    return any("other_heads" in next(iter(row_results[row].values())).result for row in pair)


def _paper_difference(rows: Mapping[str, Row], comparison: Mapping[str, Any]) -> float | None:
    """Return the paper's difference in NDCG@1; None without figures of both rows."""
    block = (comparison["list"], comparison["next_k"])
    ours, theirs = (rows[comparison[side]].paper.get(block) for side in ("better", "worse"))
    return round(ours[0] - theirs[0], 4) if ours and theirs else None


def _premise_json(premise: Premise, study: Study, comparisons: Comparisons) -> dict[str, Any]:
    """Return a premise's comparisons: one per candidate list and value with results."""
    points: dict[str, list[dict[str, Any]]] = {}
    prefix, _, of_truth = premise.metric.partition("/")
    for name in (TRUTH,) if prefix == TRUTH else DRAWN_LISTS:
        for value in premise.values:
            pair = (premise_row(study.base, premise, row, value) for row in (premise.better, premise.worse))
            comparison = comparisons.compare(*pair, name, 1, "", of_truth or premise.metric)
            if comparison is not None:
                points.setdefault(name, []).append({"value": value, **comparison})
    return {"name": premise.name, "key": premise.key, "metric": premise.metric, "points": points}


def compute_results(study: Study, tables: tuple[str, ...], row_results: RowResults) -> dict[str, Any]:
    """Return `tables`, `choices`, `claims`, `premises`, `gates`, `policies`, `methods` of the finished runs.

    Args:
        study: The study.
        tables: Names of the selected tables; `premise` selects the premises.
        row_results: Row -> seed -> per-user results. A row without results gets no figures.
    """
    comparisons = Comparisons(row_results)
    choices = [chosen for choice in study.choices if (chosen := choose(choice, row_results))]
    return {
        "choices": choices,
        "tables": {
            table.name: _table_json(study, table, row_results, comparisons)
            for table in study.tables
            if table.name in tables
        },
        "claims": [
            line
            for claim in claims_on_rows(study.claims, choices)
            for line in _claim_json(claim, study, comparisons, row_results)
        ],
        "premises": [
            _premise_json(premise, study, comparisons) for premise in study.premises if PREMISE in tables
        ],
        "gates": _gates_json(row_results),
        "policies": policy_curves(study.policies, row_results, comparisons),
        "methods": [
            curve_premise(premise, study.base, row_results, comparisons)
            for premise in study.policies.premises
            if PREMISE in tables
        ],
    }
