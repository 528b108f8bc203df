"""Composition of the slates of several events at once into what a device displays.

Each event has its own slate. A device that displays several of them takes the ranked titles of the first by
precedence, and gives each event its slot, or the next one that is free.
"""

from collections.abc import Collection, Sequence
from typing import Any


def compose(slates: Sequence[dict[str, Any]], watched: Collection[str] = ()) -> list[str]:
    """Return the titles that a device displays, the first position first; no title is twice.

    Args:
        slates: Payloads of the events that are shown, by the precedence of the events. The number of
            titles is that of the first.
        watched: Titles that the user has watched, which are left out, except in slots.

    Raises:
        ValueError: There is no slate, or there are more slots than positions.
    """
    if not slates:
        raise ValueError("there is no slate to compose")
    number, slots = len(slates[0]["titles"]), [slot for slate in slates for slot in slate["slots"]]
    if len(slots) > number:
        raise ValueError(f"{len(slots)} slots do not fit a slate of {number} titles")
    positions: dict[int, str] = {}
    for slot in slots:
        # At or after its slot; before it where all of those are taken.
        order = [*range(slot["slot"], number + 1), *range(slot["slot"] - 1, 0, -1)]
        positions[next(p for p in order if p not in positions)] = slot["title"]
    left_out = {*watched, *positions.values()}
    # The fillers follow the positions in order; a slate may end early where the spare titles do not suffice.
    ranked = (t for t in (*slates[0]["titles"], *slates[0]["spare"]) if t not in left_out)
    filled = (positions[p] if p in positions else next(ranked, "") for p in range(1, number + 1))
    return [title for title in filled if title]
