"""Ranking metrics (NDCG@k, Recall@k, MRR@k) and exposure metrics.

All metrics are of NumPy arrays, with one relevant title per query. The ranking metrics are functions of the
target's rank alone. Over a list of 1 + 20 titles in random order their means are .048 (NDCG@1), .140
(NDCG@5), .238 (Recall@5) and .109 (MRR@5).
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from jaxrec.core.ids import FIRST_TITLE


def rank(scores, present=None):
    """Return the target's rank: 1 + the number of negatives not strictly below.

    Ties and NaN, in the target or in a negative, count against the model. JAX arrays work too.

    Args:
        scores: [..., 1 + N], the score of the target first.
        present: [..., N] bool, False for negatives to ignore. None: all negatives count.

    Returns:
        Ranks [...], from 1.
    """
    ahead = ~(scores[..., 1:] < scores[..., :1])
    if present is not None:
        ahead = ahead & present
    return 1 + ahead.sum(-1)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / log2(1 + rank) up to rank k, else 0; the gain of the ideal list is 1.

    Args:
        rank: [...] ranks, from 1.
        k: cutoff.

    Returns:
        [...] in [0, 1].
    """
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 up to rank k, else 0.

    Args:
        rank: [...] ranks, from 1.
        k: cutoff.

    Returns:
        [...], 0 or 1.
    """
    return (rank <= k).astype(np.float64)


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / rank up to rank k, else 0.

    Args:
        rank: [...] ranks, from 1.
        k: cutoff.

    Returns:
        [...] in [0, 1].
    """
    return np.where(rank <= k, 1.0 / rank, 0.0)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # the metrics of the paper, of ranks [...]
    "ndcg@1": lambda rank: ndcg(rank, 1),
    "ndcg@5": lambda rank: ndcg(rank, 5),
    "recall@5": lambda rank: recall(rank, 5),
    "mrr@5": lambda rank: mrr(rank, 5),
}


CUTOFFS = (1, 5, 10, 20, 100)
# Metrics of ranks [...] over the whole catalogue. With one relevant title the hit rate HR@k is Recall@k.
FULL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f"{name}@{k}": partial(metric, k=k)
    for name, metric in {"hr": recall, "ndcg": ndcg, "mrr": mrr}.items()
    for k in CUTOFFS
}
SHOWN = 10  # titles of each recommended list that `shown` covers


def shown(
    top: np.ndarray, plays: np.ndarray, targets: np.ndarray, titles: int = 0
) -> dict[str, float | None]:
    """Return coverage, novelty and popularity lift of the recommended titles.

    - `coverage`: the fraction, in [0, 1], of all titles that at least one user is shown.
    - `novelty`: the mean of -log2(plays / all plays), in bits, over the titles shown (Vargas & Castells,
      RecSys 2011). A title without plays counts as played once.
    - `popularity_lift`: the mean plays of the titles shown, divided by the mean plays of the titles that
      users watched next. Above 1, popular titles are shown more often than they are chosen (after
      Abdollahpouri et al., 2020). None where training users played none of the titles watched next.

    Args:
        top: ids [Q, SHOWN] of the titles shown, the best first; 0 for none.
        plays: plays [V] by training users, by title id. Ids below the first title have no plays and are not
            counted as titles.
        targets: ids [Q] of the titles that users watched next.
        titles: number of titles; 0: every id from the first title on is one.

    Returns:
        Metric name, with the cutoff -> value.
    """
    shown_ids = top[top > 0]
    at, chosen = f"@{SHOWN}", float(plays[targets].mean())
    return {
        f"coverage{at}": len(np.unique(shown_ids)) / (titles or len(plays) - FIRST_TITLE),
        f"novelty{at}": float(-np.log2(np.maximum(plays[shown_ids], 1) / plays.sum()).mean()),
        f"popularity_lift{at}": float(plays[shown_ids].mean() / chosen) if chosen else None,
    }


def suffix(next_k: int) -> str:
    """Return the suffix of result names for the next `next_k` titles; empty for 1."""
    return "" if next_k == 1 else f"_k{next_k}"


def per_user(user: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average values by user.

    Args:
        user: user [N] of each value.
        values: [N].

    Returns:
        Users [U] in ascending order, the mean of each user's values [U], and the number of values [U].
    """
    users, user_index = np.unique(user, return_inverse=True)
    counts = np.bincount(user_index, minlength=len(users))
    return users, np.bincount(user_index, weights=values, minlength=len(users)) / counts, counts
