"""Means of queries by group, with intervals that allow for several queries of one user."""

from typing import NamedTuple

import numpy as np

_NORMAL_95 = 1.959964  # half of a 95% interval in standard errors


class Means(NamedTuple):
    """Means of G groups.

    Attributes:
        mean: [G] means over the queries of each group; NaN for an empty group.
        half: [G] half of the 95% interval; NaN for fewer than two users.
    """

    mean: np.ndarray
    half: np.ndarray


class GroupedMeans:
    """Means of values by group of queries; the users are the clusters of the interval.

    The interval is normal, with the standard error of a ratio of sums over users: queries of one user are
    not independent, so the number of users decides.

    Args:
        user: [Q] user of each query, whole numbers.
        group: [Q] group of each query, from 0; -1 for none.
        groups: Number of groups G.
    """

    def __init__(self, user: np.ndarray, group: np.ndarray, groups: int) -> None:
        self._chosen = group >= 0
        _, index = np.unique(user[self._chosen], return_inverse=True)
        of_query = group[self._chosen].astype(np.int64)
        # A cell is a user within a group.
        cells, self._cell = np.unique(index * max(groups, 1) + of_query, return_inverse=True)
        self._group_of_cell, self._groups = cells % max(groups, 1), groups
        self._cell_sizes = np.bincount(self._cell, minlength=len(cells))
        self.queries = np.bincount(of_query, minlength=groups)  # [G]
        self.users = np.bincount(self._group_of_cell, minlength=groups)  # [G]

    def of(self, values: np.ndarray) -> Means:
        """Return the mean of each group and the half of its 95% interval.

        Args:
            values: [Q], one value per query.
        """
        sums = np.bincount(self._cell, values[self._chosen], len(self._cell_sizes))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(self._group_of_cell, sums, self._groups) / self.queries
            residual = sums - mean[self._group_of_cell] * self._cell_sizes
            squares = np.bincount(self._group_of_cell, residual**2, self._groups)
            correction = np.where(self.users > 1, self.users / (self.users - 1.0), np.nan)
            half = _NORMAL_95 * np.sqrt(correction * squares) / self.queries
        return Means(mean, half)


def overall(user: np.ndarray) -> GroupedMeans:
    """Return the means of one group with all queries.

    Args:
        user: [Q] user of each query.
    """
    return GroupedMeans(user, np.zeros(len(user), np.int64), 1)
