"""Assignment of targets to splits: by user, by order (last), or by time."""

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.hashing import mix, uniform
from jaxrec.data.events.cleaning import milliseconds_of

TRAIN, VALIDATION, TEST = range(3)  # indices into core.ids.SPLITS
_VALIDATION_DRAW, _ORDER_DRAW = 0x1A57, 0x07D3


def sort_order(
    data: Data, hashes: np.ndarray, user: np.ndarray, time: np.ndarray, key_hash: np.ndarray
) -> np.ndarray:
    """Return the order of plays by user, then time, with hashed ties.

    The hash of a tie is of (data.seed, user, title).

    Ties ordered by popularity rank or title id would reveal to a model the next title; ties ordered by row
    of a file would make the dataset depend on the order of the log.

    Args:
        data: Settings with the seed.
        hashes: [U] uint64 hashes of the users.
        user: [T] user in [0, U) of each play.
        time: [T] milliseconds.
        key_hash: [T] uint64 hash of the key of each play's title.

    Returns:
        [T] permutation of the plays.
    """
    return np.lexsort((mix(data.seed, _ORDER_DRAW, hashes[user], key_hash), time, user))


def target_splits(
    data: Data, user_split: np.ndarray, hashes: np.ndarray, user: np.ndarray, time: np.ndarray, least: int
) -> np.ndarray:
    """Return the split of each target, by the rule of data.split.

    "users": the split of the user.
    "time": boundaries at midnight UTC of data.validation_from and data.test_from.
    "last": a user's first `least` targets are for training. With more targets, the last one is for test.
    With at least `least` + 2, the last but one is for validation where the user's uniform draw is below
    data.validation_share. Users with few targets are thus used for training first, then for test.

    Args:
        data: Settings of the split.
        user_split: [U] split of each user; used for "users" only.
        hashes: [U] uint64 hashes of the users.
        user: [T] user of each target, ascending; the targets of a user are in order.
        time: [T] milliseconds.
        least: Minimum of training targets per user for "last".

    Returns:
        [T] int8 index into SPLITS.
    """
    if data.split == "users":
        return user_split[user]
    if data.split == "time":
        edges = [milliseconds_of(getattr(data, n), f"data.{n}") for n in ("validation_from", "test_from")]
        return np.searchsorted(edges, time, side="right").astype(np.int8)
    count = np.bincount(user, minlength=len(hashes))
    from_end = (np.cumsum(count) - 1)[user] - np.arange(len(user))  # 0 for the last target
    drawn = uniform(data.seed, _VALIDATION_DRAW, hashes) < data.validation_share
    out = np.zeros(len(user), np.int8)
    out[(from_end == 0) & (count[user] > least)] = TEST
    out[(from_end == 1) & (count[user] > least + 1) & drawn[user]] = VALIDATION
    return out


def training_events(
    data: Data,
    user_split: np.ndarray,
    user: np.ndarray,
    time: np.ndarray,
    target: np.ndarray,
    split: np.ndarray,
) -> np.ndarray:
    """Return a mask [N] of the events that training may count.

    Title popularity, for example, counts only these events.

    "users": all events of training users. "time": events before data.validation_from. "last": events before
    the user's first held-out target, and training targets at the same time as that target.

    Args:
        data: Settings of the split.
        user_split: [U] split of each user; used for "users" only.
        user: [N] user of each event.
        time: [N] milliseconds.
        target: [T] events that are targets; used for "last" only.
        split: [T] result of `target_splits`; used for "last" only.
    """
    if data.split == "users":
        return user_split[user] == TRAIN
    if data.split == "time":
        return time < milliseconds_of(data.validation_from, "data.validation_from")
    held_out = target[split != TRAIN]
    first = np.full(len(user_split), np.iinfo(np.int64).max)
    np.minimum.at(first, user[held_out], time[held_out])
    out = time < first[user]
    out[target[split == TRAIN]] = True
    return out
