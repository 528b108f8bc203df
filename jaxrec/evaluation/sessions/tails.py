"""Held-out rows whose sessions are changed: emptied, another user's, or without the target's own events."""

import numpy as np

from jaxrec.core.hashing import mix
from jaxrec.core.row_format import Layout

_FIELDS = ("session_title", "session_value", "session_age", "session_kind")
_PLAY = 1  # kind of plays
_SALT = 0x5E55  # of the order of users in `shuffled`


def lengths(rows: np.ndarray) -> np.ndarray:
    """Return the number of stored events [Q] of each row's session."""
    return (rows["session_kind"] > 0).sum(axis=1)


def emptied(rows: np.ndarray) -> np.ndarray:
    """Return the rows [N] without the events of their sessions; the histories still end where these begin."""
    out = rows.copy()
    for name in _FIELDS:
        out[name] = 0
    return out


def shuffled(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with sessions of other users of the same length, and where there are some, [Q] bool.

    The rows of a length are ordered by the hash of their user; a row gets the session of the row that stands
    as many places later as the busiest user has rows, so that the user is another one. Rows of a length of
    which one user has more than half keep their session, and their mask is False.
    """
    out, length = rows.copy(), lengths(rows)
    key = mix(np.uint64(_SALT), rows["user"].astype(np.uint64))
    order = np.lexsort((np.arange(len(rows)), rows["user"], key, length))
    begin = np.searchsorted(length[order], length[order])
    count = np.searchsorted(length[order], length[order], side="right") - begin
    # Rows of a user within a length are adjacent: their number, and the largest of each length.
    new = np.append(
        True, (np.diff(rows["user"][order].astype(np.int64)) != 0) | (np.diff(length[order]) != 0)
    )
    block = np.cumsum(new) - 1 if len(rows) else np.empty(0, np.int64)
    most = np.zeros(len(rows) + 1, np.int64)
    np.maximum.at(most, begin, np.bincount(block)[block] if len(rows) else 0)
    shift = most[begin]
    source = order[begin + (np.arange(len(rows)) - begin + shift) % np.maximum(count, 1)]
    other = 2 * shift <= count
    for name in _FIELDS:
        out[name][order[other]] = rows[name][source[other]]
    mask = np.zeros(len(rows), bool)
    mask[order] = other
    return out, mask


def of_target(rows: np.ndarray) -> np.ndarray:
    """Return where an event of a session is of a signal about the row's own target, [Q, S] bool."""
    return (rows["session_title"] == rows["target"][:, :1]) & (rows["session_kind"] > _PLAY)


def without_target(rows: np.ndarray) -> np.ndarray:
    """Return the rows [N] without the signals about their own targets, such as the chosen title's trailer."""
    out, kept = rows.copy(), ~of_target(rows) & (rows["session_kind"] > 0)
    # A stable sort moves what is left to the right, in its order.
    order = np.argsort(kept, axis=1, kind="stable")
    is_kept = np.take_along_axis(kept, order, axis=1)
    for name in _FIELDS:
        out[name] = np.where(is_kept, np.take_along_axis(rows[name], order, axis=1), 0)
    return out


def target_events(rows: np.ndarray, layout: Layout) -> dict[str, float | None]:
    """Return the share of rows whose session has a signal about their target, and its median age.

    Args:
        rows: [Q] rows.
        layout: Layout of the rows.

    Returns:
        Name of the signal -> share in [0, 1], and "seconds" -> median over rows of the newest such event;
        None without any.
    """
    own = of_target(rows)
    out: dict[str, float | None] = {}
    for kind, name in enumerate(layout.session_kinds[1:], start=_PLAY + 1):
        out[name] = float((own & (rows["session_kind"] == kind)).any(axis=1).mean()) if len(rows) else 0.0
    age = np.where(own, np.expm1(rows["session_age"].astype(np.float64)), np.inf).min(axis=1, initial=np.inf)
    out["seconds"] = float(np.median(age[np.isfinite(age)])) if np.isfinite(age).any() else None
    return out
