"""Metrics of a model on the plays of a day, among all titles that exist at the end of that day.

A title that was launched after the model's training is served from its metadata: the row of its id is that of
`start.rows`, or the unknown one if ids were masked in training. Plays and ages are those of the training.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxrec.checkpoints.new_rows import TitleFeatures, fill_new_rows
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.checkpoints.warm_start import WarmStart
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.loading.title_codes import with_code_features
from jaxrec.data.storage.arrays import Arrays, grown_codes, split_columns
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.popularity import recent_popularity_ranks
from jaxrec.evaluation.scorers import CatalogueRanker
from jaxrec.runtime.mesh import replicate
from jaxrec.studies.rolling.plan import LAUNCH
from jaxrec.tasks.loading import LoadedCheckpoint

K = 10  # NDCG@10
_SECONDS_PER_DAY = 86_400


class DayMetrics(NamedTuple):
    """Plays of a day, and how a model ranked their titles; all arrays are [Q].

    Attributes:
        user: Key of the user.
        age: Age of the title in days, on the day of the play.
        ndcg: NDCG@10 of the model.
        popular: NDCG@10 of the plays of the 7 days before.
    """

    user: np.ndarray
    age: np.ndarray
    ndcg: np.ndarray
    popular: np.ndarray

    def save(self, path: Path) -> None:
        """Write the arrays to a file, as a whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **self._asdict())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "DayMetrics":
        """Read the arrays of a file."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)


def evaluate_day(loaded: LoadedCheckpoint, dataset: Dataset, rows: str, split: str) -> DayMetrics:
    """Evaluate a checkpoint on the queries of a dataset, which continues that of the run.

    Args:
        loaded: The checkpoint.
        dataset: Dataset of a day.
        rows: First values of the rows of titles that the run does not know, as `start.rows`.
        split: "validation" or "test".
    """
    queries = dataset.rows(split)
    layout = with_code_features(dataset.layout, loaded.config)
    stored, task = queries.all(), replace(loaded.task, layout=layout)
    known = len(loaded.arrays.title_key)
    arrays = _as_of_training(loaded.arrays, dataset.arrays)
    table = task.title_table(arrays)
    if loaded.config.model.cold_masking_new:
        table = table._replace(masked=np.arange(len(table.categories)) >= FIRST_TITLE + known)
    params = _grown(loaded, dataset, rows)
    left_out = left_out_titles(dataset, split, stored, "all")
    ranker = CatalogueRanker(task, replicate(table), seen=left_out.seen)
    with_bits = queries.with_words(partial(left_out.bits, titles=dataset.layout.num_titles))
    ranks = ranker(replicate(params), with_bits).by_order["model"].ranks
    target, seen = stored["target"][:, 0], dataset.seen_titles(split)
    daily = dataset.daily_plays()
    assert seen is not None and daily is not None  # every dataset of today holds them
    popular, _ = recent_popularity_ranks(target, seen.query_time, daily, arrays, left_out, 0)
    age = seen.query_time.astype(np.int64) // _SECONDS_PER_DAY - launch_days(dataset)[target]
    return DayMetrics(
        dataset.user_keys(split)[stored["user"]], age, metrics.ndcg(ranks, K), metrics.ndcg(popular, K)
    )


def launch_days(dataset: Dataset) -> np.ndarray:
    """Return the launch days [V] int64 of titles by id, days since 1970."""
    [spec] = [f for f in dataset.layout.of("title") if f.name == LAUNCH]
    column = split_columns(dataset.layout.of("title"), None, dataset.arrays.title_numbers)[LAUNCH][:, 0]
    return np.round(column.astype(np.float64) * spec.std + spec.mean).astype(np.int64)


def _as_of_training(trained: Arrays, now: Arrays) -> Arrays:
    """Return the catalogue of today with the plays of a training, by the ids of today, and ranks by them."""
    plays, known = np.zeros(len(now.title_plays), np.int64), FIRST_TITLE + len(trained.title_key)
    plays[:known] = trained.title_plays[:known]
    id_of_rank = now.id_of_rank[np.argsort(-plays[now.id_of_rank], kind="stable")]
    rank_of_id = np.full_like(now.rank_of_id, len(now.rank_of_id))
    rank_of_id[id_of_rank] = np.arange(len(id_of_rank))
    now = replace(now, title_codes=grown_codes(trained.title_codes, len(plays)))
    return replace(now, title_plays=plays, id_of_rank=id_of_rank, rank_of_id=rank_of_id)


def _grown(loaded: LoadedCheckpoint, dataset: Dataset, rows: str) -> object:
    """Return the parameters of a checkpoint with rows for the titles of a later dataset."""
    layout = with_code_features(dataset.layout, loaded.config)
    task, arrays = replace(loaded.task, layout=layout), dataset.arrays
    shapes = {name: x.shape for name, x in slashed_leaves(task.abstract_params).items()}
    warm = WarmStart(
        "the model of the day before",
        {**loaded.categories, TITLE_ID: loaded.arrays.title_key.tolist()},
        {**dataset.manifest["categories"], TITLE_ID: arrays.title_key.tolist()},
        shapes,
        {TITLE_ID: (loaded.task.layout.num_titles, dataset.layout.num_titles)},
    )
    features = TitleFeatures(dataset.layout, arrays.title_categories, arrays.title_numbers)
    values = {name: np.asarray(x) for name, x in slashed_leaves(loaded.params).items()}
    mapped = warm.map_parameters(values, ("*",), fill_new_rows(rows, 0.0, 0, features)).values

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        value = mapped[jax.tree_util.keystr(path, simple=True, separator="/")]
        return np.nan_to_num(value).astype(shape.dtype)  # NaN: ids without a title

    return jax.tree_util.tree_map_with_path(leaf, task.abstract_params)
