"""Scores that need no training, of the frozen lists: popularity, item to item, two rules, and where it is
known the oracle.

Each takes held-out rows and gives [Q, K, 1 + negatives] float64, the target first; higher is better.
"""

from collections.abc import Callable

import numpy as np

from jaxrec.data.storage.dataset import BLOCK_ROWS, Arrays, Rows

Rule = Callable[[np.ndarray, str, Arrays], np.ndarray]

_COUNTED = 1_000_000  # training rows that item-to-item counts over, at most
_TITLES = 8_192  # of which it counts pairs: the most played, 256 MiB
_AT_A_TIME = 64  # blocks of rows
_QUERIES = 4_096  # whose histories are held against the most played titles at a time
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


def _shown(rows: np.ndarray, arrays: Arrays, titles: int, shown_abandoned: bool) -> np.ndarray:
    """[Q, history] ranks of what the stored histories show, as a model may see them; `titles` elsewhere."""
    there = rows["history_title"] > 0
    if not shown_abandoned:
        there &= rows["history_abandoned"] == 0
    return np.where(there, np.minimum(arrays.rank_of_id[rows["history_title"]], titles), titles)


def item_to_item(training: Rows, arrays: Arrays, shown_abandoned: bool) -> Rule:
    """A rule from co-occurrence (Sarwar et al. 2001; Linden, Smith & York 2003): a candidate c's score is the
    sum, over the titles h that the history shows, of the cosine n(h, c) / sqrt(n(h) n(c)), where over
    training rows n(h, c) counts those whose history shows h and whose target is c, n(h) those that show
    h, and n(c) those whose target is c. Ties go by popularity.

    Counted are the `_TITLES` most played titles, over all rows or a systematic sample of `_COUNTED`.
    """
    titles = min(len(arrays.id_of_rank), _TITLES)
    cosine = np.zeros((titles + 1, titles + 1), np.float32)
    shows, targets = np.zeros(titles + 1), np.zeros(titles + 1)
    most = min(training.blocks, _COUNTED // BLOCK_ROWS)
    blocks = np.unique(np.linspace(0, training.blocks - 1, most).astype(int))
    for some in np.split(blocks, range(_AT_A_TIME, len(blocks), _AT_A_TIME)):
        rows = training.read(some).reshape(-1).view(training.dtype)
        target = np.minimum(arrays.rank_of_id[rows["target"][:, 0]], titles)
        shown = _shown(rows, arrays, titles, shown_abandoned)
        row, column = np.nonzero(shown < titles)
        pairs, counts = np.unique(shown[row, column] * (titles + 1) + target[row], return_counts=True)
        cosine.reshape(-1)[pairs] += counts
        shows += np.bincount(shown[row, column], minlength=titles + 1)
        targets += np.bincount(target, minlength=titles + 1)
    cosine /= np.sqrt(np.maximum(shows, 1))[:, None]
    cosine /= np.sqrt(np.maximum(targets, 1))
    cosine[:, titles] = 0  # of titles not counted nothing is known

    def score(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
        candidate = np.minimum(arrays.rank_of_id[candidates(rows, name)], titles)
        out = popularity(rows, name, arrays) / _FIRST**2  # far below any cosine
        for shown in _shown(rows, arrays, titles, shown_abandoned).T:
            there = np.flatnonzero(shown < titles)
            out[there] += cosine[shown[there, None, None], candidate[there]]
        return out

    return score


RULES: dict[str, Rule] = {
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


# ---------------------------------------------------------------- over the whole catalogue


def popularity_ranks(
    rows: np.ndarray, arrays: Arrays, filtered: bool, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The target's rank [Q], from 1, among all titles by plays, and the ids of the most played [Q, top], 0
    where there are no more; `filtered` is as in `scoring.Ranker`."""
    target, history = rows["target"][:, 0], rows["history_title"]
    places = arrays.rank_of_id[target].astype(np.int64)
    if not filtered:
        return 1 + places, np.tile(arrays.id_of_rank[:top], (len(rows), 1))
    once = np.sort(history, axis=1)  # a sequence may hold a title twice
    once[:, 1:][once[:, 1:] == once[:, :-1]] = 0
    seen = (arrays.rank_of_id[once] < places[:, None]) & (once != target[:, None])
    best = arrays.id_of_rank[: top + history.shape[1]]
    shown = np.empty((len(rows), top), np.int32)
    for first in range(0, len(rows), _QUERIES):
        some = slice(first, first + _QUERIES)
        stands = ~(best[None, :, None] == history[some, None, :]).any(axis=2)
        stands |= best == target[some, None]
        first_stand = np.argsort(~stands, axis=1, kind="stable")[:, :top]
        shown[some] = np.where(np.take_along_axis(stands, first_stand, axis=1), best[first_stand], 0)
    return 1 + places - seen.sum(axis=1), shown
