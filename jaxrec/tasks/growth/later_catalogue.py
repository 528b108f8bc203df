"""Checkpoints on the catalogue of a later dataset, which continues that of the training.

A title that was launched after the training is served from its metadata: the row of its id is that of
`start.rows`, or the unknown one if ids were masked in training. Plays, ages and ranks are those of the
training.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxrec.checkpoints.new_rows import TitleFeatures, fill_new_rows
from jaxrec.checkpoints.state_tree import slashed_leaves, to_host
from jaxrec.checkpoints.warm_start import Table, WarmStart
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID, UNKNOWN
from jaxrec.core.paths import AnyPath
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.loading.title_codes import stored_layout, with_code_features
from jaxrec.data.runners.manifest import CONTINUES
from jaxrec.data.storage.arrays import Arrays, grown_codes
from jaxrec.data.storage.dataset import Dataset
from jaxrec.runtime.mesh import state_shardings
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import LoadedCheckpoint, open_dataset, query_layout
from jaxrec.tasks.mixture.task import MIXTURE


def open_later_dataset(
    loaded: LoadedCheckpoint, data: str | AnyPath | None
) -> tuple[LoadedCheckpoint, Dataset]:
    """Return the dataset of an evaluation, and the checkpoint on its catalogue.

    The checkpoint is the same one, unless the dataset continues that of the training and has more titles or
    categories.

    Raises:
        InputError: The titles, the categories or the layout are neither those of the checkpoint nor a
            continuation of them, or the checkpoint is a mixture and the titles have grown.
    """
    if not data:
        return loaded, open_dataset(loaded, data)
    dataset = Dataset(data, loaded.config.data.verify)
    if not has_grown(dataset, loaded):
        return loaded, open_dataset(loaded, data)
    if MIXTURE in loaded.meta:
        raise InputError(
            f"dataset {dataset.directory}: has titles or categories that the members of the mixture lack; "
            "allowed: the dataset of the training, or an evaluation of each member"
        )
    return grown(loaded, dataset, loaded.config.start.rows), dataset


def has_grown(dataset: Dataset, loaded: LoadedCheckpoint) -> bool:
    """Return True if a dataset continues that of a checkpoint, and has more titles or categories.

    Every id of the checkpoint then means the same in the dataset, and numbers are standardised alike.
    """
    if CONTINUES not in dataset.manifest or dataset.fingerprint == loaded.meta["dataset"]:
        return False
    categories, keys = dataset.manifest["categories"], dataset.arrays.title_key
    before, known = loaded.categories, len(loaded.arrays.title_key)
    pairs = [(categories.get(name, []), values) for name, values in before.items()]
    pairs.append((keys.tolist(), loaded.arrays.title_key.tolist()))
    if any(list(now[: len(then)]) != list(then) for now, then in pairs):
        return False
    layout, own = query_layout(dataset, loaded.task.layout), stored_layout(loaded.task.layout)
    if _without_sizes(layout) != _without_sizes(own):
        return False
    return len(keys) > known or layout != own


def _without_sizes(layout: Layout) -> Layout:
    """Return a layout without the numbers that grow with titles and categories."""

    def plain(spec: FeatureSpec) -> FeatureSpec:
        return replace(spec, size=0) if spec.kind in ("category", "categories", "title") else spec

    return replace(layout, num_titles=0, features=tuple(plain(spec) for spec in layout.features))


def grown(loaded: LoadedCheckpoint, dataset: Dataset, rows: str) -> LoadedCheckpoint:
    """Return a checkpoint with the titles and categories of a dataset that continues that of its training.

    Args:
        loaded: The checkpoint.
        dataset: The later dataset.
        rows: First values of the rows that the checkpoint lacks, as `start.rows`; for "initial" they are 0. A
            model whose ids were masked in training has the unknown row for each new title.
    """
    layout = with_code_features(dataset.layout, loaded.config)
    categories = dataset.manifest["categories"]
    task = replace(loaded.task, layout=layout, categories=categories)
    return replace(
        loaded,
        task=task,
        arrays=as_of_training(loaded.arrays, dataset.arrays),
        params=_grown_parameters(task, loaded, dataset, rows),
        meta=loaded.meta | {"categories": categories},
        trained=loaded,
    )


def as_of_training(trained: Arrays, now: Arrays) -> Arrays:
    """Return the catalogue of today with the plays and ranks of a training, by the ids of today.

    Titles that the training did not rank come last, by their keys: the order of their ids is that of their
    plays today.
    """
    titles, known = len(now.title_plays), FIRST_TITLE + len(trained.title_key)
    plays, place = np.zeros(titles, np.int64), np.full(titles, len(trained.id_of_rank))
    plays[:known] = trained.title_plays[:known]
    place[:known] = np.minimum(trained.rank_of_id[:known], len(trained.id_of_rank))
    by_key = now.id_of_rank[np.argsort(now.title_key[now.id_of_rank - FIRST_TITLE], kind="stable")]
    id_of_rank = by_key[np.argsort(place[by_key], kind="stable")]
    rank_of_id = np.full_like(now.rank_of_id, titles)
    rank_of_id[id_of_rank] = np.arange(len(id_of_rank))
    now = replace(now, title_codes=grown_codes(trained.title_codes, titles))
    return replace(now, title_plays=plays, id_of_rank=id_of_rank, rank_of_id=rank_of_id)


def _grown_parameters(task: Task, loaded: LoadedCheckpoint, dataset: Dataset, rows: str) -> Any:
    """Return the parameters of a checkpoint in the shapes of a task on the later titles, on the devices."""
    abstract, arrays = task.abstract_params, dataset.arrays
    warm = WarmStart(
        "the checkpoint",
        {**loaded.categories, TITLE_ID: loaded.arrays.title_key.tolist()},
        {**dataset.manifest["categories"], TITLE_ID: arrays.title_key.tolist()},
        {name: x.shape for name, x in slashed_leaves(abstract).items()},
        {TITLE_ID: (loaded.task.layout.num_titles, dataset.layout.num_titles)},
    )
    features = TitleFeatures(dataset.layout, arrays.title_categories, arrays.title_numbers)
    fill = fill_new_rows(rows, 0.0, 0, features)
    if loaded.config.model.cold_masking_new:
        fill = _unknown_titles(fill)
    values = {name: np.asarray(to_host(x)) for name, x in slashed_leaves(loaded.params).items()}
    mapped = warm.map_parameters(values, ("*",), fill).values

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.Array:
        value = mapped[jax.tree_util.keystr(path, simple=True, separator="/")]
        value = np.nan_to_num(value).astype(shape.dtype)  # NaN: ids without a title, and rows of "initial"
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(leaf, abstract, state_shardings(abstract))


def _unknown_titles(fill: Callable[[Table], np.ndarray]) -> Callable[[Table], np.ndarray]:
    """Return a function that gives new titles the row of the unknown title, and fills other tables."""

    def filled(table: Table) -> np.ndarray:
        if table.feature != TITLE_ID:
            return fill(table)
        return np.where((table.row_map.source < 0)[:, None], table.rows[UNKNOWN], table.rows)

    return filled
