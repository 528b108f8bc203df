"""Cost of an asynchronous checkpoint save to the training step.

    python -m benchmarks.save [--json F]

Training intervals alternate: one without a save, and one with a save that starts with the interval and is
written while the steps continue. The cost of a save is the time of the steps that are missing in its
interval. At one save per minute, the drop is this cost as a fraction of 60 s; intervals of 60 s measure it
directly. The stall is the time for which the call blocks the main thread after the device is idle. The
state is that of the config's model, and that of the same model with a larger catalogue, where the title
vectors make up nearly the whole state.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.evaluate import prepared
from benchmarks.measure import copy_bandwidth
from jaxrec.config.schema import Config
from jaxrec.config.serialization import to_json
from jaxrec.core.batch import HostBatch
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Arrays, Dataset

_BATCHES = 8  # different batches, used in turn


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:small", "config of the model and batch size")
    flags.DEFINE_list(
        "titles", ["1000", "200000"], "catalogue sizes; all but the first have title vectors of --width"
    )
    flags.DEFINE_integer("width", 64, "width of title vectors in the larger catalogues", lower_bound=1)
    flags.DEFINE_float(
        "spell", 10.0, "seconds of an interval; 60 measures one save per minute directly", lower_bound=1.0
    )
    flags.DEFINE_integer("rounds", 4, "rounds; each an interval without and one with a save", lower_bound=1)
    flags.DEFINE_string("directory", "", "folder of the checkpoints; empty: a temporary directory")


def enlarge(layout: Layout, arrays: Arrays, titles: int, width: int) -> tuple[Layout, Arrays]:
    """Return layout and arrays grown to `titles` titles; rows refer to the first ones."""
    added = titles + FIRST_TITLE - layout.num_titles
    if added <= 0:
        return layout, arrays
    features = tuple(
        dataclasses.replace(f, size=layout.num_titles + added, width=width) if f.name == TITLE_ID else f
        for f in layout.features
    )
    grown = {
        name: np.concatenate([array, np.repeat(array[-1:], added, axis=0)])
        for name, array in arrays.stored().items()
    }
    grown_layout = dataclasses.replace(layout, num_titles=layout.num_titles + added, features=features)
    return grown_layout, Arrays(**grown)


class Run:
    """A training run whose intervals may contain a save."""

    def __init__(self, config: Config, dataset: Dataset, titles: int, width: int, directory: Path) -> None:
        import jax

        from jaxrec.checkpoints.checkpointer import Checkpointer
        from jaxrec.data.loading.batches import TrainBatches
        from jaxrec.runtime.mesh import replicate
        from jaxrec.runtime.parallel_step import parallelize_step
        from jaxrec.tasks.ranking import RankingTask
        from jaxrec.training.train_state import StateInit
        from jaxrec.training.train_step import TrainStep

        layout, arrays = enlarge(dataset.layout, dataset.arrays, titles, width)
        program = RankingTask(config, layout, 0.5, 1_000, 10_000)
        self.batch_size, self.arrays = config.train.batch_size, arrays.stored()
        self.table = replicate(arrays.title_table())
        self.step = parallelize_step(TrainStep(program))
        self.state = replicate(StateInit(program).init())
        self.bytes = sum(x.nbytes for x in jax.tree.leaves(self.state))
        self.meta = {"config": to_json(config), "layout": layout.to_json()}
        self.checkpoints = Checkpointer(directory, writing=True)
        stored = TrainBatches(dataset.rows("train"), self.batch_size, 0, _BATCHES)
        self.batches: Iterator[HostBatch] = itertools.cycle([stored[t] for t in range(_BATCHES)])
        self.saves = 0

    def train_for(self, seconds: float, save: bool) -> dict[str, float]:
        """Train for about `seconds`; return the rate and the figures of a save.

        Returns:
            `rate`: examples per second. With `save` also `stall`, the seconds of the call. `unfinished`:
            seconds that the save still took after the interval.
        """
        import jax

        jax.block_until_ready(self.state)
        out = {}
        started = time.perf_counter()
        if save:
            self.saves += 1
            self.checkpoints.save(self.saves, self.state, self.meta, self.arrays)
            out["stall"] = time.perf_counter() - started
        steps = 0
        while not steps or time.perf_counter() - started < seconds:
            self.state, sums = self.step(self.state, next(self.batches), self.table)
            jax.block_until_ready(sums)
            steps += 1
        out["rate"] = steps * self.batch_size / (time.perf_counter() - started)
        waited = time.perf_counter()
        self.checkpoints.wait()  # an unfinished save would otherwise continue in the next interval
        out["unfinished"] = time.perf_counter() - waited if save else 0.0
        return out

    def close(self) -> None:
        self.checkpoints.close()


def summarize(values: list[float]) -> dict[str, float]:
    """Return the median, least and most of the values."""
    return {"median": float(np.median(values)), "least": min(values), "most": max(values)}


def measure(run: Run, seconds: float, rounds: int) -> dict[str, Any]:
    """Return rates, the drop at one save per minute by round, and all stalls."""
    run.train_for(min(seconds, 3.0), save=False)  # compiles
    run.train_for(min(seconds, 3.0), save=True)  # the first save creates directories and threads
    intervals = [
        (run.train_for(seconds, save=False), run.train_for(seconds, save=True)) for _ in range(rounds)
    ]
    cost = [seconds * (1 - saving["rate"] / plain["rate"]) for plain, saving in intervals]
    return {
        "state_bytes": run.bytes,
        "examples_per_second": summarize([plain["rate"] for plain, _ in intervals]),
        "examples_per_second_saving": summarize([saving["rate"] for _, saving in intervals]),
        "unfinished_seconds": max(saving["unfinished"] for _, saving in intervals),
        "stall_seconds": [saving["stall"] for _, saving in intervals],
        "stall": summarize([saving["stall"] for _, saving in intervals]),
        "cost_seconds": summarize(cost),
        "drop_at_one_a_minute": summarize([c / 60 for c in cost]),
    }


def main(args: flags.FlagValues) -> Report:
    figures: dict[str, Any] = {"spell_seconds": args.spell, "copy_bandwidth": copy_bandwidth()}
    rows = []
    with (
        prepared(args.config, 2_000) as config,
        tempfile.TemporaryDirectory(dir=args.directory or None) as folder,
    ):
        dataset = Dataset(config.data.directory)
        for titles in map(int, args.titles):
            training = Run(config, dataset, titles, args.width, Path(folder) / str(titles))
            figures_of_size = figures[str(titles)] = measure(training, args.spell, args.rounds)
            training.close()
            label = f"{titles:,} titles, state {figures_of_size['state_bytes'] / 2**20:,.1f} MiB"
            milliseconds = [f"{1e3 * s:,.0f}" for s in figures_of_size["stall_seconds"]]
            percent = {k: 100 * v for k, v in figures_of_size["drop_at_one_a_minute"].items()}
            plain, saving = (
                figures_of_size["examples_per_second"],
                figures_of_size["examples_per_second_saving"],
            )
            rows += [
                (label, spread(percent, "% fewer examples/s at one save a minute"), "target: under 3%"),
                (
                    f"intervals of {args.spell:g} s",
                    spread(saving, "examples/s with a save", 0),
                    spread(plain, "without", 0),
                ),
                (
                    "a save costs",
                    spread(figures_of_size["cost_seconds"], "s of steps", 3),
                    f"stalls {', '.join(milliseconds)} ms",
                ),
            ]
    return Report("save", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
