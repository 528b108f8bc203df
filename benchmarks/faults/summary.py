"""Lines of trials, and their table in Markdown."""

import json
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

TRIALS, _ABOUT = "trials.jsonl", "about.json"
_LIBRARIES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "array-record")


def read_trials(out: Path) -> list[dict[str, Any]]:
    """Return the lines of all trials; a line that was cut short by a stop is left out."""
    path = out / TRIALS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def remove_cut_line(out: Path) -> None:
    """Remove the last line of the trials if a stop cut it short."""
    path = out / TRIALS
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def about(out: Path, seed: int, kinds: list[str]) -> dict[str, Any]:
    """Record seed, kinds and versions of a folder of trials, or compare them with its record.

    Raises:
        SystemExit: The folder's trials have another seed or other kinds.
    """
    path = out / _ABOUT
    if path.exists():
        record = json.loads(path.read_text())
        for key, value in (("seed", seed), ("kinds", kinds)):
            if record[key] != value:
                raise SystemExit(
                    f"{out}: holds trials of {key} {record[key]}; allowed: the same, or another --out"
                )
        return record
    record = {
        "seed": seed, "kinds": kinds, "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(), "versions": {name: version(name) for name in _LIBRARIES},
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def summarize(out: Path) -> str:
    """Return the table of all trials by kind, and the texts of faults, as Markdown."""
    record, trials = json.loads((out / _ABOUT).read_text()), read_trials(out)
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    verdicts = ("equal", "refused", "skipped", "FAULT")
    rows = []
    for kind in (*record["kinds"], "all"):
        lines = [line for line in trials if kind in (line["kind"], "all")]
        counts, seconds = Counter(line["verdict"] for line in lines), sum(line["seconds"] for line in lines)
        figures = [len(lines), *(counts[v] for v in verdicts), sum(line["hang"] for line in lines)]
        mean = f"{seconds / len(lines):.1f}" if lines else ""
        rows.append(f"| {kind} | {' | '.join(map(str, figures))} | {mean} |")
    faults = [
        f"- trial {line['number']}, {line['kind']}, {line['moment']}: {line['text']}"
        for line in trials
        if line["verdict"] == "FAULT"
    ]
    return (
        "# Random faults\n\n"
        f"`python -m benchmarks.faults --count {len(trials)} --seed {record['seed']}`, "
        f"begun {record['date']}, Python {record['python']}, {versions}.\n\n"
        "- `equal`: after the fault the run was started again, and ended bit for bit as one left alone.\n"
        "- `refused`: one line named the cause; after the repair the run ended as one left alone.\n"
        "- FAULT: all else, hangs included.\n\n"
        "| kind | trials | equal | refused | skipped | FAULT | hangs | seconds, mean |\n"
        "|---|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\n"
        + "\n".join(faults or ["No faults."])
        + "\n"
    )
