"""Diversity of recommendations by maximal marginal relevance (MMR; Carbonell & Goldstein 1998).

Axis letters: U or B users, N candidates, V titles, F width of a title vector, k chosen titles.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CANDIDATES = 5  # candidates of a diverse list, in multiples of its length
_CELLS = 2**25  # numbers of gathered title vectors in memory at a time


def unit_vectors(vectors: Any) -> Any:
    """Scale vectors [V, F], of NumPy or jax, to length 1; a zero vector stays zero."""
    xp = jnp if isinstance(vectors, jax.Array) else np
    return vectors / xp.maximum(xp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def rerank(
    id_UxN: np.ndarray, score_UxN: np.ndarray, unit_VxF: np.ndarray, k: int, diversity: float
) -> np.ndarray:
    """Choose k of N candidates by `choose`, on the host, for groups of users that fit in memory.

    Returns:
        Indices [U, k] of the chosen candidates, in the order of choice.
    """
    step = max(_CELLS // (id_UxN.shape[1] * unit_VxF.shape[1]), 1)
    chosen = [
        choose(id_UxN[i : i + step], score_UxN[i : i + step], unit_VxF, k, diversity)
        for i in range(0, len(id_UxN), step)
    ]
    return np.concatenate([np.empty((0, k), np.int64), *chosen])


def choose(id_BxN: Any, score_BxN: Any, unit_VxF: Any, k: int, diversity: float) -> Any:
    """Choose k of N candidates one by one, each relevant and unlike the titles chosen before.

    The value of a candidate is (1 - diversity) * relevance - diversity * similarity. The relevance is the
    score, scaled to [0, 1] over the user's candidates. The similarity is the largest cosine to a chosen
    title. Of candidates with equal values the first is chosen. The arrays are all of NumPy or all of jax.

    Args:
        id_BxN: Title ids, the best first, 0 after the last candidate.
        score_BxN: Scores of the candidates.
        unit_VxF: Vectors of length 1 of all titles.
        k: Number of titles, at most N.
        diversity: From 0 (relevance alone) to 1 (similarity alone).

    Returns:
        Indices [B, k] of the chosen candidates, in the order of choice.
    """
    xp: Any = jnp if isinstance(id_BxN, jax.Array) else np
    present_BxN = id_BxN > 0
    low_Bx1 = xp.where(present_BxN, score_BxN, xp.inf).min(axis=1, keepdims=True)
    high_Bx1 = xp.where(present_BxN, score_BxN, -xp.inf).max(axis=1, keepdims=True)
    shifted_BxN = xp.where(present_BxN, score_BxN, low_Bx1) - xp.where(low_Bx1 < xp.inf, low_Bx1, 0.0)
    relevance_BxN = xp.where(present_BxN, shifted_BxN / xp.maximum(high_Bx1 - low_Bx1, 1e-12), 0.0)
    vectors_BxNxF, column_N, place_k = unit_VxF[id_BxN], xp.arange(id_BxN.shape[1]), xp.arange(k)

    def choose_next(i: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        chosen_Bxk, free_BxN, similarity_BxN = state
        value_BxN = (1.0 - diversity) * relevance_BxN - diversity * similarity_BxN
        value_BxN = xp.where(free_BxN, value_BxN, -xp.inf)
        best_B = xp.where(free_BxN.any(axis=1), value_BxN.argmax(axis=1), i)  # absent candidates come last
        vector_Bx1xF = xp.take_along_axis(vectors_BxNxF, best_B[:, None, None], axis=1)
        cosine_BxN = xp.einsum("bnf,bof->bn", vectors_BxNxF, vector_Bx1xF)
        similarity_BxN = xp.maximum(similarity_BxN, cosine_BxN)
        chosen_Bxk = xp.where(place_k == i, best_B[:, None], chosen_Bxk)
        return chosen_Bxk, free_BxN & (column_N != best_B[:, None]), similarity_BxN

    # The least cosine, which changes the values of all candidates alike.
    least_BxN = xp.full(id_BxN.shape, -1.0, vectors_BxNxF.dtype)
    state = xp.zeros((len(id_BxN), k), column_N.dtype), present_BxN, least_BxN
    return _repeat(k, choose_next, state, on_device=xp is jnp)[0]


def _repeat(times: int, body: Callable[[Any, Any], Any], state: Any, on_device: bool) -> Any:
    """Return the state after `body(i, state)` for i from 0 to `times` - 1."""
    if on_device:
        return jax.lax.fori_loop(0, times, body, state)
    for i in range(times):
        state = body(i, state)
    return state


def rank_diversely(
    score_BxN: jax.Array, id_BxN: jax.Array, rank_B: jax.Array, target_B: jax.Array, unit_VxF: jax.Array,
    k: int, diversity: float,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Rank each target in the order of MMR over the N best titles.

    The ranks change by the number of places that the target moves, so that ties and NaN count against the
    target as in `rank_B`. A target that is no candidate has its rank in `rank_B`.

    Args:
        score_BxN: Scores of the candidates, the best first; -inf after the last one.
        id_BxN: Title ids of the candidates.
        rank_B: Ranks of the targets by the scores, from 1.
        target_B: Title ids.
        unit_VxF: Vectors of length 1 of all titles.
        k: Number of titles of a list.
        diversity: As in `choose`.

    Returns:
        Ranks [B] and ids [B, k] of the list, 0 after the last title.
    """
    id_BxN = jnp.where(score_BxN > -jnp.inf, id_BxN, 0)
    order_BxN = choose(id_BxN, score_BxN, unit_VxF, id_BxN.shape[1], diversity)
    diverse_BxN = jnp.take_along_axis(id_BxN, order_BxN, axis=1)
    before_BxN, after_BxN = ((ids == target_B[:, None]) & (ids > 0) for ids in (id_BxN, diverse_BxN))
    moved_B = after_BxN.argmax(axis=1) - before_BxN.argmax(axis=1)  # 0 without the target
    return rank_B + moved_B.astype(rank_B.dtype), diverse_BxN[:, :k]


def intra_list_distance(id_Bxk: jax.Array, unit_VxF: jax.Array) -> jax.Array:
    """Return the mean cosine distance of two titles of each list (Ziegler et al., WWW 2005), [B].

    Args:
        id_Bxk: Title ids, 0 for none.
        unit_VxF: Vectors of length 1 of all titles.

    Returns:
        Distances in [0, 2]; NaN for a list of fewer than two titles.
    """
    present_Bxk = id_Bxk > 0
    vectors_BxkxF = jnp.where(present_Bxk[..., None], unit_VxF[id_Bxk], 0.0)
    # The cosines of all pairs, each once: half of the squared sum without the squares.
    squared_B = jnp.square(vectors_BxkxF.sum(axis=1)).sum(axis=1)
    cosines_B = (squared_B - jnp.square(vectors_BxkxF).sum(axis=(1, 2))) / 2.0
    num_B = present_Bxk.sum(axis=1)
    pairs_B = num_B * (num_B - 1) / 2.0
    return jnp.where(num_B > 1, 1.0 - cosines_B / jnp.maximum(pairs_B, 1.0), jnp.nan)
