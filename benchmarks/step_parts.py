"""What `benchmarks.step` races, and what a step costs besides time: operations, memory, the first one."""

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
from jaxrec.data.storage.dataset import BLOCK_ROWS, Dataset, Rows, as_words

OURS, EAGER, COMPILED = "jaxrec", "torch eager", "torch.compile"
_BATCHES = 4  # different ones, which the peers take in turn
_STEPS = 1_000_000
_FIRST_LIMIT = 300.0  # seconds a command may take to its first step


# ---------------------------------------------------------------- what goes in


class Kept(Rows):
    """Some of a split's rows, in memory, to be streamed like those on disk."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.dtype, self.blocks = len(rows), rows.dtype, -(-len(rows) // BLOCK_ROWS)
        self._words = as_words(rows)

    def read(self, blocks: np.ndarray) -> np.ndarray:
        return np.concatenate([self._words[b * BLOCK_ROWS : (b + 1) * BLOCK_ROWS] for b in blocks])

    def read_into(self, blocks: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.read(blocks)


def training_rows(dataset: Dataset, config: Config, kind: str) -> Rows:
    """ "service": the training rows; "full": those that show the longest window's titles, repeated where
    they are fewer than some batches hold. Raises InputError where no row does.
    """
    if kind == "service":
        return dataset.rows("train")
    window = max(e.window for e in config.model.experts)
    rows = dataset.rows("train").all()
    rows = rows[shown(rows, config) >= window]
    if not len(rows):
        raise InputError(f"--rows={kind}: no row shows {window} titles; --users must be larger")
    return Kept(np.resize(rows, max(len(rows), _BATCHES * config.train.batch_size)))


def shown(rows: np.ndarray, config: Config) -> np.ndarray:
    """[N] how many titles of its stored history a row shows."""
    abandoned = config.sampling.history_keeps_abandoned
    return ((rows["history_title"] != 0) & (abandoned | (rows["history_abandoned"] == 0))).sum(1)


def program_of(config: Config, dataset: Dataset, size: int) -> Any:
    """The config's program, for batches of `size` and a run too long to end."""
    from jaxrec.tasks import build

    config = copy.deepcopy(config)
    config.train.batch_size = size
    steps = dataset.manifest["splits"]["train"]["examples"] // size
    threshold = dataset.manifest["completion_threshold"] or 0.0
    return build.build_task(config, dataset.layout, threshold, steps, _STEPS)


def decoded(program: Any, host: HostBatch, packed: bool = False) -> Batch:
    """What our step makes of a batch, as arrays of the host: a history a row, or packed as the step's are."""
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
    """Batch t as the loop streams it."""
    from jaxrec.training.input_pipeline import training_batches

    return training_batches(program, rows)[t]


def peer_batches(program: Any, rows: Rows) -> list[Batch]:
    """The stream's first batches, decoded, for the peers to take in turn."""
    return [decoded(program, host_batch(program, rows, t)) for t in range(_BATCHES)]


# ---------------------------------------------------------------- who runs


Run = Callable[[int], None]  # takes so many steps, and returns when they are done


def ours(program: Any, table: TitleTable, rows: Rows) -> tuple[Run, int]:
    """The training step as the loop takes it: batches are gathered, packed and fed as it goes, so many to a
    dispatch; and how many that is. A run takes a multiple of them, or raises ValueError: an epoch's last
    batches, where they are fewer, are read and left."""
    import jax

    from jaxrec.data.loading.batches import BatchGroups, stream
    from jaxrec.runtime.device_batch import transfer_group
    from jaxrec.runtime.mesh import replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.input_pipeline import steps_per_call, training_batches
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    step, given = parallelize_step(TrainStep(program)), replicate(table)
    state, batches = replicate(StateInit(program).init()), training_batches(program, rows)
    size = steps_per_call(program.config, batches.steps_per_epoch)
    put = functools.partial(transfer_group, most=size)
    lists = stream(BatchGroups(batches, size), 0, program.config.train.prefetch, put)
    placed = (one for some in lists for one in some if one.steps == size)

    def run(steps: int) -> None:
        nonlocal state
        if steps % size:
            raise ValueError(f"{steps} steps are no multiple of the {size} of a dispatch")
        for batch in itertools.islice(placed, steps // size):
            state, sums = step(state, batch, given)
        jax.block_until_ready((state, sums))

    return run, size


def peer(program: Any, table: TitleTable, batches: Sequence[Batch], compiled: bool) -> Run:
    """PyTorch's training step on batches decoded beforehand, which lie on the GPU where there is one."""
    import torch

    from benchmarks.peers.torch_smoe import Smoe, Trainer, examples, moved

    config, device = program.config, "cuda" if torch.cuda.is_available() else "cpu"
    model = Smoe(config, program.layout, table).to(device)
    trainer = Trainer(model, config, program.threshold, compiled)
    tau = torch.tensor(config.model.gate.start_temperature, device=device)
    given = itertools.cycle([moved(examples(batch), device) for batch in batches])

    def run(steps: int) -> None:
        for batch in itertools.islice(given, steps):
            loss = trainer.step(batch, tau)
        loss.item()  # waits for all

    return run


def why_not(name: str) -> str:
    """Why a peer cannot run here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if name == COMPILED and not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        return "torch.compile needs a C++ compiler, and there is no g++"
    return ""


# ---------------------------------------------------------------- what a step costs


class Work(NamedTuple):
    """Floating-point operations of a step's matrix products: forward, and twice that backward."""

    plain: float  # as written down: every place and every candidate is multiplied by every kernel
    factored: float  # as jaxrec does it: what depends on a title alone is worked out once a title


def work(config: Config, layout: Layout, batch: int) -> Work:
    """Counted from shapes, padding included."""
    m, s = config.model, config.sampling
    width = {w: sum(f.width for f in layout.of(w)) for w in ("title", "user", "context", "interaction")}
    D, L, B, V = m.width, max(e.window for e in m.experts), batch, layout.titles
    K, C = s.next_k, s.next_k + s.negatives
    user, X = D + width["user"] + width["context"], m.matcher[-1] * m.matcher_product
    both = 0.0
    for e in m.experts:
        rows = B * e.window
        both += (
            e.layers * rows * (4 * D * D + 2 * D * round(e.feedforward * D) + 2 * e.window * D) + 2 * rows * D
        )
    if len(m.experts) > 1:
        sizes = (width["user"] + len(m.experts) * D, *m.gate.hidden, len(m.experts))
        both += B * sum(a * b for a, b in itertools.pairwise(sizes))
    both += B * user * X
    first, later = m.matcher[0], sum(a * b for a, b in itertools.pairwise((*m.matcher, 1)))
    of_title, of_user, o = L * width["title"] * D, L * width["context"] * D, config.objective
    once, per_user = min(V, B * L) * width["title"] * D, width["context"] * D
    both += B * L * width["interaction"] * D
    of_title += C * width["title"] * X
    once += min(V, B * C) * width["title"] * X
    for weight, scored in ((o.ctr, C), (o.ranking, C), (o.regression, K)):
        if weight:
            both += B * scored * (X * first + later)
            of_title, of_user = of_title + scored * width["title"] * first, of_user + scored * user * first
            once, per_user = once + min(V, B * scored) * width["title"] * first, per_user + user * first
    return Work(6.0 * (both + B * (of_title + of_user)), 6.0 * (both + once + B * per_user))


def counted_by_xla(program: Any, table: TitleTable, rows: Rows) -> float:
    """Operations of every kind in our step, as XLA counts them before it optimises.

    It counts the body of a loop once, so the batch is taken as one part: the work is the same. Counted is the
    program for a CPU: of no other are operations counted before, and none in kernels of our own.
    """
    import jax

    from jaxrec.runtime.mesh import AXIS
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    config = copy.deepcopy(program.config)
    config.train.microbatch = config.train.batch_size
    program = replace(program, config=config)
    step = jax.vmap(TrainStep(program), in_axes=(None, 0, None), out_axes=(None, None), axis_name=AXIS)
    share = jax.tree.map(lambda x: x[None], host_batch(program, rows))
    cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
    with cpu, unittest.mock.patch.object(jax, "default_backend", lambda: "cpu"):
        cost: Any = jax.jit(step).lower(StateInit(program).abstract(), share, table).cost_analysis()
    return float(cost["flops"])


def memory(name: str, config: Config, size: int, batches: Sequence[Batch]) -> dict[str, float]:
    """In a process of its own: GiB resident before the first step, and the most over four dispatches."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (name, config, size, batches))


def _memory(name: str, config: Config, size: int, batches: Sequence[Batch]) -> dict[str, float]:
    dataset = Dataset(config.data.directory)
    table, rows = dataset.arrays.title_table(), dataset.rows("train")
    if name == OURS:
        run, together = ours(program_of(config, dataset, size), table, rows)
    else:
        given = SimpleNamespace(
            config=config, layout=dataset.layout, threshold=dataset.manifest["completion_threshold"] or 0.0
        )  # a Program would bring jax into the peer's memory
        run, together = peer(given, table, batches, name == COMPILED), 1
    before = _status("VmRSS")
    run(4 * together)
    return {"before": before, "peak": _status("VmHWM")}


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    raise OSError(f"/proc/self/status names no {field}")


def first_step(config: str, changes: dict[str, Any], cache: str) -> float:
    """Seconds from typing python -m jaxrec.train until its first step is done, compiled programs in `cache`.

    `changes` are of the config: --config.key=value. The line of metrics.jsonl on step 1 is written once
    the step is done; the command is killed then. Raises InputError where it ends before that.
    """
    with tempfile.TemporaryDirectory() as workdir:
        line, said = Path(workdir) / "metrics.jsonl", Path(workdir) / "stderr"
        command = [sys.executable, "-m", "jaxrec.train", f"--config={config}", f"--workdir={workdir}"]
        given = {**changes, "train.log_seconds": 1e-9}
        command += [f"--config.{key}={value}" for key, value in given.items()]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        started = time.perf_counter()
        with said.open("w") as errors:
            process = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
            try:
                while not (line.exists() and line.stat().st_size):
                    waited = time.perf_counter() - started
                    if process.poll() is not None or waited > _FIRST_LIMIT:
                        last = said.read_text().strip()[-500:]
                        raise InputError(f"no first step after {waited:.0f} s of {' '.join(command)}: {last}")
                    time.sleep(0.01)
                return time.perf_counter() - started
            finally:
                process.kill()
                process.wait()
