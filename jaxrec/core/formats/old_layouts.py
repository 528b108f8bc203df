"""Names of layouts in datasets of FORMAT 2 and in the checkpoints of runs on them."""

from typing import Any

# Field of a layout in datasets of FORMAT 2, and in the checkpoints of runs on them -> the field of today.
RENAMED = {"titles": "num_titles", "history": "max_history", "next_k": "num_targets", "examples": "rows"}
RENAMED_ROWS = {"requests": "ranking", "sequences": "next_item"}


def upgrade_layout(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a layout with the names of today; unknown names and values stay."""
    upgraded = {RENAMED.get(name, name): value for name, value in tree.items()}
    if isinstance(kind := tree.get("examples"), str):
        upgraded["rows"] = RENAMED_ROWS.get(kind, kind)
    return upgraded


def old_layout(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a layout with the names of FORMAT 2, for fingerprints."""
    old_names = {new: old for old, new in RENAMED.items()}
    old_rows = {new: old for old, new in RENAMED_ROWS.items()}
    old = {old_names.get(name, name): value for name, value in tree.items()}
    return old | {"examples": old_rows.get(tree["rows"], tree["rows"])}
