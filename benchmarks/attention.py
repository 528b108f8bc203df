"""Attention implementations: forward pass alone and with the gradient.

    python -m benchmarks.attention [--json F]

The benchmark times each implementation of `jaxrec.models.layers.attention` that this backend and dtype
allow. Heads are those of Table 3 (12 of width 8). Row counts are those of packed batches of the simulated
service's histories: a microbatch of 256 examples, the size that a step uses on a CPU, and batches of 1024
and 8192. Longer rows have about as many positions as the microbatch. Implementations run in turn. A ratio
above 1 is the speed-up over einsum.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from jaxrec.core.errors import InputError

PLAIN = "einsum"


class Shape(NamedTuple):
    """Number of packed rows and their length in positions."""

    rows: int
    length: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}"


# Packed rows of 20 and of 7 positions of 256, 1024 and 8192 examples of configs/smoe.py:paper.
SHAPES = ("105x20", "187x7", "392x20", "716x7", "2976x20", "5536x7", "33x64", "11x200")
_FIRST, _LAST = 2, 6  # histories per row, at least and at most


def _flags() -> None:
    flags.DEFINE_list("shapes", list(SHAPES), "rows x positions")
    flags.DEFINE_integer("heads", 12, "attention heads", lower_bound=1)
    flags.DEFINE_integer("width", 8, "width of a head", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype of q, k and v")
    flags.DEFINE_list("forms", [], "implementations; empty: all that are available here")
    flags.DEFINE_integer("rounds", 9, "rounds; each times all implementations once", lower_bound=1)


def shape_of(text: str) -> Shape:
    """Return the shape of a text such as "105x20".

    Raises:
        InputError: The text has another form.
    """
    numbers = text.split("x")
    if len(numbers) != 2 or not all(p.isdecimal() and int(p) for p in numbers):
        raise InputError(f"--shapes={text}: allowed: rows x positions, as 105x20")
    return Shape(*map(int, numbers))


def inputs(shape: Shape, heads: int, width: int, dtype: str) -> tuple[Any, Any]:
    """Return q, k and v side by side [R, L, 3 * H * D], and the mask [R, L, L].

    A row holds a few histories and then padding; a position attends to the positions of its own history.
    """
    import jax.numpy as jnp

    r, (R, L) = np.random.default_rng(0), shape
    qkv = jnp.asarray(r.normal(size=(R, L, 3 * heads * width)), dtype)
    ends = np.sort(r.integers(1, L + 1, (R, _LAST)), axis=1)[:, : r.integers(_FIRST, _LAST + 1)]
    segment_RxL = (np.arange(L)[None, :, None] >= ends[:, None]).sum(2)
    return qkv, jnp.asarray(segment_RxL[:, :, None] == segment_RxL[:, None])


def rivals(
    forms: Sequence[str], qkv_and_mask: tuple[Any, Any], heads: int
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return "forward" and "with gradient" -> implementation -> a compiled run."""
    import jax

    from jaxrec.models.layers.attention import attend_fused

    qkv, mask = qkv_and_mask

    def forward(name: str) -> Callable[[], Any]:
        run = jax.jit(lambda qkv, mask: attend_fused(name, qkv, mask, heads))
        return lambda: jax.block_until_ready(run(qkv, mask))

    def with_gradient(name: str) -> Callable[[], Any]:
        def total(qkv: Any, mask: Any) -> Any:
            # The square makes the gradient depend on the data; a constant gradient would be folded.
            return jax.numpy.square(attend_fused(name, qkv, mask, heads).astype("float32")).sum()

        run = jax.jit(jax.grad(total))
        return lambda: jax.block_until_ready(run(qkv, mask))

    return {
        "forward": {name: forward(name) for name in forms},
        "with gradient": {name: with_gradient(name) for name in forms},
    }


def milliseconds(timing: Timing) -> dict[str, float]:
    """Return the median, least and most milliseconds of a timing."""
    seconds = timing.seconds
    return {"median": 1e3 * timing.median, "least": 1e3 * min(seconds), "most": 1e3 * max(seconds)}


def main(args: flags.FlagValues) -> Report:
    import jax

    from jaxrec.models.layers.attention import allowed_forms, choose_form

    shapes, backend = [shape_of(text) for text in args.shapes], jax.default_backend()
    allowed = allowed_forms(backend, args.dtype, args.width)
    unknown = [name for name in args.forms if name not in allowed]
    if unknown:
        raise InputError(f"--forms={unknown[0]}: allowed: {', '.join(allowed)}")
    forms = tuple(dict.fromkeys((PLAIN, *(args.forms or allowed))))
    figures: dict[str, Any] = {
        "device": jax.devices()[0].device_kind, "dtype": args.dtype, "heads": args.heads,
        "width": args.width, "shapes": {},
    }  # fmt: skip
    rows = []
    for shape in shapes:
        shape_figures: dict[str, Any] = {"auto": choose_form(backend, args.dtype, args.width)}
        figures["shapes"][str(shape)] = shape_figures
        for direction, runs in rivals(
            forms, inputs(shape, args.heads, args.width, args.dtype), args.heads
        ).items():
            times = interleaved(runs, args.rounds, warmup=2)
            for name in forms:
                gain = ratio(times[PLAIN], times[name])
                shape_figures.setdefault(direction, {})[name] = {
                    "milliseconds": milliseconds(times[name]),
                    "gain": gain,
                }
                comparison = "" if name == PLAIN else f"{spread(gain)} times {PLAIN}"
                rows.append(
                    (f"{shape}, {direction}: {name}", spread(milliseconds(times[name]), "ms"), comparison)
                )
    title = f"attention, {args.heads} heads of {args.width}, {args.dtype}"
    return Report(title, figures, rows)


if __name__ == "__main__":
    run(main, _flags)
