"""Which split a user's targets fall in: by user, by being the user's last, or by time."""

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.hashing import mix, uniform
from jaxrec.data.events.cleaning import milliseconds_of

TRAIN, VALIDATION, TEST = range(3)  # places in schema.SPLITS
_VALIDATION_DRAW, _ORDER_DRAW = 0x1A57, 0x07D3


def in_order(
    data: Data, hashes: np.ndarray, user: np.ndarray, time: np.ndarray, key_hash: np.ndarray
) -> np.ndarray:
    """The order of [T] plays by user, then time. hashes [U] of the users, key_hash [T] of the titles' keys.

    Equal times are ordered by a hash of (data.seed, user, title). By popularity rank or title id they would
    tell a model which of them comes next; by the rows of a file, the order of a log would be part of the
    data.
    """
    return np.lexsort((mix(data.seed, _ORDER_DRAW, hashes[user], key_hash), time, user))


def of_targets(
    data: Data, of_user: np.ndarray, hashes: np.ndarray, user: np.ndarray, time: np.ndarray, least: int
) -> np.ndarray:
    """[T] int8 of targets that stand by user (ascending) and, within one, in their order.

    of_user, hashes [U]: the split of each user, read with "users" alone, and its hash; user, time [T] of
    the targets, in milliseconds.

    "last": a user's first `least` targets are for training; of more than these the last is the test's;
    of one more still the last but one is the validation's, where the draw of the user falls below
    data.validation_share. So short users are for training first, then for the test.
    "time": by the day's midnight, UTC.
    """
    if data.split == "users":
        return of_user[user]
    if data.split == "time":
        edges = [milliseconds_of(getattr(data, n), f"data.{n}") for n in ("validation_from", "test_from")]
        return np.searchsorted(edges, time, side="right").astype(np.int8)
    count = np.bincount(user, minlength=len(hashes))
    back = (np.cumsum(count) - 1)[user] - np.arange(len(user))  # 0 of the last
    drawn = uniform(data.seed, _VALIDATION_DRAW, hashes) < data.validation_share
    out = np.zeros(len(user), np.int8)
    out[(back == 0) & (count[user] > least)] = TEST
    out[(back == 1) & (count[user] > least + 1) & drawn[user]] = VALIDATION
    return out


def training_events(
    data: Data, of_user: np.ndarray, user: np.ndarray, time: np.ndarray, target: np.ndarray, split: np.ndarray
) -> np.ndarray:
    """[N] bool: the events that training may count, as for the titles' popularity.

    user, time [N] of the events; target [T] the events that are targets, `split` as `of_targets` gives it.
    "users": all of training users; otherwise those before the user's first held-out target, and training
    targets at its very time.
    """
    if data.split == "users":
        return of_user[user] == TRAIN
    if data.split == "time":
        return time < milliseconds_of(data.validation_from, "data.validation_from")
    held = target[split != TRAIN]
    first = np.full(len(of_user), np.iinfo(np.int64).max)
    np.minimum.at(first, user[held], time[held])
    out = time < first[user]
    out[target[split == TRAIN]] = True
    return out
