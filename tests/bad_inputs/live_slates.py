"""Door "configs and flags": events files, segments, and the operator's actions."""

import json
from pathlib import Path

from jaxrec.live_events.slates.folder import write_slates
from jaxrec.live_events.slates.payloads import RULE
from tests.bad_inputs.case import Case, Stock
from tests.bad_inputs.configs import line

SLATES = ("live", "slates", "--checkpoint=nowhere", "--events=e.json", "--out=o")
PRODUCE = ("live", "produce", "--log=l.sqlite", "--slates=s", "--event=fight")
TIMES = {"pre": "18:00", "start": "19:00", "end": "21:00"}


def event(id_: str = "fight", *, stages: dict | None = None, **times: str) -> dict:
    schedule = {name: {"at": f"2026-12-05T{at}:00Z"} for name, at in (TIMES | times).items()}
    more = {} if stages is None else {"stages": stages}
    return {"id": id_, "title": id_, "metadata": {"name": id_}, "schedule": schedule} | more


def events(name: str, *of_file: dict, text: str, flags: tuple[str, ...] = ()) -> Case:
    def make(folder: Path, stock: Stock) -> None:
        (folder / "e.json").write_text(json.dumps({"events": list(of_file)}))

    return Case(f"live slates: {name}", make, (*SLATES, *flags), text)


def produce(name: str, *flags: str, text: str, log: str = "") -> Case:
    """Return a case of an action on slates of one event without the stage `pre`."""

    def make(folder: Path, stock: Stock) -> None:
        (folder / "s").mkdir()
        document = {"format": 1, "titles": ["a"], "spare": [], "slots": [], "rule": RULE}
        of_event = {"id": "fight", "title": "F", "priority": 0, "schedule": {}, "stages": ["live"]}
        record = {
            "model": "m", "dataset": "d", "step": 1, "titles": 1, "spare": 0, "order": "probability", "rule": RULE,
            "segments": {"by": "one", "names": ["one", "default"]}, "regions": [""], "events": [of_event],
        }  # fmt: skip
        write_slates(
            folder / "s", {("fight", "live", ""): [document] * 2}, record, {"user": [], "segment": []}
        )
        if log:
            (folder / "l.sqlite").write_text(log)

    return Case(f"live produce: {name}", make, (*PRODUCE, *flags), text)


CASES = [
    line("live slates alone", "live", "slates", text="checkpoint"),
    line("live slates: no events file", *SLATES, text="--events=e.json: No such file or directory"),
    line("live slates: an empty path", *SLATES[:3], "--events=", "--out=o", text="--events is empty"),
    line("live slates: a number of segments of 5,000 digits", *SLATES[:4], "--out=o", "--segments=kmeans:" + "9" * 5000, text="; allowed: feature:"),
    events("no segment", event(), flags=("--segments=kmeans:0",), text="--segments=kmeans:0; allowed: feature:"),
    events("other segments", event(), flags=("--segments=kmeans",), text="--segments=kmeans; allowed: feature:"),
    events("an end before the start", event(end="18:30"), text="schedule.end=2026-12-05T18:30:00Z is not after"),
    events("two events of one id", event(), event(), text="two events have the id 'fight'; allowed: each once"),
    events("a stage that is not there", event(stages={"live": {}, "half": {}}), text="'half' is no key of an event"),
    events("a slot after the slate", event(stages={"live": {"slot": 41}}), text="slot=41; allowed: 1 to 40"),
    events(
        "more slots than titles", *(event(x, stages={"live": {}}) for x in "ab"), flags=("--titles=1",),
        text="the 2 events a, b overlap; allowed: at most 1",
    ),
    events("a folder that holds something", event(), flags=("--out=.",), text="--out=.; allowed: a new or an empty"),
    events("no such checkpoint", event(), text="nowhere/checkpoints: no such directory"),
    line("live produce alone", "live", "produce", text="log"),
    line("live produce: no slates", *PRODUCE, "--action=start", text="slates s: manifest.json: No such file"),
    produce("another action", "--action=pause", text="action"),
    produce("another event", "--event=match", "--action=start", text="--event=match; allowed: fight, the events"),
    produce("a stage without slates", "--action=pre", text="--action=pre: the slates s have no stage pre of fight"),
    produce("a time of a word", "--action=start", "--at=soon", text="--at='soon'; allowed: a time"),
    produce("a revocation at a time", "--action=revoke", "--at=2026-12-05T18:00:00Z", text="allowed: none with"),
    produce("nothing to revoke", "--action=revoke", text="event fight has no message that could be revoked"),
    produce("a log of another kind", "--action=start", text="file is not a database; allowed: a log", log="no " * 99),
]  # fmt: skip
