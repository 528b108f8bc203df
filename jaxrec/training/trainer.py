"""Training loop: the order of step, log, validation and checkpoint.

    for each call: next batches, one step on each; at the end of an epoch log and validate; save if due

The step number is also the position in the data, because batch t is a function of (seed, t). A run that was
killed continues from its last checkpoint with the same results as a run without interruption. The best
checkpoint is evaluated on the test split outside this module, after training.
"""

import contextlib
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.config.heads import reward_versions
from jaxrec.config.schema import Config
from jaxrec.config.serialization import to_json
from jaxrec.core.errors import RunError
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.loading.batches import BatchGroups, stream
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.details.validator import Validator
from jaxrec.evaluation.gate_analysis import COLLAPSED
from jaxrec.reporting.metric_writer import Writer
from jaxrec.runtime.compilation_cache import free_programs, submit
from jaxrec.runtime.device_batch import transfer_group
from jaxrec.runtime.host_memory import gc_paused
from jaxrec.runtime.locks import exclusive
from jaxrec.runtime.mesh import as_global_arrays, replicate, state_shardings
from jaxrec.runtime.multihost import ProgressFile, SyncSchedule, all_reduce_max, is_first_process
from jaxrec.runtime.parallel_step import parallelize_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.generative.catalogue import codes_fingerprint, with_codes
from jaxrec.tasks.loading import CHECKPOINTS, START_JSON, check_same_run, read_meta, task_of_dataset
from jaxrec.tasks.outputs import Sums, mean_metrics
from jaxrec.training.inputs.batch_size import fit_batch_size
from jaxrec.training.inputs.input_pipeline import StallTimer, count_steps, steps_per_call, training_input
from jaxrec.training.nonfinite import nonfinite_metrics, stop_nonfinite
from jaxrec.training.starting import read_start, starts_here
from jaxrec.training.train_state import StateInit, TrainState, count_parameters
from jaxrec.training.train_step import TrainStep

LOCK = ".lock"  # in a workdir
# Reasons to save after a step, in increasing priority; after _SIGINT and _SIGTERM the run also stops.
_NO_SAVE, _SAVE_DUE, _SIGINT, _SIGTERM = range(4)
_SIGNAL_REASONS = {None: _NO_SAVE, "SIGINT": _SIGINT, "SIGTERM": _SIGTERM}


def train(
    config: Config, dataset: Dataset, workdir: str | AnyPath, interrupt: PreemptionHandler, *,
    extend: bool = False,
) -> int:  # fmt: skip
    """Train for `train.duration`, from the last checkpoint in `workdir` if it exists.

    Training stops early, after a save, once `interrupt.requested` is set.

    Args:
        config: The run's config; the batch size must be a multiple of the number of devices.
        dataset: The training and validation rows.
        workdir: Directory of checkpoints and metrics.
        interrupt: Handler of SIGINT and SIGTERM.
        extend: True: the duration may be longer than that of the run in `workdir`.

    Returns:
        The last step.

    Raises:
        InputError: `workdir` holds a run with another config or dataset, another process trains in it, or
            the checkpoint of `config.start` does not fit.
        RunError: A loss or a gradient is not finite.
    """
    workdir = as_path(workdir)
    free_programs()  # of earlier trainings of the process
    with gc_paused():  # before the lock: a config that does not fit the data leaves no folder
        run = _Run(config, dataset, workdir, interrupt, extend)
    alone = exclusive(workdir / LOCK, f"workdir {workdir}", wait=False)
    with alone if is_first_process() else contextlib.nullcontext():
        return run.run()


def is_stopped(interrupt: PreemptionHandler) -> bool:
    """Return True if any process has received a signal to stop.

    All processes must call this function together. The handlers of all processes are notified of the signal.
    """
    (reason,) = all_reduce_max(_SIGNAL_REASONS[interrupt.requested])
    _notify(interrupt, int(reason))
    return interrupt.requested is not None


def _notify(interrupt: PreemptionHandler, reason: int) -> None:
    if reason >= _SIGINT:
        interrupt.notify("SIGTERM" if reason == _SIGTERM else "SIGINT")


class _Run:
    """Training run in a workdir."""

    def __init__(
        self, config: Config, dataset: Dataset, workdir: AnyPath, interrupt: PreemptionHandler,
        extend: bool = False,
    ) -> None:  # fmt: skip
        rows = dataset.rows("train")
        config = fit_batch_size(config, rows.rows, jax.device_count())
        self.config, self.workdir, self.interrupt, self.extend = config, workdir, interrupt, extend
        self.last_save = time.monotonic()
        self.save_stall = 0.0  # seconds that saves delayed the steps since the last line of metrics
        self.total, per_epoch = count_steps(config, rows)
        self.task = task_of_dataset(config, dataset, per_epoch, self.total)
        self.input = training_input(self.task, rows)
        self.batches = self.input.stored
        self.steps_per_call = steps_per_call(config, min(self.batches.steps_per_epoch, self.total))
        arrays = with_codes(dataset.arrays, config)
        self.arrays, self.table = arrays.stored(), replicate(self.task.title_table(arrays))
        self.init = StateInit(self.task)
        abstract = self.init.abstract()
        self.abstract_state = with_shardings(abstract, state_shardings(abstract))
        self._read_start = partial(read_start, self.task, dataset, abstract)
        self.start = self._read_start() if starts_here(config, workdir) else None
        step = TrainStep(self.task)
        self.train_step = parallelize_step(step, step.mapping, abstract, self.input.rows)
        self.validator = Validator(self.task, self.table, dataset.rows("validation"))
        self.meta = {
            "config": to_json(config),
            "layout": dataset.layout.to_json(),
            "categories": dataset.manifest["categories"],
            "threshold": self.task.threshold,
            "steps_per_epoch": per_epoch,
            "total_steps": self.total,
            "dataset": dataset.fingerprint,
            "dataset_directory": str(dataset.directory),
        }
        shares, strata, codes = self.task.label_shares, self.task.strata, codes_fingerprint(arrays)
        optional = {"label_shares": dict(shares), "strata": list(strata), "codes": codes}
        self.meta |= {name: x for name, x in optional.items() if x}

    def run(self) -> int:
        """Train, with checkpoints and metrics, and return the last step."""
        with Checkpointer(self.workdir / CHECKPOINTS, self.validator.metric, writing=True) as checkpoints:
            with ThreadPoolExecutor(2) as executor:
                with gc_paused():
                    state, start, tail = self._init_or_restore(checkpoints, executor)
                if is_first_process():
                    write_json(self.workdir / "config.json", self.meta["config"])
                    if self.start:
                        write_json(self.workdir / START_JSON, self.start.record)
                log_seconds, versions = self.config.train.log_seconds, reward_versions(self.config)
                with Writer(self.workdir, start, self.total, log_seconds, versions) as writer:
                    step = self._train(state, start, checkpoints, writer)
                tail.result()
            checkpoints.wait()
        return step

    def _init_or_restore(
        self, checkpoints: Checkpointer, executor: Executor
    ) -> tuple[TrainState, int, Future[None]]:
        """Return the initial or restored state, its step, and `_compile_tail`'s future."""
        step = checkpoints.latest_step()
        if step is None:
            if self.config.start.workdir and not self.start:  # its own checkpoints are incomplete
                self.start = self._read_start()
            state, tail = self._init_and_compile(executor)
            return state, 0, tail
        saved_meta = read_meta(checkpoints, "last")
        check_same_run(saved_meta, self.meta, self.workdir, self.extend)
        extended = list(saved_meta.get("extended", []))
        if saved_meta["total_steps"] != self.total:
            extended.append([step, saved_meta["total_steps"], self.total])
        self.meta |= {"extended": extended} if extended else {}  # a run that was stopped ends as any other
        return checkpoints.restore("last", self.abstract_state), step, submit(executor, self._compile_tail)

    def _init_and_compile(self, executor: Executor) -> tuple[TrainState, Future[None]]:
        """Return the initial state and the future of `_compile_tail`.

        The state is computed while the step is compiled, because a large part of the compilation uses only
        one core.
        """
        batch = transfer_group(BatchGroups(self.input.source, self.steps_per_call)[0], self.steps_per_call)[0]
        state = submit(executor, self._init_state)
        compile_step = self.train_step.lower(self.abstract_state, batch, self.table)
        tail = submit(executor, self._compile_tail)  # after `lower`: two threads trace no faster than one
        compile_step()
        return state.result(), tail

    def _init_state(self) -> TrainState:
        """Return the initial state, with values from the run that this one starts from."""
        state = self.init.init_sharded()
        return self.start.apply(state) if self.start else state

    def _compile_tail(self) -> None:
        """Compile the step for a single batch, if an epoch has a tail shorter than a call.

        The batches of the tail go one by one through a program of their own, so this compilation runs in the
        background and the steps of the tail do not wait for it.
        """
        per_epoch, size = self.batches.steps_per_epoch, self.steps_per_call
        if size > 1 and (per_epoch % size or self.total % per_epoch % size):
            self.train_step.lower(self.abstract_state, self.input.source[0], self.table)()

    def _train(self, state: TrainState, start: int, checkpoints: Checkpointer, writer: Writer) -> int:
        """Run the steps after `start` and return the last step."""
        add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
        running_sums = None
        previous_sums: Any = None
        writer.start(count_parameters(state.params), self.config.train.batch_size)
        if start and self._is_validated(start) and not state.fresh:  # stopped before the validation
            state, validated = self._validate(state, start, writer)
            self._save(checkpoints, start, state, validated, writer)
        if start and self._ran_out_of_patience(checkpoints, start):
            return start
        self.last_save = time.monotonic()
        step, previous = start, start
        groups = BatchGroups(self.input.source, self.steps_per_call, start)
        transfer = partial(transfer_group, most=self.steps_per_call)
        batches = StallTimer(stream(groups, prefetch=self.config.train.prefetch, then=transfer))
        write_progress, sync = ProgressFile(), SyncSchedule(start, self._reaction_seconds())
        for batch in batches:
            state, sums = self.train_step(state, batch, self.table)
            before, step = step, step + batch.steps
            # Keep at most two calls in flight, to bound memory and shutdown latency.
            jax.block_until_ready(previous_sums)
            self._check_finite(previous_sums, previous, before, checkpoints)
            previous_sums, previous = sums, before
            write_progress(before)
            # The running sums end before this call, so reading them does not wait for this call.
            if running_sums is not None and writer.due(before):
                self._log(before, running_sums, batches, writer)
                running_sums = None
            running_sums = sums if running_sums is None else add(running_sums, sums)
            reason = self._save_reason(sync, step, sums)
            scores: dict[str, Any] | None = None
            if self._is_validated(step) or reason > _NO_SAVE:
                self._check_finite(sums, before, step, checkpoints)
                self._log(step, running_sums, batches, writer)  # a resumed run begins its means here
                running_sums = None
            if self._is_validated(step) and reason < _SIGINT:
                state, scores = self._validate(state, step, writer)
                batches.stall()  # resets the timer: validation is not training time
            if scores is not None or reason > _NO_SAVE:
                jax.block_until_ready(sums)  # excludes the remaining time of the steps from the save stall
                self._save(checkpoints, step, state, scores, writer)
            if reason >= _SIGINT or (scores is not None and self._ran_out_of_patience(checkpoints, step)):
                return step
        return self.total

    def _ran_out_of_patience(self, checkpoints: Checkpointer, step: int) -> bool:
        """Return True if no validation of the last `train.patience` epochs was the best.

        All processes get the answer of the first, which always has the list of checkpoints.
        """
        best, patience = checkpoints.best_step(), self.config.train.patience
        waited = 0 if best is None else (step - best) // self.batches.steps_per_epoch
        (ended,) = all_reduce_max(0 < patience <= waited if is_first_process() else False)
        if ended and step < self.total:
            logging.info("step %d: no better %s in %d epochs", step, self.validator.metric, waited)
        return bool(ended)

    def _check_finite(self, sums: Sums | None, before: int, step: int, checkpoints: Checkpointer) -> None:
        """Raise RunError if the call after step `before`, up to `step`, has a value that is not finite.

        The sums are equal on all processes, which therefore stop together.
        """
        if sums is None or self.config.train.on_nonfinite == "skip":
            return
        if names := nonfinite_metrics(sums):
            checkpoints.wait()
            newest = checkpoints.latest_step()
            stop_nonfinite(names, before + 1, step, self.batches, self.workdir, newest)

    def _is_validated(self, step: int) -> bool:
        """Return True after the last step of an epoch or of the run."""
        return step % self.batches.steps_per_epoch == 0 or step == self.total

    def _reaction_seconds(self) -> float:
        """Return the interval in which processes must agree on a save, in seconds."""
        return min(self.config.train.grace_seconds, self.config.train.checkpoint_every_seconds)

    def _log(self, step: int, sums: Any, batches: StallTimer, writer: Writer) -> None:
        values = mean_metrics(sums) | {"input_stall": batches.stall(), "save_stall": self.save_stall}
        writer.train(step, step / self.batches.steps_per_epoch, values)
        self.save_stall = 0.0

    def _save(
        self, checkpoints: Checkpointer, step: int, state: TrainState, scores: Any, writer: Writer
    ) -> None:
        began = time.monotonic()
        writer.flush()  # in a bucket, a checkpoint must not be ahead of the lines of metrics
        checkpoints.save(step, as_global_arrays(state), self.meta, self.arrays, scores)
        self.last_save = time.monotonic()
        self.save_stall += self.last_save - began

    def _save_reason(self, sync: SyncSchedule, step: int, sums: Any) -> int:
        """Return the reason to save after `step`; identical on all processes.

        Several processes exchange their reasons at the steps of `sync` and before each validation, which may
        take long.

        Args:
            sync: Schedule of the exchanges.
            step: The last step.
            sums: Metric sums of the last call, which may still be in flight.
        """
        requested = self.interrupt.requested
        is_due = time.monotonic() - self.last_save > self.config.train.checkpoint_every_seconds
        reason = _SIGNAL_REASONS[requested] or (_SAVE_DUE if is_due else _NO_SAVE)
        if not sync.due(step) and not self._is_validated(step):
            return _NO_SAVE
        if jax.process_count() > 1:
            jax.block_until_ready(
                sums
            )  # the exchange waits anyway; `sync` then measures the time of the steps
            reason = int(sync(step, reason))
            _notify(self.interrupt, reason)
        return reason

    def _validate(self, state: TrainState, step: int, writer: Writer) -> tuple[TrainState, dict[str, Any]]:
        """Evaluate the validation users.

        Returns:
            The state with the validation loss for the plateau schedule, and the metrics of the monitored
            candidate list.
        """
        values, lists = self.validator(state.eval_params)
        if not np.isfinite(values["loss"]):
            raise RunError(f"step {step}: the validation loss is {values['loss']}; no checkpoint is written")
        if values.get("gate_information", COLLAPSED) < COLLAPSED:
            information = values["gate_information"]
            logging.warning(
                "step %d: the gate has collapsed: its mutual information with users is %.4f nats",
                step,
                information,
            )
        writer.validation(step, step / self.batches.steps_per_epoch, values, lists, self.validator.metric)
        replicated = replicate((jnp.float32(values["loss"]), jnp.bool_(True)))
        return (
            state._replace(validation=replicated[0], fresh=replicated[1]),
            dict(lists[self.validator.watched]),
        )
