"""Mapping of a checkpoint's parameters and moments onto the parameters of another run.

A parameter is taken by its name. Rows of an embedding are taken by the key of the title, or by the value of
the category, that they stand for, so that growth, shrinkage and renumbering of a vocabulary are one case. A
row-sharded table has the rows, and here the name, of a replicated one. NaN marks a value that the checkpoint
does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, PAD, SHARDED, UNKNOWN
from jaxrec.models.layers.sharded_embedding import row_positions
from jaxrec.models.layers.sharded_embedding import shape as sharded_shape

_EMBEDDING = "embedding"  # last name of a table of categories or titles
_RESERVED = (PAD, UNKNOWN)  # ids whose rows stay, in all vocabularies


class RowMap(NamedTuple):
    """Rows of a vocabulary in terms of an older one.

    Attributes:
        source: [rows] row of the older vocabulary, -1 for a new key and for an id without a key.
        old_rows: Number of keys of the older vocabulary.
        end: Id after the last key; ids from there on have no key.
    """

    source: np.ndarray
    old_rows: int
    end: int

    @property
    def new(self) -> np.ndarray:
        """Ids of the new keys, ascending."""
        return np.flatnonzero(self.source[: self.end] < 0)

    @property
    def dropped(self) -> int:
        """Number of keys of the older vocabulary that this one lacks."""
        return self.old_rows - int((self.source >= FIRST_TITLE).sum())


class Table(NamedTuple):
    """Embedding of a vocabulary, with rows in the order of ids.

    Attributes:
        name: Name of the parameter, as of a replicated table.
        feature: Name of the feature.
        rows: [rows, W]; NaN for new keys.
        row_map: Map of the rows.
        old: [old rows, W] the table of the checkpoint, without the reserved rows.
    """

    name: str
    feature: str
    rows: np.ndarray
    row_map: RowMap
    old: np.ndarray


@dataclass(frozen=True)
class MappedParameters:
    """Values of a checkpoint in the shapes of a run's parameters.

    Attributes:
        values: Name -> first value; NaN where the run's own initialisation stays.
        taken: Name -> the same without first values of new rows: NaN where nothing was taken.
        tables: Name -> rows of an embedding.
        record: Names by what became of them: "taken", "grown", "initialised", "dropped".
    """

    values: dict[str, np.ndarray]
    taken: dict[str, np.ndarray]
    tables: dict[str, RowMap]
    record: dict[str, Any]


class WarmStart:
    """Map from the parameters of a checkpoint to those of a run.

    Args:
        what: Name of the checkpoint, for messages.
        vocabularies: Feature -> keys of the checkpoint's ids, from the first that is not reserved.
        run_vocabularies: The same of the run.
        shapes: Name -> shape of each parameter of the run.
        ids: Feature -> numbers of ids of the checkpoint and of the run, for a vocabulary whose last ids may
            have no key.
    """

    def __init__(
        self, what: str, vocabularies: Mapping[str, Sequence], run_vocabularies: Mapping[str, Sequence],
        shapes: Mapping[str, tuple[int, ...]], ids: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self.what, self._shapes, self._ids = what, dict(shapes), ids or {}
        self._old, self._new = vocabularies, run_vocabularies
        self._row_maps: dict[str, RowMap] = {}

    def row_map(self, feature: str) -> RowMap:
        """Return the map of the rows of a feature's vocabulary."""
        if feature not in self._row_maps:
            _, ids = self._ids.get(feature, (0, 0))
            self._row_maps[feature] = map_rows(self._old[feature], self._new[feature], ids)
        return self._row_maps[feature]

    def map_parameters(
        self, parameters: Mapping[str, np.ndarray], take: Sequence[str], fill: Callable[[Table], np.ndarray]
    ) -> MappedParameters:
        """Map the parameters that `take` matches.

        Args:
            parameters: Name -> value in the checkpoint.
            take: Patterns of names of the run's parameters.
            fill: Returns the rows of a table with first values for new keys.

        Raises:
            InputError: A pattern matches no parameter that both have, a shape differs outside of a
                vocabulary, or a value is not finite.
        """
        sources = {_plain_name(name): name for name in parameters}
        both = {name for name in self._shapes if _plain_name(name) in sources}
        check_patterns("start.take", take, both, f"of {self.what} and of this run")
        values, taken, tables, grown = {}, {}, {}, {}
        for name in sorted(n for n in both if matches(n, take)):
            source = sources.pop(_plain_name(name))
            if not np.isfinite(parameters[source]).all():
                raise InputError(f"{self.what}: {source} has values that are not finite; start from another")
            table = self._table(name, parameters[source])
            if table is None:
                self._check_shape(name, np.shape(parameters[source]), self._shapes[name])
                values[name] = taken[name] = np.asarray(parameters[source])
                continue
            taken[name] = self._in_shape(name, table.rows)
            values[name] = self._in_shape(name, fill(table)) if len(table.row_map.new) else taken[name]
            tables[name] = table.row_map
            if len(table.row_map.new) or table.row_map.dropped:
                grown[name] = _describe(table.row_map)
        record = {
            "taken": sorted(taken.keys() - grown.keys()),
            "grown": grown,
            "initialised": sorted(self._shapes.keys() - taken.keys()),
            "dropped": sorted(sources.values()),
        }
        return MappedParameters(values, taken, tables, record)

    def map_moments(
        self, moments: Mapping[str, np.ndarray], mapped: MappedParameters, missing: float
    ) -> dict[str, np.ndarray]:
        """Map arrays of the shapes of the checkpoint's parameters, by the names that were taken.

        Args:
            moments: Name -> a moment of Adam, or an average, of each parameter of the checkpoint.
            mapped: The parameters.
            missing: Value of new rows.
        """
        sources, out = {_plain_name(name): x for name, x in moments.items()}, {}
        for name in mapped.taken:
            source = sources[_plain_name(name)]
            table = self._table(name, source)
            if table is None:
                out[name] = np.asarray(source)
            else:
                rows = np.where(table.row_map.source[:, None] < 0, missing, table.rows)
                out[name] = self._in_shape(name, rows, missing)
        return out

    def _table(self, name: str, value: np.ndarray) -> Table | None:
        """Return the rows of an embedding by the run's ids; None for another parameter."""
        plain = _plain_name(name)
        *_, feature, last = ["", *plain.split("/")]
        if last != _EMBEDDING or feature not in self._old or feature not in self._new:
            return None
        keys, width = len(self._old[feature]) + len(_RESERVED), self._shapes[name][-1]
        rows = self._ids.get(feature, (keys, 0))[0]
        is_sharded = value.ndim == 3
        self._check_shape(name, value.shape, sharded_shape(rows, width) if is_sharded else (rows, width))
        old = value[row_positions(rows)] if is_sharded else value
        row_map = self.row_map(feature)
        mapped = np.where((row_map.source < 0)[:, None], np.nan, old[row_map.source]).astype(old.dtype)
        return Table(plain, feature, mapped, row_map, old[len(_RESERVED) : keys])

    def _in_shape(self, name: str, rows: np.ndarray, missing: float = np.nan) -> np.ndarray:
        """Return rows in the order of ids as the run's table, replicated or row-sharded."""
        shape = self._shapes[name]
        if not name.endswith(f"/{SHARDED}"):
            self._check_shape(name, rows.shape, shape)
            return rows
        self._check_shape(name, sharded_shape(*rows.shape), shape)
        table = np.full(shape, missing, rows.dtype)
        table[row_positions(len(rows))] = rows
        return table

    def _check_shape(self, name: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        if tuple(old) != tuple(new):
            raise InputError(
                f"{self.what}: {name} is {tuple(old)} in the checkpoint, but {tuple(new)} in this run; "
                "allowed: equal shapes, or a start.take without it"
            )


def map_rows(old: Sequence, new: Sequence, ids: int = 0) -> RowMap:
    """Return the map of the rows of a vocabulary, reserved rows first.

    Args:
        old: Keys of the older vocabulary, by id from the first that is not reserved.
        new: Keys of the newer vocabulary.
        ids: Number of ids of the newer vocabulary; 0: one for each key.
    """
    old, new = (x.tolist() if isinstance(x, np.ndarray) else x for x in (old, new))
    id_of_key = {key: FIRST_TITLE + i for i, key in enumerate(old)}
    source = [*_RESERVED, *(id_of_key.get(key, -1) for key in new)]
    rows = np.full(max(ids, len(source)), -1)
    rows[: len(source)] = source
    return RowMap(rows, len(id_of_key), len(source))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return True if a pattern matches the name of a parameter."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(key: str, patterns: Sequence[str], names: Sequence[str] | set[str], of: str) -> None:
    """Raise InputError for a pattern that matches none of the names.

    Args:
        key: Key of the patterns in the config.
        patterns: The patterns.
        names: Names of parameters.
        of: Owner of the names, for the message.
    """
    for i, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise InputError(
                f"{key}[{i}]={pattern!r} must match a parameter {of}; there are {some or 'none'}"
            )


def _plain_name(name: str) -> str:
    """Return the name of a parameter with that of a replicated table in place of a row-sharded one."""
    return name.removesuffix(SHARDED) + _EMBEDDING if name.endswith(f"/{SHARDED}") else name


def _describe(row_map: RowMap) -> dict[str, int]:
    """Return the numbers of rows of an embedding, reserved rows left out."""
    new, dropped = len(row_map.new), row_map.dropped
    return {"old_rows": row_map.old_rows - dropped, "new_rows": new, "dropped_rows": dropped}
