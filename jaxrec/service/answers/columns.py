"""Columns of plays between requests, chunks of a batch, and JSON."""

import dataclasses
import json
from typing import Any

import numpy as np

from jaxrec.core.tables import Interactions
from jaxrec.service.schemas import Column

_TIMES = ("time", "decimal time")


def raw_column(column: Column, values: list[Any]) -> Any:
    """Return the values of a column for `HistoryColumns`, of a type that the batch does not change.

    None where an optional column has no value.
    """
    if not values:
        return np.empty(0, float if column.kind == "number" else np.int64)
    if column.kind not in ("key", *_TIMES) and all(value is None for value in values):
        return None
    if column.kind == "number":
        return [np.nan if value is None else value for value in values]
    if column.kind in ("key", "whole", *_TIMES):
        return values
    return [None if value is None else str(value) for value in values]


def numbered(plays: Interactions, number: int) -> Interactions:
    """Return plays of the user `number`."""
    return dataclasses.replace(plays, user=np.full(len(plays.title), number))


def join_plays(parts: list[Interactions]) -> Interactions:
    """Return plays with the same columns as one chunk."""
    context = {name: np.concatenate([part.context[name] for part in parts]) for name in parts[0].context}
    return dataclasses.replace(
        parts[0], context=context,
        user=np.concatenate([part.user for part in parts]),
        title=np.concatenate([part.title for part in parts]),
        time=np.concatenate([part.time for part in parts]),
        seconds=np.concatenate([part.seconds for part in parts]),
    )  # fmt: skip


def without_title(plays: Interactions, row: int) -> Interactions:
    """Return plays without those of one title."""
    kept = plays.title != row
    return dataclasses.replace(
        plays, user=plays.user[kept], title=plays.title[kept], time=plays.time[kept],
        seconds=plays.seconds[kept], context={n: column[kept] for n, column in plays.context.items()},
    )  # fmt: skip


def finite(value: float) -> float | None:
    """Return a number for JSON, None for NaN and infinity."""
    return float(value) if np.isfinite(value) else None


def to_bytes(answer: dict[str, Any]) -> bytes:
    """Return an answer as JSON."""
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
