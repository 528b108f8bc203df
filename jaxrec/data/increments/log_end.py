"""End of a log at `data.until`: later events are left out before anything is counted.

A dataset of a day therefore does not depend on what the log holds after that day.
"""

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.tables import Interactions, Signals, Titles
from jaxrec.data.events.cleaning import milliseconds_of

_Chunk = TypeVar("_Chunk", Interactions, Signals)


def end_of_log(data: Data) -> int | None:
    """Return midnight UTC of `data.until` in milliseconds since 1970; None without such a day."""
    return milliseconds_of(data.until, "data.until") if data.until else None


def cut(chunk: _Chunk, end: int | None) -> _Chunk:
    """Return the events of a chunk before `end`, in milliseconds; all events if it is None."""
    if end is None:
        return chunk
    kept = chunk.time < end
    columns = {f.name: getattr(chunk, f.name) for f in fields(chunk)}
    arrays: dict[str, Any] = {name: x[kept] for name, x in columns.items() if isinstance(x, np.ndarray)}
    if isinstance(chunk, Interactions):
        arrays["context"] = {name: column[kept] for name, column in chunk.context.items()}
    return replace(chunk, **arrays)


def titles_at(end: int | None, titles: Titles, has_event: np.ndarray) -> np.ndarray | None:
    """Return a mask [V] of the titles that are in the catalogue before `end`; None: all are.

    A title is in the catalogue if it has an event or was launched before `end`. The titles of a log have no
    launch, so that a title without an event is not known yet.

    Args:
        end: Milliseconds since 1970; None: the end of the log.
        titles: Catalogue of the source.
        has_event: [V] bool, titles with an event before `end`.
    """
    if end is None:
        return None
    if titles.launched is not None:
        return has_event | (titles.launched < end)
    return has_event if titles.of_log else None
