"""Tasks of configs and checkpoints: construction, loading, and comparison of runs and catalogues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.config.rules.codes import has_codes
from jaxrec.config.rules.declared.heads import order_by
from jaxrec.config.schema import Config
from jaxrec.config.serialization import from_run_json, run_differences
from jaxrec.config.validation import check_sharding
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.json_io import ANY_KEY, check_shape
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.registry import TASKS, resolve
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.strata import count_strata
from jaxrec.data.loading.title_codes import stored_layout, with_code_features
from jaxrec.data.storage.arrays import CATALOGUE_ARRAYS, check_lengths
from jaxrec.data.storage.dataset import Arrays, Dataset
from jaxrec.runtime.compilation_cache import free_programs
from jaxrec.runtime.mesh import device_count, state_shardings
from jaxrec.tasks.base import Task
from jaxrec.tasks.mixture.task import MIXTURE, MixtureTask

CHECKPOINTS = "checkpoints"  # folder of checkpoints in a workdir
START_JSON = "start.json"  # in a workdir: what became of each parameter of the run that it started from


def build_task(
    config: Config, layout: Layout, threshold: float, steps_per_epoch: int, total_steps: int,
    label_shares: Mapping[str, float] | None = None, strata: Sequence[int] = (),
    categories: Mapping[str, Sequence[Any]] | None = None,
) -> Task:  # fmt: skip
    """Return the task `config.task.name` on rows of `layout`.

    Args:
        config: The run's config.
        layout: Layout of the dataset's rows.
        threshold: Mean completion of the training targets, in [0, 1].
        steps_per_epoch: Number of steps that read every training row once.
        total_steps: Number of steps of the whole run.
        label_shares: Label -> share of the training targets where it is known; None without labels.
        strata: Training rows by id of the feature `sampling.strata`, from `count_strata`.
        categories: Feature -> its values, in the order of their ids.

    Raises:
        InputError: The rows are not those that the task trains on, or lack a label of a head, the strata or
            the page of a blend.
    """
    entry = TASKS[config.task.name]
    if layout.rows != entry.rows:
        raise InputError(
            f"task.name={config.task.name!r} trains on {entry.rows} rows, "
            f"but the dataset holds {layout.rows} rows"
        )
    task: type[Task] = resolve(entry.target)
    layout = with_code_features(layout, config)
    built = task(
        config, layout, threshold, steps_per_epoch, total_steps, label_shares or {}, tuple(strata),
        categories or {},
    )  # fmt: skip
    built.check()
    return built


def task_of_dataset(config: Config, dataset: Dataset, steps_per_epoch: int, total_steps: int) -> Task:
    """Return the task of a config on a dataset, with the dataset's constants.

    Arguments and errors are those of `build_task`.
    """
    return build_task(
        config, dataset.layout, dataset.manifest["completion_threshold"] or 0.0, steps_per_epoch, total_steps,
        dataset.label_shares, count_strata(dataset, config.sampling.strata), dataset.manifest["categories"],
    )  # fmt: skip


@dataclass
class LoadedCheckpoint:
    """Contents of a checkpoint, ready for scoring.

    Attributes:
        config: Config of the run.
        task: Task of the config on the layout of the training dataset.
        arrays: Arrays of the catalogue.
        params: Parameters of `TrainState.eval_params`, on the devices.
        step: Training step of the checkpoint.
        meta: Metadata, values that JSON can represent.
        trained: The checkpoint as trained, where this one has the titles of a later dataset; None: this one.
    """

    config: Config
    task: Task
    arrays: Arrays
    params: Any
    step: int
    meta: dict[str, Any]
    trained: "LoadedCheckpoint | None" = None

    @property
    def categories(self) -> dict[str, list]:
        """Return the values of each categorical feature, in the order of their ids.

        Raises:
            InputError: The checkpoint is of a version that did not store them.
        """
        if "categories" not in self.meta:
            raise InputError(f"checkpoint of step {self.step}: meta: categories is missing; train again")
        return self.meta["categories"]


_META = {  # metadata of a run's checkpoint; `from_run_json` and `Layout.from_json` check the first two
    "config": dict, "layout": dict, "threshold": float, "steps_per_epoch": int, "total_steps": int,
    "dataset": str, "dataset_directory": str, "categories?": {ANY_KEY: list},
    "label_shares?": {ANY_KEY: float}, "strata?": [int], "codes?": str,
}  # fmt: skip


def read_meta(checkpoints: Checkpointer, which: str) -> dict[str, Any]:
    """Return the metadata of a run's checkpoint.

    Raises:
        InputError: There is no such checkpoint, or a key is missing or of another type.
    """
    meta = checkpoints.restore_meta(which)
    check_shape(meta, _META, f"checkpoint {checkpoints.directory}, step {checkpoints.step(which)}: meta")
    return meta


def load_checkpoint(workdir: str | AnyPath, which: str, blend: str = "") -> LoadedCheckpoint:
    """Load a checkpoint without its dataset.

    Args:
        workdir: folder of the run.
        which: "best" or "last".
        blend: head or blend that orders the titles, as for `order_by`; empty: that of the config.

    Raises:
        InputError: there is no such checkpoint, the layout that it holds has an unknown name, the item
            table cannot be split over these devices, or there is no such head or blend.
    """
    free_programs()  # of checkpoints that the process has used before
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        meta = read_meta(checkpoints, which)
        config = from_run_json(meta["config"])
        config.model.attention_impl = "auto"  # the stored value suits the training machine
        check_sharding(config, device_count())
        if blend:
            order_by(config, blend)
        try:
            task = restore_task(config, meta)
        except InputError as error:
            raise InputError(f"checkpoint {checkpoints.directory}: {error}") from None
        abstract = task.abstract_params
        params = checkpoints.restore_params(which, with_shardings(abstract, state_shardings(abstract)))
        stored = checkpoints.restore_arrays(which)
        names = {*CATALOGUE_ARRAYS, *(["title_codes"] if has_codes(config) else [])}
        for name in stored.keys() ^ names:
            raise InputError(f"checkpoint {checkpoints.directory}: the array {name} is missing or unknown")
        arrays = Arrays(**stored)
        check_lengths(arrays, task.layout, f"checkpoint {checkpoints.directory}", "give another checkpoint")
        step = checkpoints.step(which)
        return LoadedCheckpoint(config, task, arrays, params, step, meta)


def default_checkpoint(workdir: str | AnyPath) -> str:
    """Return "best" or "last": the value of the run's config, and "last" if there is no best checkpoint."""
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        which = from_run_json(read_meta(checkpoints, "last")["config"]).evaluate.checkpoint
        return which if checkpoints.best_step() is not None else "last"


def restore_task(config: Config, meta: dict[str, Any]) -> Task:
    """Return the task of a checkpoint, from its config and its metadata.

    Args:
        config: config of the run.
        meta: metadata, from `Checkpointer.restore_meta`.
    """
    if MIXTURE in meta:
        return _restore_mixture(config, meta)
    return build_task(
        config,
        Layout.from_json(meta["layout"]),
        meta["threshold"],
        meta["steps_per_epoch"],
        meta["total_steps"],
        meta.get("label_shares"),
        meta.get("strata", ()),
        meta.get("categories"),
    )


_MIXTURE = {"members": [dict], "heads": [str], "by": [str], "hidden": [int]}
OF_MEMBER = ("config", "threshold", "steps_per_epoch", "total_steps", "label_shares", "strata")


def _restore_mixture(config: Config, meta: dict[str, Any]) -> Task:
    """Return the task of a mixture; its metadata hold those of the members."""
    mixture = meta[MIXTURE]
    check_shape(mixture, _MIXTURE, "mixture")
    shared = {name: meta[name] for name in ("layout", "categories") if name in meta}
    members = tuple(restore_task(from_run_json(m["config"]), shared | m) for m in mixture["members"])
    first = members[0]
    return MixtureTask(
        config, first.layout, first.threshold, first.steps_per_epoch, first.total_steps, {}, (),
        first.categories, members, tuple(mixture["heads"]), tuple(mixture["by"]), tuple(mixture["hidden"]),
    )  # fmt: skip


def check_same_catalogue(dataset: Dataset, loaded: LoadedCheckpoint) -> None:
    """Check that ids of titles and of categories mean the same in a dataset as in a checkpoint.

    Raises:
        InputError: the layouts, the keys of the titles, or the values of a category differ.
    """
    if dataset.fingerprint == loaded.meta["dataset"]:
        return
    where = f"dataset {dataset.directory} ({dataset.fingerprint})"
    trained = f"the training's dataset {loaded.meta['dataset_directory']} ({loaded.meta['dataset']})"
    allowed = "allowed: a dataset with the same titles, in the same order of popularity, and categories"
    own, keys, expected = loaded.task.layout, dataset.arrays.title_key, loaded.arrays.title_key
    if query_layout(dataset, own) != stored_layout(own) or len(keys) != len(expected):
        raise InputError(f"{where}: its layout differs from that of {trained}; {allowed}")
    differs = np.flatnonzero(keys != expected)  # the layouts have the number of titles
    if len(differs):
        first = int(differs[0])
        raise InputError(
            f"{where}: {len(differs):,} of {len(keys):,} title ids stand for other titles than in {trained}: "
            f"id {first + FIRST_TITLE} is {keys[first]!s}, there {expected[first]!s}; {allowed}"
        )
    categories = loaded.meta.get("categories", dataset.manifest["categories"])
    for feature, values in dataset.manifest["categories"].items():
        if values != categories[feature]:
            raise InputError(f"{where}: feature {feature} has other categories than in {trained}; {allowed}")


def query_layout(dataset: Dataset, own: Layout) -> Layout:
    """Return the layout of a dataset, with the fields of `own` that do not change its query rows.

    Query rows are the same whether predictions, pairs or what was shown are stored, ids lack a title, or
    training selects targets.
    """
    names = ("filled", "pairs", "shown", "has_gaps", "selects_targets")
    return replace(dataset.layout, **{name: getattr(own, name) for name in names})


def open_dataset(loaded: LoadedCheckpoint, data: str | AnyPath | None) -> Dataset:
    """Return the dataset of an evaluation; the task of the checkpoint then reads its rows.

    Raises:
        InputError: The titles, the categories or the layout are not those of the checkpoint.
    """
    dataset = Dataset(data or loaded.meta["dataset_directory"], loaded.config.data.verify)
    check_same_catalogue(dataset, loaded)
    layout = with_code_features(dataset.layout, loaded.config)
    if layout != loaded.task.layout:  # predicted labels or pairs in the rows of one of the two
        loaded.task = replace(loaded.task, layout=layout)
    return dataset


def check_same_run(saved: dict[str, Any], current: dict[str, Any], workdir: AnyPath, extend: bool) -> None:
    """Raise InputError at the first setting that differs from the saved run.

    With `extend` the duration may differ if it is longer.

    Args:
        saved: metadata of the run's checkpoint.
        current: metadata of the run that resumes it.
        workdir: folder of the run, for messages.
        extend: the duration may differ.
    """
    if saved["dataset"] != current["dataset"]:
        raise InputError(
            f"workdir {workdir}: holds a run on dataset {saved['dataset']}, this is {current['dataset']}; "
            "allowed: the same dataset, or another --workdir"
        )
    if saved.get("codes") != current.get("codes"):
        raise InputError(
            f"workdir {workdir}: holds a run on codes {saved.get('codes')}, those of codes.path are "
            f"{current.get('codes')}; allowed: the same codes, or another --workdir"
        )
    for key, (before, after) in run_differences(saved["config"], current["config"]).items():
        allowed = "the same config, or another --workdir"
        if key == "train.duration" and current["total_steps"] > saved["total_steps"]:
            if extend:
                continue
            allowed += ", or --extend to continue the run"
        raise InputError(
            f"workdir {workdir}: holds a run with {key}={before!r}, this config has {after!r}; "
            f"allowed: {allowed}"
        )
