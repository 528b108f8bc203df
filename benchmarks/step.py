"""Training speed in examples per second, compared with PyTorch.

    python -m benchmarks.step [--json F] [--batch 1024,8192]

jaxrec's whole step from the input pipeline (reading, packing, decoding, loss, gradients and update, with
dropout and gate noise) runs in turn with `peers/torch_smoe.py`, eager and under `torch.compile`. The peer
gets the same rows as decoded tensors and so does not do the work before the loss. Rows are those of the
simulated service, with its history lengths, or rows with full histories, where packing saves no padding.
Before anything is timed, `peers/torch_check.py` checks that both compute the same function. A config with
`model.cross` runs in turn with the same config without cross layers, since the peer has none.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import flags

from benchmarks import step_parts as step_parts
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
_CHECKED = 64  # examples in the batch of the check
PEERS = {"eager": EAGER, "compiled": COMPILED}
PLAIN = "jaxrec without cross layers"


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "config of the model, objective and optimizer")
    flags.DEFINE_list("batch", ["1024", "8192"], "batch sizes")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "dtype of the computation; autocast in PyTorch"
    )
    flags.DEFINE_list(
        "rows", list(KINDS), "service: histories of the service; full: histories without padding"
    )
    flags.DEFINE_enum("resident", "auto", ["auto", "always", "never"], "`train.resident` of jaxrec's step")
    flags.DEFINE_list("parts", list(PARTS), "measurements: rate, memory, first (time to the first step)")
    flags.DEFINE_list("peers", ["eager", "compiled"], "PyTorch variants; empty: jaxrec alone")
    flags.DEFINE_integer("rounds", 7, "rounds; each times all rivals once", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "approximate duration of jaxrec's run per round", lower_bound=0.0)
    flags.DEFINE_string("data", "", "folder of the prepared rows, reused; empty: a temporary directory")
    flags.DEFINE_integer("cross", 0, "`model.cross` where above 0; else that of the config", lower_bound=0)
    flags.DEFINE_integer("cross_rank", 0, "`model.cross_rank` where above 0; else that of the config")
    flags.DEFINE_integer("users", 20_000, "users of the simulated service, where it is the source")


def settings(
    spec: str, directory: str, dtype: Literal["float32", "bfloat16"], users: int, **edits: Any
) -> Config:
    """Return the config to measure.

    Args:
        spec: Path of the config.
        directory: Folder of the prepared rows.
        dtype: dtype of the computation.
        users: Users of the simulated service, where it is the source.
        **edits: Dotted key, with `__` in place of dots, -> value.
    """
    config = load_config(spec)
    config.data.directory, config.model.dtype = directory, dtype
    for key, value in edits.items():
        section, _, name = key.partition("__")
        setattr(getattr(config, section), name, value)
    if isinstance(config.source, Simulator):
        config.source.users, config.source.test_only_users, config.data.partitions = users, 0, 8
    check(config)
    return config


# ---------------------------------------------------------------- the report


@contextlib.contextmanager
def directory(named: str) -> Iterator[str]:
    """Yield the folder `named`, or where empty a temporary one."""
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "rows")


class _Bench:
    """Measurements of one command, with the figures and table rows collected so far."""

    def __init__(self, args: flags.FlagValues, config: Config):
        self.args, self.config, self.dataset = args, config, Dataset(config.data.directory)
        self.table = self.dataset.arrays.title_table()
        self.figures: dict[str, Any] = {n: getattr(args, n) for n in ("config", "dtype", "resident")}
        self.rows: list[tuple[str, str, str]] = []
        self.peers = [name for flag, name in PEERS.items() if flag in args.peers]
        for name in list(self.peers):
            reason = "it has no cross layers" if config.model.cross else step_parts.why_not(name)
            if reason:
                self.peers.remove(name)
                self.add(name, "not measured", reason)

    def add(self, quantity: str, figure: str, comparison: str = "") -> None:
        """Add a row to the table and print it to standard error."""
        self.rows.append((quantity, figure, comparison))
        print(f"{quantity}: {figure} {comparison}", file=sys.stderr, flush=True)

    def check_peers(self) -> None:
        """Check that the peers compute our function, on a batch packed as in training.

        Raises:
            ValueError: A peer's outputs, gradients or update differ.
        """
        from benchmarks.peers import torch_check, torch_smoe

        program = step_parts.program_of(self.config, self.dataset, _CHECKED)
        host = step_parts.host_batch(program, self.dataset.rows("train"))
        packed, padded = step_parts.decoded(program, host, packed=True), step_parts.decoded(program, host)
        peer_examples = torch_smoe.examples(padded)
        differences = torch_check.check(
            program, StateInit(program).init().params, packed, peer_examples, self.table
        )
        self.figures["apart"] = differences
        self.add("difference from the peer", ", ".join(f"{k} {v:.1e}" for k, v in differences.items()))

    def rates(self, size: int, limit: dict[str, float]) -> None:
        """Measure examples per second at a batch size; `limit` is the matrix rate."""
        program = step_parts.program_of(self.config, self.dataset, size)
        flops = step_parts.work(program.config, program.layout, size)
        figures = self.figures.setdefault("step", {}).setdefault(str(size), {})
        for kind in self.args.rows:
            rows = step_parts.training_rows(self.dataset, program.config, kind)
            batches = step_parts.peer_batches(program, rows)
            length = float(np.mean([(b.history.title > 0).sum(1).mean() for b in batches]))
            our_run, steps_per_call = step_parts.ours(program, self.table, rows)
            rivals = {OURS: our_run}
            rivals |= {
                name: step_parts.peer(program, self.table, batches, name == COMPILED) for name in self.peers
            }
            if self.config.model.cross:
                plain = replace(self.config, model=replace(self.config.model, cross=0, cross_rank=0))
                without = step_parts.program_of(plain, self.dataset, size)
                rivals[PLAIN] = step_parts.ours(without, self.table, rows)[0]
            steps = self._steps_a_round(our_run, steps_per_call)
            turns: dict[str, Callable[[], None]] = {n: partial(r, steps) for n, r in rivals.items()}
            times = interleaved(turns, self.args.rounds)
            rate = times[OURS].rate(steps * size)
            figures[kind] = {
                "mean_history": length,
                "steps_a_round": steps,
                "steps_together": steps_per_call,
                OURS: rate,
            }
            label = f"batch {size}, {kind} rows ({length:.1f} titles)"
            counted = flops._asdict() | {"xla": step_parts.counted_by_xla(program, self.table, rows)}
            fractions = {name: rate["median"] / size * f / limit["median"] for name, f in counted.items()}
            figures[kind] |= {"flops": counted, "share_of_matrix_rate": fractions}
            self.add(
                f"{label}: {OURS}", spread(rate, "examples/s", 0),
                f"{fractions['xla']:.1%} of the matrix rate; {fractions['plain']:.1%} for the plain work",
            )  # fmt: skip
            for name in (name for name in rivals if name != OURS):
                figures[kind][name] = times[name].rate(steps * size)
                figures[kind][f"over {name}"] = gain = ratio(times[name], times[OURS])
                self.add(
                    f"{label}: {name}",
                    spread(figures[kind][name], "examples/s", 0),
                    f"jaxrec is {spread(gain)} times as fast",
                )
            self.add(
                f"{label}: GFLOP a step", f"{flops.plain / 1e9:.1f} in the plain form's matrix products",
                f"{flops.factored / 1e9:.1f} with once per title; {counted['xla'] / 1e9:.1f} in ours, by XLA",
            )  # fmt: skip

    def _steps_a_round(self, run: Callable[[int], None], steps_per_call: int) -> int:
        """Return the steps, a multiple of `together`, that take about `--seconds`."""
        run(steps_per_call)  # compiles
        started = time.perf_counter()
        run(2 * steps_per_call)
        return steps_per_call * max(1, round(2 * self.args.seconds / (time.perf_counter() - started)))

    def memories(self, size: int) -> None:
        """Measure the peak memory of all rivals at a batch size."""
        program = step_parts.program_of(self.config, self.dataset, size)
        batches = step_parts.peer_batches(program, self.dataset.rows("train"))
        figures = self.figures.setdefault("memory_gib", {}).setdefault(str(size), {})
        for name in (OURS, *self.peers):
            figures[name] = resident = step_parts.memory(
                name, self.config, size, [] if name == OURS else batches
            )
            self.add(
                f"batch {size}: peak memory, {name}", f"{resident['peak']:.2f} GiB",
                f"{resident['before']:.2f} GiB before the first step",
            )  # fmt: skip

    def firsts(self, size: int) -> None:
        """Measure the time to the first step, cold and with a compilation cache."""
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
            times = [step_parts.first_step(self.args.config, changes, cache) for _ in range(4)]
        warm = sorted(times[1:])
        self.figures.setdefault("first_step_s", {})[str(size)] = {"cold": times[0], "warm": warm}
        self.add(
            f"batch {size}: to the first step", f"{times[0]:.1f} s cold",
            f"{warm[1]:.1f} ({warm[0]:.1f} to {warm[-1]:.1f}) s with the compilation cache",
        )  # fmt: skip


def main(args: flags.FlagValues) -> Report:
    invalid = [size for size in args.batch if not size.isdecimal() or not int(size)]
    if invalid:
        raise InputError(f"--batch={invalid[0]}: allowed: whole numbers from 1")
    sizes = [int(size) for size in args.batch]
    for name, allowed in (("rows", KINDS), ("parts", PARTS), ("peers", tuple(PEERS))):
        invalid = [x for x in getattr(args, name) if x not in allowed]
        if invalid:
            raise InputError(f"--{name}={invalid[0]}: allowed: {', '.join(allowed)}")
    with directory(args.data) as rows:
        crossed = {"model__cross": args.cross, "model__cross_rank": args.cross_rank}
        config = settings(
            args.config, rows, args.dtype, args.users, train__resident=args.resident,
            **{key: value for key, value in crossed.items() if value},
        )  # fmt: skip
        ensure_dataset(config, rows)
        bench = _Bench(args, config)
        if bench.peers:
            bench.check_peers()
        if "rate" in args.parts:
            limit = matrix_rate(dtype=args.dtype)
            bench.figures["matrix_rate"] = limit
            bench.add("matrix rate", spread({k: v / 1e9 for k, v in limit.items()}, "GFLOP/s", 0))
        for size in sizes:
            if "rate" in args.parts:
                bench.rates(size, limit)
            if "memory" in args.parts:
                bench.memories(size)
            if "first" in args.parts:
                bench.firsts(size)
    return Report("step", bench.figures, bench.rows)


if __name__ == "__main__":
    run(main, _flags)
