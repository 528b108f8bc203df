"""First values of rows of an embedding for keys that a checkpoint lacks.

The row of a new title is like the rows of the titles whose features are nearest.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrec.checkpoints.warm_start import Table
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID
from jaxrec.core.row_format import Layout

NEAREST = 20  # titles whose rows a new row is the mean of
_BLOCK = 256  # new titles compared at a time
_MOST_COLUMNS = 256  # of the vectors of titles, beside numbers
_OLD_BLOCK = 65_536  # old titles compared at a time


class Nearest(NamedTuple):
    """Titles that are nearest to each of N new titles.

    Attributes:
        ids: [N, <= NEAREST] ids of old titles, the nearest first.
        weights: Softmax of their cosines; a row of zeros where a new title has no features.
    """

    ids: np.ndarray
    weights: np.ndarray


class TitleFeatures:
    """Features of titles as unit vectors: categories weighted by idf, and standardised numbers.

    Args:
        layout: Layout of the dataset.
        categories: [V, columns] int32 ids.
        numbers: [V, columns] float32.
    """

    def __init__(self, layout: Layout, categories: np.ndarray, numbers: np.ndarray) -> None:
        flat, column, offset = [np.zeros((len(categories), 0), np.int64)], 0, 0
        for spec in layout.of("title"):
            if spec.kind in ("number", "codes") or not spec.columns:  # codes are not among `categories`
                continue
            ids = np.sort(categories[:, column : column + spec.columns].astype(np.int64), axis=1)
            is_repeated = np.zeros(ids.shape, bool)
            is_repeated[:, 1:] = ids[:, 1:] == ids[:, :-1]
            is_value = (ids >= FIRST_TITLE) & ~is_repeated  # neither padding nor unknown
            flat.append(np.where(is_value, ids + offset, 0))
            column, offset = column + spec.columns, offset + spec.size
        self._ids = np.concatenate(flat, axis=1)  # [V, columns], 0: none
        self._numbers = numbers.astype(np.float64)
        titles = max(len(categories) - FIRST_TITLE, 1)
        counts = np.bincount(self._ids.reshape(-1), minlength=offset + 1)
        self._idf = np.log1p(titles / np.maximum(counts, 1))
        self._idf[0] = 0.0
        squares = (self._idf[self._ids] ** 2).sum(1) + (self._numbers**2).sum(1)
        self.norms = np.sqrt(squares)

    def nearest(self, new: np.ndarray, old: np.ndarray) -> Nearest:
        """Return the nearest of the titles `old` to each of the titles `new`, both ascending ids."""
        count = min(NEAREST, len(old))
        ids, weights = np.zeros((len(new), count), np.int64), np.zeros((len(new), count))
        if not count:
            return Nearest(ids, weights)
        for first in range(0, len(new), _BLOCK):
            block = new[first : first + _BLOCK]
            cosines = np.concatenate(
                [self._cosines(block, old[i : i + _OLD_BLOCK]) for i in range(0, len(old), _OLD_BLOCK)],
                axis=1,
            )
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]  # of equal ones the first
            nearest = np.take_along_axis(cosines, best, axis=1)
            exponents = np.exp(nearest - nearest[:, :1])
            has_features = self.norms[block] > 0
            ids[first : first + len(block)] = old[best]
            weights[first : first + len(block)] = (
                exponents / exponents.sum(1, keepdims=True) * has_features[:, None]
            )
        return Nearest(ids, weights)

    def vectors(self) -> np.ndarray:
        """Return the vectors [V, F] of all titles, F at most `_MOST_COLUMNS` and the numbers.

        With more distinct categories, each is a row of normal numbers, which keeps scalar products on average
        (Johnson & Lindenstrauss 1984).
        """
        values = len(self._idf)
        basis = np.eye(values)
        if values > _MOST_COLUMNS:
            draws = np.random.default_rng(0).standard_normal((values, _MOST_COLUMNS))
            basis = draws / _MOST_COLUMNS**0.5
        basis = basis * self._idf[:, None]
        vectors = np.zeros((len(self._ids), basis.shape[1]))
        for column in self._ids.T:
            vectors += basis[column]
        return np.concatenate([vectors, self._numbers], axis=1)

    def _cosines(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        """Return the cosines [new, old] of the vectors of titles; 0 for a title without features."""
        weights = np.zeros((len(self._idf), len(new)))
        for column in self._ids[new].T:
            weights[column, np.arange(len(new))] = self._idf[column] ** 2  # the ids of a title differ
        products = self._numbers[old] @ self._numbers[new].T
        for column in self._ids[old].T:
            products += weights[column]
        norms = self.norms[old][:, None] * self.norms[new]
        return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0).T


def fill_new_rows(
    rows: str, noise: float, seed: int, features: TitleFeatures
) -> Callable[[Table], np.ndarray]:
    """Return a function that returns the rows of a table with first values for new keys.

    Args:
        rows: "initial": NaN stays, in place of the initialisation. "mean": the mean row of the checkpoint's
            table. "metadata": for titles the mean of the nearest titles that the checkpoint has, by
            `Nearest.weights`; without such a title, and for categories, as "mean".
        noise: Standard deviation of normal noise, relative to the root mean square of the old rows'
            differences from their mean.
        seed: Seed of the noise.
        features: Features of the run's titles.
    """
    neighbours: dict[str, Nearest] = {}

    def fill(table: Table) -> np.ndarray:
        new = table.row_map.new
        if rows == "initial" or not len(table.old):
            return table.rows
        old = table.old.astype(np.float64)
        first = np.tile(old.mean(0), (len(new), 1))
        if rows == "metadata" and table.feature == TITLE_ID:
            if not neighbours:
                known = np.flatnonzero(table.row_map.source >= FIRST_TITLE)
                neighbours[TITLE_ID] = features.nearest(new, known)
            ids, weights = neighbours[TITLE_ID]
            has_near = weights.sum(1) > 0
            means = np.einsum("nk,nkw->nw", weights, table.rows[ids].astype(np.float64))
            first = np.where(has_near[:, None], means, first)
        spread = np.sqrt(old.var(0).mean())
        draws = np.random.default_rng([seed, zlib.crc32(table.name.encode())])
        first += noise * spread * draws.standard_normal(first.shape)
        filled = table.rows.copy()
        filled[new] = first
        return filled

    return fill
