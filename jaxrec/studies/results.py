"""Results of a study as one JSON object: table rows, verdicts, premise points.

Figures are means over queries, as in the paper. Tests use the users' means. A row's spread is the standard
deviation over seeds. Two rows are compared by seed: seed n of one row with seed n of the other row.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import LISTS
from jaxrec.evaluation import per_user, statistics
from jaxrec.evaluation.labels.differences import auc_differences, compared, ordering_heads
from jaxrec.evaluation.metrics import METRICS, suffix
from jaxrec.evaluation.per_user import PerUserResults
from jaxrec.studies.plan import PREMISE, Claim, Premise, ResultTable, Row, Study, premise_row

RowResults = Mapping[str, Mapping[int, PerUserResults]]  # row -> seed -> per-user results
METRIC = "ndcg@1"  # metric of tables and premises, and of claims that name none
TASK = "ctr"  # head that single-task and multi-task rows have in common


class Comparisons:
    """Paired comparisons of two rows, cached, because tables and claims repeat them.

    `compare` compares a metric of a candidate list and `compare_auc` the AUC of a head that predicts a label.
    Both return a JSON object with the tests over users and over seeds, and the verdict of superiority. They
    return None where a row has no finished run for a common seed, or the rows were evaluated on different
    datasets.
    """

    def __init__(self, row_results: RowResults) -> None:
        self._row_results = row_results
        self.compare = cache(self._compare)
        self.compare_auc = cache(self._compare_auc)

    def _runs(self, better: str, worse: str) -> tuple[list[int], list[list[PerUserResults]]]:
        """Return the common seeds and the runs of both rows, on the same users; none on other datasets."""
        seeds = sorted(self._row_results.get(better, {}).keys() & self._row_results.get(worse, {}).keys())
        sides = [[self._row_results[row][seed] for seed in seeds] for row in (better, worse)]
        if len({side[0].result["dataset"] for side in sides if side}) != 1:
            return [], [[], []]
        per_user.matched([*sides[0], *sides[1]])
        return seeds, sides

    def _compare_auc(self, better: str, worse: str, metric: str) -> dict[str, Any] | None:
        """Compare the AUC of a head in two rows.

        Args:
            better: Name of the row whose AUC is the minuend.
            worse: Name of the row whose AUC is subtracted.
            metric: "auc/<head>" or "gauc/<head>".

        Raises:
            InputError: A run has no such head, or the head predicts another label in another run.
        """
        seeds, (ours, theirs) = self._runs(better, worse)
        if not seeds:
            return None
        name, _, head = metric.partition("/")
        for run in (*ours, *theirs):
            if head not in (heads := ordering_heads(run)):
                raise InputError(
                    f"{run.workdir}: has no head {head!r} that the claim's metric {metric!r} needs; there "
                    f"are {', '.join(heads) or 'none'}"
                )
        pairs = auc_differences(ours, theirs, head)[name]
        of_users = compared(pairs, len(ours[0].users))
        of_seeds = statistics.over_seeds(np.array([first.value - second.value for first, second in pairs]))
        return _comparison(better, worse, metric, 1, head, seeds, of_users, of_seeds)

    def _compare(
        self, better: str, worse: str, name: str, next_k: int, head: str = "", metric: str = METRIC
    ) -> dict[str, Any] | None:
        """Compare a metric of two rows on one candidate list.

        Args:
            better: Name of the row whose metric is the minuend.
            worse: Name of the row whose metric is subtracted.
            name: Candidate list.
            next_k: K, the number of next titles that are targets.
            head: Head that ranks. Empty: the head that the config selects.
            metric: Metric of the list.
        """
        seeds, (ours, theirs) = self._runs(better, worse)
        if not seeds:
            return None
        columns = [[_column(run, name, next_k, head, metric) for run in side] for side in (ours, theirs)]
        user_differences = np.stack(
            [per_user.difference(*four) for four in zip(ours, theirs, *columns, strict=True)]
        )
        of_users = statistics.paired(np.round(user_differences.mean(axis=0), per_user.DECIMALS))
        of_seeds = statistics.over_seeds(np.round(user_differences.mean(axis=1), per_user.DECIMALS))
        return _comparison(better, worse, name, next_k, head or "ranks", seeds, of_users, of_seeds)


def _comparison(
    better: str, worse: str, name: str, next_k: int, head: str, seeds: list[int],
    users: statistics.Paired, of_seeds: statistics.Seeds,
) -> dict[str, Any]:  # fmt: skip
    """Return a comparison as JSON values, with the one-sided ends of its mean over users and over seeds."""
    ends = {
        "over_users": statistics.one_sided_interval(users.tests),
        "over_seeds": statistics.one_sided_interval(of_seeds),
    }
    return {
        "better": better, "worse": worse, "list": name, "next_k": next_k, "head": head, "seeds": seeds,
        "over_users": users.to_json(), "over_seeds": of_seeds._asdict(), "one_sided": ends,
        "verdict": statistics.verdict(users.tests, of_seeds),
    }  # fmt: skip


def _column(run: PerUserResults, name: str, next_k: int, head: str, metric: str) -> str:
    """Return the name of the column of a head's metric.

    Columns of the head that the config selects for ranking do not contain the head's name.
    """
    by_head = f"{name}_{head}{suffix(next_k)}/{metric}"
    return by_head if by_head in run.columns else f"{name}{suffix(next_k)}/{metric}"


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
            for name in LISTS
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
    rules = {name: {"lists": lists} for name, lists in first.result["baselines"].items()} if first else {}
    visible = {}
    for block in (f"{name}{suffix(k)}" for name in LISTS for k in table.next_k):
        differences = [row["differences"][block] for row in row_json if row.get("differences", {}).get(block)]
        if differences:
            visible[block] = {
                over: _largest_finite(difference[f"over_{over}"]["smallest"] for difference in differences)
                for over in ("users", "seeds")
            }
    return {
        "title": table.title, "next_k": table.next_k, "rows": row_json, "visible": visible,
        "queries": (
            {name: lists["examples"] for name, lists in first.result["lists"].items()} if first else {}
        ),
        "users": {name: lists["users"] for name, lists in first.result["lists"].items()} if first else {},
        "baselines": {name: _blocks([lists]) for name, lists in rules.items()},
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
    if claim.metric not in METRICS:
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
    for name in LISTS:
        for value in premise.values:
            pair = (premise_row(study.base, premise, row, value) for row in (premise.better, premise.worse))
            comparison = comparisons.compare(*pair, name, 1)
            if comparison is not None:
                points.setdefault(name, []).append({"value": value, **comparison})
    return {"name": premise.name, "key": premise.key, "points": points}


def compute_results(study: Study, tables: tuple[str, ...], row_results: RowResults) -> dict[str, Any]:
    """Return `tables`, `claims`, `premises` and `gates` of the runs that are done.

    Args:
        study: The study.
        tables: Names of the selected tables; `premise` selects the premises.
        row_results: Row -> seed -> per-user results. A row without results gets no figures.
    """
    comparisons = Comparisons(row_results)
    return {
        "tables": {
            table.name: _table_json(study, table, row_results, comparisons)
            for table in study.tables
            if table.name in tables
        },
        "claims": [
            line for claim in study.claims for line in _claim_json(claim, study, comparisons, row_results)
        ],
        "premises": [
            _premise_json(premise, study, comparisons) for premise in study.premises if PREMISE in tables
        ],
        "gates": _gates_json(row_results),
    }
