"""Write the tables of README.md and docs/quickstart.md from benchmarks/results/smoe-small.json.

    python docs/result_tables.py [WORKDIR]

The file holds the `test.json` of a run of the first command, with its date and environment. With a workdir,
the result and the environment of its run replace those in the file first. `tests/test_docs.py` compares the
committed tables with what this script writes.
"""

import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

from jaxrec.reporting.result_table import METRICS, NAMES, format_table, oracle_fraction

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "benchmarks/results/smoe-small.json"
README, QUICKSTART = ROOT / "README.md", ROOT / "docs/quickstart.md"
README_ENDS = "```text\nK=1", "```\n"  # the block begins with the first, and ends with the second
QUICKSTART_ENDS = "<!-- smoe-small: begin -->\n", "<!-- smoe-small: end -->\n"
_LABELS = NAMES | {"oracle": "**oracle** (p/q)", "oracle_p": "p alone"}


def stored() -> dict[str, Any]:
    """Return the content of the stored file."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def store(workdir: Path) -> None:
    """Replace the stored result by that of a run."""
    measured = json.loads((workdir / "report-test-best.json").read_text(encoding="utf-8"))
    content = {
        "command": "python -m jaxrec.train --config configs/smoe.py:small",
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "environment": measured["environment"],
        "result": json.loads((workdir / "test.json").read_text(encoding="utf-8")),
    }
    STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def printed(result: dict[str, Any]) -> str:
    """Return the main part of the printed table, K=1, without its first word."""
    return format_table(result).split("\n\n")[1].removeprefix("K=1") + "\n"


def rows(result: dict[str, Any]) -> str:
    """Return the values of K=1 as a table of Markdown, and what they amount to."""
    names = list(METRICS.values())
    heads = [f"{name} {metric}" if not i else metric
             for name in ("enabled", "disabled") for i, metric in enumerate(names)]  # fmt: skip
    lines = ["| K=1, test users | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    by_label = {"**jaxrec S-MoE**": result["lists"], "the same, corrected": result["corrected"]}
    by_label |= {_LABELS[name]: lists for name, lists in result["baselines"].items()}
    for label, lists in by_label.items():
        cells = [f"{lists[name][m]:.4f}".lstrip("0") for name in ("enabled", "disabled") for m in METRICS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    covered, count = oracle_fraction(result), result["lists"]["enabled"]
    text = (
        f"The test set has {count['examples']:,} queries of {count['users']:,} users that were not in the "
        f"training set; `train.seed` is {result['seed']}\nand `data.seed` is 0. On NDCG@1 the model covers "
        f"{covered['enabled']:.0%} of the distance from popularity to the oracle on the enabled list,\n"
        f"and {covered['disabled']:.0%} on the disabled list (`benchmarks/results/smoe-small.json`, "
        f"{stored()['date']})."
    )
    return "\n".join([*lines, "", text, ""])


def with_table(text: str, table: str, ends: tuple[str, str]) -> str:
    """Return a page's text with a table between two markers."""
    before, begin, rest = text.partition(ends[0])
    _, end, after = rest.partition(ends[1])
    return f"{before}{begin}{table}{end}{after}"


def pages() -> dict[Path, str]:
    """Return the text of each page with the stored figures."""
    result = stored()["result"]
    return {
        path: with_table(path.read_text(encoding="utf-8"), table, ends)
        for path, table, ends in (
            (README, printed(result), README_ENDS),
            (QUICKSTART, rows(result), QUICKSTART_ENDS),
        )
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        store(Path(sys.argv[1]))
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
