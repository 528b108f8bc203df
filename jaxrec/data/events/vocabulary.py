"""Encoding of a source's raw columns as ids and standardised numbers.

The ids of a categorical column follow the sorted order of its values, after 0 (padding) and 1 (unknown or
missing). They do not depend on the order of rows or on the chunks.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, TITLE_ID, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.core.tables import Lists

_FIRST_VALUE = UNKNOWN + 1


def is_missing(values: np.ndarray) -> np.ndarray:
    """Return a mask [N] of the missing entries of a raw column.

    Missing are NaN, the empty string, and core.ids.MISSING.
    """
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "i":
        return values == MISSING
    if values.dtype.kind in "US":
        return values == values.dtype.type()
    return np.zeros(len(values), bool)


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
        """Return the provisional codes, int32, of values encoded before."""
        return np.array([self._code[value] for value in values], np.int32)

    def values(self) -> list:
        """Return the values in the order of their provisional codes."""
        return list(self._code)

    def finish(self) -> tuple[list, np.ndarray]:
        """Return the values in final order, and the map from codes to final ids.

        The map is [codes + 1] int32, indexed by code + 1: index 0 is for missing values.
        """
        values = sorted(self._code)
        remap = np.full(len(values) + 1, UNKNOWN, np.int32)
        for index, value in enumerate(values):
            remap[self._code[value] + 1] = _FIRST_VALUE + index
        return values, remap


class Sums(NamedTuple):
    """Sums over the finite values of a numeric column's chunk."""

    finite: int  # number of finite values
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
    """Return (x - mean) / std as float32; 0, which is the mean, where missing."""
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
    """

    def __init__(self, features: tuple[Feature, ...], where: str) -> None:
        self.features = [f for f in features if f.where == where]
        self.where = where
        self._state: dict[str, CategoryCodes | Moments] = {
            f.name: Moments() if f.kind == "number" else CategoryCodes() for f in self.features
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
            Provisional codes [rows, categories] int32 and raw numbers [rows, numbers] float64.

        Raises:
            InputError: A declared feature is missing, or a number feature is not numeric.
        """
        categories, numbers = [], []
        for f in self.features:
            if f.name not in columns:
                raise InputError(f"feature {f.name}: no such {self.where} column; "
                                 f"the source gives: {', '.join(columns) or 'none'}")  # fmt: skip
            state = self._state[f.name]
            if isinstance(state, Moments):
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
        """Convert codes [N, categories] of `chunk` to the codes of this instance.

        This instance must have all values of `chunk`.
        """
        out = np.empty_like(categories)
        states = [(s, chunk._state[name]) for name, s in self._state.items() if isinstance(s, CategoryCodes)]
        for i, (own, other) in enumerate(states):
            assert isinstance(other, CategoryCodes)
            # Code -1, a missing value, indexes the last entry and stays -1.
            out[:, i] = np.append(own.codes_of(other.values()), np.int32(-1))[categories[:, i]]
        return out

    def finish(self) -> None:
        """Fix ids and moments, and set `specs` and `values`, once all chunks are added."""
        specs = []
        for f in self.features:
            state = self._state[f.name]
            if isinstance(state, Moments):
                mean, std = state.finish()
                specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, mean=mean, std=std))
            else:
                self.values[f.name], remap = state.finish()
                self._remap.append(remap)
                specs.append(
                    FeatureSpec(f.name, f.kind, f.where, f.width, size=_FIRST_VALUE + len(remap) - 1)
                )
        self.specs = tuple(specs)

    def encode(self, categories: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return final int32 ids and standardised float32 numbers."""
        ids = [remap[categories[:, i] + 1] for i, remap in enumerate(self._remap)]
        kinds = [s for s in self.specs if s.kind == "number"]
        scaled = [standardise(numbers[:, i], s) for i, s in enumerate(kinds)]
        return _stack(ids, len(categories), np.int32), _stack(scaled, len(categories), np.float32)


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    return np.stack(columns, axis=1).astype(dtype) if columns else np.empty((rows, 0), dtype)


def title_columns(
    raw: dict[str, np.ndarray | Lists], features: tuple[Feature, ...], titles: int
) -> tuple[np.ndarray, np.ndarray, tuple[FeatureSpec, ...], dict[str, list]]:
    """Encode the title features of the catalogue, one row per title.

    Rows are in the caller's order.

    Args:
        raw: Raw columns by feature name.
        features: Declared features; only title features are used.
        titles: Number of titles.

    Returns:
        Ids [titles, columns] int32, numbers [titles, columns] float32, the specs in declared order (title_id
        included, without a column), and the values of each categorical feature.

    Raises:
        InputError: A declared feature is missing, or its kind does not match the column.
    """
    categories, numbers, specs, values = [], [], [], {}
    for f in (f for f in features if f.where == "title"):
        if f.name == TITLE_ID:
            specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, size=titles + _FIRST_VALUE, columns=0))
            continue
        if f.name not in raw:
            raise InputError(
                f"feature {f.name}: no such title column; the source gives: {', '.join(raw) or 'none'}"
            )
        column = raw[f.name]
        if isinstance(column, Lists) != (f.kind == "categories"):
            content = "lists" if isinstance(column, Lists) else "single values"
            raise InputError(f"feature {f.name}: kind={f.kind} but the title column holds {content}")
        if f.kind == "number":
            moments = Moments()
            x = moments.add(np.asarray(column), f.name)
            mean, std = moments.finish()
            spec = FeatureSpec(f.name, f.kind, f.where, f.width, mean=mean, std=std)
            numbers.append(standardise(x, spec)[:, None])
        else:
            codes = CategoryCodes()
            lists = column if isinstance(column, Lists) else Lists(column, np.arange(titles + 1))
            provisional = codes.encode(lists.values)
            values[f.name], remap = codes.finish()
            most = f.most if f.kind == "categories" else 1
            categories.append(pad_lists(remap[provisional + 1], lists.offsets, most))
            size = _FIRST_VALUE + len(values[f.name])
            spec = FeatureSpec(f.name, f.kind, f.where, f.width, size=size, columns=most)
        specs.append(spec)
    wide = np.concatenate(categories, axis=1) if categories else np.empty((titles, 0), np.int32)
    tall = np.concatenate(numbers, axis=1) if numbers else np.empty((titles, 0), np.float32)
    return wide, tall, tuple(specs), values


def pad_lists(ids: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    """Return the first `most` ids of each list, padded with 0: [rows, most].

    An empty list becomes UNKNOWN.
    """
    at = offsets[:-1, None] + np.arange(most)
    inside = at < offsets[1:, None]
    padded = np.where(inside, ids[np.minimum(at, max(len(ids) - 1, 0))] if len(ids) else 0, 0).astype(
        np.int32
    )
    padded[np.diff(offsets) == 0, 0] = UNKNOWN
    return padded
