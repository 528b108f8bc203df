"""python -m benchmarks.step [--json F] [--batch 1024,8192]: training examples a second, beside PyTorch.

Our whole step from the stream (reading, packing, decoding, loss, gradients and update, dropout and noise
on) against `peers/torch_smoe.py` eager and under `torch.compile`, which is spared what comes before the
loss: it gets the same rows as tensors already decoded. Rows are the simulated service's, so histories
have its lengths; and, beside them, full ones, where no padding can be saved.
Before anything is timed the two are held to be the same function (`peers/torch_check.py`).
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import step_parts as parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, matrix_rate, ratio
from benchmarks.step_parts import COMPILED, EAGER, OURS
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Simulator
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.training.train_state import StateInit

PARTS = ("rate", "memory", "first")
KINDS = ("service", "full")
_CHECKED = 64  # examples of the check
PEERS = {"eager": EAGER, "compiled": COMPILED}


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "whose model, objective and optimizer")
    flags.DEFINE_list("batch", ["1024", "8192"], "batch sizes")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the compute; in PyTorch autocast")
    flags.DEFINE_list("rows", list(KINDS), "service: histories as they come; full: no place empty")
    flags.DEFINE_list("parts", list(PARTS), "rate, memory, first (time to the first step)")
    flags.DEFINE_list("peers", ["eager", "compiled"], "of PyTorch; empty: our own figures alone")
    flags.DEFINE_integer("rounds", 7, "each times every rival once", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "about how long our turn of a round takes", lower_bound=0.0)
    flags.DEFINE_string("data", "", "where the rows are prepared, or lie; empty: a temporary directory")
    flags.DEFINE_integer("users", 20_000, "of the simulated service, where that is the source")


def settings(found: flags.FlagValues, directory: str) -> Config:
    """The config whose step is measured: its simulated service is cut down to `users`."""
    config = load_config(found.config)
    config.data.directory, config.model.dtype = directory, found.dtype
    if isinstance(config.source, Simulator):
        config.source.users, config.source.test_only_users, config.data.partitions = found.users, 0, 8
    check(config)
    return config


# ---------------------------------------------------------------- the report


@contextlib.contextmanager
def directory(named: str) -> Iterator[str]:
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory() as made:
        yield str(Path(made) / "rows")


class _Bench:
    """Gathers figures and rows of the table as it measures."""

    def __init__(self, found: flags.FlagValues, config: Config):
        self.found, self.config, self.dataset = found, config, Dataset(config.data.directory)
        self.table = self.dataset.arrays.title_table()
        self.figures: dict[str, Any] = {"config": found.config, "dtype": found.dtype}
        self.rows: list[tuple[str, str, str]] = []
        self.peers = [name for flag, name in PEERS.items() if flag in found.peers]
        for name in list(self.peers):
            reason = parts.why_not(name)
            if reason:
                self.peers.remove(name)
                self.add(name, "not measured", reason)

    def add(self, what: str, figure: str, beside: str = "") -> None:
        self.rows.append((what, figure, beside))
        print(f"{what}: {figure} {beside}", file=sys.stderr, flush=True)

    def same(self) -> None:
        """Raises ValueError where the peers are not our function, on a batch packed as the step's are."""
        from benchmarks.peers import torch_check, torch_smoe

        program = parts.program_of(self.config, self.dataset, _CHECKED)
        host = parts.host_batch(program, self.dataset.rows("train"))
        ours, plain = parts.decoded(program, host, packed=True), parts.decoded(program, host)
        given = torch_smoe.examples(plain)
        found = torch_check.check(program, StateInit(program).init().params, ours, given, self.table)
        self.figures["apart"] = found
        self.add("the peer is our function", ", ".join(f"{k} {v:.1e} apart" for k, v in found.items()))

    def rates(self, size: int, limit: dict[str, float]) -> None:
        program = parts.program_of(self.config, self.dataset, size)
        flops = parts.work(program.config, program.layout, size)
        into = self.figures.setdefault("step", {}).setdefault(str(size), {})
        for kind in self.found.rows:
            rows = parts.training_rows(self.dataset, program.config, kind)
            batches = parts.peer_batches(program, rows)
            length = float(np.mean([(b.history.title > 0).sum(1).mean() for b in batches]))
            own, together = parts.ours(program, self.table, rows)
            rivals = {OURS: own}
            rivals |= {
                name: parts.peer(program, self.table, batches, name == COMPILED) for name in self.peers
            }
            steps = self._steps_a_round(own, together)
            turns: dict[str, Callable[[], None]] = {n: partial(r, steps) for n, r in rivals.items()}
            times = interleaved(turns, self.found.rounds)
            rate = times[OURS].rate(steps * size)
            into[kind] = {
                "mean_history": length,
                "steps_a_round": steps,
                "steps_together": together,
                OURS: rate,
            }
            at = f"batch {size}, {kind} rows ({length:.1f} titles)"
            counted = flops._asdict() | {"xla": parts.counted_by_xla(program, self.table, rows)}
            shares = {name: rate["median"] / size * f / limit["median"] for name, f in counted.items()}
            into[kind] |= {"flops": counted, "share_of_matrix_rate": shares}
            self.add(
                f"{at}: {OURS}", spread(rate, "examples/s", 0),
                f"{shares['xla']:.1%} of the matrix rate; {shares['plain']:.1%} by the plain form's work",
            )  # fmt: skip
            for name in self.peers:
                into[kind][name] = times[name].rate(steps * size)
                into[kind][f"over {name}"] = gain = ratio(times[name], times[OURS])
                self.add(
                    f"{at}: {name}", spread(into[kind][name], "examples/s", 0), f"we are {spread(gain)} times"
                )
            self.add(
                f"{at}: GFLOP a step", f"{flops.plain / 1e9:.1f} in the plain form's matrix products",
                f"{flops.factored / 1e9:.1f} with titles' once; {counted['xla'] / 1e9:.1f} in ours, by XLA",
            )  # fmt: skip

    def _steps_a_round(self, run: Callable[[int], None], together: int) -> int:
        run(together)  # compiles
        started = time.perf_counter()
        run(2 * together)
        return together * max(1, round(2 * self.found.seconds / (time.perf_counter() - started)))

    def memories(self, size: int) -> None:
        program = parts.program_of(self.config, self.dataset, size)
        batches = parts.peer_batches(program, self.dataset.rows("train"))
        into = self.figures.setdefault("memory_gib", {}).setdefault(str(size), {})
        for name in (OURS, *self.peers):
            into[name] = found = parts.memory(name, self.config, size, [] if name == OURS else batches)
            self.add(
                f"batch {size}: peak memory, {name}", f"{found['peak']:.2f} GiB",
                f"{found['before']:.2f} GiB before the first step",
            )  # fmt: skip

    def firsts(self, size: int) -> None:
        c = self.config
        changes = {
            "train.batch_size": size,
            "data.directory": c.data.directory,
            "data.partitions": c.data.partitions,
            "model.dtype": c.model.dtype,
        }
        if isinstance(c.source, Simulator):
            changes |= {"source.users": c.source.users, "source.test_only_users": 0}
        with tempfile.TemporaryDirectory() as cache:
            times = [parts.first_step(self.found.config, changes, cache) for _ in range(4)]
        warm = sorted(times[1:])
        self.figures.setdefault("first_step_s", {})[str(size)] = {"cold": times[0], "warm": warm}
        self.add(
            f"batch {size}: to the first step", f"{times[0]:.1f} s cold",
            f"{warm[1]:.1f} ({warm[0]:.1f} to {warm[-1]:.1f}) s with compiled programs kept",
        )  # fmt: skip


def main(found: flags.FlagValues) -> Report:
    wrong = [size for size in found.batch if not size.isdecimal() or not int(size)]
    if wrong:
        raise InputError(f"--batch={wrong[0]}: allowed: whole numbers from 1")
    sizes = [int(size) for size in found.batch]
    for name, allowed in (("rows", KINDS), ("parts", PARTS), ("peers", tuple(PEERS))):
        wrong = [x for x in getattr(found, name) if x not in allowed]
        if wrong:
            raise InputError(f"--{name}={wrong[0]}: allowed: {', '.join(allowed)}")
    with directory(found.data) as rows:
        config = settings(found, rows)
        ensure_dataset(config, rows)
        bench = _Bench(found, config)
        if bench.peers:
            bench.same()
        if "rate" in found.parts:
            limit = matrix_rate(dtype=found.dtype)
            bench.figures["matrix_rate"] = limit
            bench.add("matrix rate", spread({k: v / 1e9 for k, v in limit.items()}, "GFLOP/s", 0))
        for size in sizes:
            if "rate" in found.parts:
                bench.rates(size, limit)
            if "memory" in found.parts:
                bench.memories(size)
            if "first" in found.parts:
                bench.firsts(size)
    return Report("step", bench.figures, bench.rows)


if __name__ == "__main__":
    run(main, _flags)
