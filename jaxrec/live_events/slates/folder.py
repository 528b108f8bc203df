"""Folder of slates: manifest.json, payloads by the hash of their content, and segments.parquet.

The manifest is written last: a folder without it is incomplete.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import ANY_KEY, check_shape, parse_json, write_json
from jaxrec.live_events.slates.payloads import content_hash, encode

MANIFEST, PAYLOADS, SEGMENTS = "manifest.json", "payloads", "segments.parquet"
FORMAT = 1
DEFAULT = "default"  # segment of users who are in no other, the last one
_AGAIN = "make the slates again"
_SHAPE = {
    "format": int, "model": str, "dataset": str, "step": int, "titles": int, "spare": int, "order": str,
    "rule": str, "segments": {"by": str, "names": [str]}, "regions": [str], "kappa": int, "bytes": int,
    "events": [{"id": str, "title": str, "priority": int, "schedule": {ANY_KEY: dict}, "stages": [str]}],
    "payloads": [{"hash": str, "bytes": int}], "slates": {ANY_KEY: {ANY_KEY: {ANY_KEY: [int]}}},
}  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{32}")

# (event, stage, region) -> payload of each segment
Slates = Mapping[tuple[str, str, str], Iterable[dict[str, Any]]]


class WrittenSlates(NamedTuple):
    """Result of `write_slates`.

    Attributes:
        manifest: Content of the manifest.
        places: Number of positions of titles in all slates, equal slates included.
    """

    manifest: dict[str, Any]
    places: int


def write_slates(
    folder: Path, slates: Slates, record: Mapping[str, Any], users: Mapping[str, np.ndarray]
) -> WrittenSlates:
    """Write payloads, each once, the table of users and the manifest.

    Args:
        folder: New or empty folder.
        slates: Payloads; those of a segment may be made while they are written.
        record: Further keys of the manifest.
        users: Columns user and segment.
    """
    from jaxrec.sources.frames import TableWriter

    (folder / PAYLOADS).mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    names: dict[tuple[str, str, str], list[str]] = {}
    places = 0
    for key, documents in slates.items():
        names[key] = []
        for document in documents:
            content = encode(document)
            name = content_hash(content)
            if name not in sizes:
                sizes[name] = len(content)
                (folder / PAYLOADS / f"{name}.json").write_bytes(content)
            names[key].append(name)
            places += len(document["titles"])
    with TableWriter("--out", str(folder / SEGMENTS)) as table:
        table.add(users)
    number = {name: i for i, name in enumerate(sorted(sizes))}
    tree: dict[str, dict[str, dict[str, list[int]]]] = {}
    for (event, stage, region), hashes in names.items():
        tree.setdefault(event, {}).setdefault(stage, {})[region] = [number[name] for name in hashes]
    manifest = {
        "format": FORMAT, **record, "kappa": len(sizes), "bytes": sum(sizes.values()),
        "payloads": [{"hash": name, "bytes": sizes[name]} for name in sorted(sizes)], "slates": tree,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return WrittenSlates(manifest, places)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a folder of slates.

    Raises:
        InputError: The folder has none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        tree = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"slates {folder}: {MANIFEST}: {reason}; {_AGAIN}") from None
    check_shape(tree, _SHAPE, f"slates {folder}: {MANIFEST}", _AGAIN)
    if tree["format"] != FORMAT:
        raise InputError(f"slates {folder}: format={tree['format']}; allowed: {FORMAT}; {_AGAIN}")
    segments = len(tree["segments"]["names"])
    for event, stages in tree["slates"].items():
        for stage, regions in stages.items():
            for region, numbers in regions.items():
                where = f"slates {folder}: {MANIFEST}: slates: {event}: {stage}: {region}"
                if len(numbers) != segments:
                    raise InputError(f"{where} has {len(numbers)} of {segments} segments; {_AGAIN}")
                if not all(0 <= n < len(tree["payloads"]) for n in numbers):
                    raise InputError(f"{where} names a payload that is not there; {_AGAIN}")
    return tree


def read_payload(folder: str | Path, name: str) -> bytes:
    """Return the content of a payload.

    Raises:
        InputError: There is no such payload, or its content is another one.
    """
    path = Path(folder) / PAYLOADS / f"{name}.json"
    try:
        content = path.read_bytes() if _HASH.fullmatch(name) else b""
    except OSError as error:
        raise InputError(f"slates {folder}: payload {name}: {error.strerror}; {_AGAIN}") from None
    if content_hash(content) != name:
        raise InputError(f"slates {folder}: payload {name} is damaged; {_AGAIN}")
    return content


def payload_of(manifest: Mapping[str, Any], event: str, stage: str, region: str, segment: int) -> str:
    """Return the hash of the payload of a segment in a stage of an event.

    A manifest without regions, and a region that it lacks, have the payloads of "" if there are any.

    Raises:
        InputError: There is no such event, stage, region or segment.
    """
    tree: Any = manifest["slates"]
    for name, value in (("event", event), ("stage", stage), ("region", region)):
        if value not in tree and not (name == "region" and "" in tree):
            raise InputError(f"{name}={value!r:.60} has no slates; allowed: {', '.join(tree)[:200]}")
        tree = tree[value if value in tree else ""]
    if not 0 <= segment < len(tree):
        raise InputError(f"segment={segment}; allowed: 0 to {len(tree) - 1}")
    return manifest["payloads"][tree[segment]]["hash"]
