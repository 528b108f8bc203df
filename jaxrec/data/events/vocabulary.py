"""Encoding of a source's raw columns as ids and standardised numbers.

The ids of a categorical column follow the sorted order of its values, after 0 (padding) and 1 (unknown or
missing). They do not depend on the order of rows or on the chunks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.text.ngrams import code_columns, ngram_ids, text_spec

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


def text_ids(values: np.ndarray) -> np.ndarray:
    """Return the ids [N, MOST] int32 of the n-grams of a raw column [N] of text; 0 where missing."""
    if values.dtype.kind != "U":
        values = np.where(is_missing(values), "", values.astype(str))
    return ngram_ids(values)


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


class Sums(NamedTuple):
    """Sums over the finite values of a numeric column's chunk.

    Attributes:
        finite: Number of finite values.
        total: Sum of the finite values.
        squares: Sum of the squares of the finite values.
    """

    finite: int
    total: float
    squares: float


class Moments:
    """Mean and standard deviation of a numeric column, accumulated by chunk.

    Only finite values count.
    """

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray, name: str) -> np.ndarray:
        """Add a chunk's column and return it as float64, NaN where missing.

        Args:
            values: [N] raw column.
            name: Feature name for the error message.

        Raises:
            InputError: The column is not numeric.
        """
        try:
            values = np.asarray(values).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"feature {name}: kind=number but the column holds {values[:1].tolist()}; "
                             "allowed: numbers") from error  # fmt: skip
        finite = values[np.isfinite(values)]
        self._n += len(finite)
        self._sum += float(finite.sum())
        self._squares += float((finite**2).sum())
        return values

    def sums(self) -> Sums:
        """Return the sums of the values added."""
        return Sums(self._n, self._sum, self._squares)

    def add_sums(self, sums: Sums) -> None:
        """Add the sums of another `Moments`, with the same effect as `add` of its values."""
        self._n += sums.finite
        self._sum += sums.total
        self._squares += sums.squares

    def finish(self) -> tuple[float, float]:
        """Return (mean, std): (0, 1) without values, and std 1 for a constant column."""
        if not self._n:
            return 0.0, 1.0
        mean = self._sum / self._n
        variance = self._squares / self._n - mean**2
        return mean, variance**0.5 if variance > 1e-12 * max(mean**2, 1e-12) else 1.0


def standardise(values: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Return (x - mean) / std [N] as float32; 0, which is the mean, where missing.

    Args:
        values: [N] float64, NaN where missing.
        spec: Spec with `mean` and `std` of the column.
    """
    scaled = (values - spec.mean) / spec.std
    return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)


class FittedColumn:
    """Values and sums of independently encoded chunks, merged in any order."""

    def __init__(self) -> None:
        self.values: dict[str, set] = {}  # by categorical feature
        self.sums: dict[str, dict[Any, Sums]] = {}  # by numeric feature, then by chunk id

    def add(self, other: "FittedColumn") -> None:
        """Merge the values and sums of other chunks."""
        for name, values in other.values.items():
            self.values.setdefault(name, set()).update(values)
        for name, sums in other.sums.items():
            self.sums.setdefault(name, {}).update(sums)


class FeatureColumns:
    """Encoder of the declared features of the users table or of the context.

    `add` returns provisional codes and raw numbers of a chunk; `finish` fixes the ids and the moments; then
    `encode` converts codes and numbers to their final form.

    Args:
        features: Declared features; only those of `where` are used.
        where: "user" or "context".
        known: Columns of an earlier dataset, whose values and moments stay; None: there is none.
    """

    def __init__(
        self, features: tuple[Feature, ...], where: str, known: Mapping[str, KnownColumn] | None = None
    ) -> None:
        self.features = [f for f in features if f.where == where]
        self.where, self._known = where, known or {}
        self._state: dict[str, CategoryCodes | Moments] = {  # text has none: its ids are final at once
            f.name: Moments() if f.kind == "number" else CategoryCodes()
            for f in self.features
            if f.kind != "text"
        }
        self.specs: tuple[FeatureSpec, ...] = ()
        self.values: dict[str, list] = {}
        self._remap: list[np.ndarray] = []

    def add(self, columns: dict[str, np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Add a chunk of raw columns.

        Args:
            columns: Raw columns [rows] by feature name.
            rows: Rows of the chunk.

        Returns:
            Provisional codes [rows, `code_columns`] int32, of text the final ids; and raw numbers [rows,
            numbers] float64.

        Raises:
            InputError: A declared feature is missing, or a number feature is not numeric.
        """
        categories, numbers = [], []
        for f in self.features:
            if f.name not in columns:
                raise InputError(f"feature {f.name}: no such {self.where} column; "
                                 f"the source gives: {', '.join(columns) or 'none'}")  # fmt: skip
            state = self._state.get(f.name)
            if state is None:
                categories.append(text_ids(columns[f.name]))
            elif isinstance(state, Moments):
                numbers.append(state.add(columns[f.name], f.name))
            else:
                categories.append(state.encode(columns[f.name]))
        return _stack(categories, rows, np.int32), _stack(numbers, rows, np.float64)

    def fitted(self, chunk_id: Any) -> FittedColumn:
        """Return values and sums of a chunk, the only one added.

        `chunk_id` defines the order in which sums are added.
        """
        out = FittedColumn()
        for name, state in self._state.items():
            if isinstance(state, Moments):
                out.sums[name] = {chunk_id: state.sums()}
            else:
                out.values[name] = set(state.values())
        return out

    def finish_from(self, fitted: FittedColumn) -> None:
        """Finish from chunks that other instances added.

        Codes follow the sorted values, and floating-point sums the order of the chunk ids, so that every
        worker gets the same result.
        """
        for name, state in self._state.items():
            if isinstance(state, Moments):
                for _, sums in sorted(fitted.sums.get(name, {}).items()):
                    state.add_sums(sums)
            else:
                state.add(sorted(fitted.values.get(name, ())))
        self.finish()

    def recode(self, chunk: "FeatureColumns", categories: np.ndarray) -> np.ndarray:
        """Convert codes [N, categories] int32 of `chunk` to the codes of this instance.

        This instance must have all values of `chunk`.
        """
        out = categories.copy()
        for i, name in self._code_columns():
            own, other = self._state[name], chunk._state[name]
            assert isinstance(own, CategoryCodes) and isinstance(other, CategoryCodes)
            # Code -1, a missing value, indexes the last entry and stays -1.
            out[:, i] = np.append(own.codes_of(other.values()), np.int32(-1))[categories[:, i]]
        return out

    def _code_columns(self) -> list[tuple[int, str]]:
        """Return the column of the codes of each category, and its name."""
        return [
            (code_columns(self.features[:i]), f.name)
            for i, f in enumerate(self.features)
            if f.kind not in ("number", "text")
        ]

    def finish(self) -> None:
        """Fix ids and moments, and set `specs` and `values`, once all chunks are added."""
        specs = []
        for f in self.features:
            state = self._state.get(f.name)
            if state is None:
                specs.append(text_spec(f))
            elif isinstance(state, Moments):
                known = self._known.get(f.name)
                mean, std = state.finish() if known is None else known.moments
                specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, mean=mean, std=std))
            else:
                values, remap = state.finish(f.name, self._known.get(f.name))
                self.values[f.name] = values
                self._remap.append(remap)
                specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, size=FIRST_VALUE + len(values)))
        self.specs = tuple(specs)

    def encode(self, categories: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert provisional codes and raw numbers to their final form, after `finish`.

        Args:
            categories: [N, categories] int32 provisional codes, from `add`.
            numbers: [N, numbers] float64 raw numbers, from `add`.

        Returns:
            Ids [N, categories] int32, and standardised numbers [N, numbers] float32.
        """
        ids = categories.astype(np.int32)
        for (i, _), remap in zip(self._code_columns(), self._remap, strict=True):
            ids[:, i] = remap[categories[:, i] + 1]
        kinds = [s for s in self.specs if s.kind == "number"]
        scaled = [standardise(numbers[:, i], s) for i, s in enumerate(kinds)]
        return ids, _stack(scaled, len(categories), np.float32)


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    """Join columns [rows] and blocks of columns [rows, columns]."""
    return np.column_stack(columns).astype(dtype) if columns else np.empty((rows, 0), dtype)
