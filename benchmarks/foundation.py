"""Block-local attention of long windows against dense attention, and one position more from a cache.

    python -m benchmarks.foundation [--encoders sasrec,hstu] [--windows 128,512] [--cached 256] [--span 64]
        [--width 64] [--layers 3] [--heads 4] [--batch 4] [--rounds 10] [--json F]

A call is the gradient of the sum of squares of an encoder's outputs by its parameters and inputs, of full
rows with random inputs and times: `models.next_item.LayerStack`, without the title table and the loss, which
do not depend on the attention. `--cached` compares the output of the newest position by a pass over the whole
window with that by `NextItemModel.extend` from a cache of the positions before, with dense and with
block-local attention; the outputs differ by at most 1e-5 of the largest one.

Both forms run in turn (A B A B ...). Other programs of the machine change the time of the clock, so the
processor time of all threads is compared too. The memory is that of the intermediate values of the compiled
program.
"""

import itertools
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
from jaxrec.config.schema import Expert, Model
from jaxrec.core.errors import InputError
from jaxrec.core.registry import BLOCK_LOCAL_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.next_item import ItemWindow, LayerStack, NextItemModel

DENSE, LOCAL = "dense", "block-local"
WHOLE, CACHED = "whole window", "one position"
_CALLS = 30  # of a pass or of one position more, in a turn
_TITLES = 1000


def _flags() -> None:
    flags.DEFINE_list("encoders", ["sasrec", "hstu"], "encoders of the registry")
    flags.DEFINE_list("windows", ["128", "512"], "numbers of positions, multiples of --span")
    flags.DEFINE_list("cached", ["256"], "numbers of positions of cached windows, multiples of --span")
    flags.DEFINE_integer("span", 64, "positions of a chunk", lower_bound=1)
    flags.DEFINE_integer("width", 64, "width of the model", lower_bound=1)
    flags.DEFINE_integer("layers", 3, "layers of the encoder", lower_bound=1)
    flags.DEFINE_integer("heads", 4, "attention heads", lower_bound=1)
    flags.DEFINE_integer("batch", 4, "rows of a call", lower_bound=1)
    flags.DEFINE_integer("rounds", 10, "counted rounds", lower_bound=1)


def _window(batch: int, positions: int) -> ItemWindow:
    """Return full windows with random times."""
    r, shape = np.random.default_rng(0), (batch, positions)
    times = np.sort(r.integers(10**9, 11 * 10**8, (batch, positions + 1)), axis=1).astype(np.uint32)
    title = jnp.asarray(r.integers(2, _TITLES, shape), jnp.int32)
    return ItemWindow(title, jnp.asarray(times[:, :-1]), jnp.asarray(times[:, 1:]))


def cached_rivals(expert: Expert, span: int, width: int, batch: int) -> dict[str, Callable[[], Any]]:
    """Return the compiled calls of a pass over whole windows, and of one position more.

    Raises:
        ValueError: The outputs differ.
    """
    features = (FeatureSpec("title_id", "category", "title", width, _TITLES, 0),)
    fields = Model(width, (expert,), dropout=0.0, head="dot", position="none", attention_span=span)
    model: Any = NextItemModel("float32", features, _TITLES, fields)
    window = _window(batch, expert.max_len)
    before, last = (jax.tree.map(lambda x, s=s: x[:, s], window) for s in (slice(0, -1), slice(-1, None)))
    vectors = (jax.random.normal(jax.random.key(1), (_TITLES, width)),)
    params = jax.jit(model.init)(jax.random.key(0), window, vectors)

    @jax.jit
    def whole(params: Any) -> jax.Array:
        return model.apply(params, window, vectors)[:, -1]

    @jax.jit
    def extended(params: Any, cache: Any) -> Any:
        return model.apply(params, last, vectors, cache, method="extend")

    encode = partial(model.apply, method="encode_history")
    _, cache = jax.jit(lambda params: encode(params, before, vectors, expert.max_len))(params)
    outputs, other = np.asarray(whole(params)), np.asarray(extended(params, cache)[0][:, 0])
    if np.abs(outputs - other).max() > 1e-5 * np.abs(outputs).max():
        raise ValueError(f"the outputs of {expert.encoder} with span={span} differ")
    # One call of half a millisecond after another program would mostly measure caches that it left cold.
    calls = {WHOLE: partial(_run, whole, params), CACHED: partial(_run, extended, params, cache)}
    return {name: partial(_repeat, call) for name, call in calls.items()}


def rivals_of(expert: Expert, span: int, width: int, batch: int) -> tuple[dict[str, Callable[[], Any]], dict]:
    """Return the compiled calls of both forms, and the bytes of their intermediate values.

    Raises:
        InputError: The span does not divide the window, or the encoder has no block-local form.
    """
    if expert.encoder not in BLOCK_LOCAL_ENCODERS:
        raise InputError(f"--encoders={expert.encoder}; allowed: {', '.join(BLOCK_LOCAL_ENCODERS)}")
    if expert.max_len % span:
        raise InputError(f"--windows={expert.max_len}; allowed: multiples of --span={span}")
    window = _window(batch, expert.max_len)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*window.title_BxL.shape, width)), jnp.float32)
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


def _repeat(call: Callable[[], Any]) -> Any:
    """Call `_CALLS` times, one after the other, and return the last result."""
    for _ in range(_CALLS - 1):
        call()
    return call()


def timed(rivals: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Return the time of the clock and the processor time of a call of each rival, by round."""
    processor: dict[str, list[float]] = {name: [] for name in rivals}

    def counted(name: str) -> None:
        started = time.process_time()
        rivals[name]()
        processor[name].append(time.process_time() - started)

    clock = interleaved({name: partial(counted, name) for name in rivals}, rounds)
    return clock, {name: Timing(tuple(seconds[-rounds:])) for name, seconds in processor.items()}


def _numbers(args: flags.FlagValues, flag: str) -> list[int]:
    """Return the whole numbers of a flag.

    Raises:
        InputError: One of them is no whole number above 0, or no multiple of --span.
    """
    for text in getattr(args, flag):
        if not text.isdecimal() or not int(text) or int(text) % args.span:
            allowed = f"multiples of --span={args.span} above 0, separated by commas"
            raise InputError(f"--{flag}={text}; allowed: {allowed}")
    return [int(text) for text in getattr(args, flag)]


def main(args: flags.FlagValues) -> Report:
    rows, figures = list[tuple[str, str, str]](), dict[str, Any]()
    windows, cached = _numbers(args, "windows"), _numbers(args, "cached")
    for encoder in args.encoders:
        for window in windows:
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
            rows.append(_compared(f"{name}: block-local over dense", faster, cheaper))
        for window, span in itertools.product(cached, (0, args.span)):
            expert = Expert(window, args.layers, args.heads, 2.0, 0.0, encoder)
            clock, processor = timed(cached_rivals(expert, span, args.width, args.batch), args.rounds)
            faster, cheaper = (ratio(t[WHOLE], t[CACHED]) for t in (clock, processor))
            form = LOCAL if span else DENSE
            figures[f"{encoder} {window} cached, {form}"] = {"ratio": faster, "processor_ratio": cheaper}
            name = f"{encoder}, {window} positions, {form}: one position over the whole window"
            rows.append(_compared(name, faster, cheaper))
    sizes = f"d={args.width}, {args.layers} layers, {args.batch} rows"
    title = f"Long windows, chunks of {args.span}, {sizes}"
    return Report(title, {"metrics": figures}, rows)


def _compared(name: str, clock: Any, processor: Any) -> tuple[str, str, str]:
    return name, spread(clock, "x"), spread(processor, "x of processor time")


if __name__ == "__main__":
    run(main, _flags)
