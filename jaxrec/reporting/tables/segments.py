"""Table of the quality of slates by the number of segments, as text."""

from collections.abc import Mapping
from typing import Any

_BY_LOG = " by log"  # end of the names of rows that are ordered by mean log probabilities
_WIDTH = 19  # of a column: true_enjoyment@10 and a space
_NAMES = {"model": "user slates"}


def segment_lines(segments: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table, one for each row of slates.

    Args:
        segments: JSON values, as `live_events.slates.quality.with_segments` adds them.
    """
    rows = {row["name"]: row for row in segments["rows"]}
    columns = [c for c in rows["model"]["metrics"] if c != "below_user_slates"]
    head = f"slates of {segments['titles']} titles, {segments['users']:,} users"
    titles = "".join(f"{column:>{_WIDTH}}{'95% interval':>18}" for column in columns)
    lines = [f"{head:<40}{titles}{'by mean log':>13}"]
    for name, row in rows.items():
        if name.endswith(_BY_LOG):
            continue
        label = f"{name} ({segments['by']})" if name == "delivered" else _NAMES.get(name, name)
        line = f"{label[:39]:<40}"
        for column in columns:
            value = row["metrics"][column]
            line += f"{_cell(value['mean']):>{_WIDTH}}{_interval(value):>18}"
        by_log = rows.get(f"{name}{_BY_LOG}")
        lines.append(line + f"{_cell(by_log['metrics'][columns[0]]['mean'] if by_log else None):>13}")
    lines.append(f"by mean log: {columns[0]} of slates in the order of mean log probabilities")
    share = segments["share_of_way"]
    way = f"of the way from one slate to user slates, on {columns[0]}"
    if share is not None:
        lines.append(f"64 segments cover {share:.0%} {way}")
    elif "kappa 64" in rows:
        lines.append(f"64 segments: no share {way}, which are not above one slate by their interval")
    return lines


def _interval(value: Mapping[str, Any]) -> str:
    low, high = value["low"], value["high"]
    return "-" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
