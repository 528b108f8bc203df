"""python -m benchmarks.save [--json F]: what an asynchronous save costs the training step.

Spells of training take turns: without a save, and with one begun at the spell's start, written while
the steps go on. What a save costs is the time by which its spell's steps are fewer; at one save a
minute that is its share of 60 s, and spells of 60 s measure just that. The stall is how long the call
holds up the main thread once the device is idle. The state is that of the config's model, and of the
same with a larger catalogue, whose title vectors make nearly all of it.
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

_BATCHES = 8  # different ones, taken in turn


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:small", "whose model and batch size")
    flags.DEFINE_list(
        "titles", ["1000", "200000"], "catalogues; title vectors are --width wide in all but the first"
    )
    flags.DEFINE_integer("width", 64, "of title vectors in the larger catalogues", lower_bound=1)
    flags.DEFINE_float("spell", 10.0, "seconds; 60 measures one save a minute as such", lower_bound=1.0)
    flags.DEFINE_integer("rounds", 4, "each a spell without and one with a save", lower_bound=1)
    flags.DEFINE_string("directory", "", "where checkpoints are written; empty: a temporary directory")


def enlarged(layout: Layout, arrays: Arrays, titles: int, width: int) -> tuple[Layout, Arrays]:
    """The layout and arrays of `titles` titles, of which the dataset's rows know the first."""
    more = titles + FIRST_TITLE - layout.titles
    if more <= 0:
        return layout, arrays
    features = tuple(
        dataclasses.replace(f, size=layout.titles + more, width=width) if f.name == TITLE_ID else f
        for f in layout.features
    )
    longer = {
        name: np.concatenate([array, np.repeat(array[-1:], more, axis=0)])
        for name, array in vars(arrays).items()
    }
    return dataclasses.replace(layout, titles=layout.titles + more, features=features), Arrays(**longer)


class Run:
    """A training run that can be held up by saves."""

    def __init__(self, config: Config, dataset: Dataset, titles: int, width: int, directory: Path) -> None:
        import jax

        from jaxrec.checkpoints.checkpointer import Checkpointer
        from jaxrec.data.loading.batches import TrainBatches
        from jaxrec.runtime.mesh import replicate
        from jaxrec.runtime.parallel_step import parallelize_step
        from jaxrec.tasks.ranking import RankingTask
        from jaxrec.training.train_state import StateInit
        from jaxrec.training.train_step import TrainStep

        layout, arrays = enlarged(dataset.layout, dataset.arrays, titles, width)
        program = RankingTask(config, layout, 0.5, 1_000, 10_000)
        self.batch_size, self.arrays = config.train.batch_size, vars(arrays)
        self.table = replicate(arrays.title_table())
        self.step = parallelize_step(TrainStep(program))
        self.state = replicate(StateInit(program).init())
        self.bytes = sum(x.nbytes for x in jax.tree.leaves(self.state))
        self.meta = {"config": to_json(config), "layout": layout.to_json()}
        self.checkpoints = Checkpointer(directory, writing=True)
        stored = TrainBatches(dataset.rows("train"), self.batch_size, 0, _BATCHES)
        self.batches: Iterator[HostBatch] = itertools.cycle([stored[t] for t in range(_BATCHES)])
        self.saves = 0

    def spell(self, seconds: float, save: bool) -> dict[str, float]:
        """Steps for about `seconds`: examples a second, and of a save its stall and until it was written."""
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
        self.checkpoints.wait()  # a spell that is too short would leave its save to the next
        out["unfinished"] = time.perf_counter() - waited if save else 0.0
        return out

    def close(self) -> None:
        self.checkpoints.close()


def figure(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": min(values), "most": max(values)}


def measured(run: Run, spell: float, rounds: int) -> dict[str, Any]:
    """Rates, the drop at one save a minute by round, and the stall of every save."""
    run.spell(min(spell, 3.0), save=False)  # compiles
    run.spell(min(spell, 3.0), save=True)  # the first save makes directories and threads
    found = [(run.spell(spell, save=False), run.spell(spell, save=True)) for _ in range(rounds)]
    cost = [spell * (1 - saving["rate"] / plain["rate"]) for plain, saving in found]
    return {
        "state_bytes": run.bytes,
        "examples_per_second": figure([plain["rate"] for plain, _ in found]),
        "examples_per_second_saving": figure([saving["rate"] for _, saving in found]),
        "unfinished_seconds": max(saving["unfinished"] for _, saving in found),
        "stall_seconds": [saving["stall"] for _, saving in found],
        "stall": figure([saving["stall"] for _, saving in found]),
        "cost_seconds": figure(cost),
        "drop_at_one_a_minute": figure([c / 60 for c in cost]),
    }


def main(found: flags.FlagValues) -> Report:
    figures: dict[str, Any] = {"spell_seconds": found.spell, "copy_bandwidth": copy_bandwidth()}
    rows = []
    with (
        prepared(found.config, 2_000) as config,
        tempfile.TemporaryDirectory(dir=found.directory or None) as folder,
    ):
        dataset = Dataset(config.data.directory)
        for titles in map(int, found.titles):
            training = Run(config, dataset, titles, found.width, Path(folder) / str(titles))
            mine = figures[str(titles)] = measured(training, found.spell, found.rounds)
            training.close()
            what = f"{titles:,} titles, state {mine['state_bytes'] / 2**20:,.1f} MiB"
            milliseconds = [f"{1e3 * s:,.0f}" for s in mine["stall_seconds"]]
            percent = {k: 100 * v for k, v in mine["drop_at_one_a_minute"].items()}
            plain, saving = mine["examples_per_second"], mine["examples_per_second_saving"]
            rows += [
                (what, spread(percent, "% fewer examples/s at one save a minute"), "target: under 3%"),
                (
                    f"spells of {found.spell:g} s",
                    spread(saving, "examples/s with a save", 0),
                    spread(plain, "without", 0),
                ),
                (
                    "a save costs",
                    spread(mine["cost_seconds"], "s of steps", 3),
                    f"stalls {', '.join(milliseconds)} ms",
                ),
            ]
    return Report("save", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
