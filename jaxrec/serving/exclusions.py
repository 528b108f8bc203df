"""Titles that may not be recommended, by user and by group of users."""

from typing import NamedTuple

import numpy as np

_LEAST_EXCLUDED = 64  # columns of excluded titles, so that few programs are compiled


class Exclusions(NamedTuple):
    """Titles that may not be recommended, by user and by group of users. U users, P pairs."""

    user: np.ndarray  # [P] int64, ascending: user of each title to leave out
    rank: np.ndarray  # [P] int64 popularity rank of the title
    group: np.ndarray  # [U] int32 group of each user
    eligible_GxV: np.ndarray  # bool, by popularity rank: titles that a group may see

    def select(self, users: np.ndarray) -> "Exclusions":
        """Return the exclusions of the selected users, numbered from 0; `users` ascends."""
        number = np.full(len(self.group), -1)
        number[users] = np.arange(len(users))
        kept = number[self.user] >= 0
        groups, group = np.unique(self.group[users], return_inverse=True)
        return Exclusions(
            number[self.user[kept]], self.rank[kept], group.astype(np.int32), self.eligible_GxV[groups]
        )

    def pad_by_user(self, users: int, titles: int) -> np.ndarray:
        """Return the excluded ranks of each user, [users, M] int32, padded with `titles`.

        M is a power of two, so that few programs are compiled.
        """
        count = np.bincount(self.user, minlength=users)
        most = max(int(count.max(initial=0)), _LEAST_EXCLUDED)
        out = np.full((users, 1 << (most - 1).bit_length()), titles, np.int32)
        start = np.cumsum(count) - count
        out[self.user, np.arange(len(self.user)) - start[self.user]] = self.rank
        return out
