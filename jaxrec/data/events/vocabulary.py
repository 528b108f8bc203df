"""Encoding of a source's raw columns as ids and standardised numbers.

The ids of a categorical column follow the sorted order of its values, after 0 (padding) and 1 (unknown or
missing). They do not depend on the order of rows or on the chunks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.rules.declared.contexts import MOST_FREQUENT
from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.columns.category_codes import (
    FIRST_VALUE,
    CategoryCodes,
    CountedCodes,
    KnownColumn,
    is_missing,
)
from jaxrec.data.text.ngrams import code_columns, ngram_ids, text_spec


def text_ids(values: np.ndarray) -> np.ndarray:
    """Return the ids [N, MOST] int32 of the n-grams of a raw column [N] of text; 0 where missing."""
    if values.dtype.kind != "U":
        values = np.where(is_missing(values), "", values.astype(str))
    return ngram_ids(values)


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
        self.counts: dict[str, dict[Any, int]] = {}  # by counted categorical feature, then by value

    def add(self, other: "FittedColumn") -> None:
        """Merge the values and sums of other chunks."""
        for name, values in other.values.items():
            self.values.setdefault(name, set()).update(values)
        for name, sums in other.sums.items():
            self.sums.setdefault(name, {}).update(sums)
        for name, counts in other.counts.items():
            total = self.counts.setdefault(name, {})
            total |= {value: total.get(value, 0) + count for value, count in counts.items()}


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
            f.name: _empty_state(f) for f in self.features if f.kind != "text"
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
            if isinstance(state, CountedCodes):
                out.counts[name] = state.counts()
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
            if isinstance(state, CountedCodes):
                state.add_counts(fitted.counts.get(name, {}))
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
                imputed = state.most_frequent(values) if isinstance(state, CountedCodes) else 0
                size = FIRST_VALUE + len(values)
                specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, size=size, imputed=imputed))
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


def _empty_state(feature: Feature) -> CategoryCodes | Moments:
    if feature.kind == "number":
        return Moments()
    return CountedCodes() if feature.impute == MOST_FREQUENT else CategoryCodes()


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    """Join columns [rows] and blocks of columns [rows, columns]."""
    return np.column_stack(columns).astype(dtype) if columns else np.empty((rows, 0), dtype)
