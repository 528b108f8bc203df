"""Markdown table of delays: a line for each row and delay."""

from collections.abc import Mapping
from typing import Any

from jaxrec.studies.tables import text

_NAMES = {"hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr@100": "MRR@100"}


def delay_table(block: Mapping[str, Any]) -> list[str]:
    """Return the lines of `blocks.delays.delay_block`."""
    lines = [
        f"All titles, {block['queries']:,} queries of {block['users']:,} users; {block['left_out']:,} "
        "without a play before the longest delay are left out. Differences are of NDCG@10.", "",
    ]  # fmt: skip
    lines += text.header("row", "hours", *_NAMES.values(), "difference", "95% interval", "verdict", "visible")
    for row in block["rows"]:
        for hours, of_delay in row["hours"].items():
            spreads = [text.spread(of_delay["metrics"][metric]) for metric in _NAMES]
            cells, difference = [""] * 4, of_delay["difference"]
            if difference:
                users = difference["over_users"]
                mean = f"{text.number(users['mean'], '+.4f')} to {row['against']}"
                cells = [mean, text.interval(users), difference["verdict"], text.number(users["smallest"])]
            lines.append(text.line(row["label"], hours, *spreads, *cells))
    return lines
