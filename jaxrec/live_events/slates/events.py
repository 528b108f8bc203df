"""Events file: what is live, when, where, and what each stage does to a slate.

    {"events": [{
      "id": "fight", "title": 17, "priority": 2, "regions": ["us", "de"], "recap_regions": ["us"],
      "schedule": {"pre": {"at": "2026-12-05T20:00:00Z", "tolerance_minutes": 5},
                   "start": {"at": "2026-12-05T21:00:00Z", "tolerance_minutes": 30},
                   "end": {"at": "2026-12-06T00:00:00Z", "tolerance_minutes": 60}},
      "stages": {"pre": {"slot": 2, "badge": "tonight"}, "live": {}, "delayed": {}, "ended": {},
                 "cancelled": {}}
    }]}

`title` is a key of the catalogue, or the key of a new title, whose `metadata` the file then holds. Empty
`regions` are all regions. The stages may be left out: all five then have their defaults.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import parse_json
from jaxrec.core.live.states import CANCELLED, DELAYED, ENDED, LIVE, PRE
from jaxrec.data.events.history_columns import milliseconds_of, title_rows

STAGES = (PRE, LIVE, DELAYED, ENDED, CANCELLED)
TIMES = ("pre", "start", "end")
LAST_PRE_SLOT = 3
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MINUTE = 60_000  # milliseconds
_WEEK = 7 * 24 * 60  # minutes, the largest tolerance


class Slot(NamedTuple):
    """Slot of an event in the slate of a stage.

    Attributes:
        slot: Position in the slate, from 1.
        badge: Text on the title.
        playable: True if the title can be played.
    """

    slot: int
    badge: str
    playable: bool


# Stage -> default; a cancelled event has no slot.
DEFAULTS: dict[str, Slot | None] = {
    PRE: Slot(LAST_PRE_SLOT, "coming soon", False),
    LIVE: Slot(1, "live", True),
    DELAYED: Slot(1, "delayed", False),
    ENDED: Slot(1, "recap", True),
    CANCELLED: None,
}


class Moment(NamedTuple):
    """Time of a schedule, in milliseconds since 1970, and how many minutes it may move either way."""

    at: int
    tolerance_minutes: float


class Event(NamedTuple):
    """A live event.

    Attributes:
        id: Id, in lower case.
        title: Key of its title, as text.
        metadata: What a device displays of a new title.
        priority: Events of a higher priority come first.
        schedule: Name of TIMES -> time.
        regions: Regions where the event is shown; empty: all.
        recap_regions: Regions where the recap is licensed; None: those of the event.
        stages: Stage -> slot; None: the event has no slot. Stages that are absent have no slates.
    """

    id: str
    title: str
    metadata: dict[str, Any]
    priority: int
    schedule: dict[str, Moment]
    regions: tuple[str, ...]
    recap_regions: tuple[str, ...] | None
    stages: dict[str, Slot | None]

    def slot(self, stage: str, region: str) -> Slot | None:
        """Return the slot of the event in the slates of a stage and a region; None for none."""
        allowed = self.regions
        if stage == ENDED and self.recap_regions is not None:
            allowed = tuple(r for r in self.recap_regions if not self.regions or r in self.regions)
            return self.stages[stage] if region in allowed else None
        return self.stages[stage] if not allowed or region in allowed else None

    @property
    def window(self) -> tuple[float, float]:
        """First and last time, in milliseconds, at which the event may be on a slate."""
        first, last = self.schedule["pre"], self.schedule["end"]
        return first.at - first.tolerance_minutes * _MINUTE, last.at + last.tolerance_minutes * _MINUTE


def read_events(path: str, titles: int) -> tuple[Event, ...]:
    """Return the events of a file by precedence: priority, then start, then id.

    Args:
        path: JSON file, as in the docstring of the module.
        titles: Number of titles of a slate.

    Raises:
        InputError: The file cannot be read, or a value is invalid.
    """
    try:
        tree = parse_json(Path(path).read_bytes())
        # Payloads are JSON for every device: NaN in metadata and halves of characters are refused.
        json.dumps(tree, allow_nan=False, ensure_ascii=False).encode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise InputError(f"--events={path}: {reason}; allowed: a file of JSON") from None
    _keys(tree, path, ("events",))
    if not isinstance(tree["events"], list) or not tree["events"]:
        raise InputError(f"{path}: events={tree['events']!r:.60}; allowed: a list of at least one event")
    events = [_event(document, f"{path}: events[{i}]", titles) for i, document in enumerate(tree["events"])]
    for kind, values in (("id", [e.id for e in events]), ("title", [e.title for e in events])):
        for value in sorted({v for v in values if values.count(v) > 1}):
            raise InputError(f"{path}: two events have the {kind} {value!r}; allowed: each once")
    events.sort(key=lambda e: (-e.priority, e.schedule["start"].at, e.id))
    for event in events:
        first = event.window[0]
        at_once = [e.id for e in events if e.window[0] <= first <= e.window[1]]
        if len(at_once) > titles:
            raise InputError(
                f"{path}: the {len(at_once)} events {', '.join(sorted(at_once)[:5])} overlap; allowed: at "
                f"most {titles}, the titles of a slate"
            )
    return tuple(events)


def check_titles(events: Sequence[Event], path: str, title_key: np.ndarray) -> None:
    """Raise InputError where a title is not of the catalogue and has no metadata.

    Args:
        events: Events of `read_events`.
        path: Their file, for the message.
        title_key: Keys of the model's titles.
    """
    rows = title_rows([event.title for event in events], title_key)
    for event, row in zip(events, rows.tolist(), strict=True):
        if row < 0 and not event.metadata:
            raise InputError(
                f"{path}: {event.id}: title={event.title!r:.60} is not in the model's catalogue; allowed: "
                "one of its titles, or a new one with metadata"
            )


def _keys(tree: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Raise InputError unless a tree is an object with all required keys, and optional ones alone besides."""
    if not isinstance(tree, dict):
        raise InputError(f"{where}: {tree!r:.60} is no object; allowed: {', '.join((*required, *optional))}")
    for key in required:
        if key not in tree:
            raise InputError(f"{where}: {key} is missing")
    for key in tree:
        if key not in (*required, *optional):
            allowed = ", ".join((*required, *optional))
            raise InputError(f"{where}: {key!r:.60} is no key of an event; allowed: {allowed}")


def _event(tree: Any, where: str, titles: int) -> Event:
    optional = ("metadata", "priority", "regions", "recap_regions", "stages")
    _keys(tree, where, ("id", "title", "schedule"), optional)
    id_, title, metadata = tree["id"], tree["title"], tree.get("metadata", {})
    if not isinstance(id_, str) or not _ID.fullmatch(id_):
        allowed = "up to 64 of a-z, 0-9, _ and -, the first a letter or a digit"
        raise InputError(f"{where}: id={id_!r:.80}; allowed: {allowed}")
    where = f"{where} ({id_})"
    if isinstance(title, bool) or not isinstance(title, int | str) or title == "":
        raise InputError(f"{where}: title={title!r:.60}; allowed: a text or a whole number")
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: metadata={metadata!r:.60}; allowed: an object")
    priority = tree.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InputError(f"{where}: priority={priority!r:.60}; allowed: a whole number")
    recap = _regions(tree, "recap_regions", where) if "recap_regions" in tree else None
    return Event(
        id_, str(title), metadata, priority, _schedule(tree["schedule"], where),
        _regions(tree, "regions", where), recap, _stages(tree.get("stages"), where, titles),
    )  # fmt: skip


def _regions(tree: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    regions = tree.get(key, [])
    if not isinstance(regions, list) or not all(isinstance(r, str) and r for r in regions):
        raise InputError(f"{where}: {key}={regions!r:.60}; allowed: a list of texts")
    return tuple(sorted(set(regions)))


def _schedule(tree: Any, where: str) -> dict[str, Moment]:
    _keys(tree, f"{where}: schedule", TIMES)
    out = {}
    for name in TIMES:
        key = f"{where}: schedule.{name}"
        _keys(tree[name], key, ("at",), ("tolerance_minutes",))
        at, tolerance = tree[name]["at"], tree[name].get("tolerance_minutes", 0)
        if not isinstance(at, str):
            raise InputError(f"{key}.at={at!r:.60}; allowed: a time such as '2026-12-05T20:00:00Z'")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            raise InputError(f"{key}.tolerance_minutes={tolerance!r:.60}; allowed: 0 to {_WEEK}")
        if not 0 <= tolerance <= _WEEK:
            raise InputError(f"{key}.tolerance_minutes={tolerance!r}; allowed: 0 to {_WEEK}")
        milliseconds = milliseconds_of(at, f"{key}.at")
        assert milliseconds is not None
        out[name] = Moment(milliseconds, float(tolerance))
    for earlier, later in (("pre", "start"), ("start", "end")):
        if out[earlier].at > out[later].at or (later == "end" and out[earlier].at == out[later].at):
            raise InputError(
                f"{where}: schedule.{later}={tree[later]['at']} is not after "
                f"schedule.{earlier}={tree[earlier]['at']}"
            )
    return out


def _stages(tree: Any, where: str, titles: int) -> dict[str, Slot | None]:
    if tree is None:
        tree = {stage: {} for stage in STAGES}
    _keys(tree, f"{where}: stages", (), STAGES)
    out: dict[str, Slot | None] = {}
    for stage in STAGES:
        if stage not in tree:
            continue
        default, key = DEFAULTS[stage], f"{where}: stages.{stage}"
        _keys(tree[stage], key, (), default._fields if default else ())
        slot = default._replace(**tree[stage]) if default else None
        if slot is not None:
            _check_slot(slot, key, min(LAST_PRE_SLOT, titles) if stage == PRE else titles)
        out[stage] = slot
    if LIVE not in out:
        raise InputError(f"{where}: stages: live is missing")
    return out


def _check_slot(slot: Slot, key: str, last: int) -> None:
    if type(slot.slot) is not int or not 1 <= slot.slot <= last:
        raise InputError(f"{key}.slot={slot.slot!r:.60}; allowed: 1 to {last}")
    if not isinstance(slot.badge, str):
        raise InputError(f"{key}.badge={slot.badge!r:.60}; allowed: a text")
    if not isinstance(slot.playable, bool):
        raise InputError(f"{key}.playable={slot.playable!r:.60}; allowed: true or false")
