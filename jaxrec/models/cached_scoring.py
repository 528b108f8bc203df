"""Candidates that join histories a group at a time, the histories read once (M-FALCON; Zhai et al., 2024)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.core.batch import History, TitleTable
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.ranker import RankingModel


def score_in_groups(
    model: RankingModel,
    variables: Any,
    history: History,
    candidate_BxC: jax.Array,
    table: TitleTable,
    temperature: jax.Array | float,
    tasks: tuple[str, ...],
    most: int,
    catalogue: TitleProjections | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Scores [B, C] of each task and the gate [B, C, E] of a model with the target in the sequence, nothing
    random: as `encode` and `score` give them of all candidates, which are worked through at most `most` at a
    time, so that memory holds no more. A history is read once (`Recommender.remember`)."""
    remembered: Any = model.apply(variables, history, table, None, catalogue, method="encode_history")

    def of(ids_BxM: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        given = remembered, ids_BxM, table, temperature, None, catalogue
        user: Any = model.apply(variables, *given, method="join")
        scores: Any = model.apply(variables, user, ids_BxM, table, tasks, catalogue, method="score")
        return scores, user.clean_gate_BxE

    B, C = candidate_BxC.shape
    most = min(most, C)
    padded_BxN = jnp.pad(candidate_BxC, ((0, 0), (0, -C % most)))
    found = jax.lax.map(of, jnp.moveaxis(padded_BxN.reshape(B, -1, most), 1, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :C], found)
