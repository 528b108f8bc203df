"""Ranking in two stages: the retrieval head finds N titles of the catalogue, a task's head orders them.

The funnel of Covington, Adams & Sargin (Deep Neural Networks for YouTube Recommendations, RecSys 2016).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.batch import TitleTable
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.ranker import RankingModel, UserEncoding


class TwoStageResult(NamedTuple):
    """What two stages show to each request, the best first."""

    id_BxN: jax.Array  # 0 where there are no more
    score_BxN: jax.Array  # of the second stage; -inf where there are no more


def two_stage(
    model: RankingModel,
    variables: Any,
    user: UserEncoding,
    table: TitleTable,
    task: str,
    stands_BxV: jax.Array,
    most: int,
    catalogue: TitleProjections | None = None,
) -> TwoStageResult:
    """The best `most` titles by `Recommender.retrieve`, of those that stand for election [B, V], in the order
    of the task's score. Among equals the lower id, the more popular title, comes first; NaN is not shown."""
    found_BxV: Any = model.apply(variables, user, table, catalogue, method="retrieve")
    found_BxV = jnp.where(stands_BxV & ~jnp.isnan(found_BxV), found_BxV, -jnp.inf)
    best_BxN, id_BxN = jax.lax.top_k(found_BxV, min(most, found_BxV.shape[1]))
    # By id, for then of equal scores the first is the one of the lowest.
    id_BxN = jnp.sort(jnp.where(best_BxN > -jnp.inf, id_BxN, 0), axis=1)
    of_task: Any = model.apply(variables, user, id_BxN, table, (task,), catalogue, method="score")
    score_BxN = jnp.where((id_BxN > 0) & ~jnp.isnan(of_task[task]), of_task[task], -jnp.inf)
    score_BxN, place_BxN = jax.lax.top_k(score_BxN, score_BxN.shape[1])
    id_BxN = jnp.take_along_axis(id_BxN, place_BxN, axis=1)
    return TwoStageResult(jnp.where(score_BxN > -jnp.inf, id_BxN, 0), score_BxN)


def rank_among(shown: TwoStageResult, target_B: jax.Array, titles: int) -> jax.Array:
    """The target's rank [B] from 1 among the titles shown, ties against it; `titles` (V) where it is not
    shown, so that it counts at no k below."""
    is_target_BxN = shown.id_BxN == target_B[:, None]
    its_own_Bx1 = jnp.where(is_target_BxN, shown.score_BxN, -jnp.inf).max(1, keepdims=True)
    rivals_BxN = (shown.id_BxN > 0) & ~is_target_BxN & (shown.score_BxN >= its_own_Bx1)
    there_B = (is_target_BxN & (target_B > 0)[:, None]).any(1)
    return jnp.where(there_B, 1 + rivals_BxN.sum(1), titles)


def overlap(exact_BxK: jax.Array, shown_BxN: jax.Array) -> jax.Array:
    """The share [B] of the exact best K titles that are among the best K of two stages; ids, 0 for none. 1
    where there are none to keep."""
    exact_BxK1, shown_Bx1xK = exact_BxK[:, :, None], shown_BxN[:, None, : exact_BxK.shape[1]]
    there_BxK = exact_BxK > 0
    found_BxK = (exact_BxK1 == shown_Bx1xK).any(2) & there_BxK
    return jnp.where(there_BxK.any(1), found_BxK.sum(1) / jnp.maximum(there_BxK.sum(1), 1), 1.0)
