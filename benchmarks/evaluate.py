"""Evaluation speed in queries per second, compared with a NumPy loop over queries.

    python -m benchmarks.evaluate [--json F]

A query is one test example of a user. On the frozen candidate lists, a query is scored on both lists of 21
candidates by `ListScorer`, as in training and `jaxrec.evaluate`, and summarised in the same way. Over the
whole catalogue, all titles are scored and the metric is the rank of the target among them
(`CatalogueRanker`). The peer is `peers/numpy_evaluate.py`. Parameters are random. Scores are checked to be
equal before anything is timed.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, matrix_rate, ratio
from benchmarks.peers import numpy_evaluate as peer
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Simulator
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import DRAWN_LISTS, FIRST_TITLE
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.training.train_state import StateInit

SCORES, METRICS = 1e-4, 1e-6  # largest allowed difference between the peer and jaxrec


def _flags() -> None:
    flags.DEFINE_list("configs", ["configs/smoe.py:small", "configs/smoe.py:paper"], "configs of the models")
    flags.DEFINE_integer(
        "users", 2_000, "users of the simulated service, and as many test-only users", lower_bound=100
    )
    flags.DEFINE_integer("sample", 200, "queries that the peer scores per round", lower_bound=10)
    flags.DEFINE_integer("rounds", 5, "rounds; each times all rivals once", lower_bound=1)


def settings(spec: str, users: int, directory: str) -> Config:
    """Return the config with its model and catalogue, on a service of few users.

    Raises:
        InputError: The config's source is not the simulator.
    """
    config = load_config(spec)
    if not isinstance(config.source, Simulator):
        raise InputError(f"--configs={spec}: the source must be the simulator, which needs no files")
    config.source.users = config.source.test_only_users = users
    config.data.directory, config.data.partitions = directory, 8
    check(config)
    return config


class Setting:
    """A dataset, a model with random parameters, and both evaluators of the model."""

    def __init__(self, config: Config) -> None:
        import jax

        from jaxrec.evaluation.scorers import CatalogueRanker, ListScorer
        from jaxrec.runtime.mesh import replicate
        from jaxrec.tasks.ranking import RankingTask

        self.dataset = Dataset(config.data.directory)
        self.test_rows = self.dataset.rows("test")
        self.rows = self.test_rows.all()
        self.program = RankingTask(config, self.dataset.layout, 0.5, 1, 1)
        r = np.random.default_rng(0)
        # Initial values are nearly equal and initial biases are 0, which would hide a difference.
        self.host = jax.tree.map(
            lambda x: np.asarray(x) + r.normal(0, 0.05, x.shape).astype(x.dtype),
            StateInit(self.program).init().params,
        )
        self.params = replicate(self.host)
        table = self.dataset.arrays.title_table()
        self.table = replicate(table)
        self.scorer = ListScorer(self.program, self.table, with_loss=False, next_k=1)
        self.ranker = CatalogueRanker(self.program, self.table)
        self.peer = peer.NumpyModel(self.host, self.dataset.layout, config, table, self.program.score_task)

    def lists(self) -> dict[str, Any]:
        """Score both candidate lists of all test rows and return their results."""
        from jaxrec.evaluation.results import model_lists

        return model_lists(self.scorer(self.params, self.test_rows).scores, self.rows, 1, DRAWN_LISTS)

    def ranks(self, queries: int) -> np.ndarray:
        """Return the ranks [queries] of the first queries' targets among all titles."""
        return self.ranker(self.params, SelectedRows(self.rows[:queries])).by_order["model"].ranks


_RANKED = 1_000  # queries ranked among all titles per round


def check_equal(setting: Setting, sample: np.ndarray) -> dict[str, float]:
    """Return the largest differences of scores and of metrics on the queries `sample`.

    Over the catalogue, titles whose scores are within SCORES of the target's may change ranks.

    Raises:
        AssertionError: The evaluators differ, so that a comparison of their speed is meaningless.
    """
    from jaxrec.evaluation import metrics
    from jaxrec.evaluation.results import summary

    ours, rows = setting.scorer(setting.params, setting.test_rows).scores[sample], setting.rows[sample]
    score_difference, metric_difference = 0.0, 0.0
    all_titles, ranks = np.arange(setting.dataset.layout.num_titles), setting.ranks(sample.max() + 1)[sample]
    for row, scores, rank in zip(rows, ours, ranks, strict=True):
        user = setting.peer.user(row)
        for i, name in enumerate(DRAWN_LISTS):
            candidates = np.append(row["target"][0], row[f"list_{name}"][0])
            score_difference = max(
                score_difference, float(np.abs(setting.peer.scores(user, candidates) - scores[i, 0]).max())
            )
        all_scores = setting.peer.scores(user, all_titles)
        rivals = np.delete(all_scores, [0, 1, row["target"][0]])
        least, most = (1 + (rivals > all_scores[row["target"][0]] + d).sum() for d in (SCORES, -SCORES))
        assert least <= rank <= most, f"rank {rank} among all titles must be in [{least}, {most}]"
    assert score_difference <= SCORES, f"scores differ by {score_difference}, at most {SCORES} is allowed"
    theirs = peer.frozen_lists(setting.peer, rows)
    for i, name in enumerate(DRAWN_LISTS):
        mean = summary(ours[:, i], rows, 1)
        metric_difference = max(
            metric_difference, *(abs(mean[metric] - theirs[name][metric]) for metric in metrics.METRICS)
        )
    assert metric_difference <= METRICS, (
        f"metrics differ by {metric_difference}, at most {METRICS} is allowed"
    )
    return {"scores": score_difference, "metrics": metric_difference}


def measure_config(config: Config, sample: int, rounds: int) -> dict[str, Any]:
    """Return the queries per second of both evaluators for one config."""
    from jaxrec.training.train_state import count_parameters

    setting = Setting(config)
    if min(len(setting.rows), _RANKED) < sample:
        raise InputError(f"--sample={sample} must be at most {_RANKED} and {len(setting.rows)}, all queries")
    ranked = min(len(setting.rows), _RANKED)
    sample_queries = np.sort(np.random.default_rng(1).choice(ranked, sample, replace=False))
    figures: dict[str, Any] = {
        "queries": len(setting.rows),
        "titles": setting.dataset.layout.num_titles - FIRST_TITLE,
        "parameters": count_parameters(setting.host),
        "difference": check_equal(setting, sample_queries),
    }
    for protocol, queries, ours, theirs in (
        ("lists", len(setting.rows), setting.lists, peer.frozen_lists),
        ("catalogue", ranked, lambda: setting.ranks(ranked), peer.whole_catalogue),
    ):
        rivals = {"jaxrec": ours, "numpy": lambda f=theirs: f(setting.peer, setting.rows[sample_queries])}
        seconds = interleaved(rivals, rounds)
        per_query = {
            "jaxrec": Timing(tuple(s / queries for s in seconds["jaxrec"].seconds)),
            "numpy": Timing(tuple(s / sample for s in seconds["numpy"].seconds)),
        }
        figures[protocol] = {name: timing.rate(1) for name, timing in per_query.items()}
        figures[protocol]["ratio"] = ratio(per_query["numpy"], per_query["jaxrec"])
    return figures


@contextlib.contextmanager
def prepared(spec: str, users: int) -> Iterator[Config]:
    """Yield the config with its dataset prepared in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="jaxrec-evaluate-") as folder:
        config = settings(spec, users, str(Path(folder) / "data"))
        ensure_dataset(config, config.data.directory)
        yield config


def main(args: flags.FlagValues) -> Report:
    figures: dict[str, Any] = {}
    rows = []
    for spec in args.configs:
        with prepared(spec, args.users) as config:
            config_figures = figures[spec] = measure_config(config, args.sample, args.rounds)
        for protocol, name in (
            ("lists", "both 21-candidate lists"),
            ("catalogue", f"all {config_figures['titles']:,} titles"),
        ):
            rate = config_figures[protocol]
            ours, theirs = (spread(rate[who], "queries/s", 0) for who in ("jaxrec", "numpy"))
            rows.append((f"{spec}, {name}", ours, f"NumPy {theirs}; {spread(rate['ratio'], 'times', 1)}"))
    figures["matrix_rate"] = matrix_rate()
    rows.append(
        (
            "matrix product, 1024",
            spread({k: v / 1e9 for k, v in figures["matrix_rate"].items()}, "GFLOP/s", 0),
            "",
        )
    )
    return Report("evaluate", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
