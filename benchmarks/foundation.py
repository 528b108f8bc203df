"""Block-local attention of long windows against dense attention, forward and backward.

    python -m benchmarks.foundation [--encoders sasrec,hstu] [--windows 128,512] [--span 64] [--width 64]
        [--layers 3] [--heads 4] [--batch 4] [--rounds 10] [--json F]

A call is the gradient of the sum of squares of an encoder's outputs by its parameters and inputs, of full
rows with random inputs and times: `models.next_item.LayerStack`, without the title table and the loss, which
do not depend on the attention. Both forms run in turn (A B A B ...). Other programs of the machine change the
time of the clock, so the processor time of all threads is compared too. The memory is that of the
intermediate values of the compiled program.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from jaxrec.config.schema import Expert
from jaxrec.core.errors import InputError
from jaxrec.core.registry import BLOCK_LOCAL_ENCODERS
from jaxrec.models.next_item import ItemWindow, LayerStack

DENSE, LOCAL = "dense", "block-local"


def _flags() -> None:
    flags.DEFINE_list("encoders", ["sasrec", "hstu"], "encoders of the registry")
    flags.DEFINE_list("windows", ["128", "512"], "numbers of positions, multiples of --span")
    flags.DEFINE_integer("span", 64, "positions of a chunk", lower_bound=1)
    flags.DEFINE_integer("width", 64, "width of the model", lower_bound=1)
    flags.DEFINE_integer("layers", 3, "layers of the encoder", lower_bound=1)
    flags.DEFINE_integer("heads", 4, "attention heads", lower_bound=1)
    flags.DEFINE_integer("batch", 4, "rows of a call", lower_bound=1)
    flags.DEFINE_integer("rounds", 10, "counted rounds", lower_bound=1)


def rivals_of(expert: Expert, span: int, width: int, batch: int) -> tuple[dict[str, Callable[[], Any]], dict]:
    """Return the compiled calls of both forms, and the bytes of their intermediate values.

    Raises:
        InputError: The span does not divide the window, or the encoder has no block-local form.
    """
    if expert.encoder not in BLOCK_LOCAL_ENCODERS:
        raise InputError(f"--encoders={expert.encoder}; allowed: {', '.join(BLOCK_LOCAL_ENCODERS)}")
    if expert.max_len % span:
        raise InputError(f"--windows={expert.max_len}; allowed: multiples of --span={span}")
    r = np.random.default_rng(0)
    shape = batch, expert.max_len
    times = np.sort(r.integers(10**9, 11 * 10**8, (batch, expert.max_len + 1)), axis=1).astype(np.uint32)
    window = ItemWindow(jnp.full(shape, 5), jnp.asarray(times[:, :-1]), jnp.asarray(times[:, 1:]))
    x = jnp.asarray(r.normal(size=(*shape, width)), jnp.float32)
    calls, memory = dict[str, Callable[[], Any]](), dict[str, int]()
    for name, of_span in ((DENSE, 0), (LOCAL, span)):
        stack = LayerStack("float32", expert, span=of_span)

        def loss(params: Any, x: jax.Array, stack: LayerStack = stack) -> jax.Array:
            outputs: Any = stack.apply({"params": params}, window, x, None)
            return jnp.square(outputs).sum()

        params = jax.jit(lambda key, stack=stack: stack.init(key, window, x, None))(jax.random.key(0))
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params["params"], x).compile()
        analysis: Any = compiled.memory_analysis()
        memory[name] = analysis.temp_size_in_bytes
        calls[name] = partial(_run, compiled, params["params"], x)
    return calls, memory


def _run(compiled: Any, *arguments: Any) -> Any:
    return jax.block_until_ready(compiled(*arguments))


def timed(rivals: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Return the time of the clock and the processor time of a call of each rival, by round."""
    processor: dict[str, list[float]] = {name: [] for name in rivals}

    def counted(name: str) -> None:
        started = time.process_time()
        rivals[name]()
        processor[name].append(time.process_time() - started)

    clock = interleaved({name: partial(counted, name) for name in rivals}, rounds)
    return clock, {name: Timing(tuple(seconds[-rounds:])) for name, seconds in processor.items()}


def main(args: flags.FlagValues) -> Report:
    rows, figures = [], dict[str, Any]()
    for encoder in args.encoders:
        for text in args.windows:
            if not text.isdecimal() or not int(text):
                raise InputError(f"--windows={text}; allowed: whole numbers above 0, separated by commas")
            window = int(text)
            expert = Expert(window, args.layers, args.heads, 2.0, 0.0, encoder)
            calls, memory = rivals_of(expert, args.span, args.width, args.batch)
            clock, processor = timed(calls, args.rounds)
            faster, cheaper = (ratio(t[DENSE], t[LOCAL]) for t in (clock, processor))
            rates = {name: timing.rate(args.batch * window) for name, timing in clock.items()}
            figures[f"{encoder} {window}"] = {
                "positions_per_second": rates, "ratio": faster, "processor_ratio": cheaper, "bytes": memory,
            }  # fmt: skip
            name = f"{encoder}, {window} positions"
            for form in (DENSE, LOCAL):
                mib = f"{memory[form] / 2**20:,.1f} MiB"
                rows.append((f"{name}: {form}", spread(rates[form], "positions/s", 0), mib))
            rows.append(
                (
                    f"{name}: block-local over dense",
                    spread(faster, "x"),
                    spread(cheaper, "x of processor time"),
                )
            )
    sizes = f"d={args.width}, {args.layers} layers, {args.batch} rows"
    title = f"Block-local attention, chunks of {args.span}, {sizes}"
    return Report(title, {"metrics": figures}, rows)


if __name__ == "__main__":
    run(main, _flags)
