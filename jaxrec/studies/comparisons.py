"""Paired comparisons of the rows of a study, over users and over seeds.

Two rows are compared by seed: seed n of one row with seed n of the other row. Seeds on one dataset share
their users, whose differences are averaged; seeds on different folds test different users.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.evaluation import per_user, statistics
from jaxrec.evaluation.labels.differences import auc_differences, compared, ordering_heads
from jaxrec.evaluation.metrics import suffix
from jaxrec.evaluation.per_user import PerUserResults

RowResults = Mapping[str, Mapping[int, PerUserResults]]  # row -> seed -> per-user results
METRIC = "ndcg@1"  # metric of tables and premises, and of claims that name none


class _Seeds(NamedTuple):
    """Runs of two rows on one dataset, by seed.

    Attributes:
        seeds: Seeds.
        first: Run of the first row with each seed.
        second: Run of the second row with each seed.
    """

    seeds: list[int]
    first: list[PerUserResults]
    second: list[PerUserResults]


class Comparisons:
    """Paired comparisons of two rows, cached, because tables and claims repeat them.

    `compare` compares a metric of a candidate list and `compare_auc` the AUC of a head that predicts a label.
    Both return a JSON object with the tests over users and over seeds, and the verdict of superiority. They
    return None where a row has no finished run for a common seed, or the rows were evaluated on different
    datasets with a seed.
    """

    def __init__(self, row_results: RowResults) -> None:
        self._row_results = row_results
        self.compare = cache(self._compare)
        self.compare_auc = cache(self._compare_auc)
        self._auc_pairs = cache(self._resampled_pairs)

    def _runs(self, better: str, worse: str) -> list[_Seeds]:
        """Return the runs of the common seeds of both rows by dataset; none where a seed has two datasets."""
        seeds = sorted(self._row_results.get(better, {}).keys() & self._row_results.get(worse, {}).keys())
        groups: dict[str, _Seeds] = {}
        for seed in seeds:
            first, second = (self._row_results[row][seed] for row in (better, worse))
            dataset = first.result["dataset"]
            if dataset != second.result["dataset"]:
                return []
            group = groups.setdefault(dataset, _Seeds([], [], []))
            group.seeds.append(seed)
            group.first.append(first)
            group.second.append(second)
        for group in groups.values():
            per_user.matched([*group.first, *group.second])
        return [*groups.values()]

    def _compare_auc(self, better: str, worse: str, metric: str) -> dict[str, Any] | None:
        """Compare the AUC of a head in two rows.

        Args:
            better: Name of the row whose AUC is the minuend.
            worse: Name of the row whose AUC is subtracted.
            metric: "auc/<head>" or "gauc/<head>".

        Raises:
            InputError: A run has no such head, or the head predicts another label in another run.
        """
        groups = self._runs(better, worse)
        if not groups:
            return None
        name, _, head = metric.partition("/")
        for run in (run for group in groups for run in (*group.first, *group.second)):
            if head not in (heads := ordering_heads(run)):
                raise InputError(
                    f"{run.workdir}: has no head {head!r} that the claim's metric {metric!r} needs; there "
                    f"are {', '.join(heads) or 'none'}"
                )
        pairs = self._auc_pairs(better, worse, head)[name]
        of_users = compared(pairs, sum(len(group.first[0].users) for group in groups))
        seeds = [seed for group in groups for seed in group.seeds]
        of_seeds = statistics.over_seeds(np.array([first.value - second.value for first, second in pairs]))
        return _comparison(better, worse, metric, 1, head, seeds, of_users, of_seeds)

    def _resampled_pairs(self, better: str, worse: str, head: str) -> dict[str, list[Any]]:
        """Return "auc" and "gauc" -> pairs of `auc_differences` of all seeds, from one resampling."""
        out: dict[str, list[Any]] = {}
        for group in self._runs(better, worse):
            for metric, pairs in auc_differences(group.first, group.second, head).items():
                out.setdefault(metric, []).extend(pairs)
        return out

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
        groups = self._runs(better, worse)
        if not groups:
            return None
        seeds = [seed for group in groups for seed in group.seeds]
        of_groups = [  # [seeds, users] each
            np.stack(
                [
                    per_user.difference(
                        first, second, *(_column(run, name, next_k, head, metric) for run in (first, second))
                    )
                    for first, second in zip(group.first, group.second, strict=True)
                ]
            )
            for group in groups
        ]
        users = np.concatenate([differences.mean(axis=0) for differences in of_groups])
        means = np.concatenate([differences.mean(axis=1) for differences in of_groups])
        of_users = statistics.paired(np.round(users, per_user.DECIMALS))
        of_seeds = statistics.over_seeds(np.round(means, per_user.DECIMALS))
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
