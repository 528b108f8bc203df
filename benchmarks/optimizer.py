"""python -m benchmarks.optimizer [--json F]: a table's update, plain Adam against `optimizer.lazy`.

The gradient comes dense, [rows, width], as our step makes it; its rows are those a batch of --draws
titles an example touches, titles drawn by Zipf's law. So both rivals read all of it: reading it once
(its norm) is the floor, printed beside. State and parameters are donated, as in training.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import copy_bandwidth, interleaved, ratio
from jaxrec.config.schema import Optimizer


def _flags() -> None:
    flags.DEFINE_list("titles", ["5000", "200000", "1000000"], "rows of the table")
    flags.DEFINE_list("batches", ["1024", "8192"], "examples a batch")
    flags.DEFINE_integer("draws", 48, "titles an example looks up: history and candidates", lower_bound=1)
    flags.DEFINE_integer("width", 64, "of the table", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "of rivals in turn", lower_bound=1)


def gradient(titles: int, width: int, draws: int, seed: int = 0) -> np.ndarray:
    """float32 [titles, width], not zero in the rows that `draws` titles touch; row r is drawn as 1 / r."""
    rng = np.random.default_rng(seed)
    to_row = np.cumsum(1.0 / np.arange(1, titles))
    rows = np.unique(1 + np.searchsorted(to_row, rng.random(draws) * to_row[-1]))  # row 0 is padding
    found = np.zeros((titles, width), np.float32)
    found[rows] = rng.normal(size=(len(rows), width)).astype(np.float32)
    return found


def rivals(found: np.ndarray) -> dict[str, Callable[[], Any]]:
    """An update of each kind, which returns its parameters, and the floor; each keeps its own state."""
    import jax
    import jax.numpy as jnp

    from jaxrec.training import optimizer

    table = {"embedding": jnp.asarray(found)}

    def updates(lazy: bool) -> Callable[[], Any]:
        config = Optimizer(lazy=lazy)

        def update(params: Any, state: Any, grads: Any) -> Any:
            return optimizer.step(config, grads, state, params, value=0.0, fresh=False)

        # results in the order of the arguments: donated buffers of one shape are handed out in turn, and in
        # another order every table would be copied
        compiled = jax.jit(update, donate_argnums=(0, 1))
        params = jax.tree.map(jnp.ones_like, table)
        held = [params, optimizer.make(config).init(params)]

        def once() -> Any:
            held[:] = jax.block_until_ready(compiled(held[0], held[1], table))
            return held[0]["embedding"]

        return once

    norm = jax.jit(optimizer.norm)
    return {
        "plain": updates(lazy=False),
        "lazy": updates(lazy=True),
        "floor": lambda: norm(table).block_until_ready(),
    }


def main(found: flags.FlagValues) -> Report:
    import jax

    figures: dict[str, Any] = {"device": jax.devices()[0].device_kind, "copy_bandwidth": copy_bandwidth()}
    rows = []
    for titles in map(int, found.titles):
        for batch in map(int, found.batches):
            grads = gradient(titles, found.width, batch * found.draws)
            touched = int(np.any(grads != 0, axis=1).sum())
            times = interleaved(rivals(grads), found.rounds, warmup=2)
            faster = ratio(times["plain"], times["lazy"])
            each = {
                name: {
                    k: 1e3 / v for k, v in zip(("median", "most", "least"), t.rate(1).values(), strict=True)
                }
                for name, t in times.items()
            }
            figures[f"{titles}/{batch}"] = {"touched": touched, "milliseconds": each, "ratio": faster}
            what = f"{titles:,} titles, batch {batch:,}: {touched:,} rows touched"
            rows += [
                (what, spread(each["lazy"], "ms lazy"), spread(each["plain"], "ms plain")),
                ("plain over lazy", spread(faster), spread(each["floor"], "ms to read the gradient")),
            ]
    return Report("optimizer", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
