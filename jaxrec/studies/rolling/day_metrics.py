"""Metrics of a model on the plays of a day, among all titles that exist at the end of that day."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.storage.arrays import split_columns
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.popularity import recent_popularity_ranks
from jaxrec.evaluation.scorers import CatalogueRanker
from jaxrec.runtime.mesh import replicate
from jaxrec.studies.rolling.plan import LAUNCH
from jaxrec.tasks.growth.later_catalogue import grown
from jaxrec.tasks.loading import LoadedCheckpoint

K = 10  # NDCG@10
_SECONDS_PER_DAY = 86_400


class DayMetrics(NamedTuple):
    """Plays of a day, and how a model ranked their titles; all arrays are [Q].

    Attributes:
        user: Key of the user.
        title: Key of the title.
        age: Age of the title in days, on the day of the play.
        known: Plays of the title by training users before the training of the model ended.
        ndcg: NDCG@10 of the model.
        popular: NDCG@10 of the plays of the 7 days before.
    """

    user: np.ndarray
    title: np.ndarray
    age: np.ndarray
    known: np.ndarray
    ndcg: np.ndarray
    popular: np.ndarray

    def save(self, path: Path) -> None:
        """Write the arrays to a file, as a whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **self._asdict())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "DayMetrics | None":
        """Read the arrays of a file; None where there is no file, or one with other arrays."""
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays) if set(arrays) == set(cls._fields) else None


def evaluate_day(loaded: LoadedCheckpoint, dataset: Dataset, rows: str, split: str) -> DayMetrics:
    """Evaluate a checkpoint on the queries of a dataset, which continues that of the run.

    Args:
        loaded: The checkpoint.
        dataset: Dataset of a day.
        rows: First values of the rows of titles that the run does not know, as `start.rows`.
        split: "validation" or "test".
    """
    queries = dataset.rows(split)
    stored, later = queries.all(), grown(loaded, dataset, rows)
    table = replicate(later.task.title_table(later.arrays))
    left_out = left_out_titles(dataset, split, stored, "all")
    ranker = CatalogueRanker(later.task, table, seen=left_out.seen)
    with_bits = queries.with_words(partial(left_out.bits, titles=dataset.layout.num_titles))
    ranks = ranker(later.params, with_bits).by_order["model"].ranks
    target, seen = stored["target"][:, 0], dataset.seen_titles(split)
    daily = dataset.daily_plays()
    assert seen is not None and daily is not None  # every dataset of today holds them
    popular, _ = recent_popularity_ranks(target, seen.query_time, daily, later.arrays, left_out, 0)
    age = seen.query_time.astype(np.int64) // _SECONDS_PER_DAY - launch_days(dataset)[target]
    return DayMetrics(
        dataset.user_keys(split)[stored["user"]],
        dataset.arrays.title_key[target - FIRST_TITLE],
        age,
        later.arrays.title_plays[target],
        metrics.ndcg(ranks, K),
        metrics.ndcg(popular, K),
    )


def launch_days(dataset: Dataset) -> np.ndarray:
    """Return the launch days [V] int64 of titles by id, days since 1970."""
    [spec] = [f for f in dataset.layout.of("title") if f.name == LAUNCH]
    column = split_columns(dataset.layout.of("title"), None, dataset.arrays.title_numbers)[LAUNCH][:, 0]
    return np.round(column.astype(np.float64) * spec.std + spec.mean).astype(np.int64)
