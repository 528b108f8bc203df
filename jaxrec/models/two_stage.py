"""Two-stage ranking: retrieval of N titles by one head, ordering by another.

The funnel of Covington, Adams & Sargin (Deep Neural Networks for YouTube Recommendations, RecSys 2016).
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrec.core.batch import TitleTable
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.outputs import Correction, UserEncoding, titles_by_rank
from jaxrec.models.ranker import RankingModel


class TwoStageResult(NamedTuple):
    """Recommended titles of each query, the best first.

    Attributes:
        id_BxN: int32 title ids, 0 after the last title.
        score_BxN: Scores of the second stage, -inf after the last title.
    """

    id_BxN: jax.Array
    score_BxN: jax.Array


def top_titles(scores_BxV: jax.Array, k: int, rank_V: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return the k best scores of each query and their title ids.

    Of equal scores, the more popular title comes first.

    Args:
        scores_BxV: scores by title id; -inf for a title that is not eligible, such as padding.
        k: number of titles.
        rank_V: popularity rank of each id, V for padding, unknown and ids without a title. None: the order
            of the ids.

    Returns:
        Scores [B, k], the best first, and ids [B, k]; an id is arbitrary where the score is -inf.
    """
    if rank_V is None:
        return jax.lax.top_k(scores_BxV, k)  # puts the first of equal scores first
    chex.assert_shape(rank_V, scores_BxV.shape[1:], custom_message="rank_V")
    id_of_rank_V = titles_by_rank(rank_V).id_V
    best_Bxk, rank_Bxk = jax.lax.top_k(scores_BxV[:, id_of_rank_V], k)
    return best_Bxk, id_of_rank_V[rank_Bxk]


def two_stage(
    model: RankingModel,
    variables: Any,
    user: UserEncoding,
    table: TitleTable,
    correction: Correction,
    eligible_BxV: jax.Array,
    num_titles: int,
    projections: TitleProjections | None = None,
) -> TwoStageResult:
    """Retrieve the best titles by the retrieval head and order them by corrected scores.

    Of titles with equal scores, in either stage, the more popular title comes first: the one with the lower
    `table.rank`. Titles with a NaN score are left out.

    Args:
        model: a model with a retrieval head.
        variables: variables of the model.
        user: encodings of B queries.
        table: features of all titles.
        correction: head and correction of the second stage.
        eligible_BxV: bool, the eligible titles.
        num_titles: maximum number of retrieved titles N.
        projections: cached projections of the titles; None: computed in each call.

    Returns:
        Ids and scores [B, N], the best first.
    """
    scores_BxV: Any = model.apply(variables, user, table, projections, method="retrieve")
    scores_BxV = jnp.where(eligible_BxV & ~jnp.isnan(scores_BxV), scores_BxV, -jnp.inf)
    best_BxN, id_BxN = top_titles(scores_BxV, min(num_titles, scores_BxV.shape[1]), table.rank)
    id_BxN = jnp.where(best_BxN > -jnp.inf, id_BxN, 0)
    # Sorted by popularity, because top_k puts the first of equal scores first.
    rank_BxN = id_BxN if table.rank is None else jnp.where(id_BxN > 0, jnp.asarray(table.rank)[id_BxN], -1)
    id_BxN = jnp.take_along_axis(id_BxN, jnp.argsort(rank_BxN, axis=1), axis=1)
    head = correction.head
    by_head: Any = model.apply(variables, user, id_BxN, table, (head,), projections, method="score")
    score_BxN = correction(by_head[head], id_BxN)
    score_BxN = jnp.where((id_BxN > 0) & ~jnp.isnan(score_BxN), score_BxN, -jnp.inf)
    score_BxN, order_BxN = jax.lax.top_k(score_BxN, score_BxN.shape[1])
    id_BxN = jnp.take_along_axis(id_BxN, order_BxN, axis=1)
    return TwoStageResult(jnp.where(score_BxN > -jnp.inf, id_BxN, 0), score_BxN)


def rank_among(recommended: TwoStageResult, target_B: jax.Array, titles: int) -> jax.Array:
    """Rank each target among the recommended titles, ties against the target.

    Args:
        recommended: the recommended titles.
        target_B: title ids.
        titles: number of titles V.

    Returns:
        int32 ranks [B] from 1. A target that is not recommended has the rank `titles`, so it counts at no k
        below.
    """
    chex.assert_rank([recommended.id_BxN, target_B], [2, 1], custom_message="recommended.id_BxN, target_B")
    is_target_BxN = recommended.id_BxN == target_B[:, None]
    target_score_Bx1 = jnp.where(is_target_BxN, recommended.score_BxN, -jnp.inf).max(1, keepdims=True)
    rivals_BxN = (recommended.id_BxN > 0) & ~is_target_BxN & (recommended.score_BxN >= target_score_Bx1)
    is_shown_B = (is_target_BxN & (target_B > 0)[:, None]).any(1)
    return jnp.where(is_shown_B, 1 + rivals_BxN.sum(1), titles)


def overlap(exact_BxK: jax.Array, staged_BxN: jax.Array) -> jax.Array:
    """Fraction [B] of the exact best K titles among the best K of two stages.

    Args:
        exact_BxK: title ids, 0 for none.
        staged_BxN: title ids, 0 for none, the best first.

    Returns:
        Fractions [B]; 1 if there are no exact best titles.
    """
    exact_BxK1, staged_Bx1xK = exact_BxK[:, :, None], staged_BxN[:, None, : exact_BxK.shape[1]]
    present_BxK = exact_BxK > 0
    kept_BxK = (exact_BxK1 == staged_Bx1xK).any(2) & present_BxK
    return jnp.where(present_BxK.any(1), kept_BxK.sum(1) / jnp.maximum(present_BxK.sum(1), 1), 1.0)
