"""Inputs of the gate of a mixture of models: categories, numbers and the length of the history."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxrec.core.errors import InputError
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import FeatureSpec, Layout

HISTORY = "history"  # log1p of the number of titles in the history


def gate_features(layout: Layout, by: Sequence[str]) -> list[FeatureSpec | None]:
    """Return the features that a gate reads, in the order of `by`; None for HISTORY.

    Raises:
        InputError: A name is no category or number of the user or of the context that query rows hold, or is
            there twice, or there is none.
    """
    features = known_features(layout)
    for i, name in enumerate(by):
        if name != HISTORY and name not in features:
            raise InputError(f"by={name}: is no input of a gate; allowed: {', '.join((HISTORY, *features))}")
        if name in by[:i]:
            raise InputError(f"by={name}: is there twice; allowed: each once")
    if not by:
        raise InputError(f"by is empty; allowed: {', '.join((HISTORY, *features))}")
    return [features.get(name) for name in by]


def known_features(layout: Layout) -> dict[str, FeatureSpec]:
    """Return name -> category or number of the user or of the context that query rows hold."""
    stored = set(layout.query_dtype().names or ())
    return {
        f.name: f
        for where in ("user", "context")
        for f in layout.of(where)
        if f.kind not in ("categories", "text", "title") and _field(f) in stored
    }


def _field(feature: FeatureSpec) -> str:
    return f"{feature.where}_{'numbers' if feature.kind == 'number' else 'categories'}"


def gate_width(layout: Layout, by: Sequence[str]) -> int:
    """Return the width of the result of `gate_inputs`."""
    return sum(f.size if f is not None and f.kind == "category" else 1 for f in gate_features(layout, by))


def gate_inputs(
    rows: Mapping[str, jax.Array], layout: Layout, by: Sequence[str], keeps_abandoned: bool
) -> jax.Array:
    """Return the inputs [B, Z] of a gate: one-hot categories, standardised numbers, log1p of the history.

    Args:
        rows: Fields of B query rows.
        layout: Layout of the rows.
        by: Names, as for `gate_features`.
        keeps_abandoned: True if abandoned titles of the history count.
    """
    parts = []
    for feature in gate_features(layout, by):
        if feature is None:
            read = rows["history_title"] != PAD
            if "history_abandoned" in rows and not keeps_abandoned:
                read &= rows["history_abandoned"] == 0
            parts.append(jnp.log1p(read.sum(1, dtype=jnp.float32))[:, None])
            continue
        before = layout.of(feature.where)
        before = before[: before.index(feature)]
        column = sum(f.columns for f in before if (f.kind == "number") == (feature.kind == "number"))
        values = rows[_field(feature)][:, column]
        is_number = feature.kind == "number"
        parts.append(values[:, None] if is_number else jax.nn.one_hot(values, feature.size))
    return jnp.concatenate(parts, axis=1).astype(jnp.float32)
