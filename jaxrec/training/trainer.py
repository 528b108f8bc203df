"""The order of step, evaluation, checkpoint and log: the only place with one.

    for each dispatch: next batches, a step on each; at an epoch's end validate; save; log
    at the end: judge the best checkpoint on the test lists

Position in the data is the step, for batch t is a function of (seed, t), so a run that was killed
goes on from its last checkpoint as if it never had been.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxrec.checkpoints.checkpointer import Checkpointer, with_shardings
from jaxrec.config.schema import Config
from jaxrec.config.serialization import run_differences, to_json
from jaxrec.config.validation import parse_length
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.loading.batches import BatchGroups, stream
from jaxrec.data.storage.dataset import Dataset, Rows
from jaxrec.evaluation.evaluator import CHECKPOINTS, Validator
from jaxrec.evaluation.gate_analysis import COLLAPSED
from jaxrec.reporting.metric_writer import Writer
from jaxrec.runtime.device_batch import transfer_group
from jaxrec.runtime.host_memory import gc_paused
from jaxrec.runtime.mesh import as_global_arrays, replicate, state_shardings
from jaxrec.runtime.multihost import ProgressFile, SyncSchedule, all_reduce_max, is_first_process
from jaxrec.runtime.parallel_step import parallelize_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks import build
from jaxrec.tasks.metric_sums import mean_metrics
from jaxrec.training.input_pipeline import StallTimer, steps_per_call, training_batches
from jaxrec.training.train_state import StateInit, TrainState, count_parameters
from jaxrec.training.train_step import TrainStep

_NOTHING, _LATE, _SIGINT, _SIGTERM = range(4)  # why to save, and from the third on to stop
_WHY = {None: _NOTHING, "SIGINT": _SIGINT, "SIGTERM": _SIGTERM}


def train(config: Config, dataset: Dataset, workdir: str | AnyPath, interrupt: PreemptionHandler) -> int:
    """Trains to `train.duration`, resuming where `workdir` holds a checkpoint; returns the step reached.

    Returns early, after saving, once `interrupt.requested`. Raises InputError where the workdir holds
    another config's run. The batch divides by the devices.
    """
    with gc_paused():
        run = _Run(config, dataset, as_path(workdir), interrupt)
    return run.run()


def is_stopped(interrupt: PreemptionHandler) -> bool:
    """Whether a process was told to stop by now, which all know from here on; every one of them must ask."""
    (why,) = all_reduce_max(_WHY[interrupt.requested])
    _notify(interrupt, int(why))
    return interrupt.requested is not None


def _notify(interrupt: PreemptionHandler, why: int) -> None:
    if why >= _SIGINT:
        interrupt.notify("SIGTERM" if why == _SIGTERM else "SIGINT")


class _Run:
    def __init__(
        self, config: Config, dataset: Dataset, workdir: AnyPath, interrupt: PreemptionHandler
    ) -> None:
        self.config, self.workdir, self.interrupt = config, workdir, interrupt
        self.saved = time.monotonic()
        self.save_stall = 0.0  # seconds in which saves held up the steps since the last line of metrics
        rows, threshold = dataset.rows("train"), dataset.manifest["completion_threshold"]
        self.total, per_epoch = _length(config, rows)
        self.task = build.build_task(config, dataset.layout, threshold or 0.0, per_epoch, self.total)
        self.batches = training_batches(self.task, rows)
        self.size = steps_per_call(config, min(self.batches.steps_per_epoch, self.total))
        self.arrays = vars(dataset.arrays)
        self.table = replicate(dataset.arrays.title_table())
        self.init = StateInit(self.task)
        abstract = self.init.abstract()
        self.like = with_shardings(abstract, state_shardings(abstract))
        step = TrainStep(self.task)
        self.train_step = parallelize_step(step, step.mapping, abstract)
        self.validator = Validator(self.task, self.table, dataset.rows("validation"))
        self.meta = {
            "config": to_json(config),
            "layout": dataset.layout.to_json(),
            "categories": dataset.manifest["categories"],
            "threshold": threshold or 0.0,
            "steps_per_epoch": per_epoch,
            "total_steps": self.total,
            "dataset": dataset.fingerprint,
            "dataset_directory": str(dataset.directory),
        }

    def run(self) -> int:
        with Checkpointer(self.workdir / CHECKPOINTS, self.validator.metric, writing=True) as checkpoints:
            with ThreadPoolExecutor(2) as beside:
                with gc_paused():
                    state, start, tail = self._first_state(checkpoints, beside)
                if is_first_process():
                    write_json(self.workdir / "config.json", self.meta["config"])
                with Writer(self.workdir, start, self.total, self.config.train.log_seconds) as writer:
                    step = self._steps(state, start, checkpoints, writer)
                tail.result()
            checkpoints.wait()
        return step

    def _first_state(
        self, checkpoints: Checkpointer, beside: Executor
    ) -> tuple[TrainState, int, Future[None]]:
        """The state to start from, its step, and what readies the last steps of an epoch."""
        step = checkpoints.latest_step()
        if step is None:
            state, tail = self._made(beside)
            return state, 0, tail
        kept = checkpoints.restore_meta("last")
        _same_run(kept, self.meta, self.workdir)
        return checkpoints.restore("last", self.like), step, _submitted(beside, self._ready_tail)

    def _made(self, beside: Executor) -> tuple[TrainState, Future[None]]:
        """The first state, made while the step is compiled, which takes one core for a good part."""
        batch = transfer_group(BatchGroups(self.batches, self.size)[0], self.size)[0]
        made = _submitted(beside, self.init.init_sharded)
        compiled = self.train_step.lower(self.like, batch, self.table)
        tail = _submitted(beside, self._ready_tail)  # not before: two threads trace no faster than one
        compiled()
        return made.result(), tail

    def _ready_tail(self) -> None:
        """Readies the step for a batch by itself, which is how the last ones of an epoch go where they are
        fewer than a dispatch takes: a program of its own, that steps would else have to wait for."""
        per_epoch, size = self.batches.steps_per_epoch, self.size
        if size > 1 and (per_epoch % size or self.total % per_epoch % size):
            self.train_step.lower(self.like, self.batches[0], self.table)()

    def _steps(self, state: TrainState, start: int, checkpoints: Checkpointer, writer: Writer) -> int:
        add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
        running = None
        under_way: Any = None
        writer.start(count_parameters(state.params), self.config.train.batch_size)
        if start and self._ends(start) and not state.fresh:  # stopped before it could be validated
            state, validated = self._validate(state, start, writer)
            self._save(checkpoints, start, state, validated, writer)
        self.saved = time.monotonic()
        step, dispatches = start, BatchGroups(self.batches, self.size, start)
        put = partial(transfer_group, most=self.size)
        batches = StallTimer(stream(dispatches, prefetch=self.config.train.prefetch, then=put))
        reached, asking = ProgressFile(), SyncSchedule(start, self._patience())
        for batch in batches:
            state, sums = self.train_step(state, batch, self.table)
            before, step = step, step + batch.steps
            # Two dispatches are under way at most: they hold batches, and a stop has to wait for them.
            jax.block_until_ready(under_way)
            under_way = sums
            reached(before)
            # The sums so far end with the steps before these, so reading them does not wait for these.
            if running is not None and writer.due(before):
                self._log(before, running, batches, writer)
                running = None
            running = sums if running is None else add(running, sums)
            why = self._why(asking, step, sums)
            scores: dict[str, Any] | None = None
            if self._ends(step):
                self._log(step, running, batches, writer)
                running = None
                if why < _SIGINT:
                    state, scores = self._validate(state, step, writer)
                    batches.stall()  # validation is not training time
            if scores is not None or why > _NOTHING:
                jax.block_until_ready(sums)  # a save would wait for them, which is no stall of its own
                self._save(checkpoints, step, state, scores, writer)
            if why >= _SIGINT:
                return step
        return self.total

    def _ends(self, step: int) -> bool:
        """Whether a step is the last of an epoch or of all, and so validated."""
        return step % self.batches.steps_per_epoch == 0 or step == self.total

    def _patience(self) -> float:
        """Seconds in which processes must have asked one another several times whether to save."""
        return min(self.config.train.grace_seconds, self.config.train.checkpoint_every_seconds)

    def _log(self, step: int, running: Any, batches: StallTimer, writer: Writer) -> None:
        values = mean_metrics(running) | {"input_stall": batches.stall(), "save_stall": self.save_stall}
        writer.train(step, step / self.batches.steps_per_epoch, values)
        self.save_stall = 0.0

    def _save(
        self, checkpoints: Checkpointer, step: int, state: TrainState, scores: Any, writer: Writer
    ) -> None:
        began = time.monotonic()
        writer.flush()  # to a bucket, where a checkpoint stands with all lines up to it
        checkpoints.save(step, as_global_arrays(state), self.meta, self.arrays, scores)
        self.saved = time.monotonic()
        self.save_stall += self.saved - began

    def _why(self, asking: SyncSchedule, step: int, sums: Any) -> int:
        """Why to save after `step`, whose `sums` are under way, the same on every process; several ask one
        another now and then, and before each validation, which may take long."""
        requested = self.interrupt.requested
        late = time.monotonic() - self.saved > self.config.train.checkpoint_every_seconds
        why = _WHY[requested] or (_LATE if late else _NOTHING)
        if not asking.due(step) and not self._ends(step):
            return _NOTHING
        if jax.process_count() > 1:
            jax.block_until_ready(sums)  # asking waits for them in any case, and so knows a step's time
            why = int(asking(step, why))
            _notify(self.interrupt, why)
        return why

    def _validate(self, state: TrainState, step: int, writer: Writer) -> tuple[TrainState, dict[str, Any]]:
        """The lists and the loss of the validation users; the loss is handed to the plateau."""
        values, lists = self.validator(state.eval_params)
        if values.get("gate_information", COLLAPSED) < COLLAPSED:
            told = values["gate_information"]
            logging.warning("step %d: the gate has collapsed: it tells users apart by %.4f nats", step, told)
        writer.validation(step, step / self.batches.steps_per_epoch, values, lists, self.validator.metric)
        given = replicate((jnp.float32(values["loss"]), jnp.bool_(True)))
        return state._replace(validation=given[0], fresh=given[1]), dict(lists[self.validator.watched])


def _submitted(beside: Executor, call: Callable[[], Any]) -> Future:
    """`call` in another thread, in the precision of this one, whose alone a test's may be."""
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def called() -> Any:
        with jax.enable_x64(wide):
            return call()

    return beside.submit(called)


def _length(config: Config, rows: Rows) -> tuple[int, int]:
    """The steps of `train.duration`, and those of an epoch."""
    number, unit = parse_length(config.train.duration)
    per_epoch = max(rows.rows // config.train.batch_size, 1)
    total = number * per_epoch if unit == "epochs" else number
    return total, per_epoch


def _same_run(kept: dict[str, Any], now: dict[str, Any], workdir: AnyPath) -> None:
    """Raises InputError at the first setting in which a kept run differs from this one."""
    if kept["dataset"] != now["dataset"]:
        raise InputError(
            f"workdir {workdir}: holds a run on dataset {kept['dataset']}, this is {now['dataset']}; "
            "allowed: the same dataset, or another --workdir"
        )
    for key, (before, after) in run_differences(kept["config"], now["config"]).items():
        raise InputError(
            f"workdir {workdir}: holds a run with {key}={before!r}, this config has {after!r}; "
            "allowed: the same config, or another --workdir"
        )
