"""Who the users are: their features, which split they fall in, and their keys for whoever asks later."""

from dataclasses import dataclass

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys, uniform
from jaxrec.core.tables import Source
from jaxrec.data.events.vocabulary import FeatureColumns

_SPLIT_DRAW = 0x5EED


@dataclass
class UserTable:
    """Everyone's features and split, sorted by hash; those no table names get the unknown features."""

    hash: np.ndarray
    split: np.ndarray  # int8, -1 by hash
    categories: np.ndarray
    numbers: np.ndarray

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of these users, and whether they are known."""
        at = np.minimum(np.searchsorted(self.hash, hashes), max(len(self.hash) - 1, 0))
        return at, (self.hash[at] == hashes) if len(self.hash) else np.zeros(len(hashes), bool)

    def part(self, which: slice | np.ndarray) -> "UserTable":
        """Some of the users, neighbours by hash."""
        return UserTable(self.hash[which], self.split[which], self.categories[which], self.numbers[which])

    def splits(self, hashes: np.ndarray, config: Config) -> np.ndarray:
        """int8 index into SPLITS of each user: as its table says, else by hash."""
        by_hash = split_of(hashes, config)
        at, known = self.find(hashes)
        given = np.where(known, self.split[at], -1) if len(self.hash) else np.full(len(hashes), -1)
        return np.where(given >= 0, given, by_hash).astype(np.int8)


def split_of(hashes: np.ndarray, config: Config) -> np.ndarray:
    """int8 index into SPLITS, by a stable hash of the user and data.seed."""
    u = uniform(config.data.seed, _SPLIT_DRAW, hashes)
    edges = np.cumsum([config.data.train_share, config.data.validation_share])
    return np.searchsorted(edges, u, side="right").astype(np.int8)


def read_users(source: Source, columns: FeatureColumns) -> UserTable:
    hashes, splits, categories, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int8)], [], []
    for chunk in source.users():
        hashes.append(of_keys(chunk.key))
        splits.append(np.full(len(chunk.key), -1, np.int8) if chunk.split is None else chunk.split)
        c, n = columns.add(chunk.features, len(chunk.key))
        categories.append(c)
        numbers.append(n)
    if not categories and columns.features:
        raise InputError(f"feature {columns.features[0].name}: where=user but the source has no users table")
    columns.finish()
    every = np.concatenate(hashes)
    order = np.argsort(every, kind="stable")
    again = np.nonzero(np.diff(every[order].view(np.int64)) == 0)[0]
    if len(again):
        raise InputError(
            f"users table: row {int(order[again[0] + 1]) + 1} names a user a second time; allowed: once"
        )
    if not categories:
        return UserTable(
            every, np.concatenate(splits), np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)
        )
    ids, scaled = columns.encode(np.concatenate(categories)[order], np.concatenate(numbers)[order])
    return UserTable(every[order], np.concatenate(splits)[order], ids, scaled)


@dataclass
class HeldOut:
    """The caller's keys of held-out users, by hash."""

    hash: np.ndarray
    key: np.ndarray

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        return self.key[np.searchsorted(self.hash, hashes)]
