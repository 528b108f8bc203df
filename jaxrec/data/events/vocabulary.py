"""From a source's raw columns to ids and standardised numbers.

A categorical column's values are numbered by their sorted order, after 0 (padding) and 1 (unknown or
missing), whatever order or chunks they came in.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, TITLE_ID, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.core.tables import Lists

_FIRST_VALUE = UNKNOWN + 1


def missing(values: np.ndarray) -> np.ndarray:
    """Where a raw column has no value: NaN, the empty string, or schema.MISSING."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "i":
        return values == MISSING
    if values.dtype.kind in "US":
        return values == values.dtype.type()
    return np.zeros(len(values), bool)


class CategoryCodes:
    """Numbers a categorical column chunk by chunk: provisional codes now, final ids once all is seen."""

    def __init__(self) -> None:
        self._code: dict = {}

    def encode(self, values: np.ndarray) -> np.ndarray:
        """[N] int32 provisional codes, -1 where missing."""
        unique, inverse = np.unique(values, return_inverse=True)
        lost = missing(unique)
        codes = np.array(
            [
                -1 if gone else self._code.setdefault(value, len(self._code))
                for value, gone in zip(unique.tolist(), lost, strict=True)
            ],
            np.int32,
        )  # a loop over the distinct values of a chunk, not over its rows
        return codes[inverse]

    def add(self, values: list) -> None:
        """Numbers values that are not missing, in this order."""
        for value in values:
            self._code.setdefault(value, len(self._code))

    def of(self, values: list) -> np.ndarray:
        """[values] int32 codes of values that were encoded."""
        return np.array([self._code[value] for value in values], np.int32)

    def known(self) -> list:
        """The values by provisional code."""
        return list(self._code)

    def finish(self) -> tuple[list, np.ndarray]:
        """The values in their final order, and [provisional + 1] int32 mapping code + 1 to final id."""
        values = sorted(self._code)
        remap = np.full(len(values) + 1, UNKNOWN, np.int32)
        for place, value in enumerate(values):
            remap[self._code[value] + 1] = _FIRST_VALUE + place
        return values, remap


class Sums(NamedTuple):
    """Of the finite values of a numeric column's chunk."""

    finite: int
    total: float
    squares: float


class Moments:
    """Mean and standard deviation of a numeric column's finite values, chunk by chunk."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray, name: str) -> np.ndarray:
        """The column as float64, NaN where missing. InputError where it is not numeric."""
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
        return Sums(self._n, self._sum, self._squares)

    def add_sums(self, sums: Sums) -> None:
        """As `add` of the values they are of, alone in their Moments."""
        self._n += sums.finite
        self._sum += sums.total
        self._squares += sums.squares

    def finish(self) -> tuple[float, float]:
        """(mean, std); (0, 1) of nothing, and std 1 of a constant."""
        if not self._n:
            return 0.0, 1.0
        mean = self._sum / self._n
        variance = self._squares / self._n - mean**2
        return mean, variance**0.5 if variance > 1e-12 * max(mean**2, 1e-12) else 1.0


def standardise(values: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """float32 (x - mean) / std; 0, the mean, where missing."""
    scaled = (values - spec.mean) / spec.std
    return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)


class FittedColumn:
    """What chunks hold that are encoded apart from one another; whoever adds them up, in whatever order."""

    def __init__(self) -> None:
        self.values: dict[str, set] = {}  # of each categorical feature
        self.sums: dict[str, dict[Any, Sums]] = {}  # of each number, by the place of the chunk

    def add(self, other: "FittedColumn") -> None:
        for name, values in other.values.items():
            self.values.setdefault(name, set()).update(values)
        for name, sums in other.sums.items():
            self.sums.setdefault(name, {}).update(sums)


class FeatureColumns:
    """The declared features of one table, but titles: raw chunks in, encoded columns out.

    `add` returns provisional int32 codes [N, categories] and raw float64 numbers [N, numbers];
    `finish` freezes the numbering, after which `encode` makes them final.
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

    def seen(self, place: Any) -> FittedColumn:
        """Of a chunk that alone was added; places order the chunks."""
        out = FittedColumn()
        for name, state in self._state.items():
            if isinstance(state, Moments):
                out.sums[name] = {place: state.sums()}
            else:
                out.values[name] = set(state.known())
        return out

    def finish_seen(self, seen: FittedColumn) -> None:
        """`finish`, of chunks that were added elsewhere. Codes are by the order of the values, and sums of
        fractions in that of the chunks' places, so that all who do this find the same."""
        for name, state in self._state.items():
            if isinstance(state, Moments):
                for _, sums in sorted(seen.sums.get(name, {}).items()):
                    state.add_sums(sums)
            else:
                state.add(sorted(seen.values.get(name, ())))
        self.finish()

    def recode(self, chunk: "FeatureColumns", categories: np.ndarray) -> np.ndarray:
        """Codes [N, categories] that `chunk` gave, as ours; all of its values must be known."""
        out = np.empty_like(categories)
        states = [(s, chunk._state[name]) for name, s in self._state.items() if isinstance(s, CategoryCodes)]
        for i, (mine, its) in enumerate(states):
            assert isinstance(its, CategoryCodes)
            out[:, i] = np.append(mine.of(its.known()), np.int32(-1))[categories[:, i]]  # -1: the last
        return out

    def finish(self) -> None:
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
        """Final int32 ids and standardised float32 numbers."""
        ids = [remap[categories[:, i] + 1] for i, remap in enumerate(self._remap)]
        kinds = [s for s in self.specs if s.kind == "number"]
        scaled = [standardise(numbers[:, i], s) for i, s in enumerate(kinds)]
        return _stack(ids, len(categories), np.int32), _stack(scaled, len(categories), np.float32)


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    return np.stack(columns, axis=1).astype(dtype) if columns else np.empty((rows, 0), dtype)


def title_columns(
    raw: dict[str, np.ndarray | Lists], features: tuple[Feature, ...], titles: int
) -> tuple[np.ndarray, np.ndarray, tuple[FeatureSpec, ...], dict[str, list]]:
    """Encoded title features, a row a title of the catalogue, in the caller's order.

    Returns int32 [titles, columns], float32 [titles, columns], their specs in the order declared
    (title_id among them, with no column), and each categorical feature's values.
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
            held = "lists" if isinstance(column, Lists) else "single values"
            raise InputError(f"feature {f.name}: kind={f.kind} but the title column holds {held}")
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
            categories.append(_padded(remap[provisional + 1], lists.offsets, most))
            size = _FIRST_VALUE + len(values[f.name])
            spec = FeatureSpec(f.name, f.kind, f.where, f.width, size=size, columns=most)
        specs.append(spec)
    wide = np.concatenate(categories, axis=1) if categories else np.empty((titles, 0), np.int32)
    tall = np.concatenate(numbers, axis=1) if numbers else np.empty((titles, 0), np.float32)
    return wide, tall, tuple(specs), values


def _padded(ids: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    """[rows, most] the first `most` ids of each list, then 0; an empty list is unknown."""
    at = offsets[:-1, None] + np.arange(most)
    inside = at < offsets[1:, None]
    padded = np.where(inside, ids[np.minimum(at, max(len(ids) - 1, 0))] if len(ids) else 0, 0).astype(
        np.int32
    )
    padded[np.diff(offsets) == 0, 0] = UNKNOWN
    return padded
