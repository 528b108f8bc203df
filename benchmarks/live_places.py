"""Slates of 1,024 segments: their time, the same bytes twice, and every place checked by another reader.

    python -m benchmarks.live_places --checkpoint WORKDIR [--segments kmeans:1024]

Slates are written by `python -m jaxrec.live slates` for two events that overlap and have one priority, in
four regions, each of which lacks a fifth of the titles. The reader has the folder of slates, the events file
and the table of licences alone, and none of the code that wrote the slates. It checks each place of each
slate: none is missing, no title is there twice or unlicensed, and the event is in its slot alone.
"""

import csv
import filecmp
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.paths import as_path
from jaxrec.live_events.slates.payloads import SCHEMA
from jaxrec.tasks.loading import default_checkpoint, load_checkpoint

REGIONS = ("br", "de", "in", "us")
_SLOTS = {"pre": 3, "live": 1, "delayed": 1, "ended": 1}  # without other values in the events file
_LACKS = 5  # a region lacks one title in so many


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string("data", "", "dataset; empty: the dataset of the training")
    flags.DEFINE_string("segments", "kmeans:1024", "segments of users, as in python -m jaxrec.live slates")


def write_inputs(folder: Path, titles: list[str]) -> None:
    """Write events.json and licences.csv for a catalogue.

    Args:
        folder: Folder that exists.
        titles: Keys of the titles; the first is that of the second event.
    """
    times = {"pre": "18:00", "start": "19:00", "end": "22:00"}
    schedule = {name: {"at": f"2026-12-05T{at}:00Z", "tolerance_minutes": 30} for name, at in times.items()}
    events = [
        {"id": "fight", "title": "fight-2026", "metadata": {"name": "The fight"}, "schedule": schedule,
         "regions": ["de", "in", "us"], "recap_regions": ["us"]},
        {"id": "gala", "title": titles[0], "schedule": schedule, "stages":
         {"pre": {"slot": 2}, "live": {"slot": 4}, "delayed": {}, "ended": {}, "cancelled": {}}},
    ]  # fmt: skip
    (folder / "events.json").write_text(json.dumps({"events": events}))
    with (folder / "licences.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["title_id", "region"])
        for number, region in enumerate(REGIONS):
            rows.writerows([title, region] for i, title in enumerate(titles) if i % _LACKS != number)


def licences_of(path: Path) -> dict[str, set[str]]:
    """Return region -> titles that are licensed there, of a table with the columns title_id and region."""
    licensed: dict[str, set[str]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            licensed.setdefault(row["region"], set()).add(row["title_id"])
    return licensed


def slot_of(event: Mapping[str, Any], stage: str, region: str) -> int:
    """Return the slot of an event in a stage and a region, from 1; 0 for none."""
    shown_in = event.get("regions", [])
    if stage not in _SLOTS or (shown_in and region not in shown_in):
        return 0
    if stage == "ended" and region not in event.get("recap_regions", [region]):
        return 0
    return event.get("stages", {}).get(stage, {}).get("slot", _SLOTS[stage])


def check(slates: Path, events: Path, licences: Path) -> Counter[str]:
    """Return the number of places, and of those that are wrong by kind.

    Args:
        slates: Folder of slates.
        events: Events file.
        licences: Table of licences.
    """
    manifest = json.loads((slates / "manifest.json").read_text())
    by_id = {event["id"]: event for event in json.loads(events.read_text())["events"]}
    of_events, licensed = {str(event["title"]) for event in by_id.values()}, licences_of(licences)
    payloads = [_payload(slates, record["hash"]) for record in manifest["payloads"]]
    counts: Counter[str] = Counter(places=0)
    for event, stage, region, numbers in _rows(manifest["slates"]):
        slot, title = slot_of(by_id[event], stage, region), str(by_id[event]["title"])
        allowed = licensed[region] - of_events
        for number in numbers:
            document = payloads[number]
            if document is None:
                counts["damaged payloads"] += 1
                continue
            shown, spare = document["titles"], document["spare"]
            counts["places"] += len(shown)
            counts["slates"] += 1
            ranked = [*shown, *spare]  # an event in a slot leaves one more spare title
            counts["missing"] += manifest["titles"] - len(shown)
            counts["missing"] += manifest["titles"] + manifest["spare"] + bool(slot) - len(ranked)
            counts["repeated"] += len(ranked) - len({*ranked})
            counts["unlicensed"] += sum(one not in allowed and not (slot and one == title) for one in ranked)
            counts["events out of their slot"] += bool(slot) and shown[slot - 1 : slot] != [title]
            slots = [(one["event"], one["slot"], one["title"]) for one in document["slots"]]
            counts["events out of their slot"] += slots != [(event, slot, title)] * bool(slot)
    return counts


def _payload(slates: Path, name: str) -> dict[str, Any] | None:
    """Return a payload; None where its content is another one than its name."""
    content = (slates / "payloads" / f"{name}.json").read_bytes()
    return json.loads(content) if hashlib.sha256(content).hexdigest().startswith(name) else None


def _rows(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, str, list[int]]]:
    """Yield event, stage, region and the payloads of all segments by their number."""
    for event, stages in tree.items():
        for stage, regions in stages.items():
            for region, numbers in regions.items():
                yield event, stage, region, numbers


def is_same(one: Path, other: Path) -> bool:
    """Return True if two folders have the same files with the same bytes."""
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    return names[0] == names[1] and filecmp.cmpfiles(one, other, names[0], shallow=False)[0] == names[0]


def fits_schema(slates: Path) -> int:
    """Return the number of payloads; jsonschema raises the error of one that does not fit its schema."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(SCHEMA)
    paths = sorted((slates / "payloads").iterdir())
    for path in paths:
        validator.validate(json.loads(path.read_bytes()))
    return len(paths)


def _write(args: flags.FlagValues, folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Write slates by the command, and return their folder and its result with the seconds of the process."""
    out, started = folder / name, time.perf_counter()
    words = [
        "slates", "--checkpoint", args.checkpoint, "--events", folder / "events.json", "--out", out,
        "--licences", folder / "licences.csv", "--segments", args.segments, "--data", args.data, "--json",
    ]  # fmt: skip
    command = [sys.executable, "-m", "jaxrec.live", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, json.loads(done.stdout) | {"process": time.perf_counter() - started}


def main(args: flags.FlagValues) -> Report:
    """Write the slates twice, and check them."""
    workdir = as_path(args.checkpoint)
    keys = load_checkpoint(workdir, default_checkpoint(workdir)).arrays.title_key
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, [*map(str, keys.tolist())])
        (slates, first), (again, _) = _write(args, folder, "slates"), _write(args, folder, "again")
        same, payloads = is_same(slates, again), fits_schema(slates)
        started = time.perf_counter()
        counts = check(slates, folder / "events.json", folder / "licences.csv")
        checked = time.perf_counter() - started
    wrong = {kind: n for kind, n in sorted(counts.items()) if kind not in ("places", "slates")}
    seconds = first["seconds"]
    rows = [
        ("the command", f"{first['process']:.1f} s", "start of Python included"),
        ("segments and scores", f"{seconds['segments_and_scores']:.1f} s", first["segments"]),
        ("slates", f"{seconds['slates']:.1f} s", f"{first['slates']:,} slates, {first['kappa']:,} payloads"),
        ("a second time", "the same bytes" if same else "OTHER bytes", f"{first['bytes']:,} bytes"),
        ("payloads that fit the schema", f"{payloads:,}", f"of {first['kappa']:,}"),
        ("places checked", f"{counts['places']:,}", f"in {checked:.1f} s"),
        *((kind, f"{n:,}", "0") for kind, n in wrong.items()),
    ]
    figures = {"slates": first, "same": same, "schema": payloads, "checked": dict(counts)}
    return Report(f"Slates of {args.segments}, checked by another reader", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
