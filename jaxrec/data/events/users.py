"""The users table: features, splits and keys of the users, by hash."""

from dataclasses import dataclass

import numpy as np

from jaxrec.config.rules.examples import parse_fold
from jaxrec.config.schema import Config, Data
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import of_keys, uniform
from jaxrec.core.tables import Source
from jaxrec.data.events.splits import TEST, TRAIN, VALIDATION
from jaxrec.data.events.vocabulary import FeatureColumns

_SPLIT_DRAW = 0x5EED


@dataclass
class UserTable:
    """Features and splits of the users in the table, sorted by hash. U users.

    A user who is not in the table has unknown features and a split by hash.

    Attributes:
        hash: [U] uint64.
        split: [U] int8 index into SPLITS; -1: by hash.
        categories: [U, columns] int32.
        numbers: [U, columns] float32.
    """

    hash: np.ndarray
    split: np.ndarray
    categories: np.ndarray
    numbers: np.ndarray

    def locate(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find users in the table.

        Args:
            hashes: [N] uint64.

        Returns:
            Indices [N] in the table, meaningless for unknown users, and a mask [N] bool of known users.
        """
        index = np.minimum(np.searchsorted(self.hash, hashes), max(len(self.hash) - 1, 0))
        return index, (self.hash[index] == hashes) if len(self.hash) else np.zeros(len(hashes), bool)

    def select(self, which: slice | np.ndarray) -> "UserTable":
        """Return a table of the selected users, which must stay in order of hash."""
        return UserTable(self.hash[which], self.split[which], self.categories[which], self.numbers[which])

    def splits(self, hashes: np.ndarray, config: Config) -> np.ndarray:
        """Return the split of users: from the table, else by hash.

        Args:
            hashes: [N] uint64.
            config: Config with the settings that `split_of` reads.

        Returns:
            [N] int8 index into SPLITS.
        """
        by_hash = split_of(hashes, config)
        index, known = self.locate(hashes)
        declared = np.where(known, self.split[index], -1) if len(self.hash) else np.full(len(hashes), -1)
        return np.where(declared >= 0, declared, by_hash).astype(np.int8)


def split_of(hashes: np.ndarray, config: Config) -> np.ndarray:
    """Return the split of users by a hash of the user and data.seed.

    Args:
        hashes: [N] uint64 hashes of the users' keys.
        config: Config with `data.seed`, `data.train_share`, `data.validation_share` and `data.fold`.

    Returns:
        [N] int8 index into SPLITS.
    """
    data = config.data
    u = uniform(data.seed, _SPLIT_DRAW, hashes)
    if data.fold:
        return _split_of_fold(u, data)
    edges = np.cumsum([data.train_share, data.validation_share])
    return np.searchsorted(edges, u, side="right").astype(np.int8)


def _split_of_fold(u: np.ndarray, data: Data) -> np.ndarray:
    """Return the split of users where a fold tests one of n equal ranges of the hash.

    The other ranges follow it and continue with the first. Their first users, as many as the two shares
    imply, are for training, and the last ones for validation.

    Args:
        u: [N] in (0, 1), the hash of each user.
        data: Settings with a fold.

    Returns:
        [N] int8 index into SPLITS.
    """
    number, count = parse_fold(data.fold)
    at = np.minimum(u * count, np.nextafter(count, 0))  # the product may be rounded up to the count
    ranges_after = (np.floor(at).astype(np.int64) - number) % count  # count - 1 for the range of the fold
    share = data.train_share / (data.train_share + data.validation_share)
    in_training = ranges_after + at % 1 < share * (count - 1)
    split = np.where(in_training, TRAIN, VALIDATION)
    return np.where(ranges_after == count - 1, TEST, split).astype(np.int8)


def read_users(source: Source, columns: FeatureColumns) -> UserTable:
    """Read the users table of a source.

    Args:
        source: Source to read.
        columns: User features, without values; finished by this call.

    Raises:
        InputError: A user feature is declared and the source has no users table, or a user has two rows.
    """
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
    all_hashes = np.concatenate(hashes)
    order = np.argsort(all_hashes, kind="stable")
    duplicates = np.nonzero(np.diff(all_hashes[order].view(np.int64)) == 0)[0]
    if len(duplicates):
        raise InputError(_repeated_user(source, int(order[duplicates[0]]), int(order[duplicates[0] + 1])))
    if not categories:
        return UserTable(
            all_hashes, np.concatenate(splits), np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)
        )
    ids, scaled = columns.encode(np.concatenate(categories)[order], np.concatenate(numbers)[order])
    return UserTable(all_hashes[order], np.concatenate(splits)[order], ids, scaled)


def _repeated_user(source: Source, first: int, second: int) -> str:
    """Return the message for two rows of the users table, counted over all chunks, with one user."""
    places, start = [], 0
    for chunk in source.users():
        for row in (first, second):
            if 0 <= row - start < len(chunk.key):
                number = row - start + 1 if chunk.row is None else chunk.row[row - start]
                key = chunk.key[row - start]
                places.append((key.decode() if isinstance(key, bytes) else key.item(), chunk.file, number))
        start += len(chunk.key)
    (key, file, row), (_, other_file, other_row) = places
    where = f"{other_file}, row {other_row}: user {key!r}"
    return f"{where} is already in {file}, row {row}; allowed: one row per user"


@dataclass
class UserKeys:
    """The caller's keys of users, sorted by hash; held-out users at least.

    U users.

    Attributes:
        hash: [U] uint64.
        key: [U] keys of the source.
    """

    hash: np.ndarray
    key: np.ndarray

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        """Return the keys [N] of user hashes [N] uint64, all of which must be present."""
        return self.key[np.searchsorted(self.hash, hashes)]
