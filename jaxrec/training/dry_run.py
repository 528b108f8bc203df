"""Dry run of a training: parameters, memory, FLOPs, steps and expected time, without a run."""

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.config.schema import Config
from jaxrec.config.serialization import to_json
from jaxrec.data.loading.batches import BatchGroups
from jaxrec.data.storage.dataset import Dataset
from jaxrec.runtime.device_batch import transfer_group
from jaxrec.runtime.mesh import replicate, state_shardings
from jaxrec.runtime.parallel_step import ParallelStep, parallelize_step
from jaxrec.tasks.base import Task
from jaxrec.tasks.generative.catalogue import with_codes
from jaxrec.tasks.loading import task_of_dataset
from jaxrec.training.inputs.batch_size import fit_batch_size
from jaxrec.training.inputs.input_pipeline import count_steps, steps_per_call, training_input
from jaxrec.training.train_state import StateInit, count_parameters
from jaxrec.training.train_step import TrainStep

_TIMED_CALLS = 5  # calls of the step that are timed, after one that is not


def dry_run(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Compile the training step of a config, time a few steps, and return the figures.

    The seconds count steps alone: reading rows is timed with them, validation and checkpoints are not.

    Args:
        config: Config of the run.
        dataset: Training rows.

    Returns:
        The result as JSON: `config`, `parameters` (name, shape, count and bytes of each), `parameter_count`,
        `parameter_bytes`, `state_bytes`, `step` (bytes of a call and FLOPs of a step on one device, None
        where the compiler reports none), `examples`, `steps_per_epoch`, `total_steps`, `seconds_per_step` and
        `seconds`.

    Raises:
        InputError: The batch does not fit the data or the devices.
    """
    rows = dataset.rows("train")
    config = fit_batch_size(config, rows.rows, jax.device_count())
    total, per_epoch = count_steps(config, rows)
    task = task_of_dataset(config, dataset, per_epoch, total)
    inputs, init = training_input(task, rows), StateInit(task)
    size, abstract = steps_per_call(config, min(per_epoch, total)), init.abstract()
    step = TrainStep(task)
    train_step = parallelize_step(step, step.mapping, abstract, inputs.rows)
    table = replicate(task.title_table(with_codes(dataset.arrays, config)))
    groups = BatchGroups(inputs.source, size)
    batch = transfer_group(groups[0], size)[0]
    compiled = train_step.lower(with_shardings(abstract, state_shardings(abstract)), batch, table)()
    microbatches = task.microbatches(config.train.batch_size // jax.device_count())
    loops = microbatches * batch.steps
    seconds, timed = _time_steps(train_step, init, groups, size, table)
    parameters = parameter_table(abstract.params)
    return {
        "config": to_json(config),
        "parameters": parameters,
        "parameter_count": count_parameters(abstract.params),
        "parameter_bytes": sum(p["bytes"] for p in parameters),
        "state_bytes": sum(p["bytes"] for p in parameter_table(abstract)),
        "step": _memory(compiled)
        | {
            "steps_per_call": batch.steps,
            "microbatches": microbatches,
            "flops": _flops_of(compiled) if loops == 1 else _flops(task, inputs.stored[0], table),
        },
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "examples": rows.rows,
        "batch_size": config.train.batch_size,
        "steps_per_epoch": per_epoch,
        "total_steps": total,
        "seconds_per_step": seconds,
        "timed_steps": timed,
        "seconds": seconds * total,
    }


def _time_steps(
    train_step: ParallelStep, init: StateInit, groups: BatchGroups, size: int, table: Any
) -> tuple[float, int]:
    """Return the seconds of a step, with the reading of its rows, and the number of steps timed.

    Args:
        train_step: The step, compiled for batches like those of `groups`.
        init: Initialiser of the state.
        groups: Training batches.
        size: Steps per call.
        table: Features of all titles.
    """
    state, calls = init.init_sharded(), min(_TIMED_CALLS + 1, len(groups))
    started, timed = time.perf_counter(), 0
    for i in range(calls):
        for group in transfer_group(groups[i], size):
            state, sums = train_step(state, group, table)
            timed += group.steps
        jax.block_until_ready(sums)
        if i == 0 and calls > 1:  # the first call loads the program and warms caches
            started, timed = time.perf_counter(), 0
    return (time.perf_counter() - started) / timed, timed


def parameter_table(params: Any) -> list[dict[str, Any]]:
    """Return name, shape, number of elements and bytes of each leaf of a tree of abstract arrays."""
    return [
        {
            "name": jax.tree_util.keystr(path, simple=True, separator="/"),
            "shape": list(leaf.shape),
            "count": int(np.prod(leaf.shape)),
            "bytes": int(np.prod(leaf.shape)) * leaf.dtype.itemsize,
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


def _memory(compiled: Any) -> dict[str, Any]:
    """Return bytes of a call's program on one device; None with pmap on several processes."""
    memory = compiled.memory_analysis() if compiled is not None else None
    return {
        "argument_bytes": memory and memory.argument_size_in_bytes,
        "temporary_bytes": memory and memory.temp_size_in_bytes,
    }


def _flops(task: Task, batch: Any, table: Any) -> float | None:
    """Return the FLOPs of one step on one device, or None where the compiler reports none.

    The compiler counts the body of a loop once. The step is therefore compiled a second time without a loop
    over microbatches. Loops inside a model or a loss still count once.
    """
    train = task.config.train
    whole = replace(train, microbatch_size=train.batch_size // jax.device_count())
    task = replace(task, config=replace(task.config, train=whole), steps_per_epoch=1, total_steps=1)
    abstract, step = StateInit(task).abstract(), TrainStep(task)
    lower = parallelize_step(step, step.mapping, abstract).lower
    compiled = lower(with_shardings(abstract, state_shardings(abstract)), batch, table)()
    return _flops_of(compiled)


def _flops_of(compiled: Any) -> float | None:
    """Return the FLOPs that the compiler counts; `compiled` is None with pmap on several processes."""
    cost = compiled.cost_analysis() if compiled is not None else None
    return cost and cost.get("flops")
