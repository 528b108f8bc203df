"""Selection of the targets of rows: those of new days, a share of older ones, and those of one category.

A dataset with `data.since` holds rows of the dataset without it: the splits, the positions and the draws of a
target do not depend on the selection. Counts of plays are of all users and days.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.examples import parse_only
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import uniform
from jaxrec.core.row_format import Layout
from jaxrec.data.columns.category_codes import FIRST_VALUE
from jaxrec.data.events.cleaning import milliseconds_of
from jaxrec.data.events.event_log import Log
from jaxrec.data.events.splits import TRAIN

_REPLAY_DRAW = 0x4E91


class Category(NamedTuple):
    """Category of `data.only`.

    Attributes:
        where: "user" or "context".
        column: Column of the categories of `where`.
        id: Id of the value.
    """

    where: str
    column: int
    id: int


class TargetSelection(NamedTuple):
    """Targets that become rows.

    Attributes:
        since: First time of new targets, in milliseconds; None: all targets are new.
        replay: Share of the older training targets that are kept.
        seed: Seed of the draw of older targets.
        only: Category of the rows; None: all.
    """

    since: int | None
    replay: float
    seed: int
    only: Category | None

    def targets(
        self, log: Log, user: np.ndarray, time: np.ndarray, split: np.ndarray, title_hash: np.ndarray,
        context: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Return a mask [T] of the targets to keep.

        The draw of an older target is a function of the seed, `data.since`, the user, the title and the time,
        so that each day replays other targets, and a larger share contains a smaller one.

        Args:
            log: Log of the partition.
            user: [T] users of the log.
            time: [T] milliseconds.
            split: [T] index into SPLITS.
            title_hash: [T] uint64 hash of the title's key.
            context: [T, columns] categories of the context.
        """
        kept = np.ones(len(user), bool)
        if self.since is not None:
            drawn = uniform(self.seed, _REPLAY_DRAW, self.since, log.hash[user], title_hash, time)
            kept = (time >= self.since) | ((split == TRAIN) & (drawn < self.replay))
        if self.only is not None and self.only.where == "context":
            kept &= context[:, self.only.column] == self.only.id
        return kept & self.users(log)[user]

    def users(self, log: Log) -> np.ndarray:
        """Return a mask [U] of the users that may have rows."""
        if self.only is None or self.only.where != "user":
            return np.ones(len(log.hash), bool)
        return log.user_categories[:, self.only.column] == self.only.id


def selection_of(config: Config, layout: Layout, values: dict[str, list]) -> TargetSelection | None:
    """Return the selection of a config; None where all targets become rows.

    Args:
        config: Config of the dataset.
        layout: Layout of the rows.
        values: Categorical feature -> its values, in the order of their ids.

    Raises:
        InputError: No row of the source has the value of `data.only`.
    """
    data = config.data
    if not data.since and not data.only:
        return None
    only = None
    if data.only:
        name, value = parse_only(data.only)
        texts = [str(v) for v in values[name]]
        if value not in texts:
            there = ", ".join(texts[:5]) + (", ..." if len(texts) > 5 else "")
            raise InputError(f"data.only={data.only!r}: {name} has no such value; allowed: {there or 'none'}")
        where = next(f.where for f in config.features if f.name == name)
        only = Category(where, layout.category_column(where, name), FIRST_VALUE + texts.index(value))
    since = milliseconds_of(data.since, "data.since") if data.since else None
    return TargetSelection(since, data.replay, data.seed, only)
