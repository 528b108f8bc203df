"""Device time of a training step, by part of the model.

    python -m benchmarks.roofline [--json F] [--batch 8192]

The step runs repeatedly on one batch of the simulated service's rows, one step per call, under the device's
profiler. The kernels are grouped by the part of the model that they come from. For each group, the report
lists the time, the bytes of operands and results, and the time that the device needs to copy these bytes. A
kernel takes less than the copy where its operands are still in a cache. A kernel takes more where it does
more than move the operands, or moves them inefficiently. Kernels whose profile name is not in the program's
text have no bound: matrix products of a library and our own kernels.
"""

import collections
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from benchmarks import hlo
from benchmarks import step_parts as parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import device_copy, interleaved, matrix_rate
from benchmarks.step import directory, settings
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset

Event = tuple[str, float]  # a kernel's name and nanoseconds
LIBRARY = "products by a library"
REST = "loss, decoding, update"
# A part, and what its operations have in their path ("jvp(RankingModel)/.../block_0/attention/add").
PARTS = (
    ("matchers", re.compile(r"/(matcher_\w+|tower_\w+|trunk|product|retrieval)\b")),
    ("attention", re.compile(r"/attention/")),
    ("layer norm", re.compile(r"/(attention_norm|feedforward_norm|norm)/")),
    ("feed-forward", re.compile(r"/(hidden|out)\b")),
    ("residuals and dropout", re.compile(r"/block_\d+/")),
    ("pooling and gate", re.compile(r"/(pool|gate)\b")),
    ("histories and look-ups", re.compile(r"/(history|title|user|context|catalogue)\b|RankingModel")),
)
_KERNELS = (("attention_", "attention"), ("norm_", "layer norm"), ("mem", "copies"), ("Mem", "copies"))
_AROUND = ("while", "conditional")  # what is inside has events of its own
_OPERAND, _PATH = re.compile(r"%([\w.\-]+)"), re.compile(r'op_name="([^"]*)"')


class Kernel(NamedTuple):
    """An instruction that may be a separate kernel."""

    opcode: str
    bytes: int  # of its operands, each once, and of its results
    path: str  # of the operation it was written as


class Spent(NamedTuple):
    """Cost per step of the kernels of one part of the model."""

    milliseconds: float
    kernels: float
    bytes: float


def kernels_of_computations(text: str) -> dict[str, dict[str, Kernel]]:
    """Return computation -> the instructions in it by their name in a device's profile."""
    types: dict[str, str] = {}
    by_computation: dict[str, dict[str, Kernel]] = collections.defaultdict(dict)
    for one in hlo.instructions(text):
        types[one.name] = one.result
        operands = {*_OPERAND.findall(one.line[one.operands : one.line.find(")", one.operands)])}
        num_bytes = hlo.bytes_of(one.result) + sum(hlo.bytes_of(types.get(name, "")) for name in operands)
        path = _PATH.search(one.line)
        name = re.sub(r"[.\-]", "_", one.name)
        by_computation[one.computation][name] = Kernel(one.opcode, num_bytes, path[1] if path else "")
    return by_computation


def kernels(text: str) -> dict[str, Kernel]:
    """Return the kernels of a program's text by their name in a device's profile."""
    return {name: one for of in kernels_of_computations(text).values() for name, one in of.items()}


def part_of(name: str, path: str | None) -> str:
    """Return the part of the model that a kernel belongs to.

    Args:
        name: Name of the kernel in the profile.
        path: Path of the kernel's operation; None where no instruction has the name.
    """
    for start, part in _KERNELS:
        if name.startswith(start):
            return part
    if path is None:
        return LIBRARY
    return next((part for part, pattern in PARTS if pattern.search(path)), REST)


def gathered(events: Iterable[Event], text: str, steps: int) -> dict[str, Spent]:
    """Return part -> cost per step, in descending order of time.

    Args:
        events: Kernels of `steps` steps.
        text: Text of the program.
        steps: Number of profiled steps.
    """
    known = kernels(text)
    total: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, nanoseconds in events:
        kernel = known.get(re.sub(r"[.\-]", "_", name))
        if kernel and kernel.opcode in _AROUND:
            continue
        of_part = total[part_of(name, kernel.path if kernel else None)]
        of_part[0] += nanoseconds / 1e6 / steps
        of_part[1] += 1 / steps
        of_part[2] += (kernel.bytes if kernel else 0) / steps
    return {part: Spent(*x) for part, x in sorted(total.items(), key=lambda one: -one[1][0])}


def profiled(call: Callable[[], Any]) -> list[Event]:
    """Return the kernels that a call ran.

    On a GPU these are the kernels of its streams; on a CPU, the operations of all threads.
    """
    import jax

    with tempfile.TemporaryDirectory() as kept, warnings.catch_warnings():
        # From Python 3.12 on, reading `event.stats` warns once a process; jaxlib's C++ ends the process where
        # that warning is an error.
        warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)
        with jax.profiler.trace(kept):
            call()
        [path] = Path(kept).rglob("*.xplane.pb")
        planes = [*jax.profiler.ProfileData.from_file(str(path)).planes]
        on_device = [
            (event.name, event.duration_ns)
            for plane in planes if plane.name.startswith("/device:")
            for line in plane.lines if "Stream" in line.name
            for event in line.events
        ]  # fmt: skip
        return on_device or [
            (event.name, event.duration_ns)
            for plane in planes
            for line in plane.lines
            for event in line.events
            if any(key == "hlo_op" for key, _ in event.stats)
        ]


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "whose model, objective and optimizer")
    flags.DEFINE_integer("batch", 8192, "examples a step", lower_bound=1)
    flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "of the compute")
    flags.DEFINE_integer("steps", 8, "profiled", lower_bound=1)
    flags.DEFINE_string("data", "", "where the rows are prepared, or lie; empty: a temporary directory")
    flags.DEFINE_integer("users", 20_000, "of the simulated service, where that is the source")


def main(args: flags.FlagValues) -> Report:
    import jax

    from jaxrec.runtime.device_batch import transfer
    from jaxrec.runtime.mesh import replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    with directory(args.data) as named:
        config = settings(args.config, named, args.dtype, args.users)
        ensure_dataset(config, config.data.directory)
        dataset = Dataset(config.data.directory)
        program = parts.program_of(config, dataset, args.batch)
        rows, table = parts.training_rows(dataset, program.config, "service"), dataset.arrays.title_table()
        device_table, state = replicate(table), replicate(StateInit(program).init())
        batch, step = transfer(parts.host_batch(program, rows)), parallelize_step(TrainStep(program))
        text = step.lower(state, batch, device_table)().as_text()

        def steps() -> None:
            nonlocal state
            for _ in range(args.steps):
                state, sums = step(state, batch, device_table)
            jax.block_until_ready((state, sums))

        time = interleaved({"steps": steps}, rounds=7, warmup=2)["steps"]
        events = profiled(steps)
        operations = parts.counted_by_xla(program, table, rows)
    copy, product = device_copy(), matrix_rate(dtype=args.dtype)
    each = gathered(events, text, args.steps)
    whole = Spent(*map(sum, zip(*each.values(), strict=True)))
    rate = time.rate(args.steps * args.batch)
    lines = [
        ("examples a second", spread(rate, "", 0), f"{1e3 * time.median / args.steps:.3f} ms a step"),
        ("a copy", spread({k: v / 1e9 for k, v in copy.items()}, "GB/s", 0), ""),
        (
            "the matrix rate", spread({k: v / 1e9 for k, v in product.items()}, "GFLOP/s", 0),
            f"{1e3 * operations / product['median']:.2f} ms for the step's {operations / 1e9:.0f} GFLOP",
        ),
    ]  # fmt: skip
    for part, spent in [*each.items(), ("all", whole)]:
        bound = 1e3 * spent.bytes / copy["median"]
        lines.append((
            part, f"{spent.milliseconds:.3f} ms, {spent.milliseconds / whole.milliseconds:.0%}",
            f"{spent.kernels:.0f} kernels; {spent.bytes / 1e6:,.0f} MB, {bound:.3f} ms to copy",
        ))  # fmt: skip
    figures = {
        "config": args.config, "batch": args.batch, "dtype": args.dtype, "rate": rate, "copy": copy,
        "matrix_rate": product, "flops": operations, "parts": {k: v._asdict() for k, v in each.items()},
    }  # fmt: skip
    return Report(f"roofline of {args.config} at batch {args.batch}, {args.dtype}", figures, lines)


if __name__ == "__main__":
    run(main, _flags)
