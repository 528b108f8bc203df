"""python -m benchmarks.split [--titles 4000000] [--devices 8]: a title table that no device holds all of.

The step of Table 3's model on virtual devices of this machine, its titles' embeddings dealt to them
(`model.title_table="split"`) or replicated: what each holds by the compiled program's own account, and of the
split one steps that are taken. The replicated one is compiled and not run: of 4 million titles it would want
more than the machine has.
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
    flags.DEFINE_integer("width", 96, "of a title's own embedding", lower_bound=1)
    flags.DEFINE_integer("batch", 8192, "examples of all devices together", lower_bound=1)
    flags.DEFINE_integer("devices", 8, "virtual ones, a power of two", lower_bound=1)
    flags.DEFINE_integer("steps", 5, "taken with the split table; 0: it is compiled alone", lower_bound=0)


def arithmetic(titles: int, width: int, devices: int) -> dict[str, float]:
    """Bytes of the parameter and Adam's two moments, on each device, of tables of both kinds."""
    whole = 3.0 * 4 * titles * width
    return {"replicated": whole, "split": whole / devices}


def taken(program: Any, steps: int) -> dict[str, Any]:
    """Steps on random rows, the first, which compiles, left out."""
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
            np.ones((layout.titles, layout.columns("title", "category")), np.int32),
            np.zeros((layout.titles, layout.columns("title", "number")), np.float32),
        )
    )
    state = StateInit(program).init_sharded()
    step = parallel_step.parallelize_step(TrainStep(program), "shard_map", StateInit(program).abstract())
    seconds, losses = [], []
    for words in rows:
        began = time.perf_counter()
        state, sums = step(state, HostBatch(words, np.ones(batch, bool), None), table)
        total, count = jax.device_get(sums["loss"])
        seconds.append(time.perf_counter() - began)
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
            out["taken"] = taken(program, steps)
    return out


def measured(titles: int, width: int, batch: int, devices: int, steps: int) -> dict[str, Any]:
    """`_child`'s figures from a process with so many devices."""
    shape = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {shape}", "JAX_PLATFORMS": "cpu"}
    arguments = [str(x) for x in (titles, width, batch, steps)]
    command = [sys.executable, "-m", "benchmarks.split", "child", *arguments]
    said = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(said.stdout) | {"arithmetic": arithmetic(titles, width, devices)}


def table(figures: dict[str, Any], whole: int) -> list[tuple[str, str, str]]:
    """Rows of a report; `whole` is the table's bytes."""
    rows = []
    for kind in KINDS:
        of_kind, paper = figures[kind], figures["arithmetic"][kind]
        held, passing = (f"{of_kind[name] / _GIB:.2f} GiB" for name in ("held", "temporaries"))
        largest = f"{of_kind['largest'] / _MIB:.1f} MiB"
        rows += [
            (f"{kind}: held by a device", held, f"table and moments: {paper / _GIB:.2f}"),
            (f"{kind}: temporaries", passing, ""),
            (f"{kind}: largest collective", largest, f"table: {whole / _MIB:.0f}"),
        ]
    if "taken" in figures:
        taken = figures["taken"]
        rate, peak = spread(taken["examples"], "examples/s", 0), f"{taken['peak_resident'] / _GIB:.1f} GiB"
        rows += [
            ("split: trained on", rate, f"loss {taken['losses'][-1]:.3f}"),
            ("split: peak resident memory", peak, "all devices together"),
        ]
    return rows


def main(found: flags.FlagValues) -> Report:
    sizes = found.titles, found.width, found.batch, found.devices
    figures = measured(*sizes, found.steps)
    title = "A table of {:,} titles, width {}, batch {:,}, {} devices".format(*sizes)
    return Report(title, figures, table(figures, 4 * found.titles * found.width))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(_child(*map(int, sys.argv[2:]))))
    else:
        run(main, _flags)
