"""Rankings of the whole catalogue over seeds: corrections, heads, two stages, popularity, a next-item model.

    python -m jaxrec.train --config configs/smoe.py:small --config.model.retrieval_dim=48 \
        --config.objective.retrieval=0.5 --config.train.seed=0 --config.data.directory=D --workdir W0
    python -m jaxrec.train --config configs/sequences.py:simulated --config.source.users=20000 \
        --config.source.test_only_users=20000 --config.data.split=users \
        --config.data.validation_share=0.1 --config.train.seed=0 --workdir N0
    python -m benchmarks.catalogue --runs W0,W1,W2 [--next_item N0,N1,N2] [--retrieve 50] [--json F]

    python -m benchmarks.catalogue --runs W0,W1,W2 --then V0,V1,V2    # V: after W, on retrieved titles

The runs differ in `train.seed` alone. All orders rank the same queries: the test queries of the runs'
dataset, without the titles that the user played before. The next-item model reads the stored history of a
query, as the ranker does; it must be trained without the test users. Runs of `--then` have started from those
of `--runs`; their two stages are ordered by their corrected scores, and by the plain ones. Differences are
between "model", the corrected order, and each other order: over users, with the mean over seeds for each
user, and over seeds.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.core.paths import as_path
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics, statistics
from jaxrec.evaluation.correction import uncorrected
from jaxrec.evaluation.evaluator import CATALOGUE, EvaluationOptions, evaluate
from jaxrec.evaluation.scorers import CatalogueRanker
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, default_checkpoint, load_checkpoint, open_dataset

METRICS = ("hr@1", "hr@10", "ndcg@10")
SHOWN = ("coverage@10", "novelty@10")
NEXT_ITEM, TWO_STAGE, THEN = "next_item", "two_stage", "then_"
_QUERIES = 512  # scored at a time


def _flags() -> None:
    flags.DEFINE_list("runs", None, "workdirs of a ranker's runs, one per seed", required=True)
    flags.DEFINE_list("next_item", [], "workdirs of a next-item model's runs, as many")
    flags.DEFINE_list("then", [], "workdirs of as many runs that go on from --runs")
    flags.DEFINE_integer("retrieve", 50, "titles of the retrieval head in two stages; 0: none", lower_bound=0)


class SameQueries:
    """Ranks of a next-item model for the queries of a ranker's dataset.

    Args:
        dataset: Dataset of the ranker.
        rows: [Q] rows of its test split.
        left_out: Titles left out of the rankings.
    """

    def __init__(self, dataset: Dataset, rows: np.ndarray, left_out: LeftOutTitles) -> None:
        self._keys, self._rows, self._left_out = dataset.arrays.title_key, rows, left_out
        self._titles = dataset.layout.num_titles

    def ranks(self, loaded: LoadedCheckpoint) -> np.ndarray:
        """Return the rank [Q] of each target; ties count against the target, as in `CatalogueRanker`.

        Raises:
            InputError: The catalogue of the checkpoint lacks a title of the dataset.
        """
        own_id_V = self._own_ids(loaded.arrays.title_key)
        rows = self._requests(loaded, own_id_V)
        table, head = loaded.arrays.title_table(), loaded.task.catalogue_heads[0]
        score = jax.jit(
            lambda words: loaded.task.score_all_titles(
                loaded.params, HostBatch(words, np.ones(len(words), bool)), table, (head,)
            ).by_head[head]
        )
        ranks = []
        for first in range(0, len(rows), _QUERIES):
            query = np.arange(first, min(first + _QUERIES, len(rows)))
            words = np.pad(as_words(rows[query]), ((0, _QUERIES - len(query)), (0, 0)))
            scores_QxV = np.asarray(score(words))[: len(query), own_id_V[FIRST_TITLE:]]
            is_rival_QxV = np.ones(scores_QxV.shape, bool)
            row, title = self._left_out.pairs(query)
            is_rival_QxV[row, title - FIRST_TITLE] = False
            target = self._rows["target"][query, :1] - FIRST_TITLE
            target_score = np.take_along_axis(scores_QxV, target, axis=1)
            np.put_along_axis(is_rival_QxV, target, False, axis=1)
            ranks.append(1 + (is_rival_QxV & ~(scores_QxV < target_score)).sum(axis=1))
        return np.concatenate(ranks)

    def _own_ids(self, keys: np.ndarray) -> np.ndarray:
        """Return the checkpoint's id [V] of each id of the dataset; reserved ids stay."""
        order = np.argsort(keys)
        at = np.minimum(np.searchsorted(keys, self._keys, sorter=order), len(keys) - 1)
        if (keys[order[at]] != self._keys).any():
            raise InputError("next_item: its catalogue lacks titles of the runs; allowed: the same source")
        return np.append(np.arange(FIRST_TITLE), order[at] + FIRST_TITLE)

    def _requests(self, loaded: LoadedCheckpoint, own_id_V: np.ndarray) -> np.ndarray:
        """Return the queries as rows of the next-item model, its latest titles last.

        Raises:
            InputError: The model reads times, which the rows of a ranker do not have.
        """
        if loaded.task.config.model.position == "time_gap":
            raise InputError(
                "next_item: the model reads times of plays, which the rows of a ranker do not have; allowed: "
                "a run with model.position='index' or 'none'"
            )
        rows = np.zeros(len(self._rows), loaded.task.layout.query_dtype())
        length = min(rows["history_title"].shape[1], self._rows["history_title"].shape[1])
        for name in ("history_title", "history_completion"):
            if name in (rows.dtype.names or ()):
                rows[name][:, -length:] = self._rows[name][:, -length:]
        rows["history_title"] = own_id_V[rows["history_title"]]
        return rows


def compare(
    ranks: dict[str, list[np.ndarray]], user: np.ndarray
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, Any]]]:
    """Compare the first order with every other one.

    Args:
        ranks: Order -> ranks [Q] of each seed.
        user: [Q] the user of each query.

    Returns:
        Order -> metric -> a value per seed; and order -> metric -> statistics of the difference.
    """
    values = {
        name: [{m: metrics.FULL[m](r) for m in METRICS} for r in of_seeds] for name, of_seeds in ranks.items()
    }
    means = {
        name: {m: [float(seed[m].mean()) for seed in of_seeds] for m in METRICS}
        for name, of_seeds in values.items()
    }
    best, *others = values
    _, index, count = np.unique(user, return_inverse=True, return_counts=True)
    differences: dict[str, dict[str, Any]] = {}
    for name in others:
        differences[name] = {}
        for m in METRICS:
            by_query = np.stack([a[m] - b[m] for a, b in zip(values[best], values[name], strict=True)])
            by_user = np.bincount(index, by_query.mean(axis=0)) / count
            over_users = statistics.paired(by_user)
            over_seeds = statistics.over_seeds(by_query.mean(axis=1))
            differences[name][m] = {
                "mean": float(by_user.mean()),
                "users": list(over_users.interval),
                "seeds": list(over_seeds.interval),
                "verdict": statistics.verdict(over_users.tests, over_seeds),
            }
    return means, differences


def _ranks_of_second(workdir: str, retrieve: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name -> ranks [Q] of a run that has gone on from another: of all titles, and of two stages."""
    evaluation = evaluate(as_path(workdir), EvaluationOptions(lists=(CATALOGUE,), retrieve=retrieve))
    assert evaluation.ranked is not None  # CATALOGUE was evaluated
    yield f"{THEN}model", evaluation.ranked.by_order["model"].ranks
    if not retrieve:
        return
    yield f"{THEN}{RETRIEVAL_HEAD}", evaluation.ranked.by_order[RETRIEVAL_HEAD].ranks
    yield f"{THEN}{TWO_STAGE}", evaluation.ranked.staged
    loaded = load_checkpoint(workdir, default_checkpoint(workdir))
    dataset = open_dataset(loaded, None)
    left_out = left_out_titles(dataset, "test", evaluation.rows, loaded.config.evaluate.seen)
    rows = dataset.rows("test")
    if left_out.seen == "all":
        rows = rows.with_words(partial(left_out.bits, titles=dataset.layout.num_titles))
    plain, table = {"plain": uncorrected(loaded.task)}, replicate(loaded.task.title_table(loaded.arrays))
    ranker = CatalogueRanker(loaded.task, table, plain, left_out.seen, retrieve=retrieve)
    yield f"{THEN}{TWO_STAGE}_plain", ranker(loaded.params, rows).staged


def main(args: flags.FlagValues) -> Report:
    """Evaluate all runs and compare their orders."""
    for flag, runs in (("next_item", args.next_item), ("then", args.then)):
        if runs and len(runs) != len(args.runs):
            raise InputError(f"--{flag}: {len(runs)} runs; allowed: {len(args.runs)}, as --runs")
    ranks: dict[str, list[np.ndarray]] = {}
    shown: dict[str, list[dict[str, float]]] = {}
    rows: np.ndarray = np.empty(0)
    for number, workdir in enumerate(args.runs):
        options = EvaluationOptions(lists=(CATALOGUE,), retrieve=args.retrieve)
        evaluation = evaluate(as_path(workdir), options)
        assert evaluation.ranked is not None  # CATALOGUE was evaluated
        rows = evaluation.rows
        for name, order in evaluation.ranked.by_order.items():
            ranks.setdefault(name, []).append(order.ranks)
            shown.setdefault(name, []).append({m: evaluation.result[CATALOGUE][name][m] for m in SHOWN})
        if args.retrieve:
            ranks.setdefault(TWO_STAGE, []).append(evaluation.ranked.staged)
        for name, rank_Q in _ranks_of_second(args.then[number], args.retrieve) if args.then else ():
            ranks.setdefault(name, []).append(rank_Q)
        if args.next_item:
            meta = load_checkpoint(workdir, "last").meta
            dataset = Dataset(meta["dataset_directory"])
            queries = SameQueries(dataset, rows, left_out_titles(dataset, "test", rows, "all"))
            peer = load_checkpoint(args.next_item[number], "best")
            ranks.setdefault(NEXT_ITEM, []).append(queries.ranks(peer))
    means, differences = compare(ranks, rows["user"])
    figures = {"orders": means, "differences": differences, "shown": shown, "queries": len(rows)}
    lines = []
    for name, of_metric in means.items():
        value = "; ".join(
            f"{m} {np.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for m, v in of_metric.items()
        )
        text = "; ".join(
            f"{m} {d['mean']:+.4f} [{d['users'][0]:+.4f}, {d['users'][1]:+.4f}], {d['verdict']}"
            for m, d in differences.get(name, {}).items()
        )
        lines.append((name, value, text))
    title = f"All titles, {len(rows):,} queries, {len(args.runs)} seeds; model minus each order, over users"
    return Report(title, figures, lines)


if __name__ == "__main__":
    run(main, _flags)
