"""Terms of heads on the states of positions: what comes next beside the title.

Axis letters: B rows, L positions, T stored labels, K kinds of tokens, O outputs of a head, N = B * L.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.heads import KIND, TITLE, HeadSpec, head_values
from jaxrec.config.schema import Config
from jaxrec.core.batch import Outcome, TitleTable
from jaxrec.core.ids import PAD
from jaxrec.core.registry import resolve
from jaxrec.core.row_format import Layout
from jaxrec.core.rows.sequence_fields import parse_kinds
from jaxrec.losses.ranking import CandidateLoss, HeadInputs, HeadLabels
from jaxrec.tasks.heads import categories_of
from jaxrec.tasks.outputs import Sums

_PLAY = "play"


class StateScores(NamedTuple):
    """Outputs of heads on the states of B queries, and what comes next.

    Attributes:
        labels: Head of a label or a reward -> predictions [B], labels [B], and where they are known [B].
        categories: Head of categories -> log probability of each category [B, O] in nats, categories of the
            next title [B, M], 0 for none, and where one is known [B].
        sums: Sums of the validation loss.
    """

    labels: dict[str, tuple[Any, Any, Any]]
    categories: dict[str, tuple[Any, Any, Any]]
    sums: Sums


def next_kinds(kinds_BxL: jax.Array, layout: Layout) -> jax.Array:
    """Return the kinds [B, L, K] int32 of tokens, from 1, 0 for none.

    A token with a play is a play: its other events follow.

    Args:
        kinds_BxL: uint32 bits of `Outcome.kinds`.
        layout: Layout of the rows.
    """
    names = [kind.name for kind in parse_kinds(layout.token_kinds)]
    bit = jnp.arange(len(names), dtype=jnp.uint32)
    has_play_BxL = (kinds_BxL >> names.index(_PLAY)) & 1
    kept_BxL = jnp.where(has_play_BxL == 1, jnp.uint32(1 << names.index(_PLAY)), kinds_BxL)
    is_kind_BxLxK = (kept_BxL[..., None] >> bit) & 1
    return jnp.where(is_kind_BxLxK == 1, 1 + bit.astype(jnp.int32), 0)


def state_labels(
    head: HeadSpec, target: jax.Array, outcome: Outcome, config: Config, layout: Layout, table: TitleTable
) -> HeadLabels:
    """Return the label [B, L] or the categories [B, L, M] of each position, and where they are known.

    Args:
        head: Head on states.
        target: [B, L] int32 next titles, 0 for none.
        outcome: [B, L] outcomes of the next plays or tokens.
        config: Config of the run, with its labels and rewards.
        layout: Layout of the rows.
        table: Features of all titles.
    """
    if head.of == KIND:
        kinds_BxLxK = next_kinds(outcome.kinds, layout)
        return HeadLabels(kinds_BxLxK, (kinds_BxLxK > 0).any(-1))
    if head.of.startswith(TITLE):
        labels = categories_of(head.of, layout, target, table)
    else:
        labels = HeadLabels(
            *head_values(head.of, outcome.label, outcome.label_known, config, layout.labels, jnp)
        )
    return HeadLabels(labels.y, labels.known & (target != PAD))


def state_terms(
    heads: tuple[HeadSpec, ...], scores: dict[str, jax.Array], target: jax.Array, outcome: Outcome,
    config: Config, layout: Layout, table: TitleTable,
) -> tuple[jax.Array, Sums]:  # fmt: skip
    """Return the weighted sum of the terms over positions, and the sum and count of each.

    Args:
        heads: Heads on states.
        scores: Head -> scores [B, L, O].
        target: As for `state_labels`; so are the others.
    """
    total, sums, size = jnp.zeros(()), {}, target.size
    ones, none = jnp.ones((size, 1), jnp.float32), jnp.zeros((size, 0), bool)
    candidates = CandidateLoss(jnp.ones((size, 1), bool), ones, none, none)
    for head in heads:
        y, known = state_labels(head, target, outcome, config, layout, table)
        flat = HeadLabels(y.reshape(size, 1, *y.shape[2:]), known.reshape(size, 1))
        inputs = HeadInputs(candidates, ones, ones[0], config.objective, head, flat)
        value_N = resolve(head.target)(scores[head.name].reshape(size, -1), inputs)
        total += head.weight * value_N.sum()
        sums[f"loss_{head.name}"] = (value_N.sum(), known.sum())
    return total, sums


def state_scores(
    heads: tuple[HeadSpec, ...], scores: dict[str, jax.Array], target: jax.Array, outcome: Outcome,
    config: Config, layout: Layout, table: TitleTable,
) -> StateScores:  # fmt: skip
    """Return the scores of heads at the newest position of queries, their labels and the loss.

    Args:
        heads: Heads on states whose targets queries have: not that of the next kind.
        scores: Head -> scores [B, 1, O].
        target: [B, 1] int32 next titles, 0 for a query that is padding; the rest is as for `state_terms`.
    """
    total, sums = state_terms(heads, scores, target, outcome, config, layout, table)
    labels, categories = {}, {}
    for head in heads:
        y, known = state_labels(head, target, outcome, config, layout, table)
        of_query = scores[head.name][:, 0]
        if head.loss == "softmax":
            categories[head.name] = jax.nn.log_softmax(of_query), y[:, 0], known[:, 0]
        else:
            labels[head.name] = of_query[:, 0], y[:, 0], known[:, 0]
    return StateScores(labels, categories, {"loss": (total, (target != PAD).sum())} | sums)
