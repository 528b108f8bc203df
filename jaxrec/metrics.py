"""NDCG@k, Recall@k and MRR@k of one relevant title among its negatives, on NumPy arrays.

Each is a function of the target's rank alone. Over a list of 1 + 20 in random order they average
.048 (NDCG@1), .140 (NDCG@5), .238 (Recall@5) and .109 (MRR@5).
"""

from collections.abc import Callable

import numpy as np


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


def suffix(next_k: int) -> str:
    """What the names of figures of the next `next_k` titles end in; nothing for K=1."""
    return "" if next_k == 1 else f"_k{next_k}"


def per_user(user: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users [U] in ascending order, the mean of each one's values [U], and how many there were [U]."""
    users, of_query = np.unique(user, return_inverse=True)
    counts = np.bincount(of_query, minlength=len(users))
    return users, np.bincount(of_query, weights=values, minlength=len(users)) / counts, counts
