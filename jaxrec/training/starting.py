"""Start of a run from another run's checkpoint: `config.Start`.

The checkpoint is read once, before the first step. Step number, validation loss, learning rate schedule and
task state start as in any run; a run that is resumed reads its own checkpoint alone.

With a kept optimizer, Adam's moments and its count of updates go on, so that the bias correction does not
start again, which would move every row of a table by the learning rate. The plateau schedule starts fresh:
its best loss is of other rows, and its factor would only fall over a chain of days. The gate of the experts
stays at its final temperature, because a trained gate must not become soft again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.new_rows import TitleFeatures, fill_new_rows
from jaxrec.checkpoints.seals import digest
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.checkpoints.steps import complete_steps
from jaxrec.checkpoints.warm_start import MappedParameters, WarmStart, check_patterns, matches
from jaxrec.config.schema import Config, Start
from jaxrec.core.errors import InputError
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Dataset
from jaxrec.tasks.base import Task
from jaxrec.tasks.generative.catalogue import check_codes_folder
from jaxrec.tasks.loading import CHECKPOINTS, read_meta
from jaxrec.training.adaptation.low_rank import adaptable_names, is_low_rank
from jaxrec.training.restraints import has_anchor
from jaxrec.training.train_state import TrainState


def starts_here(config: Config, workdir: AnyPath) -> bool:
    """Return True if a run has still to start from another one: it has no checkpoint of its own."""
    return bool(config.start.workdir) and not complete_steps(workdir / CHECKPOINTS)


def check_start(config: Config, workdir: AnyPath) -> None:
    """Raise InputError if a run has to start from a checkpoint, or read codes, that do not exist."""
    check_codes_folder(config)
    if starts_here(config, workdir):
        with Checkpointer(as_path(config.start.workdir) / CHECKPOINTS) as checkpoints:
            checkpoints.step(config.start.which)


@dataclass
class StartPoint:
    """First values of a training state that come from another run's checkpoint.

    Attributes:
        values: Name of a leaf of the state, as "params/title/kernel" -> value; NaN where the initialisation
            stays.
        record: JSON of what became of each parameter.
    """

    values: dict[str, np.ndarray]
    record: dict[str, Any]

    def apply(self, state: TrainState) -> TrainState:
        """Return an initial state with the first values, which are released."""
        values, self.values = self.values, {}

        def leaf(path: Any, initial: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return _place(initial, values[name]) if name in values else initial

        return jax.tree_util.tree_map_with_path(leaf, state)


def _place(initial: jax.Array, value: np.ndarray) -> jax.Array:
    """Return a value on the devices of `initial`, whose elements replace NaN."""
    shards = {str(shard.index): shard.data for shard in initial.addressable_shards}

    def shard(index: Any) -> np.ndarray:
        part = np.asarray(value[index])
        if part.dtype.kind == "f":
            part = np.where(np.isnan(part), np.asarray(shards[str(index)]), part)
        return np.array(part, initial.dtype)  # a copy: two leaves of the state never share a buffer

    return jax.make_array_from_callback(initial.shape, initial.sharding, shard)


def read_start(task: Task, dataset: Dataset, state: TrainState) -> StartPoint:
    """Read the checkpoint that a run starts from, and map it onto the run's state.

    Args:
        task: Task of the run.
        dataset: Dataset of the run.
        state: Shapes and dtypes of the run's state.

    Raises:
        InputError: There is no such checkpoint, a pattern matches no parameter, or a shape differs.
    """
    start, manifest = task.config.start, dataset.manifest
    names = slashed_leaves(state.params)
    check_patterns("start.freeze", start.freeze, set(names), "of this run")
    if is_low_rank(start):
        check_patterns("start.adapt", start.adapt, adaptable_names(state.params), "that is a dense kernel")
    what = f"start.workdir={start.workdir}"
    folder = as_path(start.workdir) / CHECKPOINTS
    with Checkpointer(folder) as checkpoints:
        meta, step = read_meta(checkpoints, start.which), checkpoints.step(start.which)
        if "categories" not in meta:
            raise InputError(f"{what}: step {step}: meta: categories is missing; train that run again")
        keys = checkpoints.restore_arrays(start.which)["title_key"]
        old = _restore(checkpoints, start)
    is_adapted = meta.get("config", {}).get("start", {}).get("low_rank", 0) > 0
    if start.optimizer == "kept" and (is_adapted or not _part(old, "optimizer")):
        raise InputError(
            f"{what}: step {step} holds no moments of its parameters; allowed: start.optimizer=fresh"
        )
    warm = WarmStart(
        what,
        meta["categories"] | {TITLE_ID: keys},
        manifest["categories"] | {TITLE_ID: dataset.arrays.title_key},
        {name: x.shape for name, x in names.items()},
        {TITLE_ID: (Layout.from_json(meta["layout"]).num_titles, task.layout.num_titles)},
    )
    features = TitleFeatures(task.layout, dataset.arrays.title_categories, dataset.arrays.title_numbers)
    fill = fill_new_rows(start.rows, start.noise, task.config.train.seed, features)
    mapped = warm.map_parameters(_part(old, "params"), start.take, fill)
    values = {f"params/{name}": value for name, value in mapped.values.items()}
    values |= _fixed_values(what, task, mapped, state)
    if start.optimizer == "kept":
        values |= _moments(warm, mapped, old, slashed_leaves(state))
    if task.config.optimizer.ema_decay:
        values |= _average(warm, mapped, _part(old, "average"))
    record = {
        "workdir": start.workdir, "checkpoint": start.which, "step": step, "dataset": meta["dataset"],
        "checksums": digest(folder / str(step)),
        "optimizer": start.optimizer, **mapped.record,
        "frozen": _frozen(start, state),
    }  # fmt: skip
    _log(what, record)
    return StartPoint(values, record)


def _fixed_values(
    what: str, task: Task, mapped: MappedParameters, state: TrainState
) -> dict[str, np.ndarray]:
    """Return the values of the state beside the parameters and the optimizer: what stays as it started."""
    start, kept, values = task.config.start, task.kept_parameters, dict[str, np.ndarray]()
    for name in mapped.record["initialised"]:
        if matches(name, kept.taken):
            raise InputError(
                f"{what}: lacks {name}, which the reference must have trained; allowed: a run with it"
            )
    if has_anchor(start):
        values |= {f"anchored/{name}": ~np.isnan(value) for name, value in mapped.taken.items()}
    if has_anchor(start) or kept.reference:
        values |= {f"reference/{name}": value for name, value in mapped.values.items()}
    if kept.refresh:
        values |= {f"old/{name}": value for name, value in mapped.values.items()}
    if is_low_rank(start):
        adapted = slashed_leaves(state.low_rank.base)
        values |= {f"low_rank/base/{name}": mapped.values[name] for name in adapted if name in mapped.values}
    if task.config.objective.distil:
        values |= _teacher(what, mapped)
    return values


def _frozen(start: Start, state: TrainState) -> list[str]:
    """Return the names of the parameters that no step changes, sorted."""
    if is_low_rank(start):
        return sorted(slashed_leaves(state.params).keys() - slashed_leaves(state.low_rank.base).keys())
    return sorted(name for name in slashed_leaves(state.params) if matches(name, start.freeze))


def _teacher(what: str, mapped: MappedParameters) -> dict[str, np.ndarray]:
    """Return the parameters of the teacher of `objective.distil`, by names of the state.

    Raises:
        InputError: A parameter of the run is not taken.
    """
    if missing := mapped.record["initialised"]:
        raise InputError(
            f"{what}: objective.distil needs all parameters of that run, but {missing[0]} is not taken; "
            "allowed: the same model, and start.take of all of it"
        )
    return {f"task_state/teacher/{name}": value for name, value in mapped.values.items()}


def _log(what: str, record: Mapping[str, Any]) -> None:
    counts = [
        f"{len(record[part])} {part}" for part in ("taken", "grown", "initialised", "frozen", "dropped")
    ]
    logging.info("%s, step %d: parameters: %s", what, record["step"], ", ".join(counts))
    for name, rows in record["grown"].items():
        if not rows["old_rows"]:
            logging.warning("%s: no key of %s is the same in both runs: all rows are new", what, name)


def _restore(checkpoints: Checkpointer, start: Start) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint by name: "params/..." and more where moments are kept.

    With a fresh optimizer the parameters are those for evaluation, the moving average where there is one.
    """
    if start.optimizer == "kept":
        return checkpoints.restore_on_host(start.which, "params", "optimizer", "average")
    average = _part(checkpoints.restore_on_host(start.which, "average"), "average")
    if average:
        return {f"params/{name}": value for name, value in average.items()}
    return checkpoints.restore_on_host(start.which, "params")


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with a prefix and a slash, without them."""
    return {name[len(prefix) + 1 :]: x for name, x in arrays.items() if name.startswith(f"{prefix}/")}


def _adam(names: Mapping[str, Any]) -> str:
    """Return the prefix of Adam's state, whose place in the chain depends on the weight decay."""
    prefixes = {match[1] for name in names if (match := re.match(r"(optimizer/\d+)/mu/", name))}
    (prefix,) = prefixes
    return prefix


def _moments(
    warm: WarmStart, mapped: MappedParameters, old: Mapping[str, np.ndarray], state: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return Adam's moments of the taken parameters, and the number of updates, by names of the state."""
    source, target = _adam(old), _adam(state)
    values = {f"{target}/count": old[f"{source}/count"]}
    for moment in ("mu", "nu"):
        moments = warm.map_moments(_part(old, f"{source}/{moment}"), mapped, 0.0)
        values |= {f"{target}/{moment}/{name}": value for name, value in moments.items()}
    return values


def _average(
    warm: WarmStart, mapped: MappedParameters, average: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return first values of the moving average: that of the checkpoint, else the parameters."""
    averages = warm.map_moments(average, mapped, np.nan) if average else {}
    return {
        f"average/{name}": np.where(np.isnan(averages[name]), value, averages[name])
        if name in averages
        else value
        for name, value in mapped.values.items()
    }
