"""Negatives of a step from the stored pools of each row, which rotate by epoch."""

import jax
import jax.numpy as jnp

from jaxrec.core.ids import PAD, POOLS, SERVED


def choose_negatives(
    rows: dict[str, jax.Array], counts: tuple[int, ...], epoch: jax.Array, matching: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Choose the negatives of an epoch from the pools of each row.

    Epoch e takes the `count` columns (e * count + j) mod width of each pool. The width of the hard pool is
    the row's number of real hard negatives, so a row with at most `count` of them uses all of them. The
    missing hard negatives come from the filled columns of the hard pool, rotated in the same way. The width
    of the served pool is the row's number of served titles, and missing served negatives are padding. Rows of
    exposures have no pools, and N is 0 there.

    Titles that match the text of the request, `matching` of them at most, take the places of the last
    negatives. One of them that was chosen from a pool too is padding at its other place.

    Args:
        rows: Fields of B rows, from `decode`.
        counts: Number of negatives of each pool, in the order of `POOLS`; N is their sum.
        epoch: Scalar, from 0.
        matching: Largest number of negatives that match the text of the request.

    Returns:
        Ids [B, N], 0 for padding, and a bool array [B, N] that is True for hard negatives.
    """
    if "pool_hard" not in rows:
        return no_negatives(rows)
    filled = rows["pool_hard_filled"] != 0
    width = filled.shape[1]
    n_hard = (width - filled.sum(axis=1))[:, None]
    j = jnp.arange(counts[0])[None]
    real = jnp.minimum(n_hard, counts[0])
    rotated = (epoch * counts[0] + j) % jnp.maximum(n_hard, 1)
    missing = counts[0] - real
    spare = n_hard + (epoch * missing + j - real) % jnp.maximum(width - n_hard, 1)
    hard_column = jnp.where(j < real, rotated, spare)
    chosen = [jnp.take_along_axis(rows["pool_hard"], hard_column, axis=1)]
    for name, count in zip(POOLS[1:], counts[1:], strict=False):
        if name == SERVED:
            chosen += [_rotated(rows["pool_served"], count, epoch)] if count else []
            continue
        pool = rows[f"pool_{name}"]
        column = (epoch * count + jnp.arange(count)) % pool.shape[1]
        chosen.append(pool[:, column])
    negative = jnp.concatenate(chosen, axis=1)
    hard = jnp.concatenate(
        [jnp.broadcast_to(j < real, hard_column.shape), jnp.zeros((len(filled), sum(counts[1:])), bool)],
        axis=1,
    )
    if matching:
        negative = _matching_first(negative, hard, _rotated(rows["pool_matching"], matching, epoch))
    return negative, hard


def _rotated(pool: jax.Array, count: int, epoch: jax.Array) -> jax.Array:
    """Return `count` titles [B, count] of a pool at an epoch; 0 where a row has fewer."""
    j, present = jnp.arange(count)[None], (pool != PAD).sum(axis=1)[:, None]
    column = (epoch * count + j) % jnp.maximum(present, 1)
    return jnp.where(j < present, jnp.take_along_axis(pool, column, axis=1), PAD)


def _matching_first(negative: jax.Array, hard: jax.Array, matching: jax.Array) -> jax.Array:
    """Return negatives [B, N], the last of which are those that match, [B, M], where there are some."""
    is_repeated = (negative[:, :, None] == matching[:, None]).any(axis=2) & ~hard
    negative = jnp.where(is_repeated, PAD, negative)
    kept = negative.shape[1] - matching.shape[1]
    last = jnp.where(matching != PAD, matching, negative[:, kept:])
    return jnp.concatenate([negative[:, :kept], last], axis=1)


def no_negatives(rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return ids [B, 0] and the mask [B, 0] of hard negatives of rows of exposures."""
    count = len(rows["target"])
    return jnp.zeros((count, 0), jnp.int32), jnp.zeros((count, 0), bool)
