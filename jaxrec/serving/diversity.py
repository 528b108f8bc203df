"""Diversity of recommendations by maximal marginal relevance (MMR; Carbonell & Goldstein 1998).

Axis letters: U users, N candidates, F width of a title vector, k chosen titles.
"""

import numpy as np

_CELLS = 2**25  # numbers of gathered title vectors in memory at a time


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [V, F] to length 1; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def rerank(
    id_UxN: np.ndarray, score_UxN: np.ndarray, unit_VxF: np.ndarray, k: int, diversity: float
) -> np.ndarray:
    """Choose k of N candidates one by one, each relevant and unlike the titles chosen before.

    The value of a candidate is (1 - diversity) * relevance - diversity * similarity. The relevance is the
    score, scaled to [0, 1] over the user's candidates. The similarity is the largest cosine to a chosen
    title. Of candidates with equal values the first is chosen.

    Args:
        id_UxN: Title ids, the best first, 0 after the last candidate.
        score_UxN: Scores of the candidates.
        unit_VxF: Vectors of length 1 of all titles.
        k: Number of titles, at most N.
        diversity: From 0 (relevance alone) to 1 (similarity alone).

    Returns:
        Indices [U, k] of the chosen candidates, in the order of choice.
    """
    step = max(_CELLS // (id_UxN.shape[1] * unit_VxF.shape[1]), 1)
    chosen = [
        _rerank_users(id_UxN[i : i + step], score_UxN[i : i + step], unit_VxF, k, diversity)
        for i in range(0, len(id_UxN), step)
    ]
    return np.concatenate([np.empty((0, k), np.int64), *chosen])


def _rerank_users(
    id_UxN: np.ndarray, score_UxN: np.ndarray, unit_VxF: np.ndarray, k: int, diversity: float
) -> np.ndarray:
    present = id_UxN > 0
    low = np.where(present, score_UxN, np.inf).min(axis=1, keepdims=True)
    high = np.where(present, score_UxN, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        relevance = np.where(present, (score_UxN - low) / np.maximum(high - low, 1e-12), 0.0)
    vectors, users = unit_VxF[id_UxN], np.arange(len(id_UxN))
    similarity = np.full(id_UxN.shape, -np.inf)
    chosen = np.empty((len(id_UxN), k), np.int64)
    free = present.copy()
    for i in range(k):
        penalty = diversity * similarity if i else 0.0
        value = np.where(free, (1.0 - diversity) * relevance - penalty, -np.inf)
        best = np.where(free.any(axis=1), value.argmax(axis=1), i)  # absent candidates come last
        chosen[:, i] = best
        free[users, best] = False
        similarity = np.maximum(similarity, np.einsum("unf,uf->un", vectors, vectors[users, best]))
    return chosen
