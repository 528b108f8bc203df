"""The training step compiled for an accelerator that this machine does not have.

    python -m benchmarks.compiled [--device h200] [--config configs/smoe.py:paper] [--batch 8192]

Requires the compiler of the device: the extra `cuda` for a GPU, `tpu` for a TPU; no device, and no driver.
The step is the one that training runs there, with kernels and packing of that backend. The report lists, for
each part of the model, the kernels of a step, the bytes of their operands and results, and how long the
memory needs to copy these bytes by the data sheet. Time is not measured: nothing runs. A step also waits for
the launch of its kernels, two to three microseconds each on an H200, so fewer kernels are a faster step.
Bytes of parameters, state and temporaries say whether a model fits. On a TPU a loop of the compiler may count
as one kernel.
"""

import collections
from typing import Any

import jax
from absl import flags

from benchmarks import absent_device, lowered, step_parts
from benchmarks.collectives import collectives, run_counts
from benchmarks.command import Report, run
from benchmarks.roofline import Kernel, Spent, kernels_of_computations, part_of
from benchmarks.step import directory, settings
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.runtime import parallel_step
from jaxrec.training.train_step import TrainStep

# Instructions that are no kernels: addresses and shapes, and the second halves of asynchronous pairs.
_NO_KERNELS = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "while", "conditional", "call", "opt-barrier",
)  # fmt: skip


def by_part(text: str) -> dict[str, Spent]:
    """Return part -> kernels and bytes of a run of the program, in descending order of bytes.

    A loop whose length is not known counts once. Milliseconds are 0: nothing was run.

    Args:
        text: Text of the optimised program.
    """
    runs = run_counts(text, ("while", "conditional", "call", "async-start"))
    total: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    kernels_of = kernels_of_computations(text)
    for computation, known in runs.items():
        times = 1 if known is None else known
        for name, kernel in kernels_of.get(computation, {}).items():
            if _is_kernel(kernel):
                of_part = total[part_of(name, kernel.path)]
                of_part[0] += times
                of_part[1] += times * kernel.bytes
    ordered = sorted(total.items(), key=lambda item: -item[1][1])
    return {part: Spent(0.0, count, num_bytes) for part, (count, num_bytes) in ordered}


def _is_kernel(kernel: Kernel) -> bool:
    return kernel.opcode not in _NO_KERNELS and not kernel.opcode.endswith(("-done", "-update"))


def compiled_step(
    program: Any, rows: Any, devices: absent_device.AbsentDevices
) -> tuple[jax.stages.Compiled, str]:
    """Return the compiled step for the first batch of the rows, and who computes its matrix products.

    On a GPU, autotuning leaves the products for which XLA finds no tiling to a library. Without autotuning
    the compiler stops there, and all products are then left to the library.

    Args:
        program: Task.
        rows: Training rows.
        devices: Devices to compile for.
    """
    with devices.present():
        shapes = lowered.arguments(program, step_parts.host_batch(program, rows))
        step = parallel_step.shard_map_step(TrainStep(program), shapes[0]).lower(*shapes)
        try:
            return step.compile(), "the compiler"
        except jax.errors.JaxRuntimeError as error:
            if "tile sizes" not in str(error):
                raise
            return step.compile({"xla_gpu_enable_triton_gemm": False}), "a library"


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "config of the model, objective and optimizer")
    flags.DEFINE_string("device", "h200", "a100, h100, h200, or four of one as h200:4; v5e:2x2 and its like")
    flags.DEFINE_integer("batch", 8192, "examples per step", lower_bound=1)
    flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "dtype of the computation")
    flags.DEFINE_string("data", "", "folder of the prepared rows, reused; empty: a temporary directory")
    flags.DEFINE_integer("users", 20_000, "users of the simulated service, where it is the source")
    flags.DEFINE_string("hlo", "", "file to write the text of the program to; empty: none")


def main(args: flags.FlagValues) -> Report:
    devices = absent_device.absent_devices(args.device)
    with directory(args.data) as named:
        config = settings(args.config, named, args.dtype, args.users)
        ensure_dataset(config, named)
        dataset = Dataset(named)
        program = step_parts.program_of(config, dataset, args.batch)
        step, products = compiled_step(program, dataset.rows("train"), devices)
    text, memory = step.as_text() or "", step.memory_analysis()
    assert memory is not None  # both compilers report it
    if args.hlo:
        with open(args.hlo, "w") as file:
            file.write(text)
    parts = by_part(text)
    whole = Spent(*map(sum, zip(*parts.values(), strict=True)))
    lines = [
        (
            part, f"{spent.kernels:.0f} kernels",
            f"{spent.bytes / 1e6:,.0f} MB, {1e3 * spent.bytes / devices.bandwidth:.3f} ms to copy",
        )
        for part, spent in [*parts.items(), ("all", whole)]
    ]  # fmt: skip
    lines.append(("matrix products", f"by {products}", ""))
    sent = collections.Counter[str]()
    for one in collectives(text):
        sent[one.kind] += one.bytes * (1 if one.times is None else one.times)
    lines += [(f"sent by {kind}", f"{num_bytes / 1e6:,.2f} MB", "") for kind, num_bytes in sent.items()]
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    lines.append((
        "memory of a device", f"{(arguments + temporary) / 2**30:.2f} GiB",
        f"{arguments / 2**30:.2f} of them state, title table and batch",
    ))  # fmt: skip
    figures = {
        "config": args.config, "device": args.device, "devices": len(devices.devices), "batch": args.batch,
        "dtype": args.dtype, "products": products, "sent": sent,
        "parts": {part: spent._asdict() for part, spent in parts.items()}, "held": arguments,
        "temporary": temporary,
    }  # fmt: skip
    return Report(f"{args.config} at batch {args.batch}, {args.dtype}, for {args.device}", figures, lines)


if __name__ == "__main__":
    run(main, _flags)
