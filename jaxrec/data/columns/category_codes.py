"""Codes of categorical columns: provisional by chunk, final ids once all chunks are read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, UNKNOWN

FIRST_VALUE = UNKNOWN + 1


def is_missing(values: np.ndarray) -> np.ndarray:
    """Return a mask [N] bool of the missing entries of a raw column [N].

    NaN, the empty string and core.ids.MISSING are missing.
    """
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "i":
        return values == MISSING
    if values.dtype.kind in "US":
        return values == values.dtype.type()
    return np.zeros(len(values), bool)


class KnownColumn(NamedTuple):
    """Vocabulary or moments of a column in an earlier dataset, which stay.

    Attributes:
        dataset: Name of the dataset, for messages.
        values: Values of a category, in the order of their ids.
        moments: Mean and standard deviation of a number.
    """

    dataset: str
    values: tuple
    moments: tuple[float, float]


class CategoryCodes:
    """Codes of a categorical column: provisional by chunk, final at the end."""

    def __init__(self) -> None:
        self._code: dict = {}

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return provisional codes [N] int32 of a chunk's column [N], -1 where missing."""
        unique, inverse = np.unique(values, return_inverse=True)
        missing = is_missing(unique)
        # The loop is over the distinct values of a chunk, not over its rows.
        codes = np.array(
            [
                -1 if absent else self._code.setdefault(value, len(self._code))
                for value, absent in zip(unique.tolist(), missing, strict=True)
            ],
            np.int32,
        )
        return codes[inverse]

    def add(self, values: list) -> None:
        """Add values, none of them missing, in this order."""
        for value in values:
            self._code.setdefault(value, len(self._code))

    def codes_of(self, values: list) -> np.ndarray:
        """Return the provisional codes [number of values] int32 of values encoded before."""
        return np.array([self._code[value] for value in values], np.int32)

    def values(self) -> list:
        """Return the values in the order of their provisional codes."""
        return list(self._code)

    def finish(self, name: str = "", known: KnownColumn | None = None) -> tuple[list, np.ndarray]:
        """Return the values in final order, and the map from codes to final ids.

        The map is [codes + 1] int32, indexed by code + 1: index 0 is for missing values. Values of an earlier
        dataset come first, in their order.

        Args:
            name: Feature name for the error message.
            known: The column in an earlier dataset; None: there is none.

        Raises:
            InputError: The values are of another type than those of the earlier dataset.
        """
        earlier = [] if known is None else [*known.values]
        if known is not None and earlier and self._code:
            types = type(earlier[0]), type(next(iter(self._code)))
            if types[0] is not types[1]:
                kinds = ["text" if t is str else "whole numbers" for t in types]
                there = f"{known.dataset}: feature {name} holds {kinds[0]} there and {kinds[1]} here"
                raise InputError(f"{there}; allowed: values of the same type")
        values = earlier + sorted(self._code.keys() - set(earlier))
        remap = np.full(len(self._code) + 1, UNKNOWN, np.int32)
        for index, value in enumerate(values):
            if value in self._code:
                remap[self._code[value] + 1] = FIRST_VALUE + index
        return values, remap


class CountedCodes(CategoryCodes):
    """Codes of a categorical column whose values are counted, for the most frequent one."""

    def __init__(self) -> None:
        super().__init__()
        self._count: dict[Any, int] = {}

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return provisional codes, as `CategoryCodes.encode`, and count the values."""
        codes = super().encode(values)
        counts = np.bincount(codes[codes >= 0], minlength=len(self._code))
        self.add_counts(dict(zip(self._code, counts.tolist(), strict=True)))
        return codes

    def counts(self) -> dict[Any, int]:
        """Return the number of rows of each value."""
        return dict(self._count)

    def add_counts(self, counts: Mapping[Any, int]) -> None:
        """Add the counts of other chunks."""
        for value, count in counts.items():
            self._count[value] = self._count.get(value, 0) + count

    def most_frequent(self, values: list) -> int:
        """Return the final id of the most frequent value, of equals the first; UNKNOWN without any.

        Args:
            values: Values in final order, from `finish`.
        """
        counts = [self._count.get(value, 0) for value in values]
        return FIRST_VALUE + int(np.argmax(counts)) if any(counts) else UNKNOWN
