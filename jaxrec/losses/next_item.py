"""Losses of next-title prediction by name, with the settings of a config.

The names are those of `registry.NEXT_ITEM_LOSSES`. Each loss returns one value per position [R, L], in at
least float32, and 0 for a position without a target. The caller applies weights, sums and divides.
"""

from typing import NamedTuple

import chex
import jax

from jaxrec.config.schema import NextItem
from jaxrec.core.registry import NEXT_ITEM_LOSSES, resolve
from jaxrec.losses.full_softmax import softmax
from jaxrec.losses.sampled_losses import bce, gbce, gbce_beta, sampled_softmax
from jaxrec.losses.target_sets import set_bce, set_sampled_softmax, set_softmax


class TargetSets(NamedTuple):
    """Several targets of every position, such as all plays of the next days.

    Attributes:
        title: [R, L, J] int32 ids, the nearest first; 0 for none.
        weight: [R, L, J] float32 weights, at least 0.
    """

    title: jax.Array
    weight: jax.Array


class Positions(NamedTuple):
    """The positions of rows, and the titles that they are scored against.

    Attributes:
        h: [R, L, D] outputs of the model.
        titles: [V, D] vectors of all titles.
        target: [R, L] int32 ids, 0 for no target.
        negatives: [R, L, N] or [R, N] int32 ids; None for a loss over all titles.
        log_q: [V] log of the sampling frequency of each title; None: no correction.
        candidates: [V] bool, the ids that have a title; None: all that are no padding and not unknown.
        sets: Several targets of every position, the first of which is `target`; None: `target` alone.
    """

    h: jax.Array
    titles: jax.Array
    target: jax.Array
    negatives: jax.Array | None
    log_q: jax.Array | None
    candidates: jax.Array | None = None
    sets: TargetSets | None = None


def softmax_loss(x: Positions, config: NextItem) -> jax.Array:
    """Return `softmax` [R, L] with the settings of `config`."""
    budget = config.logits_budget_mib * 2**20
    if x.sets:
        return set_softmax(x.h, x.titles, *x.sets, config.temperature, budget, x.candidates)
    return softmax(x.h, x.titles, x.target, config.temperature, budget, candidates=x.candidates)


def sampled_softmax_loss(x: Positions, config: NextItem) -> jax.Array:
    """Return `sampled_softmax` [R, L] with the settings of `config`."""
    if x.sets:
        return set_sampled_softmax(x.h, x.titles, *x.sets, x.negatives, x.log_q, config.temperature)
    return sampled_softmax(x.h, x.titles, x.target, x.negatives, x.log_q, config.temperature)


def bce_loss(x: Positions, config: NextItem) -> jax.Array:
    """Return `bce` [R, L] with the settings of `config`."""
    if x.sets:
        return set_bce(x.h, x.titles, *x.sets, x.negatives, config.temperature)
    return bce(x.h, x.titles, x.target, x.negatives, config.temperature)


def gbce_loss(x: Positions, config: NextItem) -> jax.Array:
    """Return `gbce` [R, L] with the settings of `config`."""
    if x.sets:
        assert x.negatives is not None, "gbce has sampled negatives"
        beta = gbce_beta(x.negatives.shape[-1], len(x.titles), config.calibration)
        return set_bce(x.h, x.titles, *x.sets, x.negatives, config.temperature, beta)
    return gbce(x.h, x.titles, x.target, x.negatives, config.temperature, config.calibration)


def next_item_loss(x: Positions, config: NextItem) -> jax.Array:
    """Return the loss `config.loss` of every position, [R, L], in at least float32.

    Args:
        x: Positions, titles and negatives.
        config: Settings of the loss.
    """
    h, titles = x.h, x.titles
    chex.assert_rank([h, titles, x.target], [3, 2, 2], custom_message="h, titles, target")
    chex.assert_shape(x.target, h.shape[:2], custom_message="target [R, L]")
    chex.assert_type(x.target, int, custom_message="target")
    chex.assert_shape(titles, (None, h.shape[2]), custom_message="titles [V, D]")
    if x.negatives is not None:
        chex.assert_rank(x.negatives, {2, 3}, custom_message="negatives [R, N] or [R, L, N]")
        chex.assert_axis_dimension(x.negatives, 0, len(h), custom_message="negatives [R, ...]")
    if x.sets is not None:
        chex.assert_shape(list(x.sets), (*h.shape[:2], None), custom_message="sets [R, L, J]")
    if x.log_q is not None:
        chex.assert_shape(x.log_q, (len(titles),), custom_message="log_q [V]")
    return resolve(NEXT_ITEM_LOSSES[config.loss])(x, config)
