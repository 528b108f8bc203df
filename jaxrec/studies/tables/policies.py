"""Markdown table of the values of policies under the truth."""

from collections.abc import Mapping
from typing import Any

from jaxrec.studies.tables import text

_POLICY = ("value", "kl", "efficiency", "value@1", "value@10", "entropy", "ndcg@10")


def policy_table(block: Mapping[str, Any]) -> list[str]:
    """Return the lines of the values of policies: `policy_results.policy_block`."""
    lines = [f"Values under the truth at {block['queries']:,} queries of {block['users']:,} users; the true "
             f"choice has the value {text.number(block['choice']['value'])}.", ""]  # fmt: skip
    lines += text.header("row", *_POLICY, "difference of value", "95% interval", "verdict", "visible")
    for row in block["rows"]:
        spreads = [text.spread(row["metrics"][name]) if name in row["metrics"] else "-" for name in _POLICY]
        difference, cells = row["difference"], [""] * 4
        if difference:
            users = difference["over_users"]
            mean = f"{text.number(users['mean'], '+.4f')} to {row['against']}"
            cells = [mean, text.interval(users), difference["verdict"], text.number(users["smallest"])]
        lines.append(text.line(row["label"], *spreads, *cells))
    return lines
