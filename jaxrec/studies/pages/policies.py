"""Table of the values of policies in the page of a study."""

from collections.abc import Mapping
from typing import Any

from jaxrec.studies.pages import cells

_POLICY = ("value", "kl", "efficiency", "value@1", "value@10", "entropy", "ndcg@10")


def policy_lines(block: Mapping[str, Any]) -> list[str]:
    """Return the lines of the values of policies: `policy_results.policy_block`."""
    lines = [f"Values under the truth at {block['queries']:,} queries of {block['users']:,} users; the true "
             f"choice has the value {cells.number(block['choice']['value'])}.", ""]  # fmt: skip
    lines += cells.header("row", *_POLICY, "difference of value", "95% interval", "verdict", "visible")
    for row in block["rows"]:
        spreads = [cells.spread(row["metrics"][name]) if name in row["metrics"] else "-" for name in _POLICY]
        difference, tested = row["difference"], [""] * 4
        if difference:
            users = difference["over_users"]
            mean = f"{cells.number(users['mean'], '+.4f')} to {row['against']}"
            tested = [mean, cells.interval(users), difference["verdict"], cells.number(users["smallest"])]
        lines.append(cells.line(row["label"], *spreads, *tested))
    return lines
