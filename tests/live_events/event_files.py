"""Events files for tests."""

import json

from jaxrec.live_events.slates.events import read_events

MINUTE = {"tolerance_minutes": 30}


def schedule(start):
    """Return the schedule of an event that starts at an hour of 2026-12-05 and takes two hours."""
    times = {"pre": start - 1, "start": start, "end": start + 2}
    return {name: {"at": f"2026-12-05T{hour:02d}:00:00Z", **MINUTE} for name, hour in times.items()}


def event(id_="fight", title="fight-2026", start=19, **more):
    return {"id": id_, "title": title, "metadata": {"name": id_}, "schedule": schedule(start)} | more


def read(folder, *events, titles=40):
    """Return the events of a file that holds these."""
    path = folder / "e.json"
    path.write_text(json.dumps({"events": list(events)}))
    return read_events(str(path), titles)
