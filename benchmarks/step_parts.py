"""Batches, rivals and costs (operations, memory, first step) of `benchmarks.step`."""

import copy
import functools
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.config.validation import mix_counts
from jaxrec.core.batch import Batch, HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Dataset, Rows, SelectedRows

OURS, EAGER, COMPILED = "jaxrec", "torch eager", "torch.compile"
_BATCHES = 4  # different batches, which the peers use in turn
_STEPS = 1_000_000
_FIRST_LIMIT = 300.0  # largest allowed time to the first step, in seconds


# ---------------------------------------------------------------- inputs


def training_rows(dataset: Dataset, config: Config, kind: str) -> Rows:
    """Return the training rows, or those with full histories.

    Args:
        dataset: Dataset.
        config: Config with the experts' windows and the batch size.
        kind: "service": the training rows. "full": the rows that show as many titles as the longest window
            holds, repeated to fill at least `_BATCHES` batches.

    Raises:
        InputError: No row has a full history.
    """
    if kind == "service":
        return dataset.rows("train")
    window = max(e.max_len for e in config.model.experts)
    rows = dataset.rows("train").all()
    rows = rows[shown(rows, config) >= window]
    if not len(rows):
        raise InputError(f"--rows={kind}: no row shows {window} titles; --users must be larger")
    return SelectedRows(np.resize(rows, max(len(rows), _BATCHES * config.train.batch_size)))


def shown(rows: np.ndarray, config: Config) -> np.ndarray:
    """Return the number of titles that each row's history shows, [N]."""
    abandoned = config.sampling.history_keeps_abandoned
    return ((rows["history_title"] != 0) & (abandoned | (rows["history_abandoned"] == 0))).sum(1)


def program_of(config: Config, dataset: Dataset, size: int) -> Any:
    """Return the config's task for batches of `size` and a run that does not end."""
    from jaxrec.tasks.loading import build_task

    config = copy.deepcopy(config)
    config.train.batch_size = size
    steps = dataset.manifest["splits"]["train"]["examples"] // size
    threshold = dataset.manifest["completion_threshold"] or 0.0
    return build_task(config, dataset.layout, threshold, steps, _STEPS)


def decoded(program: Any, host: HostBatch, packed: bool = False) -> Batch:
    """Return the batch as decoded in our step, as arrays on the host.

    Args:
        program: Task.
        host: Batch as streamed.
        packed: True for histories packed as in training; False for one history per row.
    """
    import jax

    from jaxrec.models.layers import rng
    from jaxrec.tasks import ranking_inputs

    s = program.config.sampling
    counts = mix_counts(s.mix, s.negatives)

    @jax.jit
    def decode(host: HostBatch) -> Batch:
        key = rng.row_keys(0, 0, jax.numpy.arange(len(host.valid)))
        return ranking_inputs.training(
            host.words, host.valid, program.view, counts, s.next_k, jax.numpy.int32(0), key, host.packing
        )

    return jax.device_get(decode(host if packed else host._replace(packing=None)))


def host_batch(program: Any, rows: Rows, t: int = 0) -> HostBatch:
    """Return batch t as the input pipeline streams it."""
    from jaxrec.training.inputs.input_pipeline import training_batches

    return training_batches(program, rows)[t]


def peer_batches(program: Any, rows: Rows) -> list[Batch]:
    """Return the pipeline's first batches, decoded, for the peers to use in turn."""
    return [decoded(program, host_batch(program, rows, t)) for t in range(_BATCHES)]


# ---------------------------------------------------------------- rivals


Run = Callable[[int], None]  # performs that number of steps and returns when they are done


def ours(program: Any, table: TitleTable, rows: Rows) -> tuple[Run, int]:
    """Return our training step with its input pipeline, and the steps per call.

    Batches are read, packed and transferred during the run, or by row index where `train.resident` keeps the
    rows on the device. The last batches of an epoch, where they are
    fewer than the steps per call, are read and skipped.

    Returns:
        Function that runs a number of steps, and the steps per call. The function raises ValueError where
        the number of steps is not a multiple of the steps per call.
    """
    import jax

    from jaxrec.data.loading.batches import BatchGroups, stream
    from jaxrec.runtime.device_batch import transfer_group
    from jaxrec.runtime.mesh import replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.inputs.input_pipeline import steps_per_call, training_input
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    inputs = training_input(program, rows)
    step, device_table = parallelize_step(TrainStep(program), rows=inputs.rows), replicate(table)
    state, batches = replicate(StateInit(program).init()), inputs.source
    size = steps_per_call(program.config, batches.steps_per_epoch)
    transfer = functools.partial(transfer_group, most=size)
    lists = stream(BatchGroups(batches, size), 0, program.config.train.prefetch, transfer)
    device_batches = (batch for group in lists for batch in group if batch.steps == size)

    def run(steps: int) -> None:
        nonlocal state
        if steps % size:
            raise ValueError(f"{steps} steps are not a multiple of the {size} steps per call")
        for batch in itertools.islice(device_batches, steps // size):
            state, sums = step(state, batch, device_table)
        jax.block_until_ready((state, sums))

    return run, size


def peer(program: Any, table: TitleTable, batches: Sequence[Batch], compiled: bool) -> Run:
    """Return PyTorch's training step on decoded batches, on a GPU if there is one."""
    import torch

    from benchmarks.peers.torch_smoe import Smoe, Trainer, examples, to_device

    config, device = program.config, "cuda" if torch.cuda.is_available() else "cpu"
    model = Smoe(config, program.layout, table).to(device)
    trainer = Trainer(model, config, program.threshold, compiled)
    tau = torch.tensor(config.model.gate.start_temperature, device=device)
    device_batches = itertools.cycle([to_device(examples(batch), device) for batch in batches])

    def run(steps: int) -> None:
        for batch in itertools.islice(device_batches, steps):
            loss = trainer.step(batch, tau)
        loss.item()  # waits for all steps

    return run


def why_not(name: str) -> str:
    """Return the reason why a peer cannot run here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if name == COMPILED and not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        return "torch.compile needs a C++ compiler; g++ is missing"
    return ""


# ---------------------------------------------------------------- cost of a step


class Work(NamedTuple):
    """Operations of a step's matrix products: forward, and twice that backward."""

    plain: float  # as in the equations: all positions and candidates are multiplied by all kernels
    factored: float  # as in jaxrec: what depends on a title alone is computed once per title


def work(config: Config, layout: Layout, batch: int) -> Work:
    """Return the operations of a step, counted from shapes, padding included."""
    m, s = config.model, config.sampling
    width = {w: sum(f.width for f in layout.of(w)) for w in ("title", "user", "context", "interaction")}
    D, L, B, V = m.width, max(e.max_len for e in m.experts), batch, layout.num_titles
    K, C = s.next_k, s.next_k + s.negatives
    user, X = D + width["user"] + width["context"], m.head_hidden[-1] * m.matcher_product
    common = 0.0
    for e in m.experts:
        rows = B * e.max_len
        common += (
            e.num_layers * rows * (4 * D * D + 2 * D * round(e.mlp_ratio * D) + 2 * e.max_len * D)
            + 2 * rows * D
        )
    if len(m.experts) > 1:
        sizes = (width["user"] + len(m.experts) * D, *m.gate.hidden, len(m.experts))
        common += B * sum(a * b for a, b in itertools.pairwise(sizes))
    common += B * user * X
    first, later = m.head_hidden[0], sum(a * b for a, b in itertools.pairwise((*m.head_hidden, 1)))
    title_rows, user_rows, o = L * width["title"] * D, L * width["context"] * D, config.objective
    title_once, user_once = min(V, B * L) * width["title"] * D, width["context"] * D
    common += B * L * width["interaction"] * D
    title_rows += C * width["title"] * X
    title_once += min(V, B * C) * width["title"] * X
    for weight, scored in ((o.ctr, C), (o.ranking, C), (o.regression, K)):
        if weight:
            common += B * scored * (X * first + later)
            title_rows, user_rows = (
                title_rows + scored * width["title"] * first,
                user_rows + scored * user * first,
            )
            title_once, user_once = (
                title_once + min(V, B * scored) * width["title"] * first,
                user_once + user * first,
            )
    if m.cross:  # counted as the equations have it, in both
        H, wide = m.head_hidden[-1], user + width["title"] + X
        common += B * C * (wide * (m.cross * wide + H) + 2 * H * H)
    return Work(6.0 * (common + B * (title_rows + user_rows)), 6.0 * (common + title_once + B * user_once))


def counted_by_xla(program: Any, table: TitleTable, rows: Rows) -> float:
    """Return the operations of all kinds in our step, as XLA counts before optimising.

    XLA counts the body of a loop once, so the batch is one microbatch here: the work is the same. The
    counted program is the CPU's. Other backends do not count before optimising, and no backend counts the
    operations inside our own kernels.
    """
    import jax

    from jaxrec.runtime.mesh import AXIS
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    config = copy.deepcopy(program.config)
    config.train.microbatch_size = config.train.batch_size
    program = replace(program, config=config)
    step = jax.vmap(TrainStep(program), in_axes=(None, 0, None), out_axes=(None, None), axis_name=AXIS)
    device_batch = jax.tree.map(lambda x: x[None], host_batch(program, rows))
    cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
    with cpu, unittest.mock.patch.object(jax, "default_backend", lambda: "cpu"):
        cost: Any = jax.jit(step).lower(StateInit(program).abstract(), device_batch, table).cost_analysis()
    return float(cost["flops"])


def memory(name: str, config: Config, size: int, batches: Sequence[Batch]) -> dict[str, float]:
    """Return GiB resident before the first step, and the peak over four calls.

    The rival runs in a separate process.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (name, config, size, batches))


def _memory(name: str, config: Config, size: int, batches: Sequence[Batch]) -> dict[str, float]:
    dataset = Dataset(config.data.directory)
    table, rows = dataset.arrays.title_table(), dataset.rows("train")
    if name == OURS:
        run, steps_per_call = ours(program_of(config, dataset, size), table, rows)
    else:
        task = SimpleNamespace(
            config=config, layout=dataset.layout, threshold=dataset.manifest["completion_threshold"] or 0.0
        )  # a Task would load jax into the peer's process
        run, steps_per_call = peer(task, table, batches, name == COMPILED), 1
    before = _status("VmRSS")
    run(4 * steps_per_call)
    return {"before": before, "peak": _status("VmHWM")}


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    raise OSError(f"/proc/self/status has no {field} line")


def first_step(config: str, changes: dict[str, Any], cache: str) -> float:
    """Return the seconds from the start of `python -m jaxrec.train` to its first step.

    The line of metrics.jsonl for step 1 is written when the step is done; the command is killed then.

    Args:
        config: Path of the config.
        changes: Dotted key -> value, for --config.key=value.
        cache: Folder of compiled programs.

    Raises:
        InputError: The command ended, or took too long, before its first step.
    """
    with tempfile.TemporaryDirectory() as workdir:
        metrics_path, error_path = Path(workdir) / "metrics.jsonl", Path(workdir) / "stderr"
        command = [sys.executable, "-m", "jaxrec.train", f"--config={config}", f"--workdir={workdir}"]
        settings = {**changes, "train.log_seconds": 1e-9}
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        started = time.perf_counter()
        with error_path.open("w") as errors:
            process = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
            try:
                while not (metrics_path.exists() and metrics_path.stat().st_size):
                    waited = time.perf_counter() - started
                    if process.poll() is not None or waited > _FIRST_LIMIT:
                        last = error_path.read_text().strip()[-500:]
                        raise InputError(f"no first step after {waited:.0f} s of {' '.join(command)}: {last}")
                    time.sleep(0.01)
                return time.perf_counter() - started
            finally:
                process.kill()
                process.wait()
