"""What a study found, as one JSON object: each table's rows, each claim's verdict, each premise's points.

Figures are means over queries, as the paper's; tests are over users' means. A row's spread is the standard
deviation over seeds. Two rows are compared seed by seed: seed n of one with seed n of the other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from jaxrec.core.ids import LISTS
from jaxrec.evaluation import per_user, statistics
from jaxrec.evaluation.metrics import METRICS, suffix
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.studies.plan import PREMISE, Claim, Premise, ResultTable, Row, Study, premise_row

Judged = Mapping[str, Mapping[int, PerUserResults]]  # row -> seed -> values
METRIC = "ndcg@1"  # that claims are about
TASK = "ctr"  # the head that rows of one task and of several both have


class Comparisons:
    """Two rows on NDCG@1, worked out once however many tables and claims ask."""

    def __init__(self, judged: Judged) -> None:
        self._judged = judged
        self.of = cache(self._of)

    def _of(self, better: str, worse: str, name: str, next_k: int, head: str = "") -> dict[str, Any] | None:
        """None where one of the rows is not done, or they were judged on different users."""
        seeds = sorted(self._judged.get(better, {}).keys() & self._judged.get(worse, {}).keys())
        if not seeds:
            return None
        ours, theirs = ([self._judged[row][seed] for seed in seeds] for row in (better, worse))
        if ours[0].result["dataset"] != theirs[0].result["dataset"]:
            return None
        per_user.matched([*ours, *theirs])
        columns = [[_column(run, name, next_k, head) for run in side] for side in (ours, theirs)]
        each = np.stack([per_user.difference(*four) for four in zip(ours, theirs, *columns, strict=True)])
        of_users = statistics.paired(np.round(each.mean(axis=0), per_user.DECIMALS))
        of_seeds = statistics.over_seeds(np.round(each.mean(axis=1), per_user.DECIMALS))
        return {
            "better": better, "worse": worse, "list": name, "next_k": next_k, "head": head or "ranks",
            "seeds": seeds, "over_users": per_user.to_json(of_users), "over_seeds": of_seeds._asdict(),
            "verdict": statistics.verdict(of_users.tests, of_seeds),
        }  # fmt: skip


def _column(run: PerUserResults, name: str, next_k: int, head: str) -> str:
    """The column of NDCG@1 by a head; the head that ranks is in the columns that name none."""
    by_head = f"{name}_{head}{suffix(next_k)}/{METRIC}"
    return by_head if by_head in run.columns else f"{name}{suffix(next_k)}/{METRIC}"


# ---------------------------------------------------------------- tables


def _spread(values: Iterable[float]) -> dict[str, float]:
    found = np.array(list(values))
    return {"mean": float(found.mean()), "sd": float(found.std(ddof=1)) if len(found) > 1 else math.nan}


def _blocks(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`enabled`, `enabled_k3`, ... -> metric -> mean and sd, of results that hold `lists`, `lists_k3`."""
    keys = [key for key in results[0] if key == "lists" or key.startswith("lists_k")]
    return {
        name + key.removeprefix("lists"): {
            metric: _spread(result[key][name][metric] for result in results) for metric in METRICS
        }
        for key in keys
        for name in results[0][key]
    }


def _row(
    row: Row, table: ResultTable, against: str, judged: Judged, comparisons: Comparisons
) -> dict[str, Any]:
    paper = {
        f"{name}{suffix(k)}": dict(zip(METRICS, figures, strict=True))
        for (name, k), figures in row.paper.items()
    }
    out = {"row": row.name, "label": row.tables[table.name], "paper": paper, "against": against}
    runs = judged.get(row.name, {})
    if not runs:
        return out | {"seeds": []}
    results = [run.result for run in runs.values()]
    others = results[0].get("other_heads", {})
    return out | {
        "seeds": sorted(runs),
        "figures": _blocks(results),
        "other_heads": {
            head: _blocks([result["other_heads"][head] for result in results]) for head in others
        },
        "differences": {
            f"{name}{suffix(k)}": comparisons.of(row.name, against, name, k)
            for name in LISTS
            for k in table.next_k
            if against != row.name
        },
    }


def _table(study: Study, table: ResultTable, judged: Judged, comparisons: Comparisons) -> dict[str, Any]:
    rows = [row for row in study.rows(study.base) if table.name in row.tables]
    found = [_row(row, table, row.against or rows[0].name, judged, comparisons) for row in rows]
    some = next(iter(judged.get(rows[0].name, {}).values()), None)
    rules = {name: {"lists": lists} for name, lists in some.result["baselines"].items()} if some else {}
    visible = {}
    for block in (f"{name}{suffix(k)}" for name in LISTS for k in table.next_k):
        parts = [row["differences"][block] for row in found if row.get("differences", {}).get(block)]
        if parts:
            visible[block] = {
                over: _largest(part[f"over_{over}"]["smallest"] for part in parts)
                for over in ("users", "seeds")
            }
    return {
        "title": table.title, "next_k": table.next_k, "rows": found, "visible": visible,
        "queries": {name: lists["examples"] for name, lists in some.result["lists"].items()} if some else {},
        "users": {name: lists["users"] for name, lists in some.result["lists"].items()} if some else {},
        "baselines": {name: _blocks([lists]) for name, lists in rules.items()},
    }  # fmt: skip


def _largest(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return max(known, default=math.nan)


_GATE = ("entropy", "entropy_of_mean", "information")  # of `gating.use`


def _gates(judged: Judged) -> dict[str, Any]:
    """How each row that has a gate uses its experts, over the seeds."""
    out = {}
    for row, runs in judged.items():
        gates = [run.result["gate"] for run in runs.values() if "gate" in run.result]
        if gates:
            weights = zip(*(gate["mean"] for gate in gates), strict=True)
            out[row] = {
                "mean": [_spread(of_expert) for of_expert in weights],
                "collapsed": sum(gate["collapsed"] for gate in gates),
                "seeds": len(gates),
            } | {name: _spread(gate[name] for gate in gates) for name in _GATE}
    return out


# ---------------------------------------------------------------- claims and premises


def _claim(claim: Claim, study: Study, comparisons: Comparisons, judged: Judged) -> list[dict[str, Any]]:
    """A verdict for each list and K; [] where a row is not done."""
    rows = {row.name: row for row in study.rows(study.base)}
    out = []
    for name in claim.lists:
        for k in claim.next_k:
            parts = [comparisons.of(*pair, name, k) for pair in claim.pairs]
            if any(part is None for part in parts):
                continue
            whole = [part | {"paper": _of_paper(rows, part)} for part in parts if part]
            by_task = [
                comparisons.of(*pair, name, k, TASK) for pair in claim.pairs if _heads_differ(judged, pair)
            ]
            out.append({
                "claim": claim.name, "list": name, "next_k": k, "parts": whole,
                "by_ctr_head": by_task,
                "verdict": statistics.combine_verdicts(part["verdict"] for part in whole),
            })  # fmt: skip
    return out


def _heads_differ(judged: Judged, pair: tuple[str, str]) -> bool:
    """Whether one of the rows ranks by another head than CTR: the objective could be the head."""
    return any("other_heads" in next(iter(judged[row].values())).result for row in pair)


def _of_paper(rows: Mapping[str, Row], part: Mapping[str, Any]) -> float | None:
    """The paper's difference on NDCG@1."""
    block = (part["list"], part["next_k"])
    ours, theirs = (rows[part[side]].paper.get(block) for side in ("better", "worse"))
    return round(ours[0] - theirs[0], 4) if ours and theirs else None


def _premise(premise: Premise, study: Study, comparisons: Comparisons) -> dict[str, Any]:
    points: dict[str, list[dict[str, Any]]] = {}
    for name in LISTS:
        for value in premise.values:
            pair = (premise_row(study.base, premise, row, value) for row in (premise.better, premise.worse))
            found = comparisons.of(*pair, name, 1)
            if found is not None:
                points.setdefault(name, []).append({"value": value, **found})
    return {"name": premise.name, "key": premise.key, "points": points}


def compute_results(study: Study, tables: tuple[str, ...], judged: Judged) -> dict[str, Any]:
    """`tables`, `claims`, `premises` and `gates` of the runs that are done; a row that is not has no
    figures."""
    comparisons = Comparisons(judged)
    return {
        "tables": {
            table.name: _table(study, table, judged, comparisons)
            for table in study.tables
            if table.name in tables
        },
        "claims": [line for claim in study.claims for line in _claim(claim, study, comparisons, judged)],
        "premises": [
            _premise(premise, study, comparisons) for premise in study.premises if PREMISE in tables
        ],
        "gates": _gates(judged),
    }
