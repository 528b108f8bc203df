"""python -m benchmarks.attention [--json F]: the forms of attention, forward alone and with the gradient.

Each form of `jaxrec.nn.attention` that this backend and dtype can have, at Table 3's heads (12 of 8) and the
rows into which a batch of the simulated service's histories packs: a part of 256 examples, as the step works
through it on a CPU, and batches of 1024 and 8192 at once. Longer rows besides, of as many places as the part.
Forms take turns; a ratio above 1 says how many times faster than einsum a form is.
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
    rows: int
    length: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}"


# Rows of 20 and of 7 places that 256, 1024 and 8192 examples of configs/smoe.py:paper pack into.
SHAPES = ("105x20", "187x7", "392x20", "716x7", "2976x20", "5536x7", "33x64", "11x200")
_FIRST, _LAST = 2, 6  # histories a row holds


def _flags() -> None:
    flags.DEFINE_list("shapes", list(SHAPES), "rows x places")
    flags.DEFINE_integer("heads", 12, "of a row", lower_bound=1)
    flags.DEFINE_integer("width", 8, "of a head", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of q, k and v")
    flags.DEFINE_list("forms", [], "some of the forms; empty: all that can be had here")
    flags.DEFINE_integer("rounds", 9, "each times every form once", lower_bound=1)


def shape_of(text: str) -> Shape:
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) for p in parts):
        raise InputError(f"--shapes={text}: allowed: rows x places, as 105x20")
    return Shape(*map(int, parts))


def inputs(shape: Shape, heads: int, width: int, dtype: str) -> tuple[Any, Any]:
    """q, k and v side by side, and who sees whom: a row holds a few histories, then padding."""
    import jax.numpy as jnp

    r, (R, L) = np.random.default_rng(0), shape
    qkv = jnp.asarray(r.normal(size=(R, L, 3 * heads * width)), dtype)
    ends = np.sort(r.integers(1, L + 1, (R, _LAST)), axis=1)[:, : r.integers(_FIRST, _LAST + 1)]
    of_RxL = (np.arange(L)[None, :, None] >= ends[:, None]).sum(2)
    return qkv, jnp.asarray(of_RxL[:, :, None] == of_RxL[:, None])


def rivals(
    forms: Sequence[str], given: tuple[Any, Any], heads: int
) -> dict[str, dict[str, Callable[[], Any]]]:
    """ "forward" and "with gradient" -> form -> a run of it, compiled."""
    import jax

    from jaxrec.models.layers.attention import attend_fused

    qkv, same = given

    def forward(name: str) -> Callable[[], Any]:
        run = jax.jit(lambda qkv, same: attend_fused(name, qkv, same, heads))
        return lambda: jax.block_until_ready(run(qkv, same))

    def with_gradient(name: str) -> Callable[[], Any]:
        def total(qkv: Any, same: Any) -> Any:
            # of the square, so that no gradient is the same everywhere and worked out in advance
            return jax.numpy.square(attend_fused(name, qkv, same, heads).astype("float32")).sum()

        run = jax.jit(jax.grad(total))
        return lambda: jax.block_until_ready(run(qkv, same))

    return {
        "forward": {name: forward(name) for name in forms},
        "with gradient": {name: with_gradient(name) for name in forms},
    }


def milliseconds(timing: Timing) -> dict[str, float]:
    seconds = timing.seconds
    return {"median": 1e3 * timing.median, "least": 1e3 * min(seconds), "most": 1e3 * max(seconds)}


def main(found: flags.FlagValues) -> Report:
    import jax

    from jaxrec.models.layers.attention import allowed_forms, choose_form

    shapes, backend = [shape_of(text) for text in found.shapes], jax.default_backend()
    here = allowed_forms(backend, found.dtype, found.width)
    wrong = [name for name in found.forms if name not in here]
    if wrong:
        raise InputError(f"--forms={wrong[0]}; allowed here: {', '.join(here)}")
    forms = tuple(dict.fromkeys((PLAIN, *(found.forms or here))))
    figures: dict[str, Any] = {
        "device": jax.devices()[0].device_kind, "dtype": found.dtype, "heads": found.heads,
        "width": found.width, "shapes": {},
    }  # fmt: skip
    rows = []
    for shape in shapes:
        into: dict[str, Any] = {"auto": choose_form(backend, found.dtype, found.width)}
        figures["shapes"][str(shape)] = into
        for what, raced in rivals(
            forms, inputs(shape, found.heads, found.width, found.dtype), found.heads
        ).items():
            times = interleaved(raced, found.rounds, warmup=2)
            for name in forms:
                gain = ratio(times[PLAIN], times[name])
                into.setdefault(what, {})[name] = {"milliseconds": milliseconds(times[name]), "gain": gain}
                beside = "" if name == PLAIN else f"{spread(gain)} times {PLAIN}"
                rows.append((f"{shape}, {what}: {name}", spread(milliseconds(times[name]), "ms"), beside))
    title = f"attention, {found.heads} heads of {found.width}, {found.dtype}"
    return Report(title, figures, rows)


if __name__ == "__main__":
    run(main, _flags)
