"""PyTorch's DataLoader over rows that lie in a flat file, to tensors of every field.

Three datasets, as their users differ: `Parsed` gives an example as a dictionary of its fields, which the
collate stacks; `Whole` gives the row in one piece, so that a collate which knows its bytes can join
them; `Batched` has `__getitems__`, so that the loader asks for a batch at once.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

WORKERS = (0, 1, 2)
Tensors = dict[str, torch.Tensor]


class Whole(Dataset):
    """Example i is row i of a structured dtype."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.rows = np.asarray(np.memmap(path, dtype, "r"))  # workers are forked: they share the mapping

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]


class Parsed(Whole):
    def __getitem__(self, i: int) -> Any:
        row = self.rows[i]
        return {name: row[name] for name in row.dtype.names}


class Batched(Whole):
    def __getitems__(self, places: list[int]) -> np.ndarray:
        return self.rows[places]


def stack(examples: list[dict[str, Any]]) -> Tensors:
    return {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in examples[0]}


def split(rows: np.ndarray) -> Tensors:
    names = rows.dtype.names or ()
    return {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in names}


def join(examples: list[Any], dtype: np.dtype) -> Tensors:
    return split(np.frombuffer(b"".join(examples), dtype))


FETCHES = ("parsed", "whole", "batched")


class _Repeated(Sampler):
    """Every epoch in its own order; an epoch's last batch is filled from the next one."""

    def __init__(self, size: int, epochs: int | None, seed: int) -> None:
        self.size, self.epochs, self.seed = size, epochs, seed

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            yield from torch.randperm(self.size, generator=generator).tolist()
            epoch += 1


def batches(
    path: Path, dtype: np.dtype, size: int, fetch: str, workers: int, seed: int = 0, epochs: int | None = None
) -> Iterator[Tensors]:
    """Batches of every field [size, ...] by one of FETCHES; endless unless told `epochs`."""
    kinds: dict[str, tuple[type[Whole], Callable[[Any], Tensors]]] = {
        "parsed": (Parsed, stack),
        "whole": (Whole, partial(join, dtype=dtype)),
        "batched": (Batched, split),
    }
    kind, collate = kinds[fetch]
    dataset = kind(path, dtype)
    return iter(
        DataLoader(
            dataset,
            size,
            sampler=_Repeated(len(dataset), epochs, seed),
            num_workers=workers,
            collate_fn=collate,
            drop_last=True,
        )
    )
