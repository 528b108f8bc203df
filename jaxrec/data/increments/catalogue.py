"""Arrays of a catalogue: ids by popularity, or after those of the dataset that it continues."""

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.increments.earlier import EarlierDataset
from jaxrec.data.storage.dataset import Arrays


def num_ids(titles: int, capacity: int) -> int:
    """Return the number of ids of `titles` titles, padding and unknown included, as a multiple of `capacity`.

    Args:
        titles: Number of titles with an id.
        capacity: `data.capacity`.
    """
    return -(-(titles + FIRST_TITLE) // capacity) * capacity


def catalogue_arrays(
    key: np.ndarray, runtime: np.ndarray, plays: np.ndarray, order: np.ndarray,
    categories: np.ndarray, numbers: np.ndarray, earlier: EarlierDataset | None = None, capacity: int = 1,
) -> Arrays:  # fmt: skip
    """Build the arrays of a catalogue.

    Titles of the earlier dataset keep their ids; new titles have the next ids, by popularity. A title that
    the source lacks now keeps its id and its features and has no popularity rank, like an id without a title.

    Args:
        key: [rows] the caller's keys.
        runtime: [rows] minutes.
        plays: [rows] plays by training users.
        order: [titles] row of the catalogue at each popularity rank.
        categories: [rows, columns] int32 ids.
        numbers: [rows, columns] float32 standardised numbers.
        earlier: Dataset that this one continues; None: all titles are new.
        capacity: `data.capacity`.
    """
    old = key[:0] if earlier is None else earlier.key
    id_of_rank = find(old, key[order]) + FIRST_TITLE
    new = id_of_rank < FIRST_TITLE
    id_of_rank[new] = FIRST_TITLE + len(old) + np.arange(new.sum())
    titles = len(old) + int(new.sum())
    rows = num_ids(titles, capacity)
    minutes = np.full(titles, np.nan)
    wide, tall = (np.zeros((rows, x.shape[1]), t) for x, t in ((categories, np.int32), (numbers, np.float32)))
    wide[1] = 1  # the unknown title's features are unknown
    if earlier is not None:
        known = slice(FIRST_TITLE, FIRST_TITLE + len(old))
        minutes[: len(old)], wide[known], tall[known] = earlier.runtime, earlier.categories, earlier.numbers
    minutes[id_of_rank - FIRST_TITLE] = runtime[order]
    wide[id_of_rank], tall[id_of_rank] = categories[order], numbers[order]
    counts, rank_of_id = np.zeros(rows, np.int64), np.full(rows, rows, np.int32)
    counts[id_of_rank], rank_of_id[id_of_rank] = plays[order], np.arange(len(order))
    return Arrays(
        np.concatenate([old, key[order][new]]), minutes, counts, rank_of_id, id_of_rank.astype(np.int32),
        wide, tall,
    )  # fmt: skip


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index [N] int64 of each wanted key in `keys` [T], which are unique; -1 for none."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys, kind="stable")
    at = order[np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)]
    return np.where(keys[at] == wanted, at, -1)
