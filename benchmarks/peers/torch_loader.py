"""PyTorch's DataLoader over a flat file of rows, to tensors of all fields.

Three datasets stand for three common uses. `Parsed` returns an example as a dictionary of its fields, and
the collate function stacks the dictionaries. `Whole` returns the row in one piece, and the collate function
joins the bytes. `Batched` has `__getitems__`, so that the loader reads a batch at once.
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
        self.rows = np.asarray(np.memmap(path, dtype, "r"))  # forked workers share the mapping

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]


class Parsed(Whole):
    """Example i as a dictionary of its fields."""

    def __getitem__(self, i: int) -> Any:
        row = self.rows[i]
        return {name: row[name] for name in row.dtype.names}


class Batched(Whole):
    """Dataset that reads the rows of a batch at once."""

    def __getitems__(self, positions: list[int]) -> np.ndarray:
        return self.rows[positions]


def stack(examples: list[dict[str, Any]]) -> Tensors:
    """Stack examples, dictionaries of fields, to a batch."""
    return {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in examples[0]}


def split(rows: np.ndarray) -> Tensors:
    """Return a tensor per field of an array of rows."""
    names = rows.dtype.names or ()
    return {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in names}


def join(examples: list[Any], dtype: np.dtype) -> Tensors:
    """Join whole rows to a batch by their bytes."""
    return split(np.frombuffer(b"".join(examples), dtype))


FETCHES = ("parsed", "whole", "batched")


class _Repeated(Sampler):
    """Sampler with a new order per epoch; an epoch's last batch continues in the next."""

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
    """Return batches of all fields [size, ...] by one of FETCHES.

    `epochs` None means endless.
    """
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
