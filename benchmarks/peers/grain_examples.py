"""Per-example Grain pipeline over a file of rows: shuffle, repeat, parse, batch.

The source returns an example, a map makes it a dictionary of its fields, and `batch` stacks the
dictionaries, as in Grain's tutorials. The option `whole` is the faster variant that keeps the row in one
piece and joins the bytes of a batch at once.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

Fields = dict[str, np.ndarray]


class Setting(NamedTuple):
    """Workers: the caller's thread, `threads` additional ones, or `processes`."""

    threads: int = 0
    processes: int = 0
    whole: bool = False


SETTINGS = (Setting(), Setting(threads=2), Setting(processes=2))
WHOLE_SETTINGS = (Setting(whole=True), Setting(processes=2, whole=True))


class Examples:
    """Rows of a structured dtype in a flat file; each process opens the file again."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = path, dtype

    @cached_property
    def rows(self) -> np.ndarray:
        return np.asarray(np.memmap(self.path, self.dtype, "r"))  # 3 times faster per item than the memmap

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.dtype)

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def __getitem__(self, i: int) -> np.void:
        return self.rows[i]


def parse(row: np.void) -> Fields:
    """Return a row as a dictionary of its fields."""
    return {name: row[name] for name in row.dtype.names or ()}


class Join:
    """Callable that joins whole rows into the fields of a batch."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __call__(self, examples: Sequence[Any]) -> Fields:
        rows = np.frombuffer(b"".join(examples), self.dtype)
        return {name: rows[name] for name in self.dtype.names or ()}


def batches(
    path: Path, dtype: np.dtype, size: int, setting: Setting, seed: int = 0, epochs: int | None = None
) -> Iterator[Fields]:
    """Return batches of all fields [size, ...], in a new order per epoch.

    `epochs` None means endless.
    """
    shuffled = grain.MapDataset.source(Examples(path, dtype)).shuffle(seed=seed).repeat(epochs)
    examples = shuffled if setting.whole else shuffled.map(parse)
    buffer = 500 if setting.threads else 0
    read = examples.to_iter_dataset(
        grain.ReadOptions(num_threads=setting.threads, prefetch_buffer_size=buffer)
    )
    batched = read.batch(size, drop_remainder=True, batch_fn=Join(dtype) if setting.whole else None)
    if setting.processes:
        batched = batched.mp_prefetch(grain.MultiprocessingOptions(num_workers=setting.processes))
    return iter(batched)
