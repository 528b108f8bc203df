"""Update of a table: plain Adam compared with the lazy Adam of `optimizer.lazy`.

    python -m benchmarks.optimizer [--json F]

The gradient is dense, [rows, width], as in the training step. Its non-zero rows are those that a batch
touches: --draws titles per example, drawn by Zipf's law. Both rivals therefore read the whole gradient. The
time of one read (the norm) is reported as the lower bound. State and parameters are donated, as in training.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import copy_bandwidth, interleaved, ratio
from jaxrec.config.schema import Optimizer


def _flags() -> None:
    flags.DEFINE_list("titles", ["5000", "200000", "1000000"], "numbers of rows of the table")
    flags.DEFINE_list("batches", ["1024", "8192"], "examples per batch")
    flags.DEFINE_integer(
        "draws", 48, "titles that an example looks up: history and candidates", lower_bound=1
    )
    flags.DEFINE_integer("width", 64, "width of the table", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "rounds; each times all rivals once", lower_bound=1)


def gradient(titles: int, width: int, draws: int, seed: int = 0) -> np.ndarray:
    """Return a float32 gradient [titles, width], non-zero in the rows that are drawn.

    Row r is drawn with probability proportional to 1 / r.
    """
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1.0 / np.arange(1, titles))
    rows = np.unique(1 + np.searchsorted(cumulative, rng.random(draws) * cumulative[-1]))  # row 0 is padding
    grads = np.zeros((titles, width), np.float32)
    grads[rows] = rng.normal(size=(len(rows), width)).astype(np.float32)
    return grads


def rivals(grads: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return an update of each kind and the lower bound; each keeps its own state.

    An update returns the parameters.
    """
    import jax
    import jax.numpy as jnp

    from jaxrec.training import optimizer

    table = {"embedding": jnp.asarray(grads)}

    def updates(lazy: bool) -> Callable[[], Any]:
        config = Optimizer(lazy=lazy)

        def update(params: Any, state: Any, grads: Any) -> Any:
            return optimizer.step(config, grads, state, params, value=0.0, fresh=False)

        # Results are in the order of the arguments: donated buffers of one shape are assigned in order, and
        # with another order every table would be copied.
        compiled = jax.jit(update, donate_argnums=(0, 1))
        params = jax.tree.map(jnp.ones_like, table)
        params_and_state = [params, optimizer.make(config).init(params)]

        def once() -> Any:
            params_and_state[:] = jax.block_until_ready(
                compiled(params_and_state[0], params_and_state[1], table)
            )
            return params_and_state[0]["embedding"]

        return once

    norm = jax.jit(optimizer.norm)
    return {
        "plain": updates(lazy=False),
        "lazy": updates(lazy=True),
        "floor": lambda: norm(table).block_until_ready(),
    }


def main(args: flags.FlagValues) -> Report:
    import jax

    figures: dict[str, Any] = {"device": jax.devices()[0].device_kind, "copy_bandwidth": copy_bandwidth()}
    rows = []
    for titles in map(int, args.titles):
        for batch in map(int, args.batches):
            grads = gradient(titles, args.width, batch * args.draws)
            touched = int(np.any(grads != 0, axis=1).sum())
            times = interleaved(rivals(grads), args.rounds, warmup=2)
            speedup = ratio(times["plain"], times["lazy"])
            milliseconds = {
                name: {
                    k: 1e3 / v for k, v in zip(("median", "most", "least"), t.rate(1).values(), strict=True)
                }
                for name, t in times.items()
            }
            figures[f"{titles}/{batch}"] = {
                "touched": touched,
                "milliseconds": milliseconds,
                "ratio": speedup,
            }
            setting = f"{titles:,} titles, batch {batch:,}: {touched:,} rows touched"
            rows += [
                (setting, spread(milliseconds["lazy"], "ms lazy"), spread(milliseconds["plain"], "ms plain")),
                (
                    "plain over lazy",
                    spread(speedup),
                    spread(milliseconds["floor"], "ms to read the gradient"),
                ),
            ]
    return Report("optimizer", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
