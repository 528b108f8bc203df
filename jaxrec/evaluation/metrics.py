"""NDCG@k, Recall@k and MRR@k of one relevant title among its rivals, on NumPy arrays; what lists show else.

The first are functions of the target's rank alone. Over a list of 1 + 20 in random order they average
.048 (NDCG@1), .140 (NDCG@5), .238 (Recall@5) and .109 (MRR@5).
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from jaxrec.core.ids import FIRST_TITLE


def rank(scores, present=None):
    """The target's rank from scores [..., 1 + N], its own first: 1 + the negatives not strictly below it.

    Ties and NaN, on either side, count against the model. Negatives where `present` [..., N] is False
    are not there. Works on JAX arrays too.
    """
    ahead = ~(scores[..., 1:] < scores[..., :1])
    if present is not None:
        ahead = ahead & present
    return 1 + ahead.sum(-1)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(1 + rank) up to rank k, else 0: the ideal list's gain is 1."""
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """1 up to rank k, else 0."""
    return (rank <= k).astype(np.float64)


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """1 / rank up to rank k, else 0."""
    return np.where(rank <= k, 1.0 / rank, 0.0)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # the paper's, of ranks [...]
    "ndcg@1": lambda rank: ndcg(rank, 1),
    "ndcg@5": lambda rank: ndcg(rank, 5),
    "recall@5": lambda rank: recall(rank, 5),
    "mrr@5": lambda rank: mrr(rank, 5),
}


CUTOFFS = (1, 5, 10, 20, 100)
# Over the whole catalogue, of ranks [...]. With one relevant title the hit rate HR@k is Recall@k.
FULL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f"{name}@{k}": partial(metric, k=k)
    for name, metric in {"hr": recall, "ndcg": ndcg, "mrr": mrr}.items()
    for k in CUTOFFS
}
SHOWN = 10  # titles of each list that `shown` looks at


def shown(top: np.ndarray, plays: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What the first titles shown, ids `top` [Q, SHOWN] (0: none), are like beside being right.

    `coverage`: the share, in [0, 1], of the titles that somebody is shown. `novelty`: the mean of
    -log2(plays / all plays), in bits, of what is shown (Vargas & Castells, RecSys 2011); a title nobody
    played counts as played once. `popularity_lift`: the mean plays of what is shown over those of
    `targets` [Q], what users went on to watch; above 1 the popular are shown more than they are chosen
    (after Abdollahpouri et al., 2020). `plays` [V] are of training users, by id; ids below the first title's
    have none and count for nothing.
    """
    there = top[top > 0]
    at = f"@{SHOWN}"
    return {
        f"coverage{at}": len(np.unique(there)) / (len(plays) - FIRST_TITLE),
        f"novelty{at}": float(-np.log2(np.maximum(plays[there], 1) / plays.sum()).mean()),
        f"popularity_lift{at}": float(plays[there].mean() / plays[targets].mean()),
    }


def suffix(next_k: int) -> str:
    """What the names of figures of the next `next_k` titles end in; nothing for K=1."""
    return "" if next_k == 1 else f"_k{next_k}"


def per_user(user: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users [U] in ascending order, the mean of each one's values [U], and how many there were [U]."""
    users, of_query = np.unique(user, return_inverse=True)
    counts = np.bincount(of_query, minlength=len(users))
    return users, np.bincount(of_query, weights=values, minlength=len(users)) / counts, counts
