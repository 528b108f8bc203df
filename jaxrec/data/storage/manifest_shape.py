"""Keys and types of the manifest of a dataset."""

from collections.abc import Sequence
from typing import Any

from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.json_io import ANY_KEY, check_shape

_SHAPE = {  # `Layout.from_json` checks the layout
    "digest": str,
    "fingerprint": str,
    "layout": dict,
    "splits": {split: {"examples": int, "users": int} for split in SPLITS},
    "rows": {"read": int, "copies": int, "dropped": dict},
    "titles": int,
    "categories": {ANY_KEY: list},
    "files?": {ANY_KEY: {"bytes": int, "sha256": str}},
    "signals?": {ANY_KEY: {"read": int, "copies": int, "dropped": dict, "kept": int}},
    "signals_sum?": str,
    "labels?": {ANY_KEY: {"entries": int, "known": float, "mean?": float, "filled?": float}},
    "filled?": {"dataset": str, "digest": str, "checkpoint": str, "labels": {ANY_KEY: dict}},
    "pairs?": {"dataset": str, "digest": str, "policy": str, "rewards": str, "states": int, "pairs": int},
    "declared_labels?": [dict],
    "continues?": str,
    "notes?": [str],
    "source_files?": [dict],
}


def check_manifest(manifest: dict[str, Any], what: str, formats: Sequence[int], advice: str) -> None:
    """Check a manifest before anything else of it is read.

    Args:
        manifest: Content of the file, with the key "format".
        what: Name of the dataset, for messages.
        formats: Formats that can be read.
        advice: What the user may do.

    Raises:
        InputError: The format is another, a key is missing, or a value is of another type.
    """
    if manifest["format"] not in formats:
        allowed = " or ".join(map(str, formats))
        raise InputError(
            f"{what}: format={manifest['format']}; allowed: {allowed}; {advice.rpartition(' and ')[2]}, or "
            "read it with the version of jaxrec that prepared it"
        )
    what = f"{what}: manifest.json"
    check_shape(manifest, _SHAPE, what, advice)
    for split in SPLITS:
        examples = manifest["splits"][split]["examples"]
        if examples < 0:
            raise InputError(f"{what}: splits: {split}: examples={examples}; allowed: 0 or more; {advice}")
