"""Scores that need no training, of the frozen lists: popularity, two rules, and where it is known the oracle.

Each takes held-out rows and gives [Q, K, 1 + negatives] float64, the target first; higher is better.
"""

from collections.abc import Callable

import numpy as np

from jaxrec.data.store import Arrays

_FIRST = 1e9  # more than any rank: what a rule adds to put a title before all others


def candidates(rows: np.ndarray, name: str) -> np.ndarray:
    """[Q, K, 1 + negatives] title ids of a list, the target first; 0 where the next title is absent."""
    return np.concatenate([rows["target"][:, :, None], rows[f"list_{name}"]], axis=2)


def popularity(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """The more plays by training users the better."""
    return -arrays.rank_of_id[candidates(rows, name)].astype(np.float64)


def abandoned(rows: np.ndarray, name: str) -> np.ndarray:
    """bool: candidates this user had abandoned before the query.

    Of the negatives they are the list's hard ones. A target is one (data.targets="any" alone) where
    the stored history says so.
    """
    _, _, width = shape = candidates(rows, name).shape
    out = np.zeros(shape, bool)
    given_up = np.where(rows["history_abandoned"] != 0, rows["history_title"], -1)
    out[:, :, 0] = (rows["target"][:, :, None] == given_up[:, None, :]).any(axis=2)
    if name == "enabled":
        out[:, :, 1:] = np.arange(width - 1) < rows["list_hard"][:, :, None]
    return out


def in_history(rows: np.ndarray, name: str) -> np.ndarray:
    """bool: candidates in the user's history, whatever came of them."""
    out = abandoned(rows, name)  # other negatives were never played
    out[:, :, 0] |= (rows["target"][:, :, None] == rows["history_title"][:, None, :]).any(axis=2)
    return out


def abandoned_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """What was abandoned last, the rest by popularity."""
    return popularity(rows, name, arrays) - _FIRST * abandoned(rows, name)


def in_history_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """What is in the history first, the rest by popularity."""
    return popularity(rows, name, arrays) + _FIRST * in_history(rows, name)


def not_in_history_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """What is in the history last, the rest by popularity."""
    return popularity(rows, name, arrays) - _FIRST * in_history(rows, name)


RULES: dict[str, Callable[[np.ndarray, str, Arrays], np.ndarray]] = {
    "popularity": popularity,
    "abandoned_rule": abandoned_rule,
    "in_history_rule": in_history_rule,
    "not_in_history_rule": not_in_history_rule,
}


def oracle(rows: np.ndarray, name: str, shown_abandoned: bool) -> np.ndarray:
    """p/q of the K=1 list: the bound, for whoever sees the latent state and what a model sees.

    A model that is shown what was abandoned knows those are no first plays; so does this then.
    """
    scores = rows[f"oracle_{name}"][:, None].astype(np.float64)
    return np.where(abandoned(rows, name)[:, :1], -1.0, scores) if shown_abandoned else scores


def true_probability(rows: np.ndarray, name: str, shown_abandoned: bool) -> np.ndarray:
    """p alone of the K=1 list, which is no bound: lists are not drawn evenly."""
    scores = rows[f"truth_{name}"][:, None].astype(np.float64)
    return np.where(abandoned(rows, name)[:, :1], -1.0, scores) if shown_abandoned else scores


ORACLES = {"oracle": oracle, "oracle_p": true_probability}
