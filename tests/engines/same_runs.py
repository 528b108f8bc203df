"""Compare finished runs with the first one, value by value:

    python tests/engines/same_runs.py FIRST SECOND...

The workdirs are local or in a bucket. Exit with status 1 if a value differs, or a line of metrics.jsonl is
missing.
"""

import sys

from jaxrec.core.paths import AnyPath, as_path
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.training.repetition import compare_runs, format_repetition


def spans(workdir: AnyPath) -> list[tuple[str, int]]:
    """Return the split and the step of each line of metrics.jsonl."""
    return [(line["split"], line["step"]) for line in read_metrics(workdir / METRICS_FILE)]


def main(first: AnyPath, others: list[AnyPath]) -> int:
    """Print a comparison of each other run with the first; return the exit status."""
    status = 0
    for other in others:
        values = compare_runs(first, other)
        print(f"{other} beside {first}:\n{format_repetition(values)}")
        missing = set(spans(first)) ^ set(spans(other))
        if missing:
            print(f"lines of metrics.jsonl that one of the two lacks: {sorted(missing)[:10]}")
        status |= bool(missing) or any(value.different for value in values)
    return status


if __name__ == "__main__":
    sys.exit(main(as_path(sys.argv[1]), [as_path(argument) for argument in sys.argv[2:]]))
