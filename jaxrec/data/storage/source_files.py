"""Identity of the files that a dataset was prepared from: size, time of change and content.

The manifest keeps it beside the dataset's fingerprint: the same rows have the same fingerprint, whatever
their files are called or dated.
"""

import os
from pathlib import Path
from typing import Any

from jaxrec.runtime.checksums import checksum


def describe(files: list[str]) -> list[dict[str, Any]]:
    """Return the identity of files: name, bytes, time of change in ns, and sha256 of the content.

    Raises:
        OSError: A file cannot be read.
    """
    return [_stat(file) | {"sha256": checksum(Path(file))["sha256"]} for file in sorted(files)]


def differences(described: list[dict[str, Any]], files: list[str]) -> list[str]:
    """Return how files differ from those described, a phrase for each; empty for the same content.

    A file of the same size and time is taken for unchanged. The content of others is read, so that a file
    that was copied, renamed or has another date is not a difference.

    Args:
        described: From `describe`.
        files: Files of the source now.
    """
    left, others = {entry["file"]: entry for entry in described}, []
    for file in sorted(files):
        now = _stat(file)
        before = left.get(file)
        if before is not None and all(before[key] == value for key, value in now.items()):
            del left[file]
        else:
            others.append(now)
    out = []
    for now in others:
        same = [name for name, entry in left.items() if entry["bytes"] == now["bytes"]]
        content = checksum(Path(now["file"]))["sha256"] if same else ""
        match = next((name for name in same if left[name]["sha256"] == content), None)
        if match is not None:
            del left[match]
        elif now["file"] in left:
            before = left.pop(now["file"])
            sizes = f"{before['bytes']:,} bytes, {now['bytes']:,} bytes now"
            out.append(f"{now['file']} had {sizes}" if same == [] else f"{now['file']} has other content")
        else:
            out.append(f"{now['file']} is new")
    return out + [f"{name} is missing" for name in left]


def _stat(file: str) -> dict[str, Any]:
    stat = os.stat(file)
    return {"file": file, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
