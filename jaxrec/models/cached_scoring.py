"""Candidate scoring in groups with cached histories (M-FALCON; Zhai et al. 2024)."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxrec.core.batch import History, TitleTable
from jaxrec.models.layers.title_encoder import TitleProjections


def score_in_groups(
    apply: Callable[..., Any],
    history: History,
    candidate_BxC: jax.Array,
    table: TitleTable,
    temperature: jax.Array | float,
    tasks: tuple[str, ...],
    group_size: int,
    projections: TitleProjections | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Score candidates in groups, encoding each history once, without randomness.

    The results equal those of `RankingModel.encode` and `RankingModel.score` on all candidates. Groups bound
    the memory. `RankingModel.encode_history` encodes a history once for all groups.

    Args:
        apply: `RankingModel.apply` with its variables, of a model with the target in the sequence.
        history: histories of B examples.
        candidate_BxC: title ids.
        table: features of all titles.
        temperature: temperature of the gate.
        tasks: heads to score.
        group_size: maximum number of candidates in a group.
        projections: cached projections of the titles; None: computed in each call.

    Returns:
        Scores [B, C] by task, and the gate without noise [B, C, E].
    """
    chex.assert_rank(candidate_BxC, 2, custom_message="candidate_BxC")
    encoded: Any = apply(history, table, None, projections, method="encode_history")

    def score_group(ids_BxM: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        arguments = encoded, ids_BxM, table, temperature, None, projections
        user: Any = apply(*arguments, method="join")
        scores: Any = apply(user, ids_BxM, table, tasks, projections, method="score")
        return scores, user.clean_gate_BxE

    B, C = candidate_BxC.shape
    group_size = min(group_size, C)
    padded_BxN = jnp.pad(candidate_BxC, ((0, 0), (0, -C % group_size)))
    groups = jax.lax.map(score_group, jnp.moveaxis(padded_BxN.reshape(B, -1, group_size), 1, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :C], groups)
