"""Source of ratings from TensorFlow Datasets, read without TensorFlow.

The ratings must be stored as array_record. A rating shows that a user played a title, not the watch time.
There is therefore no completion, no abandoned title, and no runtime. The catalogue is the distinct titles of
the ratings. Features of titles and users are columns of the ratings, with the value of the first rating of
the title or user.

Limit: TFDS decodes one example at a time in Python, about ten thousand per second. The ratings are therefore
decoded once and their columns kept in memory, about thirty bytes per rating. For more than tens of millions
of ratings, write a Parquet file and read the file as `Tables`. TFDS downloads a dataset that is not on disk.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.tables import Drops, Interactions, Lists, Titles, Users, WithoutSignals

BATCH = 10_000  # ratings decoded at a time
CHUNK = 500_000  # ratings per yielded chunk
_KINDS = {"key": "iuOSU", "time": "iuf", "number": "iufb", "category": "iubfOSU", "categories": "iubOSU"}
_ALLOWED = {
    "key": "whole numbers or strings",
    "time": "numbers, in seconds",
    "number": "numbers",
    "category": "single values",
    "categories": "lists of whole numbers or strings",
}


class _Ratings(NamedTuple):
    """Decoded ratings in memory: N ratings, V titles, U users."""

    user: np.ndarray  # [N] keys
    title: np.ndarray  # [N] int64 row of `titles`
    time: np.ndarray  # [N] int64 milliseconds
    context: dict[str, np.ndarray]  # [N] per context feature
    titles: Titles
    users: Users


class TfdsSource(WithoutSignals):
    """Source over one split of a TensorFlow Datasets dataset of ratings.

    A rating is an interaction without watch time. The dataset's times are seconds since 1970, UTC.
    """

    has_completion = False

    def __init__(self, source: schema.Tfds, features: tuple[schema.Feature, ...]) -> None:
        """Open the dataset and check its columns.

        Args:
            source: Dataset, split and columns.
            features: Declared features.

        Raises:
            InputError: The dataset or split is unknown or not stored as array_record, or a column is missing
                or has the wrong type.
        """
        self.drops = Drops()  # stays empty: TFDS decodes all stored rows
        self._source = source
        self._name = f"tfds:{source.name}/{source.split}"
        self._features: dict[str, list[schema.Feature]] = {
            where: [f for f in features if f.where == where and (where, f.name) != ("title", TITLE_ID)]
            for where in ("title", "user", "context")
        }
        try:
            self._data = tfds.data_source(source.name, split=source.split, data_dir=source.data_dir or None)
        except ValueError as e:  # raised by TFDS for an unknown or empty dataset or split
            raise InputError(f"source {self._name}: {str(e).splitlines()[0]}") from e
        except NotImplementedError as e:  # raised by TFDS for a file format without random access
            raise InputError(f"source {self._name}: wrong file format; allowed: array_record") from e
        for key in ("user", "title", "time"):
            kind = "time" if key == "time" else "key"
            self._check_column(getattr(source, key), kind, f"source.{key}")
        for where, declared in self._features.items():
            for f in declared:
                if f.kind == "categories" and where != "title":
                    raise InputError(
                        f"feature {f.name!r}, where={where!r}: kind='categories'; allowed: category, number"
                    )
                kind = "category" if f.kind in ("text", "title") else f.kind
                self._check_column(f.name, kind, f"feature {f.name!r}, where={where!r}")
        self._cached: _Ratings | None = None

    def _check_column(self, column: str, kind: str, requested_by: str) -> None:
        """Raise InputError for a missing column or a type that does not allow `kind`."""
        known = self._data.dataset_info.features
        if column not in known:
            raise InputError(
                f"source {self._name}: no column {column!r} ({requested_by}); columns: {', '.join(known)}"
            )
        info = known[column].get_tensor_info()
        dtype, shape = np.dtype(info.np_dtype), tuple(info.shape)
        if dtype.kind not in _KINDS[kind] or shape != ((None,) if kind == "categories" else ()):
            raise InputError(
                f"source {self._name}, column {column!r} ({requested_by}): {dtype.name} values of shape "
                f"{shape}; allowed: {_ALLOWED[kind]}"
            )

    def titles(self) -> Titles:
        """Return the distinct titles of the ratings."""
        return self._ratings.titles

    def users(self) -> Iterator[Users]:
        """Yield one chunk of all users if user features are declared, else nothing."""
        if self._features["user"]:
            yield self._ratings.users

    def parts(self) -> tuple[int]:
        """Return a single part.

        The catalogue requires decoding all ratings, which are then kept in memory.
        """
        return (0,)

    def interactions(self, part: int | None = None) -> Iterator[Interactions]:
        """Yield the ratings in stored order; `seconds` is NaN throughout."""
        ratings, source = self._ratings, self._source
        for first in range(0, len(ratings.user), CHUNK):
            chunk = slice(first, first + CHUNK)
            rows = len(ratings.user[chunk])
            yield Interactions(
                user=ratings.user[chunk],
                title=ratings.title[chunk],
                time=ratings.time[chunk],
                seconds=np.full(rows, np.nan),
                context={name: column[chunk] for name, column in ratings.context.items()},
                file=self._name,
                row=np.arange(first + 1, first + 1 + rows),
                names={"user": source.user, "title": source.title, "time": source.time, "seconds": ""},
            )

    def truth(self) -> None:
        """Return None: the truth of real ratings is unknown."""
        return None

    def files(self) -> list[str]:
        """Return the files of the dataset's folder."""
        return [str(path) for path in Path(self._data.dataset_info.data_dir).iterdir() if path.is_file()]

    @property
    def _ratings(self) -> _Ratings:
        """Decoded ratings, read on first use."""
        if self._cached is None:
            self._cached = self._read()
        return self._cached

    def _read(self) -> _Ratings:
        """Decode all ratings."""
        source, features = self._source, self._features
        log: dict[str, list[np.ndarray]] = {}
        titles, users = (
            _FirstValues(source.title, features["title"]),
            _FirstValues(source.user, features["user"]),
        )
        for first in range(0, len(self._data), BATCH):
            batch = self._data.__getitems__(range(first, min(first + BATCH, len(self._data))))
            for name in {source.user, source.title, source.time, *(f.name for f in features["context"])}:
                log.setdefault(name, []).append(np.array([rating[name] for rating in batch]))
            titles.add(batch, log[source.title][-1])
            users.add(batch, log[source.user][-1])
        columns = {name: np.concatenate(parts) for name, parts in log.items()}
        key, title_features = titles.finish()
        runtime = np.full(len(key), np.nan)
        return _Ratings(
            columns[source.user],
            np.searchsorted(key, columns[source.title]),
            _milliseconds(columns[source.time]),
            {f.name: _column(columns[f.name].tolist(), f.kind) for f in features["context"]},
            Titles(_decode(key), runtime, title_features, of_log=True),
            Users(*users.finish()),
        )


class _FirstValues:
    """Distinct keys of one column, with the values of the first rating of each key."""

    def __init__(self, key: str, features: list[schema.Feature]) -> None:
        self._key, self._features = key, features
        self._keys: list[np.ndarray] = []
        self._values: dict[str, list[Any]] = {f.name: [] for f in features}

    def add(self, batch: list[dict[str, Any]], keys: np.ndarray) -> None:
        """Add a batch of decoded ratings and their [N] keys."""
        unique, at = np.unique(keys, return_index=True)
        self._keys.append(unique)
        for name, values in self._values.items():
            values.extend(batch[i][name] for i in at)

    def finish(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the sorted keys, and the raw feature columns by name."""
        key, at = np.unique(np.concatenate(self._keys), return_index=True)
        return key, {f.name: _raw([self._values[f.name][i] for i in at], f.kind) for f in self._features}


def _milliseconds(seconds: np.ndarray) -> np.ndarray:
    """Convert seconds to int64 milliseconds.

    Seconds that would overflow are clipped to values that are still far out of the valid range.
    """
    return (np.clip(seconds, -(2**52), 2**52) * 1000).astype(np.int64)


def _decode(keys: np.ndarray) -> np.ndarray:
    """Decode UTF-8 bytes to strings; other keys are returned unchanged."""
    return np.char.decode(keys, "utf-8") if keys.dtype.kind == "S" else keys


def _raw(values: list[Any], kind: str) -> np.ndarray | Lists:
    """Convert decoded values of a feature to a raw column, as in `core.tables.Titles`."""
    if kind == "categories":
        ends = np.cumsum([len(v) for v in values], dtype=np.int64)
        return Lists(_column([x for v in values for x in v], kind), np.concatenate([[0], ends]))
    return _column(values, kind)


def _column(values: list[Any], kind: str) -> np.ndarray:
    """Convert single values to float64 for a number, else to int64 or strings."""
    column = np.array(values)
    if kind == "number":
        return column.astype(np.float64)
    whole = column.dtype.kind in "iub" and len(column)
    return column.astype(np.int64) if whole else _decode(column).astype(str)


def open_tfds(
    source: schema.Tfds, features: tuple[schema.Feature, ...], path: str, signals: tuple[schema.Signal, ...]
) -> TfdsSource:
    """Open a TensorFlow Datasets source, the reader that its config class names.

    Args:
        source: Dataset, split and columns.
        features: Declared features.
        path: Not used.
        signals: Not used: ratings have none.

    Raises:
        InputError: The dataset is unknown or has the wrong format, or a column is invalid.
    """
    return TfdsSource(source, features)
