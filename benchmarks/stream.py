"""Speed of the input pipeline, compared with per-example pipelines.

    python -m benchmarks.stream

A dataset of random rows, in the layout of configs/smoe.py:paper, is written to a temporary folder by the
dataset writer, and the same rows to a flat file for the peers. All pipelines shuffle, repeat and return
batches with all fields, but for "rows on the device, host": the host's part where `train.resident` keeps the
rows on the device. Each peer runs with the best of its settings. All pipelines read from the page
cache.
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
from jaxrec.data.increments.catalogue import catalogue_arrays
from jaxrec.data.loading.batches import TrainBatches, stream
from jaxrec.data.storage.dataset import FORMAT, Dataset
from jaxrec.data.storage.writer import DatasetWriter

ROOT = Path(__file__).resolve().parents[1]
_CONFIG = f"{ROOT / 'configs/smoe.py'}:paper"
_CATEGORIES = 16  # values of each categorical feature
_CHUNK = 32_768  # rows generated at once
_LEAD = 5  # batches before the clock starts, so that batches prefetched before the round do not count
_OURS_EXAMPLES = 1_600_000  # largest number per round: 24 windows
_SLOW_EXAMPLES, _FAST_EXAMPLES = 60_000, 400_000  # of a peer; of a peer that joins whole rows
_MEMORY_STEPS, _MEMORY_RUNS = 300, 3
_TARGETS = {"grain": "target 20", "torch": "target 10"}
Open = Callable[[], Iterator[Any]]


# ---------------------------------------------------------------- the rows


def paper_layout() -> Layout:
    """Return the row layout of configs/smoe.py:paper.

    History 32; pools of 16, 32, 20 and 8; 5,000 titles.
    """
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
    return Layout(
        source.titles + FIRST_TITLE, data.max_history, data.num_targets, pools, data.negatives, features
    )


def random_rows(layout: Layout, first: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` valid training rows, all different, of users from `first` on."""
    rows = np.zeros(count, layout.row_dtype())

    def titles(*shape: int) -> np.ndarray:
        return rng.integers(FIRST_TITLE, layout.num_titles, (count, *shape), np.int32)

    rows["user"] = first + np.arange(count)
    present = np.arange(layout.num_targets) < rng.integers(1, layout.num_targets + 1, count)[:, None]
    rows["target"] = np.where(present, titles(layout.num_targets), 0)
    rows["target_completion"] = np.where(present, rng.uniform(0.05, 1, present.shape), 0)
    length = layout.max_history
    filled = np.arange(length) >= length - rng.integers(1, length + 1, count)[:, None]
    rows["history_title"] = np.where(filled, titles(length), 0)
    rows["history_completion"] = np.where(filled, rng.random(filled.shape, np.float32), 0)
    rows["history_age"] = np.where(filled, 16 * rng.random(filled.shape, np.float32), 0)
    rows["history_sessions"] = np.where(filled, rng.integers(1, 9, filled.shape, np.uint8), 0)
    rows["history_abandoned"] = filled & (rows["history_completion"] < 0.05)
    for name in ("user_categories", "context_categories"):
        rows[name] = rng.integers(1, _CATEGORIES, rows[name].shape, np.int32)
    for name, width in zip(POOLS, layout.pools, strict=False):
        rows[f"pool_{name}"] = titles(width)
    rows["pool_hard_filled"] = np.arange(layout.pools[0]) >= rng.integers(0, 9, count)[:, None]
    return rows


def write(directory: Path, count: int) -> Path:
    """Write a dataset of `count` training rows and a flat file of the same rows.

    Returns:
        Path of the flat file.
    """
    layout, rng = paper_layout(), np.random.default_rng(0)
    flat = directory.with_suffix(".flat")
    with DatasetWriter(directory) as writer, flat.open("wb") as file:
        writer.begin(layout)
        for first in range(0, count, _CHUNK):
            rows = random_rows(layout, first, min(_CHUNK, count - first), rng)
            writer.add("train", rows)
            rows.tofile(file)
        titles = np.arange(layout.num_titles - FIRST_TITLE)
        empty = np.zeros((len(titles), 0))
        arrays = catalogue_arrays(titles, np.ones(len(titles)), titles[::-1], titles, empty, empty)
        sizes = {"train": count, "validation": 0, "test": 0}
        manifest = {
            "format": FORMAT, "digest": "", "fingerprint": "", "layout": layout.to_json(),
            "splits": {split: {"examples": n, "users": n} for split, n in sizes.items()},
            "rows": {"read": count, "copies": 0, "dropped": {}}, "titles": len(arrays.title_key),
            "categories": {},
        }  # fmt: skip
        writer.finish(arrays, {}, manifest)
    return flat


# ---------------------------------------------------------------- the rivals


def ours(directory: Path, batch: int, packed: bool = False) -> Iterator[dict[str, np.ndarray]]:
    """Yield our batches with all fields, which are views of the batch's words.

    With `packed`, batches are those of training: sorted by length, distributed over the device's
    microbatches, with a plan of the histories that share a row.
    """
    dataset = Dataset(directory)
    rows = dataset.rows("train")
    batches = TrainBatches(rows, batch, seed=0, steps=10**9)
    if packed:
        from jaxrec.tasks.ranking import RankingTask
        from jaxrec.training.inputs.input_pipeline import training_batches

        config = load_config(_CONFIG)
        config.train.batch_size = batch
        batches = training_batches(RankingTask(config, dataset.layout, 0.5, rows.rows // batch, 10**9), rows)
    for host_batch in stream(batches):
        fields = host_batch.words.view(rows.dtype)[:, 0]
        yield {name: fields[name] for name in rows.dtype.names or ()}


def resident(directory: Path, batch: int, gathered: bool) -> Iterator[Any]:
    """Yield batches of rows that the device holds, with a plan of the histories that share a row.

    Args:
        directory: The dataset.
        batch: Examples per batch.
        gathered: True: the device gathers the rows, as in a step. False: what the host does for a batch, up
            to its transfer.
    """
    import jax

    from jaxrec.runtime import device_batch
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.tasks.ranking import RankingTask
    from jaxrec.training.inputs.input_pipeline import training_input

    config = load_config(_CONFIG)
    config.train.batch_size, config.train.resident = batch, "always"
    dataset = Dataset(directory)
    rows = dataset.rows("train")
    inputs = training_input(RankingTask(config, dataset.layout, 0.5, rows.rows // batch, 10**9), rows)
    step = parallelize_step(lambda state, shard, _: (state, shard), rows=inputs.rows)
    state, before = np.uint32(0), None
    for on_device in stream(inputs.source, then=device_batch.transfer):
        arrived = step(state, on_device, None)[1] if gathered else on_device.words
        jax.block_until_ready(before)  # one call in flight, as in training
        before = arrived
        yield arrived


class Track:
    """Runner of one pipeline at a time; other pipelines have no threads or processes."""

    def __init__(self) -> None:
        self._batches: Iterator[Any] | None = None

    def open(self, pipeline: Open) -> None:
        """Close the previous pipeline, start this one and take its first batches."""
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
        gc.collect()  # ends the workers of a DataLoader


def best(track: Track, settings: dict[str, Open], count: int) -> tuple[str, dict[str, float]]:
    """Return the fastest setting, and each setting's batches per second over `count`."""
    rates = {}
    for name, pipeline in settings.items():
        track.open(pipeline)
        started = time.perf_counter()
        track.take(count)
        rates[name] = count / (time.perf_counter() - started)
    track.close()
    return max(rates, key=lambda name: rates[name]), rates


def peers(flat: Path, dtype: np.dtype, batch: int) -> dict[str, dict[str, Open]]:
    """Return peer -> setting -> function that opens the pipeline.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        from benchmarks.peers import torch_loader
    except ImportError:
        raise InputError("PyTorch is not installed; python -m pip install -e .[peers]") from None

    def grain_pipelines(settings: tuple[grain_examples.Setting, ...]) -> dict[str, Open]:
        return {
            f"{s.threads} threads, {s.processes} processes": partial(
                grain_examples.batches, flat, dtype, batch, s
            )
            for s in settings
        }

    def torch_pipelines(fetch: str) -> dict[str, Open]:
        return {
            f"{w} workers": partial(torch_loader.batches, flat, dtype, batch, fetch, w)
            for w in torch_loader.WORKERS
        }

    return {
        "grain": grain_pipelines(grain_examples.SETTINGS),
        "torch": torch_pipelines("parsed"),
        "grain, rows kept whole": grain_pipelines(grain_examples.WHOLE_SETTINGS),
        "torch, rows kept whole": torch_pipelines("whole"),
        "torch, batched fetch": torch_pipelines("batched"),
    }


# ---------------------------------------------------------------- memory


def steady_memory(directory: str, batch: int) -> int:
    """Return the peak bytes of anonymous memory while batches are taken.

    The function runs in its own process.
    """
    most, batches = 0, ours(Path(directory), batch)
    for _ in range(_MEMORY_STEPS):
        next(batches)
        most = max(most, measure.anonymous_memory())
    return most


def memory(directory: Path, batch: int) -> dict[str, float]:
    """Return median, least and most of `steady_memory` in new processes."""
    code = f"from benchmarks.stream import steady_memory; print(steady_memory({str(directory)!r}, {batch}))"
    peaks = []
    for _ in range(_MEMORY_RUNS):
        process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        peaks.append(int(process.stdout))
    return {"median": statistics.median(peaks), "least": min(peaks), "most": max(peaks)}


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_integer("rows", 2_000_000, "training rows; memory is also measured with a tenth", 20_000)
    flags.DEFINE_integer("batch", 8192, "examples per batch", 1)
    flags.DEFINE_integer("rounds", 5, "rounds; each times all rivals once", 1)


def main(args: flags.FlagValues) -> command.Report:
    if args.rows < 10 * args.batch:
        raise InputError(f"--rows={args.rows} must be at least 10 batches of {args.batch}")
    with tempfile.TemporaryDirectory(prefix="jaxrec-stream-") as folder, contextlib.ExitStack() as stack:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write(small, args.rows // 10)
        flat = write(large, args.rows)
        track = Track()
        stack.callback(track.close)
        figures = _rates(track, large, flat, args.batch, args.rounds)
        figures["memory"] = {"tenth": memory(small, args.batch), "whole": memory(large, args.batch)}
    figures |= {"rows": args.rows, "batch": args.batch, "rounds": args.rounds}
    return command.Report("stream", figures, _table(figures))


def _rates(track: Track, directory: Path, flat: Path, batch: int, rounds: int) -> dict[str, Any]:
    rows = Dataset(directory).rows("train")
    dtype = rows.dtype
    pipelines: dict[str, Open] = {
        "ours": partial(ours, directory, batch),
        "ours, histories packed": partial(ours, directory, batch, packed=True),
        "ours, rows on the device": partial(resident, directory, batch, gathered=True),
        "ours, rows on the device, host": partial(resident, directory, batch, gathered=False),
    }
    counts = dict.fromkeys(pipelines, max(min(_OURS_EXAMPLES, rows.rows) // batch, 1))
    settings = {}
    for name, choices in peers(flat, dtype, batch).items():
        slow = name in _TARGETS or name.startswith("grain")
        examples = _SLOW_EXAMPLES if slow else _FAST_EXAMPLES
        count = max(min(examples, rows.rows) // batch, 1)
        chosen, rates = best(track, choices, max(count // 2, 1))
        pipelines[name], counts[name] = choices[chosen], count
        measured_rates = {setting: rate * batch for setting, rate in rates.items()}
        settings[name] = {"chosen": chosen, "examples_per_second": measured_rates}
    turns: dict[str, Callable[[], Any]] = {}
    for name, pipeline in pipelines.items():  # a rival is opened, untimed, just before its timed run
        turns |= {f"open {name}": partial(track.open, pipeline), name: partial(track.take, counts[name])}
    timed = measure.interleaved(turns, rounds, warmup=0)  # opening a pipeline is its warm-up
    track.close()
    per_example = {
        name: measure.Timing(tuple(s / (count * batch) for s in timed[name].seconds))
        for name, count in counts.items()
    }
    return {
        "examples_per_second": {name: timing.rate(1) for name, timing in per_example.items()},
        "times_faster": {name: measure.ratio(per_example[name], per_example["ours"]) for name in settings},
        "settings": settings,
        "bytes_per_second": per_example["ours"].rate(dtype.itemsize),
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
        comparison = "; ".join(
            filter(None, (_TARGETS.get(name, "no target"), f"best of its settings: {chosen}"))
        )
        rows.append((f"ours to {name}", command.spread(times, "times", 1), comparison))

    def scaled(figure: dict[str, float], unit: float) -> dict[str, float]:
        return {k: v / unit for k, v in figure.items()}

    written = command.spread(scaled(figures["bytes_per_second"], 1e9), "GB/s")
    copied = command.spread(scaled(figures["copy_bytes_per_second"], 1e9), "GB/s read and written by a copy")
    rows.append(("bytes of batches", written, copied))
    for size, size_memory in figures["memory"].items():
        count = figures["rows"] // (10 if size == "tenth" else 1)
        rows.append(
            (f"anonymous memory, {count:,} rows", command.spread(scaled(size_memory, 1e6), "MB", 0), "")
        )
    return rows


if __name__ == "__main__":
    command.run(main, _flags)
