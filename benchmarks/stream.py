"""python -m benchmarks.stream: examples a second of our input pipeline, beside per-example ones.

A dataset of random rows, in the layout of configs/smoe.py:paper, is written to a temporary folder by the
store's own writer, and the same rows to a flat file for the peers. Every pipeline shuffles, repeats and
gives batches with every field; of each peer the best of its settings runs. All read from the page cache.
"""

import contextlib
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import command, measure
from benchmarks.peers import grain_examples
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Simulator
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, POOLS, TITLE_ID
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.loading.batches import TrainBatches, stream
from jaxrec.data.storage.dataset import FORMAT, Dataset
from jaxrec.data.storage.writer import DatasetWriter, catalogue_arrays

ROOT = Path(__file__).resolve().parents[1]
_CONFIG = f"{ROOT / 'configs/smoe.py'}:paper"
_CATEGORIES = 16  # values of every categorical feature
_CHUNK = 32_768  # rows made at once
_LEAD = 5  # batches before the clock starts: what was prefetched while nobody waited is not counted
_OURS_EXAMPLES = 1_600_000  # in a turn, at most: 24 windows
_SLOW_EXAMPLES, _FAST_EXAMPLES = 60_000, 400_000  # of a peer; of one that joins whole rows
_MEMORY_STEPS, _MEMORY_RUNS = 300, 3
_TARGETS = {"grain": "target 20", "torch": "target 10"}
Open = Callable[[], Iterator[Any]]


# ---------------------------------------------------------------- the rows


def paper_layout() -> Layout:
    """The rows of configs/smoe.py:paper: history 32, pools 16, 32, 20 and 8, 5,000 titles."""
    config = load_config(_CONFIG)
    features = tuple(
        FeatureSpec(
            f.name,
            f.kind,
            f.where,
            f.width,
            size=0 if f.kind == "number" else _CATEGORIES,
            columns=0 if f.name == TITLE_ID else max(f.most, 1),
        )
        for f in config.features
    )
    data, source = config.data, config.source
    assert isinstance(source, Simulator)
    pools = (data.hard, data.trending, data.tailing, data.random)
    return Layout(source.titles + FIRST_TITLE, data.history, data.next_k, pools, data.negatives, features)


def random_rows(layout: Layout, first: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` well-formed training rows of users `first` on; no two are alike."""
    rows = np.zeros(count, layout.row_dtype())

    def titles(*shape: int) -> np.ndarray:
        return rng.integers(FIRST_TITLE, layout.titles, (count, *shape), np.int32)

    rows["user"] = first + np.arange(count)
    there = np.arange(layout.next_k) < rng.integers(1, layout.next_k + 1, count)[:, None]
    rows["target"] = np.where(there, titles(layout.next_k), 0)
    rows["target_completion"] = np.where(there, rng.uniform(0.05, 1, there.shape), 0)
    seen = np.arange(layout.history) >= layout.history - rng.integers(1, layout.history + 1, count)[:, None]
    rows["history_title"] = np.where(seen, titles(layout.history), 0)
    rows["history_completion"] = np.where(seen, rng.random(seen.shape, np.float32), 0)
    rows["history_age"] = np.where(seen, 16 * rng.random(seen.shape, np.float32), 0)
    rows["history_sessions"] = np.where(seen, rng.integers(1, 9, seen.shape, np.uint8), 0)
    rows["history_abandoned"] = seen & (rows["history_completion"] < 0.05)
    for name in ("user_categories", "context_categories"):
        rows[name] = rng.integers(1, _CATEGORIES, rows[name].shape, np.int32)
    for name, width in zip(POOLS, layout.pools, strict=True):
        rows[f"pool_{name}"] = titles(width)
    rows["pool_hard_filled"] = np.arange(layout.pools[0]) >= rng.integers(0, 9, count)[:, None]
    return rows


def write(directory: Path, count: int) -> Path:
    """A dataset of `count` training rows, and the same rows as a flat file, whose path it returns."""
    layout, rng = paper_layout(), np.random.default_rng(0)
    flat = directory.with_suffix(".flat")
    with DatasetWriter(directory) as writer, flat.open("wb") as file:
        writer.begin(layout)
        for first in range(0, count, _CHUNK):
            rows = random_rows(layout, first, min(_CHUNK, count - first), rng)
            writer.add("train", rows)
            rows.tofile(file)
        titles = np.arange(layout.titles - FIRST_TITLE)
        empty = np.zeros((len(titles), 0))
        arrays = catalogue_arrays(titles, np.ones(len(titles)), titles[::-1], titles, empty, empty)
        manifest = {"format": FORMAT, "layout": layout.to_json(), "splits": {"train": {"examples": count}}}
        writer.finish(arrays, {}, manifest)
    return flat


# ---------------------------------------------------------------- the rivals


def ours(directory: Path, batch: int, packed: bool = False) -> Iterator[dict[str, np.ndarray]]:
    """Our batches with every field: the packed words, which fields are views of. With `packed`, as training
    takes them: sorted by length, dealt to the device's parts, and planned how histories share rows."""
    dataset = Dataset(directory)
    rows = dataset.rows("train")
    batches = TrainBatches(rows, batch, seed=0, steps=10**9)
    if packed:
        from jaxrec.tasks.ranking import RankingTask
        from jaxrec.training.input_pipeline import training_batches

        config = load_config(_CONFIG)
        config.train.batch_size = batch
        batches = training_batches(RankingTask(config, dataset.layout, 0.5, rows.rows // batch, 10**9), rows)
    for found in stream(batches):
        of_fields = found.words.view(rows.dtype)[:, 0]
        yield {name: of_fields[name] for name in rows.dtype.names or ()}


class Track:
    """Where rivals run, one at a time: only the pipeline whose turn it is has threads and processes."""

    def __init__(self) -> None:
        self._batches: Iterator[Any] | None = None

    def open(self, pipeline: Open) -> None:
        """Ends the pipeline before, starts this one, and lets it settle."""
        self.close()
        self._batches = pipeline()
        self.take(_LEAD)

    def take(self, count: int) -> None:
        assert self._batches is not None
        for _ in range(count):
            next(self._batches)

    def close(self) -> None:
        if self._batches is not None and hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = None
        gc.collect()  # a loader's workers end with it


def best(track: Track, settings: dict[str, Open], count: int) -> tuple[str, dict[str, float]]:
    """The fastest setting, and each one's batches a second over `count` batches."""
    rates = {}
    for name, pipeline in settings.items():
        track.open(pipeline)
        started = time.perf_counter()
        track.take(count)
        rates[name] = count / (time.perf_counter() - started)
    track.close()
    return max(rates, key=lambda name: rates[name]), rates


def peers(flat: Path, dtype: np.dtype, batch: int) -> dict[str, dict[str, Open]]:
    """Each peer's settings. Raises InputError where PyTorch is not installed."""
    try:
        from benchmarks.peers import torch_loader
    except ImportError:
        raise InputError("PyTorch is not installed; python -m pip install -e .[peers]") from None

    def of_grain(settings: tuple[grain_examples.Setting, ...]) -> dict[str, Open]:
        return {
            f"{s.threads} threads, {s.processes} processes": partial(
                grain_examples.batches, flat, dtype, batch, s
            )
            for s in settings
        }

    def of_torch(fetch: str) -> dict[str, Open]:
        return {
            f"{w} workers": partial(torch_loader.batches, flat, dtype, batch, fetch, w)
            for w in torch_loader.WORKERS
        }

    return {
        "grain": of_grain(grain_examples.SETTINGS),
        "torch": of_torch("parsed"),
        "grain, rows kept whole": of_grain(grain_examples.WHOLE_SETTINGS),
        "torch, rows kept whole": of_torch("whole"),
        "torch, batched fetch": of_torch("batched"),
    }


# ---------------------------------------------------------------- memory


def steady_memory(directory: str, batch: int) -> int:
    """Most bytes of anonymous memory while batches are taken; in a process of its own."""
    most, batches = 0, ours(Path(directory), batch)
    for _ in range(_MEMORY_STEPS):
        next(batches)
        most = max(most, measure.anonymous_memory())
    return most


def memory(directory: Path, batch: int) -> dict[str, float]:
    """Of `steady_memory` in fresh processes: median, least and most."""
    code = f"from benchmarks.stream import steady_memory; print(steady_memory({str(directory)!r}, {batch}))"
    found = []
    for _ in range(_MEMORY_RUNS):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        found.append(int(done.stdout))
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_integer("rows", 2_000_000, "training rows of the dataset; memory also with a tenth", 20_000)
    flags.DEFINE_integer("batch", 8192, "examples a batch", 1)
    flags.DEFINE_integer("rounds", 5, "turns of each rival", 1)


def main(found: flags.FlagValues) -> command.Report:
    if found.rows < 10 * found.batch:
        raise InputError(f"--rows={found.rows} must be at least 10 batches of {found.batch}")
    with tempfile.TemporaryDirectory(prefix="jaxrec-stream-") as folder, contextlib.ExitStack() as ends:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write(small, found.rows // 10)
        flat = write(large, found.rows)
        track = Track()
        ends.callback(track.close)
        figures = _rates(track, large, flat, found.batch, found.rounds)
        figures["memory"] = {"tenth": memory(small, found.batch), "whole": memory(large, found.batch)}
    figures |= {"rows": found.rows, "batch": found.batch, "rounds": found.rounds}
    return command.Report("stream", figures, _table(figures))


def _rates(track: Track, directory: Path, flat: Path, batch: int, rounds: int) -> dict[str, Any]:
    rows = Dataset(directory).rows("train")
    dtype = rows.dtype
    racers: dict[str, Open] = {
        "ours": partial(ours, directory, batch),
        "ours, histories packed": partial(ours, directory, batch, packed=True),
    }
    taken = dict.fromkeys(racers, max(min(_OURS_EXAMPLES, rows.rows) // batch, 1))
    settings = {}
    for name, choices in peers(flat, dtype, batch).items():
        slow = name in _TARGETS or name.startswith("grain")
        examples = _SLOW_EXAMPLES if slow else _FAST_EXAMPLES
        count = max(min(examples, rows.rows) // batch, 1)
        chosen, rates = best(track, choices, max(count // 2, 1))
        racers[name], taken[name] = choices[chosen], count
        tried = {setting: rate * batch for setting, rate in rates.items()}
        settings[name] = {"chosen": chosen, "examples_per_second": tried}
    turns: dict[str, Callable[[], Any]] = {}
    for name, pipeline in racers.items():  # a rival is opened, off the clock, just before its turn
        turns |= {f"open {name}": partial(track.open, pipeline), name: partial(track.take, taken[name])}
    timed = measure.interleaved(turns, rounds, warmup=0)  # each turn has its own
    track.close()
    each = {
        name: measure.Timing(tuple(s / (count * batch) for s in timed[name].seconds))
        for name, count in taken.items()
    }
    return {
        "examples_per_second": {name: timing.rate(1) for name, timing in each.items()},
        "times_faster": {name: measure.ratio(each[name], each["ours"]) for name in settings},
        "settings": settings,
        "bytes_per_second": each["ours"].rate(dtype.itemsize),
        "copy_bytes_per_second": measure.copy_bandwidth(),
        "bytes_per_example": dtype.itemsize,
    }


def _table(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    rates, ratios = figures["examples_per_second"], figures["times_faster"]
    rows = [
        (name, command.spread(rate, "examples/s", 0), "target 1,000,000" if name == "ours" else "")
        for name, rate in rates.items()
    ]
    for name, times in ratios.items():
        chosen = figures["settings"][name]["chosen"]
        beside = "; ".join(filter(None, (_TARGETS.get(name, "no target"), f"best of its settings: {chosen}")))
        rows.append((f"ours to {name}", command.spread(times, "times", 1), beside))

    def scaled(figure: dict[str, float], unit: float) -> dict[str, float]:
        return {k: v / unit for k, v in figure.items()}

    written = command.spread(scaled(figures["bytes_per_second"], 1e9), "GB/s")
    copied = command.spread(scaled(figures["copy_bytes_per_second"], 1e9), "GB/s read and written by a copy")
    rows.append(("bytes of batches", written, copied))
    for size, used in figures["memory"].items():
        count = figures["rows"] // (10 if size == "tenth" else 1)
        rows.append((f"anonymous memory, {count:,} rows", command.spread(scaled(used, 1e6), "MB", 0), ""))
    return rows


if __name__ == "__main__":
    command.run(main, _flags)
