"""python -m benchmarks.evaluate [--json F]: queries a second, beside a loop over queries in NumPy.

A query is a user's request. On the frozen lists it is scored on both, 21 candidates each, by the
`Scorer` that training and `jaxrec.evaluate` use, and summed up as they do; over the whole catalogue
every title is scored and the target's rank among all is its metric (`Ranker`). The peer is
`peers/numpy_evaluate.py`; parameters are random, scores are equal before anything is timed.
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
from benchmarks.step_parts import Kept
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Simulator
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, LISTS
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.training.train_state import StateInit

SCORES, METRICS = 1e-4, 1e-6  # how far the peer's may lie from ours


def _flags() -> None:
    flags.DEFINE_list("configs", ["configs/smoe.py:small", "configs/smoe.py:paper"], "whose models")
    flags.DEFINE_integer(
        "users", 2_000, "of the simulated service, and as many for testing alone", lower_bound=100
    )
    flags.DEFINE_integer("sample", 200, "queries the peer scores in a round", lower_bound=10)
    flags.DEFINE_integer("rounds", 5, "each times every rival once", lower_bound=1)


def settings(spec: str, users: int, directory: str) -> Config:
    """The config's model and catalogue, on a service of few users."""
    config = load_config(spec)
    if not isinstance(config.source, Simulator):
        raise InputError(f"--configs={spec}: its source must be the simulator, which needs no files")
    config.source.users = config.source.test_only_users = users
    config.data.directory, config.data.partitions = directory, 8
    check(config)
    return config


class Setting:
    """A dataset, a model with random parameters, and both ways to evaluate it."""

    def __init__(self, config: Config) -> None:
        import jax

        from jaxrec.evaluation.scorers import CatalogueRanker, ListScorer
        from jaxrec.runtime.mesh import replicate
        from jaxrec.tasks.ranking import RankingTask

        self.dataset = Dataset(config.data.directory)
        self.found = self.dataset.rows("test")
        self.rows = self.found.all()
        self.program = RankingTask(config, self.dataset.layout, 0.5, 1, 1)
        r = np.random.default_rng(0)
        # First values are nearly even and their biases 0, which would hide a difference.
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
        from jaxrec.evaluation.results import model_lists

        return model_lists(self.scorer(self.params, self.found).scores, self.rows, 1, LISTS)

    def ranks(self, queries: int) -> np.ndarray:
        """Of the first queries' targets among all titles, [queries]."""
        return self.ranker(self.params, Kept(self.rows[:queries])).ranks


_RANKED = 1_000  # queries that are ranked among all titles in a turn


def hold_equal(setting: Setting, sample: np.ndarray) -> dict[str, float]:
    """The largest difference of scores and of metrics on queries `sample`; raises AssertionError where the
    comparison would be void. Over the catalogue, titles within SCORES of the target may change places."""
    from jaxrec.evaluation import metrics
    from jaxrec.evaluation.results import summary

    ours, rows = setting.scorer(setting.params, setting.found).scores[sample], setting.rows[sample]
    worst, apart = 0.0, 0.0
    every, ranks = np.arange(setting.dataset.layout.titles), setting.ranks(sample.max() + 1)[sample]
    for row, scores, rank in zip(rows, ours, ranks, strict=True):
        user = setting.peer.user(row)
        for i, name in enumerate(LISTS):
            candidates = np.append(row["target"][0], row[f"list_{name}"][0])
            worst = max(worst, float(np.abs(setting.peer.scores(user, candidates) - scores[i, 0]).max()))
        all_scores = setting.peer.scores(user, every)
        rivals = np.delete(all_scores, [0, 1, row["target"][0]])
        least, most = (1 + (rivals > all_scores[row["target"][0]] + d).sum() for d in (SCORES, -SCORES))
        assert least <= rank <= most, f"rank {rank} among all titles must be in [{least}, {most}]"
    assert worst <= SCORES, f"scores differ by {worst}, at most {SCORES} is allowed"
    theirs = peer.frozen_lists(setting.peer, rows)
    for i, name in enumerate(LISTS):
        mean = summary(ours[:, i], rows, 1)
        apart = max(apart, *(abs(mean[metric] - theirs[name][metric]) for metric in metrics.METRICS))
    assert apart <= METRICS, f"metrics differ by {apart}, at most {METRICS} is allowed"
    return {"scores": worst, "metrics": apart}


def measured(config: Config, sample: int, rounds: int) -> dict[str, Any]:
    """Queries a second of one config."""
    from jaxrec.training.train_state import count_parameters

    setting = Setting(config)
    if min(len(setting.rows), _RANKED) < sample:
        raise InputError(f"--sample={sample} must be at most {_RANKED} and {len(setting.rows)}, all queries")
    ranked = min(len(setting.rows), _RANKED)
    some = np.sort(np.random.default_rng(1).choice(ranked, sample, replace=False))
    figures: dict[str, Any] = {
        "queries": len(setting.rows),
        "titles": setting.dataset.layout.titles - FIRST_TITLE,
        "parameters": count_parameters(setting.host),
        "difference": hold_equal(setting, some),
    }
    for what, queries, ours, theirs in (
        ("lists", len(setting.rows), setting.lists, peer.frozen_lists),
        ("catalogue", ranked, lambda: setting.ranks(ranked), peer.whole_catalogue),
    ):
        rivals = {"jaxrec": ours, "numpy": lambda f=theirs: f(setting.peer, setting.rows[some])}
        seconds = interleaved(rivals, rounds)
        each = {
            "jaxrec": Timing(tuple(s / queries for s in seconds["jaxrec"].seconds)),
            "numpy": Timing(tuple(s / sample for s in seconds["numpy"].seconds)),
        }
        figures[what] = {name: timing.rate(1) for name, timing in each.items()}
        figures[what]["ratio"] = ratio(each["numpy"], each["jaxrec"])
    return figures


@contextlib.contextmanager
def prepared(spec: str, users: int) -> Iterator[Config]:
    """The config, its dataset in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="jaxrec-evaluate-") as folder:
        config = settings(spec, users, str(Path(folder) / "data"))
        ensure_dataset(config, config.data.directory)
        yield config


def main(found: flags.FlagValues) -> Report:
    figures: dict[str, Any] = {}
    rows = []
    for spec in found.configs:
        with prepared(spec, found.users) as config:
            mine = figures[spec] = measured(config, found.sample, found.rounds)
        for what, name in (
            ("lists", "both 21-candidate lists"),
            ("catalogue", f"all {mine['titles']:,} titles"),
        ):
            rate = mine[what]
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
