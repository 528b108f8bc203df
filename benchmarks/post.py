"""Step rate of post-training: each objective against behaviour cloning, interleaved.

    python -m benchmarks.post [--batch 128] [--titles 1000] [--rounds 7] [--processor_time] [--json F]

A step is a whole training step of configs/policy.py on random rows: gradients and Adam. The rows are full, so
that every position has a target.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, ratio
from configs import policy
from jaxrec.core.batch import HostBatch
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import as_words
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.tasks.loading import build_task
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

CONTROL = "bc"
OBJECTIVES = (CONTROL, "reward", "exp_rsft", "asft", "cql", "wbc", "ppo", "ppo_kl", "dpo", "ipo", "small")


def _flags() -> None:
    flags.DEFINE_integer("batch", 128, "rows of a step", lower_bound=1)
    flags.DEFINE_integer("titles", 1_000, "titles", lower_bound=40)
    flags.DEFINE_bool("processor_time", False, "measure processor time, on a machine with other work")
    flags.DEFINE_integer("rounds", 7, "rounds; each times all steps once", lower_bound=1)


def step(name: str, batch: int, titles: int) -> tuple[Callable, tuple[Any, ...]]:
    """Return the compiled step of an objective of configs/policy.py, and its inputs."""
    config, rng = policy.get_config(name), np.random.default_rng(0)
    config.train.batch_size = batch
    feature = FeatureSpec("title_id", "category", "title", config.model.width, titles + 2)
    labels = tuple(label.name for label in config.labels)
    history = config.data.max_history
    has_pairs = config.post.objective in ("dpo", "ipo")
    layout = Layout(titles + 2, history, 1, (0, 0, 0, 0), 0, (feature,), "next_item", labels, pairs=has_pairs)
    layout = replace(layout, shown=config.data.served)
    task = build_task(config, layout, 0.5, 10, 100)
    rows = np.zeros(batch, layout.row_dtype())
    plays = rows["title"].shape[1]
    rows["title"] = 2 + rng.permuted(np.tile(np.arange(titles - 2), (batch, 1)), axis=1)[:, :plays]
    rows["time"] = 10**9 + 3600 * np.arange(plays)
    rows["label"][..., 0], rows["label_known"] = rng.integers(1, 6, (batch, plays)), 1
    if has_pairs:  # titles that the row does not hold
        rows["pair_winner"], rows["pair_loser"] = titles, titles + 1
    if layout.shown:
        rows["shown"] = rng.integers(2, titles + 2, rows["shown"].shape)
    host = HostBatch(as_words(rows), np.ones(batch, bool))
    arguments = (
        StateInit(task).init(),
        jax.tree.map(lambda x: x[None], host),
        empty_table(task.layout, task.config),
    )
    mapped = jax.vmap(TrainStep(task), in_axes=(None, 0, None), out_axes=0, axis_name=AXIS)
    return jax.jit(mapped), jax.tree.map(jnp.asarray, arguments)


def _finish(compiled: Callable, inputs: tuple[Any, ...]) -> None:
    """Run a step to its end."""
    jax.block_until_ready(compiled(*inputs))


def measure(args: flags.FlagValues) -> dict[str, Any]:
    """Return positions per second by objective, and each rate by that of behaviour cloning."""
    rivals: dict[str, Callable[[], Any]] = {
        name: partial(_finish, *step(name, args.batch, args.titles)) for name in OBJECTIVES
    }
    clock = time.process_time if args.processor_time else time.perf_counter
    times = interleaved(rivals, args.rounds, clock=clock)
    positions = args.batch * policy.get_config().model.experts[0].max_len
    return {
        "batch": args.batch,
        "titles": args.titles,
        "positions_per_second": {name: timing.rate(positions) for name, timing in times.items()},
        "of_control": {name: ratio(times[CONTROL], times[name]) for name in OBJECTIVES},
    }


def main(args: flags.FlagValues) -> Report:
    figures = measure(args)
    rows = [
        (name, spread(rate, "positions/s"), f"{spread(figures['of_control'][name])} of the rate of {CONTROL}")
        for name, rate in figures["positions_per_second"].items()
    ]
    title = f"Post-training steps of {args.batch:,} rows over {args.titles:,} titles"
    return Report(title, figures, rows)


if __name__ == "__main__":
    run(main, _flags)
