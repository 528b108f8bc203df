"""Heads of the ranking task: their specifications from a config, and the labels of a batch for each.

The heads of the paper come first, from the weights of the objective; then those that `objective.heads`
declares. Axis letters: B examples, K positives, N negatives, T stored labels, M values of a feature.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.config.declarations import Blend, Head
from jaxrec.config.heads import (
    FILLED,
    INTENT,
    KIND,
    TITLE,
    HeadSpec,
    Page,
    head_values,
    labels_read,
    reads_filled,
    reward_of,
)
from jaxrec.config.schema import Config
from jaxrec.core import rewards
from jaxrec.core.batch import Batch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import UNKNOWN
from jaxrec.core.registry import PAIR_LOSSES, STATE_LOSSES
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.columns.category_codes import FIRST_VALUE
from jaxrec.losses.ranking import HeadLabels, paper_heads

_SHOWN_VALUES = 20  # values of a feature in a message


def specs_of(config: Config, layout: Layout, shares: Mapping[str, float]) -> tuple[HeadSpec, ...]:
    """Return the heads of a config on the rows of a dataset, the paper's heads first.

    Args:
        config: Config of the run.
        layout: Layout of the rows.
        shares: `Dataset.label_shares`.

    Raises:
        InputError: The label of a head is stored nowhere, or known at no training target, or a reward counts
            what was observed so far where predictions have replaced it.
    """
    intent = (_intent(config, layout),) if config.objective.intent else ()
    declared = tuple(
        _declared(head, i, config, layout, shares) for i, head in enumerate(config.objective.heads)
    )
    return (*paper_heads(config.objective), *intent, *(head for head in declared if head.weight))


def state_heads(config: Config, layout: Layout, shares: Mapping[str, float]) -> tuple[HeadSpec, ...]:
    """Return the heads on the states of the positions of sequences; arguments and errors as `specs_of`."""
    heads = (_declared(head, i, config, layout, shares) for i, head in enumerate(config.objective.heads))
    return tuple(head for head in heads if head.weight)


def _intent(config: Config, layout: Layout) -> HeadSpec:
    """Return the head of the state that predicts the first category of the next title."""
    of = TITLE + config.model.intent_of
    return HeadSpec(
        INTENT, INTENT, STATE_LOSSES["softmax"], config.objective.intent, "state", _feature(of, layout).size,
        ranks=False, drawn=False, last_bias=False, loss="softmax", of=of, personalised=False,
    )  # fmt: skip


def _declared(
    head: Head, i: int, config: Config, layout: Layout, shares: Mapping[str, float]
) -> HeadSpec:  # fmt: skip
    """Return the specification of a declared head, whose config has been checked."""
    pair = head.on == "pair"
    outputs, share, drawn = 1, 1.0, False
    if head.of == KIND:
        outputs = 1 + len(layout.token_kinds)  # 0 is no kind, as of categories
    elif head.of.startswith(TITLE):
        outputs = _feature(head.of, layout).size
    else:
        labels = labels_read(head.of, config)
        for label in labels:
            if label.name not in layout.labels:
                stored = ", ".join(layout.labels) or "no label"
                raise InputError(
                    f"objective.heads[{i}].of={head.of!r} reads label {label.name!r}, but the dataset's rows "
                    f"store {stored}"
                )
        reward = reward_of(head.of, config)
        if reward is None or reward.unknown != "observed":
            prefix = FILLED if layout.filled and reads_filled(head.of, config) else ""
            share = min(shares.get(prefix + label.name, 1.0) for label in labels)
        elif layout.filled:
            raise InputError(
                f"objective.heads[{i}].of={head.of!r} has unknown='observed', but the dataset is filled: "
                "predictions replace what was observed so far; allowed: filled, drop, or the dataset before"
            )
        if not share:
            raise InputError(
                f"objective.heads[{i}].of={head.of!r} is known at none of the training targets; "
                "is a label's window longer than the log?"
            )
        drawn = pair and all(label.of_drawn == "zero" for label in labels)
        negatives = config.sampling.negatives if drawn and layout.has_candidates else 0
        if drawn and head.loss in ("bce", "mse"):
            share = (share + negatives) / (1 + negatives)
    ranking = head.loss in ("hinge", "softmax") and pair
    return HeadSpec(
        head.name, head.name, (PAIR_LOSSES if pair else STATE_LOSSES)[head.loss], head.weight, head.on,
        outputs, ranks=False, drawn=drawn or ranking, last_bias=not ranking, loss=head.loss, of=head.of,
        personalised=head.personalised, share=share,
    )  # fmt: skip


def _feature(of: str, layout: Layout) -> FeatureSpec:
    return next(f for f in layout.of("title") if of == TITLE + f.name)


def page_of(
    blend: Blend, i: int, layout: Layout, categories: Mapping[str, Sequence[Any]], otherwise: str
) -> Page:
    """Return the requests that a blend serves.

    Args:
        blend: Blend with `where`, which has been checked.
        i: Index of the blend in `evaluate.blends`.
        layout: Layout of the rows.
        categories: Feature -> its values, in the order of their ids.
        otherwise: Head that orders the titles of other requests.

    Raises:
        InputError: The feature has no such value.
    """
    feature, _, value = blend.where.partition("=")
    values = [str(known) for known in categories.get(feature, ())]
    if value not in values:
        few = ", ".join(values[:_SHOWN_VALUES]) + (", ..." if len(values) > _SHOWN_VALUES else "")
        raise InputError(
            f"evaluate.blends[{i}].where={blend.where!r}: {feature} has no value {value!r}; allowed: {few}"
        )
    where = next(f.where for f in layout.features if f.name == feature and f.where in ("user", "context"))
    own_id = FIRST_VALUE + values.index(value)
    return Page(blend.name, where, layout.category_column(where, feature), own_id, otherwise)


def with_labels(
    batch: Batch, specs: tuple[HeadSpec, ...], config: Config, layout: Layout, table: TitleTable
) -> Batch:
    """Return a batch whose outcome has the labels of each declared head.

    Args:
        batch: Decoded batch.
        specs: Heads of the task.
        config: Config of the run, with its labels and rewards.
        layout: Layout of the rows.
        table: Features of all titles.
    """
    declared = tuple((head, head_labels(head, batch, config, layout, table)) for head in specs if head.loss)
    return batch._replace(outcome=batch.outcome._replace(declared=declared)) if declared else batch


def head_labels(
    head: HeadSpec, batch: Batch, config: Config, layout: Layout, table: TitleTable
) -> HeadLabels:
    """Return the labels of the candidates of a batch for a declared head.

    Drawn titles have the label 0, as far as the labels that the head reads have `of_drawn` "zero"; elsewhere
    it is unknown. The other arguments are those of `with_labels`.
    """
    if head.of.startswith(TITLE):
        labels = categories_of(head.of, layout, batch.positive, table)
        if head.name != INTENT:
            return labels
        first_BxKx1 = labels.y[..., :1]
        return HeadLabels(first_BxKx1, (first_BxKx1 > 0).any(-1))
    outcome = batch.outcome
    y_BxK, known_BxK = head_values(
        head.of, outcome.label, outcome.label_known, config, layout.labels, jnp, outcome.label_filled
    )
    zero = {label.name: jnp.float32(0) for label in config.labels}
    reads_zero = jnp.asarray(all(label.of_drawn == "zero" for label in labels_read(head.of, config)))
    reward = reward_of(head.of, config)
    y_drawn = jnp.float32(0)
    if reward is not None:
        y_drawn, _ = rewards.value(reward, zero, dict.fromkeys(zero, reads_zero), jnp)
    shape = batch.negative.shape
    return HeadLabels(
        jnp.concatenate([y_BxK, jnp.broadcast_to(y_drawn, shape).astype(y_BxK.dtype)], axis=1),
        jnp.concatenate([known_BxK, jnp.broadcast_to(reads_zero, shape)], axis=1),
    )


def categories_of(of: str, layout: Layout, title: jax.Array, table: TitleTable) -> HeadLabels:
    """Return the categories [..., M] of titles, and where a title has one that is known.

    Args:
        of: `Head.of` of a title feature.
        layout: Layout of the rows.
        title: [...] ids.
        table: Features of all titles.
    """
    feature = _feature(of, layout)
    first = layout.category_column("title", feature.name)
    columns = jnp.asarray(table.categories)[:, first : first + feature.columns]
    category = jnp.take(columns, title, axis=0)
    category = jnp.where(category > UNKNOWN, category, 0)
    return HeadLabels(category, (category > 0).any(-1))
