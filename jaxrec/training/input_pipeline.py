"""What feeds the training loop of a process: its batches, how many a dispatch takes, what waiting costs."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from jaxrec.config.schema import Config
from jaxrec.data.loading.batches import TrainBatches
from jaxrec.data.storage.dataset import Rows
from jaxrec.runtime.device_batch import DeviceBatch
from jaxrec.tasks.base import Task

_SAMPLE_BLOCKS = 64  # of the dataset, from which the room for packed histories is worked out
# Steps per call where `train.steps_per_call` is 0. An H200 takes 3.9 ms for a step of Table 3 at 8192, its
# host 4.1 ms to dispatch one; several steps per call leave the host time to read batches.
_DEFAULT_STEPS = {"gpu": 8}


def steps_per_call(config: Config, most: int) -> int:
    """How many steps one dispatch takes: `most` where an epoch or the run has no more."""
    return min(config.train.steps_per_call or _DEFAULT_STEPS.get(jax.default_backend(), 1), most)


def training_batches(task: Task, rows: Rows) -> TrainBatches:
    """Return the training stream of this process, its histories packed where the task packs them."""
    train = task.config.train
    devices = jax.device_count()
    shares = devices * task.microbatches(train.batch_size // devices)
    processes = (jax.process_index(), jax.process_count())
    order = (rows, train.batch_size, train.seed, task.total_steps, *processes)
    ahead = train.prefetch * steps_per_call(task.config, max(rows.rows // train.batch_size, 1))
    packer = task.packer(rows.dtype)
    if packer is None:
        return TrainBatches(*order, None, shares, ahead=ahead)
    sample = rows.read(np.unique(np.linspace(0, rows.blocks - 1, _SAMPLE_BLOCKS).astype(int)))
    packer.fit(sample, train.batch_size, shares)
    return TrainBatches(*order, packer.lengths, shares, packer, ahead)


class StallTimer:
    """Lists of batches, one by one, and how much of the time went in waiting for them."""

    def __init__(self, batches: Iterator[list[DeviceBatch]]) -> None:
        self._batches, self._waited, self._since = batches, 0.0, time.monotonic()

    def __iter__(self) -> Iterator[DeviceBatch]:
        while True:
            began = time.monotonic()
            some = next(self._batches, None)
            self._waited += time.monotonic() - began
            if some is None:
                return
            yield from some

    def stall(self) -> float:
        """The share, in [0, 1], of the time since it was last asked."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return share
