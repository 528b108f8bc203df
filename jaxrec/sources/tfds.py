"""Ratings from TensorFlow Datasets, stored as array_record and read without TensorFlow.

A rating says that somebody saw a title, not how much of it: there is no watch time, hence no completion,
no abandoned titles, and no runtime in the catalogue, which is the distinct titles of the ratings. A
title's or user's features are columns of the ratings, taken from the first one that names it.

The limit: TFDS decodes one example at a time in Python, some ten thousand a second. So the ratings are
decoded once and their columns held, some thirty bytes each; past tens of millions of them, write a
Parquet file and read it as `Tables`. A dataset that is not on disk is downloaded by TFDS.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.tables import Drops, Interactions, Lists, Titles, Users

BATCH = 10_000  # ratings decoded at a time
CHUNK = 500_000  # ratings handed on at a time
_KINDS = {"key": "iuOSU", "time": "iuf", "number": "iufb", "category": "iubfOSU", "categories": "iubOSU"}
_ALLOWED = {
    "key": "whole numbers or strings",
    "time": "numbers, in seconds",
    "number": "numbers",
    "category": "single values",
    "categories": "lists of whole numbers or strings",
}


class _Ratings(NamedTuple):
    """All that is held. N ratings, V titles, U users."""

    user: np.ndarray  # [N] keys
    title: np.ndarray  # [N] int64 row of `titles`
    time: np.ndarray  # [N] int64 milliseconds
    context: dict[str, np.ndarray]  # [N] each
    titles: Titles
    users: Users


class TfdsSource:
    """A schema.Source. Raises InputError for an unknown dataset or split, a missing or wrong column."""

    has_completion = False

    def __init__(self, source: schema.Tfds, features: tuple[schema.Feature, ...]) -> None:
        self.drops = Drops()  # stays empty: TFDS holds no row it cannot decode
        self._source = source
        self._name = f"tfds:{source.name}/{source.split}"
        self._wants: dict[str, list[schema.Feature]] = {
            where: [f for f in features if f.where == where and (where, f.name) != ("title", TITLE_ID)]
            for where in ("title", "user", "context")
        }
        try:
            self._data = tfds.data_source(source.name, split=source.split, data_dir=source.data_dir or None)
        except ValueError as e:  # of TFDS: no such dataset or split, or an empty one
            raise InputError(f"source {self._name}: {str(e).splitlines()[0]}") from e
        except NotImplementedError as e:  # of TFDS: this file format cannot be read at random
            raise InputError(f"source {self._name} is not stored as array_record; allowed: that alone") from e
        for key in ("user", "title", "time"):
            kind = "time" if key == "time" else "key"
            self._check(getattr(source, key), kind, f"source.{key}")
        for where, wants in self._wants.items():
            for f in wants:
                if f.kind == "categories" and where != "title":
                    raise InputError(
                        f"feature {f.name!r}, where={where!r}: kind='categories'; allowed: category, number"
                    )
                self._check(f.name, f.kind, f"feature {f.name!r}, where={where!r}")
        self._held: _Ratings | None = None

    def _check(self, column: str, kind: str, said: str) -> None:
        known = self._data.dataset_info.features
        if column not in known:
            raise InputError(f"source {self._name}: no column {column!r} ({said}); it has {', '.join(known)}")
        info = known[column].get_tensor_info()
        held, shape = np.dtype(info.np_dtype), tuple(info.shape)
        if held.kind not in _KINDS[kind] or shape != ((None,) if kind == "categories" else ()):
            raise InputError(
                f"source {self._name}, column {column!r} ({said}): {held.name} values of shape {shape}; "
                f"allowed: {_ALLOWED[kind]}"
            )

    def titles(self) -> Titles:
        return self._ratings.titles

    def users(self) -> Iterator[Users]:
        """One chunk: everybody who rated, where user features are declared; nobody otherwise."""
        if self._wants["user"]:
            yield self._ratings.users

    def parts(self) -> tuple[int]:
        """One: the catalogue takes every rating to be decoded, and then they are held."""
        return (0,)

    def interactions(self, part: int | None = None) -> Iterator[Interactions]:
        """The ratings in their stored order; `seconds` is NaN throughout."""
        held, source = self._ratings, self._source
        for first in range(0, len(held.user), CHUNK):
            these = slice(first, first + CHUNK)
            rows = len(held.user[these])
            yield Interactions(
                user=held.user[these],
                title=held.title[these],
                time=held.time[these],
                seconds=np.full(rows, np.nan),
                context={name: column[these] for name, column in held.context.items()},
                file=self._name,
                row=np.arange(first + 1, first + 1 + rows),
                names={"user": source.user, "title": source.title, "time": source.time, "seconds": ""},
            )

    def truth(self) -> None:
        return None

    @property
    def _ratings(self) -> _Ratings:
        if self._held is None:
            self._held = self._read()
        return self._held

    def _read(self) -> _Ratings:
        """Decodes every rating, once."""
        source, wants = self._source, self._wants
        log: dict[str, list[np.ndarray]] = {}
        titles, users = _Firsts(source.title, wants["title"]), _Firsts(source.user, wants["user"])
        for first in range(0, len(self._data), BATCH):
            batch = self._data.__getitems__(range(first, min(first + BATCH, len(self._data))))
            for name in {source.user, source.title, source.time, *(f.name for f in wants["context"])}:
                log.setdefault(name, []).append(np.array([rating[name] for rating in batch]))
            titles.add(batch, log[source.title][-1])
            users.add(batch, log[source.user][-1])
        columns = {name: np.concatenate(parts) for name, parts in log.items()}
        key, features = titles.finish()
        unknown = np.full(len(key), np.nan)
        return _Ratings(
            columns[source.user],
            np.searchsorted(key, columns[source.title]),
            _milliseconds(columns[source.time]),
            {f.name: _column(columns[f.name].tolist(), f.kind) for f in wants["context"]},
            Titles(_text(key), unknown, features),
            Users(*users.finish()),
        )


class _Firsts:
    """The distinct keys of one column, and what the first rating of each says in other columns."""

    def __init__(self, key: str, features: list[schema.Feature]) -> None:
        self._key, self._features = key, features
        self._keys: list[np.ndarray] = []
        self._values: dict[str, list[Any]] = {f.name: [] for f in features}

    def add(self, batch: list[dict[str, Any]], keys: np.ndarray) -> None:
        once, at = np.unique(keys, return_index=True)
        self._keys.append(once)
        for name, values in self._values.items():
            values.extend(batch[i][name] for i in at)

    def finish(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Keys in their order, and the raw feature columns by name."""
        key, at = np.unique(np.concatenate(self._keys), return_index=True)
        return key, {f.name: _raw([self._values[f.name][i] for i in at], f.kind) for f in self._features}


def _milliseconds(seconds: np.ndarray) -> np.ndarray:
    """Seconds as int64 milliseconds, clipped where they would wrap round; far out of range either way."""
    return (np.clip(seconds, -(2**52), 2**52) * 1000).astype(np.int64)


def _text(keys: np.ndarray) -> np.ndarray:
    return np.char.decode(keys, "utf-8") if keys.dtype.kind == "S" else keys


def _raw(values: list[Any], kind: str) -> np.ndarray | Lists:
    """Decoded values of a feature as schema.Titles describes raw columns."""
    if kind == "categories":
        ends = np.cumsum([len(v) for v in values], dtype=np.int64)
        return Lists(_column([x for v in values for x in v], kind), np.concatenate([[0], ends]))
    return _column(values, kind)


def _column(values: list[Any], kind: str) -> np.ndarray:
    column = np.array(values)
    if kind == "number":
        return column.astype(np.float64)
    whole = column.dtype.kind in "iub" and len(column)
    return column.astype(np.int64) if whole else _text(column).astype(str)
