"""Share of the reachable: models between popularity and the best ranking from visible data.

    python -m benchmarks.reachable --model smoe=W0,W1,W2 [--model best=B0,B1,B2] [--queries 4096]
        [--slices country] [--json F]

The oracle has the latent state of a user of the simulated service. "reachable" has the law of the service and
what is visible to a model (`sources.simulator.oracle.reachable`): in expectation no model is above it. All
rows are of the same test queries, one of each of so many users: NDCG@10 and HR of all titles that the user
has not played, and NDCG@1 of both frozen lists. A frozen list is ordered by p / q, with q as for the oracle.

The runs of a model differ in `train.seed` alone; its figures are means over them. The share is (model -
popularity) / (reachable - popularity). Differences are of users' means, with 95% bootstrap intervals. The
last row is the bound with half of its particles. NDCG@10 by the number of visible plays follows, and by
`--slices`, as those of `evaluate`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_LISTS, FIRST_TITLE
from jaxrec.core.paths import as_path
from jaxrec.data.examples.ranking import list_widths
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import baselines, metrics, statistics
from jaxrec.evaluation.evaluator import CATALOGUE, EvaluationOptions, evaluate
from jaxrec.evaluation.references.orders import target_ranks
from jaxrec.evaluation.slices.slicing import slice_queries
from jaxrec.sources import open_source
from jaxrec.sources.simulator.truth import SimulatorTruth
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint, open_dataset

POPULARITY, REACHABLE, HALF, ORACLE = "popularity", "reachable", "reachable, half", "oracle"
OF_ALL = ("ndcg@10", "hr@10", "hr@1")
VISIBLE = (0, 3, 6, 11)  # least number of visible plays of each group of queries
_BLOCK = 256  # queries whose densities are computed at a time
Metrics = dict[str, np.ndarray]  # metric -> its value at each query


def _flags() -> None:
    flags.DEFINE_multi_string("model", None, "NAME=W0,W1,...: workdirs of runs, one a seed", required=True)
    flags.DEFINE_integer("queries", 4_096, "test queries, each of another user", lower_bound=2)
    flags.DEFINE_list(
        "slices", [], "categories of users or requests, such as country, by which to print means"
    )
    flags.DEFINE_integer("particles", 128, "states that stand for the posterior of a query", lower_bound=2)


class Queries(NamedTuple):
    """Test queries of a dataset of the simulated service.

    Attributes:
        number: [N] rows of the split.
        rows: The rows of the split.
        user: [N] keys of users.
        time: [N] milliseconds, at most a second after the request.
        column: [V] row of the catalogue of each title, by popularity rank.
        row_of: [ids] row of the catalogue of each title id; 0 for the reserved ids.
        left_out: Titles left out of the rankings of all titles.
    """

    number: np.ndarray
    rows: np.ndarray
    user: np.ndarray
    time: np.ndarray
    column: np.ndarray
    row_of: np.ndarray
    left_out: LeftOutTitles


def choose_queries(dataset: Dataset, keys: np.ndarray, most: int) -> Queries:
    """Return one query of each of the first users in a fixed random order.

    Args:
        dataset: Dataset of the simulated service.
        keys: [V] keys of the catalogue by row.
        most: Number of queries; all users have one where there are fewer.

    Raises:
        InputError: The dataset does not store the times of queries.
    """
    rows, arrays = dataset.rows("test").all(), dataset.arrays
    order = np.random.default_rng(0).permutation(len(rows))
    _, first = np.unique(rows["user"][order], return_index=True)
    index = np.sort(order[np.sort(first)[:most]])
    seen = dataset.seen_titles("test")
    if seen is None:
        raise InputError("--model: the dataset lacks the titles that users played; allowed: one of `prepare`")
    sorter = np.argsort(keys)
    row_of = sorter[np.searchsorted(keys, arrays.title_key, sorter=sorter)]
    return Queries(
        number=index,
        rows=rows,
        user=dataset.user_keys("test")[rows["user"][index]],
        time=(seen.query_time[index].astype(np.int64) + 1) * 1000 - 1,  # the log has whole seconds here
        column=row_of[arrays.id_of_rank - FIRST_TITLE],
        row_of=np.concatenate([np.zeros(FIRST_TITLE, np.int64), row_of]),
        left_out=left_out_titles(dataset, "test", rows, "all"),
    )


def of_density(
    queries: Queries, dataset: Dataset, kept: np.ndarray, p: np.ndarray, base: dict[str, np.ndarray],
    abandoned: np.ndarray,
) -> Metrics:  # fmt: skip
    """Return the metrics of densities [N, V] of all titles, and of lists by p / (base + hard * abandoned)."""
    out = of_scores(queries, dataset, kept[:, queries.column])
    for name in DRAWN_LISTS:
        title = listed_titles(queries, name)
        p_list, a_list = (np.take_along_axis(x, title, axis=1) for x in (p, abandoned))
        score = p_list / (base[name] + num_hard(queries, dataset, name)[:, None] * a_list)
        out[f"{name} ndcg@1"] = metrics.ndcg(metrics.rank(score), 1)
    return out


def listed_titles(queries: Queries, name: str) -> np.ndarray:
    """Return the rows of the catalogue [N, 1 + negatives] of a list, the target first."""
    return queries.row_of[baselines.candidates(queries.rows[queries.number], name)[:, 0]]


def num_hard(queries: Queries, dataset: Dataset, name: str) -> np.ndarray:
    """Return the number [N] of hard negatives in a list."""
    widest = list_widths(name, dataset.layout.negatives)[0]
    return np.minimum(queries.rows["num_hard"][queries.number, 0], widest)


def base_densities(queries: Queries, dataset: Dataset, abandoned: np.ndarray) -> dict[str, np.ndarray]:
    """Return q [N, 1 + negatives] of each list without its hard negatives.

    The rows store p and p / q of the oracle, whose density of abandoned titles [N, V] is `abandoned`.
    """
    rows, out = queries.rows[queries.number], {}
    for name in DRAWN_LISTS:
        p, ratio = rows[f"truth_{name}"].astype(np.float64), rows[f"oracle_{name}"]
        hard = np.take_along_axis(abandoned, listed_titles(queries, name), axis=1)
        q = np.divide(p, ratio, out=np.ones_like(p), where=ratio > 0)
        out[name] = np.maximum(q - num_hard(queries, dataset, name)[:, None] * hard, 1e-9)
    return out


def of_truth(queries: Queries, dataset: Dataset, truth: SimulatorTruth, particles: int) -> dict[str, Metrics]:
    """Return the metrics of the oracle, and of the bound with all and half of the particles."""
    history = dataset.layout.max_history
    every = np.arange(truth.config.titles)
    forms: dict[str, list[tuple[np.ndarray, ...]]] = {ORACLE: [], REACHABLE: [], HALF: []}
    for begin in range(0, len(queries.user), _BLOCK):
        of_block = queries.user[begin : begin + _BLOCK], queries.time[begin : begin + _BLOCK]
        title = np.broadcast_to(every, (len(of_block[0]), len(every)))
        kept, _, _ = truth.shown(*of_block, title)
        forms[ORACLE].append((kept, *truth.densities(*of_block, title)))
        forms[REACHABLE].append(truth.reachable(*of_block, history, particles))
        forms[HALF].append(truth.reachable(*of_block, history, particles // 2))
    whole = {
        name: [np.concatenate(part) for part in zip(*blocks, strict=True)] for name, blocks in forms.items()
    }
    base = base_densities(queries, dataset, whole[ORACLE][2])
    return {name: of_density(queries, dataset, kept, p, base, a) for name, (kept, p, a) in whole.items()}


def of_scores(queries: Queries, dataset: Dataset, scores: np.ndarray) -> Metrics:
    """Return the metrics of all titles by scores [N, V], titles by popularity rank."""
    place = np.zeros(len(queries.rows), np.int64)
    place[queries.number] = np.arange(len(queries.number))
    target = queries.rows["target"][:, 0]
    ranks = target_ranks(lambda q: scores[place[q]], queries.number, target, dataset.arrays, queries.left_out)
    return {m: metrics.FULL[m](ranks) for m in OF_ALL}


def of_popularity(queries: Queries, dataset: Dataset) -> Metrics:
    """Return the metrics of popularity."""
    titles = len(queries.column)
    out = of_scores(queries, dataset, np.broadcast_to(-np.arange(titles), (len(queries.number), titles)))
    for name in DRAWN_LISTS:
        score = baselines.popularity(queries.rows[queries.number], name, dataset.arrays)[:, 0]
        out[f"{name} ndcg@1"] = metrics.ndcg(metrics.rank(score), 1)
    return out


def of_run(queries: Queries, workdir: str) -> Metrics:
    """Return the metrics of a run.

    Raises:
        InputError: The run was evaluated on other queries.
    """
    evaluation = evaluate(as_path(workdir), EvaluationOptions(lists=(*DRAWN_LISTS, CATALOGUE)))
    assert evaluation.ranked is not None  # CATALOGUE was evaluated
    rows = evaluation.rows
    if len(rows) != len(queries.rows) or (rows["target"] != queries.rows["target"]).any():
        raise InputError(f"--model: {workdir} has other test queries; allowed: runs on the same log")
    ranks = evaluation.ranked.by_order["model"].ranks[queries.number]
    out = {m: metrics.FULL[m](ranks) for m in OF_ALL}
    for number, name in enumerate(evaluation.lists):
        score = evaluation.scores[queries.number, number, 0]
        out[f"{name} ndcg@1"] = metrics.ndcg(metrics.rank(score), 1)
    return out


def parse_models(flag_values: list[str]) -> dict[str, list[str]]:
    """Return name -> workdirs of the flag `--model`.

    Raises:
        InputError: A value is not NAME=W0,W1,...
    """
    out: dict[str, list[str]] = {}
    for value in flag_values:
        name, separator, workdirs = value.partition("=")
        if not (name and separator and all(workdirs.split(","))):
            raise InputError(f"--model={value}: allowed: NAME=W0,W1,...")
        out[name] = workdirs.split(",")
    return out


def compare(rows: dict[str, list[Metrics]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return row -> metric -> mean, share of the reachable, and difference to the bound."""
    means = {name: {m: np.mean([seed[m] for seed in of_seeds], axis=0) for m in of_seeds[0]}
             for name, of_seeds in rows.items()}  # fmt: skip
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, of_metric in means.items():
        out[name] = {}
        for m, value in of_metric.items():
            bound, popular = means[REACHABLE][m].mean(), means[POPULARITY][m].mean()
            paired = statistics.paired(value - means[REACHABLE][m])
            out[name][m] = {
                "mean": float(value.mean()),
                "share": float((value.mean() - popular) / (bound - popular)),
                "less_reachable": float((value - means[REACHABLE][m]).mean()),
                "interval": list(paired.interval),
            }
    return out


def by_group(
    rows: dict[str, list[Metrics]], group: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return group of queries -> row -> mean NDCG@10, with the number of queries; without empty groups.

    Args:
        rows: Row -> metrics of each seed.
        group: [N] group of each query, an index into the names.
        names: Names of the groups.
    """
    out: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        own = group == number
        if own.any():
            out[name] = {"queries": float(own.sum())} | {
                row: float(np.mean([seed["ndcg@10"][own].mean() for seed in of_seeds]))
                for row, of_seeds in rows.items()
            }
    return out


def by_history(rows: dict[str, list[Metrics]], visible: np.ndarray) -> dict[str, dict[str, float]]:
    """Return `by_group` of queries with few and with many visible plays [N]."""
    ends = [f" to {least - 1}" for least in VISIBLE[1:]] + [" or more"]
    names = [f"{least}{end} plays" for least, end in zip(VISIBLE, ends, strict=True)]
    return by_group(rows, np.searchsorted(VISIBLE, visible, side="right") - 1, names)


def main(args: flags.FlagValues) -> Report:
    """Measure models, popularity, the bound and the oracle at the same queries."""
    models = parse_models(args.model)
    loaded = load_checkpoint(first := next(iter(models.values()))[0], default_checkpoint(first))
    dataset, source = open_dataset(loaded, None), open_source(loaded.config.source, loaded.config.features)
    truth = source.truth()
    if not isinstance(truth, SimulatorTruth):
        raise InputError(f"--model: {first} is not of the simulated service; allowed: a run with a truth")
    if (targets := loaded.config.data.targets) != "new":
        raise InputError(f"--model: {first} has data.targets={targets!r}; allowed: 'new'")
    queries = choose_queries(dataset, source.titles().key, args.queries)
    bounds = of_truth(queries, dataset, truth, args.particles)
    rows = {POPULARITY: [of_popularity(queries, dataset)]}
    rows |= {name: [of_run(queries, workdir) for workdir in of_seeds] for name, of_seeds in models.items()}
    rows |= {name: [bounds[name]] for name in (REACHABLE, ORACLE, HALF)}
    figures = compare(rows)
    lines = []
    for name, of_metric in figures.items():
        value = "; ".join(f"{m} {d['mean']:.4f} ({d['share']:.0%})" for m, d in of_metric.items())
        text = "; ".join(
            f"{m} {d['less_reachable']:+.4f} [{d['interval'][0]:+.4f}, {d['interval'][1]:+.4f}]"
            for m, d in of_metric.items()
        )
        lines.append((name, value, "" if name == REACHABLE else text))
    history = queries.rows[queries.number]
    visible = ((history["history_title"] > 0) & (history["history_abandoned"] == 0)).sum(axis=1)
    groups = by_history(rows, visible)
    for slicing in slice_queries(tuple(args.slices), history, dataset.layout, dataset.manifest["categories"]):
        groups |= by_group(rows, slicing.group, [f"{slicing.name} {name}" for name in slicing.names])
    for name, means in groups.items():
        text = "; ".join(f"{row} {mean:.4f}" for row, mean in means.items() if row != "queries")
        lines.append((f"{name}, {means['queries']:,.0f} queries", text, "ndcg@10"))
    title = f"{len(queries.user):,} queries; mean (share of the reachable), and difference to the bound"
    return Report(title, {"rows": figures, "by_group": groups, "queries": len(queries.user)}, lines)


if __name__ == "__main__":
    run(main, _flags)
