"""Row-sharded title table: memory per device and training speed.

    python -m benchmarks.split [--titles 4000000] [--devices 8]

The step of Table 3's model is compiled for virtual devices of this machine, with title embeddings sharded
over them (`model.item_table_sharding="split"`) or replicated. The memory of each device is read from
the compiled program. The program with sharded embeddings also runs a few steps. The replicated program is
compiled and not run: with 4 million titles it would need more memory than the machine has.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("replicated", "split")
_MIB, _GIB = 2**20, 2**30


def _flags() -> None:
    flags.DEFINE_integer("titles", 4_000_000, "rows of the table", lower_bound=2)
    flags.DEFINE_integer("width", 96, "width of a title's id embedding", lower_bound=1)
    flags.DEFINE_integer("batch", 8192, "examples per global batch", lower_bound=1)
    flags.DEFINE_integer("devices", 8, "virtual devices, a power of two", lower_bound=1)
    flags.DEFINE_integer("steps", 5, "steps with the sharded table; 0: compile only", lower_bound=0)


def arithmetic(titles: int, width: int, devices: int) -> dict[str, float]:
    """Return the bytes per device of a table with Adam's two moments, for both kinds."""
    whole = 3.0 * 4 * titles * width
    return {"replicated": whole, "split": whole / devices}


def train_steps(program: Any, steps: int) -> dict[str, Any]:
    """Return the figures of steps on random rows, without the first, which compiles."""
    import jax

    from benchmarks.stream import random_rows
    from jaxrec.core.batch import HostBatch, TitleTable
    from jaxrec.data.storage.dataset import as_words
    from jaxrec.runtime import mesh, parallel_step
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    layout, batch = program.layout, program.config.train.batch_size
    rng = np.random.default_rng(0)
    rows = [as_words(random_rows(layout, 0, batch, rng)) for _ in range(steps + 1)]
    table = mesh.replicate(
        TitleTable(
            np.ones((layout.num_titles, layout.columns("title", "category")), np.int32),
            np.zeros((layout.num_titles, layout.columns("title", "number")), np.float32),
        )
    )
    state = StateInit(program).init_sharded()
    step = parallel_step.parallelize_step(TrainStep(program), "shard_map", StateInit(program).abstract())
    seconds, losses = [], []
    for words in rows:
        started = time.perf_counter()
        state, sums = step(state, HostBatch(words, np.ones(batch, bool), None), table)
        total, count = jax.device_get(sums["loss"])
        seconds.append(time.perf_counter() - started)
        losses.append(float(total / count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"examples": Timing(tuple(seconds[1:])).rate(batch), "losses": losses, "peak_resident": peak}


def _child(titles: int, width: int, batch: int, steps: int) -> dict[str, Any]:
    from benchmarks.lowered import account, program_of

    out: dict[str, Any] = {}
    for kind in KINDS:
        program = program_of(titles, width, batch, kind)
        out[kind] = account(program)
        if kind == "split" and steps:
            out["taken"] = train_steps(program, steps)
    return out


def measure(titles: int, width: int, batch: int, devices: int, steps: int) -> dict[str, Any]:
    """Return `_child`'s figures from a process with `devices` virtual devices."""
    shape = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {shape}", "JAX_PLATFORMS": "cpu"}
    arguments = [str(x) for x in (titles, width, batch, steps)]
    command = [sys.executable, "-m", "benchmarks.split", "child", *arguments]
    completed = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(completed.stdout) | {"arithmetic": arithmetic(titles, width, devices)}


def table(figures: dict[str, Any], whole: int) -> list[tuple[str, str, str]]:
    """Return the rows of the report; `whole` is the bytes of the whole table."""
    rows = []
    for kind in KINDS:
        account, expected = figures[kind], figures["arithmetic"][kind]
        state, temporaries = (f"{account[name] / _GIB:.2f} GiB" for name in ("held", "temporaries"))
        largest = f"{account['largest'] / _MIB:.1f} MiB"
        rows += [
            (f"{kind}: held by a device", state, f"table and moments: {expected / _GIB:.2f}"),
            (f"{kind}: temporaries", temporaries, ""),
            (f"{kind}: largest collective", largest, f"table: {whole / _MIB:.0f}"),
        ]
    if "taken" in figures:
        training = figures["taken"]
        rate, peak = (
            spread(training["examples"], "examples/s", 0),
            f"{training['peak_resident'] / _GIB:.1f} GiB",
        )
        rows += [
            ("split: trained on", rate, f"loss {training['losses'][-1]:.3f}"),
            ("split: peak resident memory", peak, "sum of all devices"),
        ]
    return rows


def main(args: flags.FlagValues) -> Report:
    sizes = args.titles, args.width, args.batch, args.devices
    figures = measure(*sizes, args.steps)
    title = "A table of {:,} titles, width {}, batch {:,}, {} devices".format(*sizes)
    return Report(title, figures, table(figures, 4 * args.titles * args.width))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(_child(*map(int, sys.argv[2:]))))
    else:
        run(main, _flags)
