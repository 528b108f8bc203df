"""Training input pipeline: steps of a run, batches, steps per call, input-stall measurement."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from jaxrec.config.schema import Config
from jaxrec.config.validation import parse_length
from jaxrec.core.errors import InputError
from jaxrec.data.loading.batches import TrainBatches, TrainingSource
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import Shards
from jaxrec.data.loading.served_rows import training_rows
from jaxrec.data.storage.dataset import Rows
from jaxrec.runtime.device_batch import DeviceBatch
from jaxrec.runtime.multihost import is_first_process
from jaxrec.runtime.parallel_step import DeviceRows
from jaxrec.tasks.base import Task
from jaxrec.training.inputs.resident_rows import ResidentRows, keeps_rows_on_devices

_FEW_STEPS = 1000  # a run of fewer is logged
_SAMPLE_BLOCKS = 64  # dataset blocks that are read to size the rows of packed histories
# Steps per call if `train.steps_per_call` is 0. An H200 takes 3.9 ms for a step of Table 3 at batch 8192,
# and its host takes 4.1 ms to launch a call. With several steps per call the host has time to read batches.
_STEPS_PER_CALL = {"gpu": 8}


def steps_per_call(config: Config, most: int) -> int:
    """Return the number of steps per call of the compiled program, at least 1.

    Args:
        config: The run's config.
        most: Upper bound: the steps of an epoch or of the run.
    """
    return min(config.train.steps_per_call or _STEPS_PER_CALL.get(jax.default_backend(), 1), most)


def count_steps(config: Config, rows: Rows) -> tuple[int, int]:
    """Return the number of steps of the run (`train.duration`) and of an epoch.

    A run of few steps is logged as a warning.

    Raises:
        InputError: The warm-up is longer than the run.
    """
    number, unit = parse_length(config.train.duration)
    per_epoch = max(rows.rows // config.train.batch_size, 1)
    total = number * per_epoch if unit == "epochs" else number
    warmup = config.optimizer.warmup_steps
    if warmup > total:
        raise InputError(
            f"optimizer.warmup_steps={warmup} must be at most the {total} steps of train.duration="
            f"{config.train.duration!r}; the learning rate would never be reached"
        )
    if total < _FEW_STEPS and is_first_process():
        logging.warning(
            "the run takes %d updates; a model seldom learns much in fewer than %d: check train.duration=%r "
            "and train.batch_size=%d with %d training examples",
            total, _FEW_STEPS, config.train.duration, config.train.batch_size, rows.rows,
        )  # fmt: skip
    return total, per_epoch


class TrainingInput(NamedTuple):
    """Training batches of this process.

    Attributes:
        stored: Batches with the words of their rows, read from the dataset.
        source: The batches that are transferred for the steps: `stored`, or the same batches by row index.
        rows: Rows on the devices, for a `source` by row index.
    """

    stored: TrainBatches
    source: TrainingSource
    rows: DeviceRows | None = None


def training_input(task: Task, rows: Rows) -> TrainingInput:
    """Return the training batches of this process, with the rows on its devices if `train.resident` is so.

    All processes must call this function together.

    Raises:
        InputError: The rows must be on the devices and do not fit, or no row has a slate.
    """
    rows = training_rows(rows, task.layout, task.pool_mix)
    packer, stored = _stored_batches(task, rows)
    if not keeps_rows_on_devices(task.config, rows):
        return TrainingInput(stored, stored)
    resident = ResidentRows.load(rows, packer)
    source = resident.batches(stored.order, task.total_steps, packer)
    return TrainingInput(stored, source, resident.on_devices(packer))


def training_batches(task: Task, rows: Rows) -> TrainBatches:
    """Return the training batches of this process, with the words of their rows.

    Histories are packed if the task has a packer.
    """
    return _stored_batches(task, training_rows(rows, task.layout, task.pool_mix))[1]


def _stored_batches(task: Task, rows: Rows) -> tuple[Packer | None, TrainBatches]:
    """Return the fitted packer, if the task has one, and the batches of `training_batches`."""
    train = task.config.train
    devices = jax.device_count()
    microbatches = devices * task.microbatches(train.batch_size // devices)
    shards = Shards(microbatches, jax.process_index(), jax.process_count())
    order = (rows, train.batch_size, train.seed, task.total_steps, shards)
    ahead = train.prefetch * steps_per_call(task.config, max(rows.rows // train.batch_size, 1))
    packer = task.packer(rows.dtype)
    if packer is None:
        return None, TrainBatches(*order, ahead=ahead)
    sample = rows.read(np.unique(np.linspace(0, rows.blocks - 1, _SAMPLE_BLOCKS).astype(int)))
    packer.fit(sample, train.batch_size, microbatches, coarse=task.layout.has_gaps)
    return packer, TrainBatches(*order, packer.lengths, packer, ahead)


class StallTimer:
    """Iterator over the batches of groups that measures the wait for groups."""

    def __init__(self, batches: Iterator[list[DeviceBatch]]) -> None:
        self._batches, self._waited, self._since = batches, 0.0, time.monotonic()

    def __iter__(self) -> Iterator[DeviceBatch]:
        while True:
            began = time.monotonic()
            group = next(self._batches, None)
            self._waited += time.monotonic() - began
            if group is None:
                return
            yield from group

    def stall(self) -> float:
        """Return the fraction of waiting time since the previous call, in [0, 1].

        The first call counts from the construction.
        """
        now = time.monotonic()
        fraction = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return fraction
