"""Payloads: slates as JSON, named by the hash of their content.

A payload holds neither a time of its making, nor its segment, nor its stage, so that equal slates are one
payload. Titles of events are in slots alone, never among the ranked titles.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jaxrec.core.live.states import DELAYED
from jaxrec.live_events.slates.events import Event

RULE = "leave out watched titles; fill up with the spare titles in their order"
_TITLE: dict[str, Any] = {"type": "string", "minLength": 1}
_SLOT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["event", "slot", "title", "badge", "playable", "time_from", "metadata"],
    "properties": {
        "event": {"type": "string"},
        "slot": {"type": "integer", "minimum": 1},
        "title": _TITLE,
        "badge": {"type": "string"},
        "playable": {"type": "boolean"},
        "time_from": {"enum": ["schedule", "message"]},
        "metadata": {"type": "object"},
    },
}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Slate of a live event",
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "titles", "spare", "slots", "rule"],
    "properties": {
        "format": {"const": 1},
        "titles": {"type": "array", "items": _TITLE, "uniqueItems": True, "minItems": 1},
        "spare": {"type": "array", "items": _TITLE, "uniqueItems": True},
        "slots": {"type": "array", "items": _SLOT, "maxItems": 1},
        "rule": {"const": RULE},
    },
}


def payload(ranked: Sequence[str], titles: int, event: Event, stage: str, region: str) -> dict[str, Any]:
    """Return the slate of a segment in a stage of an event, with one slot at most.

    Args:
        ranked: Keys of the segment's titles, the best first, without those of events; at least `titles`.
        titles: Number of titles of a slate. The rest of `ranked` are the spare titles.
        event: The event.
        stage: Stage of `event.stages`.
        region: Region of the devices.
    """
    slot, shown, slots = event.slot(stage, region), [*ranked[:titles]], []
    first_spare = titles
    if slot is not None:
        first_spare -= 1
        shown = [*ranked[: slot.slot - 1], event.title, *ranked[slot.slot - 1 : first_spare]]
        time_from = "message" if stage == DELAYED else "schedule"
        of_event = {"event": event.id, "title": event.title, "metadata": event.metadata}
        slots = [{**of_event, "time_from": time_from, **slot._asdict()}]
    spare = [*ranked[first_spare:]]
    return {"format": 1, "titles": shown, "spare": spare, "slots": slots, "rule": RULE}


def encode(document: dict[str, Any]) -> bytes:
    """Return the canonical bytes of a payload: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def content_hash(content: bytes) -> str:
    """Return the name of a payload: 32 hexadecimal digits of its sha256."""
    return hashlib.sha256(content).hexdigest()[:32]
