"""Example users: histories and recommendations by the names of titles, users by number."""

from typing import Any, NamedTuple

import numpy as np

from jaxrec.config import schema
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.arrays import Arrays

HISTORY, RECOMMENDED = 10, 10  # titles of an example


class Ranking(NamedTuple):
    """Recommended titles of the example queries.

    Attributes:
        top: [N, titles] ids, the best first, 0 for none.
        ranks: [N] ranks of the titles that were watched next.
        order: Name of the order, for readers.
    """

    top: np.ndarray
    ranks: np.ndarray
    order: str


def example_queries(user: np.ndarray, count: int) -> np.ndarray:
    """Return the row index of the last query of each of the first users, [at most count].

    Users of a split are in the order of a hash, so the first users are a random sample.

    Args:
        user: [Q] user of each row.
        count: Number of users.
    """
    _, from_end = np.unique(user[::-1], return_index=True)
    return len(user) - 1 - from_end[:count]


def describe_examples(
    rows: np.ndarray, ranking: Ranking, names: np.ndarray, has_completion: bool
) -> dict[str, Any]:
    """Return the example users as JSON values.

    Args:
        rows: The N rows of the queries.
        ranking: Recommended titles.
        names: [V] names of the titles, by id.
        has_completion: False for a log without watch times.

    Returns:
        `order`, and `users`: for each, its `history` (the newest title first), the title that was watched
        `next`, the rank of that title and the `recommended` titles. A user is a number from 1; there is no
        key of a user.
    """
    users = []
    for number, (row, top, rank) in enumerate(zip(rows, ranking.top, ranking.ranks, strict=True), 1):
        at = np.flatnonzero(row["history_title"] >= FIRST_TITLE)[::-1]
        target = int(row["target"][0])
        following: dict[str, Any] = {"title": str(names[target])}
        if has_completion:
            following["completion"] = float(row["target_completion"][0])
        users.append(
            {
                "user": number,
                "plays": len(at),
                "history": [_play(row, i, names, has_completion) for i in at[:HISTORY]],
                "next": following,
                "rank": int(rank),
                "recommended": [
                    {"title": str(names[title]), "next": bool(title == target)}
                    for title in top[:RECOMMENDED].tolist()
                    if title >= FIRST_TITLE
                ],
            }
        )
    return {"order": ranking.order, "users": users}


def _play(row: np.ndarray, at: int, names: np.ndarray, has_completion: bool) -> dict[str, Any]:
    """Return a play of a history: its title and, where they are stored, completion and abandonment."""
    play: dict[str, Any] = {"title": str(names[row["history_title"][at]])}
    fields = row.dtype.names or ()
    if has_completion and "history_completion" in fields:
        play["completion"] = float(row["history_completion"][at])
        play["abandoned"] = bool(row["history_abandoned"][at])
    return play


def names_of_titles(source: schema.Source, arrays: Arrays) -> np.ndarray:
    """Return a name for each id, [V]: that of the titles table, else the title's key.

    Args:
        source: Source of the config.
        arrays: Arrays of the catalogue.
    """
    keys = arrays.title_key.astype(str).astype(object)
    if isinstance(source, schema.Tables) and source.titles:
        from jaxrec.sources.histories import title_names  # imports polars, for tables of names alone

        if (names := title_names(source, arrays.title_key)) is not None:
            keys = np.where(names == "", keys, names)
    return np.concatenate([np.full(FIRST_TITLE, "unknown title", object), keys])
