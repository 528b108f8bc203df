"""Baselines without training: popularity, item-to-item, rules, oracle.

The oracle needs a source that stores the true probabilities. Each baseline takes held-out rows and returns
float64 scores [Q, K, 1 + negatives], the target first; higher is better.
"""

from collections.abc import Callable

import numpy as np

from jaxrec.core.ids import SERVED
from jaxrec.data.storage.dataset import BLOCK_ROWS, Arrays, Rows

Rule = Callable[[np.ndarray, str, Arrays], np.ndarray]

_COUNTED = 1_000_000  # maximum of training rows that item-to-item counts
_TITLES = 8_192  # most played titles, whose pairs item-to-item counts: 256 MiB
_BLOCKS = 64  # blocks of rows read at a time
_DECIMALS = 6  # of the sums of cosines, which are float32
_FIRST = 1e9  # more than any rank; a rule adds this value to rank a title before all others


def candidates(rows: np.ndarray, name: str) -> np.ndarray:
    """Return the title ids of a candidate list, the target first.

    Args:
        rows: the Q held-out rows.
        name: name of the list.

    Returns:
        Title ids [Q, K, 1 + negatives]; the id of the target is 0 if there is no such next title. A served
        list ends with ids 0 where fewer titles were shown.
    """
    return np.concatenate([rows["target"][:, :, None], rows[f"list_{name}"]], axis=2)


def listed(rows: np.ndarray, name: str) -> np.ndarray:
    """Mask [Q, K] bool of the next titles that have a list: of a served list, those with a known slate.

    Args:
        rows: the Q held-out rows.
        name: name of the list.
    """
    has_target = rows["target"] > 0
    return has_target & (rows[f"list_{name}"][:, :, 0] > 0) if name == SERVED else has_target


def popularity(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """Score candidates by popularity: minus the rank by plays of training users.

    Args:
        rows: the Q held-out rows.
        name: name of the list.
        arrays: statistics of titles.

    Returns:
        float64 scores [Q, K, 1 + negatives].
    """
    return -arrays.rank_of_id[candidates(rows, name)].astype(np.float64)


def abandoned(rows: np.ndarray, name: str) -> np.ndarray:
    """Mask [Q, K, 1 + negatives] bool of candidates that the user abandoned earlier.

    Among the negatives these candidates are the hard negatives of the list. A target is abandoned if the
    stored history contains the target as abandoned, which is possible with data.targets="any" only.

    Args:
        rows: the Q held-out rows.
        name: name of the list.
    """
    _, _, width = shape = candidates(rows, name).shape
    out = np.zeros(shape, bool)
    abandoned_ids = np.where(rows["history_abandoned"] != 0, rows["history_title"], -1)
    out[:, :, 0] = (rows["target"][:, :, None] == abandoned_ids[:, None, :]).any(axis=2)
    if name == "enabled":
        out[:, :, 1:] = np.arange(width - 1) < rows["num_hard"][:, :, None]
    return out


def in_history(rows: np.ndarray, name: str) -> np.ndarray:
    """Mask [Q, K, 1 + negatives] bool of candidates in the history, abandoned or not.

    The arguments are those of `abandoned`.
    """
    out = abandoned(rows, name)  # other negatives were never played
    out[:, :, 0] |= (rows["target"][:, :, None] == rows["history_title"][:, None, :]).any(axis=2)
    return out


def abandoned_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """Rank abandoned candidates last, and the others by popularity.

    Arguments and result are those of `popularity`.
    """
    return popularity(rows, name, arrays) - _FIRST * abandoned(rows, name)


def in_history_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """Rank candidates in the history first, and the others by popularity.

    Arguments and result are those of `popularity`.
    """
    return popularity(rows, name, arrays) + _FIRST * in_history(rows, name)


def not_in_history_rule(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
    """Rank candidates in the history last, and the others by popularity.

    Arguments and result are those of `popularity`.
    """
    return popularity(rows, name, arrays) - _FIRST * in_history(rows, name)


def _history_ranks(rows: np.ndarray, arrays: Arrays, titles: int, shown_abandoned: bool) -> np.ndarray:
    """Ranks [Q, history] of the history titles a model reads; `titles` elsewhere."""
    visible = rows["history_title"] > 0
    if not shown_abandoned:
        visible &= rows["history_abandoned"] == 0
    return np.where(visible, np.minimum(arrays.rank_of_id[rows["history_title"]], titles), titles)


def co_occurrence(training: Rows, arrays: Arrays, shown_abandoned: bool) -> np.ndarray:
    """Return the cosines n(h, c) / sqrt(n(h) n(c)) of titles h in histories and targets c.

    Among the training rows, n(h, c) is the number of rows with h in the history and the target c, n(h) the
    number of rows with h in the history, and n(c) the number of rows with the target c. The counts are for
    the `_TITLES` most played titles, over all rows or a systematic sample of `_COUNTED`.

    Args:
        training: the training rows.
        arrays: statistics of titles.
        shown_abandoned: True to count abandoned titles of the history.

    Returns:
        [titles + 1, titles + 1] float32 by popularity rank; 0 in the last row and column, of other titles.
    """
    titles = min(len(arrays.id_of_rank), _TITLES)
    cosine = np.zeros((titles + 1, titles + 1), np.float32)
    in_histories, targets = np.zeros(titles + 1), np.zeros(titles + 1)
    num_blocks = min(training.blocks, _COUNTED // BLOCK_ROWS)
    blocks = np.unique(np.linspace(0, training.blocks - 1, num_blocks).astype(int))
    for block_group in np.split(blocks, range(_BLOCKS, len(blocks), _BLOCKS)):
        rows = training.read(block_group).reshape(-1).view(training.dtype)
        target = np.minimum(arrays.rank_of_id[rows["target"][:, 0]], titles)
        ranks = _history_ranks(rows, arrays, titles, shown_abandoned)
        row, column = np.nonzero(ranks < titles)
        pairs, counts = np.unique(ranks[row, column] * (titles + 1) + target[row], return_counts=True)
        cosine.reshape(-1)[pairs] += counts
        in_histories += np.bincount(ranks[row, column], minlength=titles + 1)
        targets += np.bincount(target, minlength=titles + 1)
    cosine /= np.sqrt(np.maximum(in_histories, 1))[:, None]
    cosine /= np.sqrt(np.maximum(targets, 1))
    cosine[:, titles] = 0  # titles without counts have no co-occurrences
    cosine[titles] = 0
    return cosine


def item_to_item(training: Rows, arrays: Arrays, shown_abandoned: bool) -> Rule:
    """Return a rule from co-occurrence of titles.

    Sources: Sarwar et al. 2001; Linden, Smith & York 2003.

    The score of a candidate is the sum of its cosines with the titles in the history. Popularity breaks ties.

    Args:
        training: the training rows.
        arrays: statistics of titles.
        shown_abandoned: True to count abandoned titles of the history.

    Returns:
        A function with the arguments and the result of `popularity`.
    """
    cosine = co_occurrence(training, arrays, shown_abandoned)
    titles = len(cosine) - 1

    def score(rows: np.ndarray, name: str, arrays: Arrays) -> np.ndarray:
        candidate = np.minimum(arrays.rank_of_id[candidates(rows, name)], titles)
        out = np.zeros(candidate.shape)
        for ranks in _history_ranks(rows, arrays, titles, shown_abandoned).T:
            query = np.flatnonzero(ranks < titles)
            out[query] += cosine[ranks[query, None, None], candidate[query]]
        # Sums that differ by rounding alone are equal, and popularity decides between them.
        lead = popularity(rows, name, arrays) / len(arrays.rank_of_id)  # in [-1, 0]
        return np.round(out, _DECIMALS) + 10.0 ** -(_DECIMALS + 1) * lead

    return score


RULES: dict[str, Rule] = {
    "popularity": popularity,
    "abandoned_rule": abandoned_rule,
    "in_history_rule": in_history_rule,
    "not_in_history_rule": not_in_history_rule,
}


def oracle(rows: np.ndarray, name: str, shown_abandoned: bool) -> np.ndarray:
    """Score the K=1 list by p / q, the upper bound with knowledge of the latent state.

    p is the true probability that a title is watched next, q the density with which the pools of the list
    draw the title.

    Args:
        rows: the Q held-out rows, with the true probabilities.
        name: name of the list.
        shown_abandoned: True if the model reads abandoned titles of the history. A model that reads abandoned
            titles can infer that they are not first plays, so the oracle then ranks them last.

    Returns:
        float64 scores [Q, 1, 1 + negatives]; NaN where the source stores no probabilities.
    """
    scores = rows[f"oracle_{name}"][:, None].astype(np.float64)
    return np.where(abandoned(rows, name)[:, :1], -1.0, scores) if shown_abandoned else scores


def true_probability(rows: np.ndarray, name: str, shown_abandoned: bool) -> np.ndarray:
    """Score the K=1 list by the true probability p alone: [N, 1 + negatives].

    This is no upper bound, because candidate lists are not drawn uniformly. Arguments and result are those of
    `oracle`.
    """
    scores = rows[f"truth_{name}"][:, None].astype(np.float64)
    return np.where(abandoned(rows, name)[:, :1], -1.0, scores) if shown_abandoned else scores


ORACLES = {"oracle": oracle, "oracle_p": true_probability}
