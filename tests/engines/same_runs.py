"""Compare finished runs with the first one, value by value:

    python tests/engines/same_runs.py FIRST SECOND...

The workdirs are local or in a bucket. Exit with status 1 if a value differs, or a line of metrics.jsonl is
missing.
"""

import sys
from typing import Any

import numpy as np

from jaxrec.core.paths import AnyPath, as_path
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.training.repetition import compare_runs, format_repetition

_CLOSE = 1e-5  # of a mean of float32 losses


def losses(workdir: AnyPath, split: str) -> dict[tuple[int, int], float]:
    """Return the loss of each line of a split, by the step of the line before and its own."""
    lines: list[dict[str, Any]] = [
        line for line in read_metrics(workdir / METRICS_FILE) if line["split"] == split
    ]
    before = [0, *(line["step"] for line in lines)]
    return {(a, line["step"]): line["loss"] for a, line in zip(before, lines, strict=False)}


def different_lines(first: AnyPath, second: AnyPath) -> list[str]:
    """Return the lines of the second run that are not means of the first, which has a line a step.

    A start, and a resumption, writes its first line after two steps.
    """
    wrong = []
    whole, other = losses(first, "train"), losses(second, "train")
    steps = [b for _, b in whole]
    if not other or max(b for _, b in other) != steps[-1]:
        wrong.append(f"the last training line of {second} is not that of {first}")
    for (a, b), loss in other.items():
        parts = {y: (y - x, value) for (x, y), value in whole.items() if a <= x and y <= b}
        lengths, values = zip(*parts.values(), strict=True) if parts else ((0,), (0.0,))
        if sum(lengths) != b - a or not np.isclose(loss, np.average(values, weights=lengths), rtol=_CLOSE):
            wrong.append(f"steps {a + 1} to {b}: loss {loss}, of {first}: {parts}")
    if losses(first, "validation").keys() != losses(second, "validation").keys():
        wrong.append("other validations")
    return wrong


def main(first: AnyPath, others: list[AnyPath]) -> int:
    """Print a comparison of each other run with the first; return the exit status."""
    status = 0
    for other in others:
        values, wrong = compare_runs(first, other), different_lines(first, other)
        print(f"{other} beside {first}:\n{format_repetition(values)}")
        print(
            "\n".join(wrong[:10])
            or f"each of {len(losses(other, 'train'))} training lines is that of its steps"
        )
        status |= bool(wrong) or any(value.different for value in values)
    return status


if __name__ == "__main__":
    sys.exit(main(as_path(sys.argv[1]), [as_path(argument) for argument in sys.argv[2:]]))
