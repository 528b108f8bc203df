"""Rows of configs/study_session.py by position of the request in its session, over all seeds.

    python -m benchmarks.session_study --workdir S [--rows all,plays] [--session on,off,shuffled]
        [--queries N] [--least SEEDS] [--json F]

A query's value is its mean over the seeds; intervals of 95% are over users. Each row is compared with
`no_tail` on the same queries. Rows that read the session are also evaluated with it on, off and shuffled, as
`python -m jaxrec.evaluate --session` does; `own left out` is "on" without the signals about the target.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation import metrics, per_user
from jaxrec.evaluation.details.frozen_lists import Queries
from jaxrec.evaluation.sessions.of_session import (
    LIST,
    SESSIONS,
    SessionValues,
    by_position,
    check_session,
    positions,
    session_values,
    summarize,
)
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.inputs.session import reads_session
from jaxrec.tasks.loading import LoadedCheckpoint, load_checkpoint, open_dataset

_METRIC = "ndcg@1"
_BASE = "no_tail"  # row that others are compared with; at another setting, its suffix is that of the row


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the study", required=True)
    flags.DEFINE_list("rows", [], "rows; empty: all that have a finished run")
    flags.DEFINE_list("session", [*SESSIONS], f"sessions to evaluate, out of {', '.join(SESSIONS)}")
    flags.DEFINE_integer("queries", 0, "first test queries to score with each session; 0: all", lower_bound=0)
    flags.DEFINE_integer("least", 1, "least number of finished seeds of a row", lower_bound=1)


def finished_runs(folder: Path, names: list[str]) -> dict[str, list[Path]]:
    """Return row -> workdirs of its finished runs, in the order of their seeds.

    Raises:
        InputError: There is no finished run.
    """
    runs: dict[str, list[Path]] = {}
    for result in sorted(folder.glob("runs/*/seed-*/eval-test-best-per-query.parquet")):
        row = result.parent.parent.name
        if not names or row in names:
            runs.setdefault(row, []).append(result.parent)
    if not runs:
        raise InputError(f"--workdir={folder}: no finished run; allowed: the folder of a study with some")
    return runs


def base_of(row: str) -> str:
    """Return the row that a row is compared with: "no_tail-mood-0" for "all-mood-0"."""
    _, dash, setting = row.partition("-")
    return _BASE + dash + setting


def _queries(workdir: Path, most: int = 0) -> tuple[LoadedCheckpoint, Queries]:
    """Return a checkpoint, and its first `most` test queries; 0: all."""
    loaded = load_checkpoint(str(workdir), "best")
    dataset = open_dataset(loaded, None)
    rows = dataset.rows("test").all()[: most or None]
    table = replicate(loaded.task.title_table(loaded.arrays))
    return loaded, Queries(loaded, dataset, table, SelectedRows(rows), rows)


def mean_values(values: list[SessionValues]) -> SessionValues:
    """Return the means of the values of several seeds, query by query."""
    first = values[0]
    means = {
        name: {m: np.mean([v.by_session[name][m] for v in values], axis=0) for m in of}
        for name, of in first.by_session.items()
    }
    return SessionValues(means, first.is_shuffled)


def _first_ranks(runs: list[Path]) -> np.ndarray:
    """Return the mean over runs of the NDCG@1 [Q] of each query on the enabled list."""
    ranks = [per_user.read(run).of_query(LIST) for run in runs]
    return np.mean([metrics.METRICS[_METRIC](rank) for rank in ranks], axis=0)


def _cell(values: list[float | None], sign: str = "") -> str:
    mean, half = values
    return "-" if mean is None else f"{mean:{sign}.4f}" + ("" if half is None else f" ±{half:.4f}")


def _line(name: str, by: dict[str, dict[str, list[float | None]]], sign: str = "") -> tuple[str, str, str]:
    cells = [f"{position}: {_cell(by[position][_METRIC], sign)}" for position in by]
    return name, "; ".join(cells[:-1]), cells[-1]


def main(args: flags.FlagValues) -> Report:
    check_session(tuple(args.session), True)
    runs = finished_runs(Path(args.workdir), args.rows)
    runs = {row: of_row for row, of_row in runs.items() if len(of_row) >= args.least}
    rows: list[tuple[str, str, str]] = []
    figures: dict[str, Any] = {}
    queries_of: dict[str, np.ndarray] = {}  # rows of the queries, by the setting of the service
    for row, of_row in runs.items():
        loaded, queries = _queries(of_row[0])
        if "session_position" not in (queries.rows.dtype.names or ()):
            continue
        queries_of.setdefault(base_of(row), queries.rows)
        if reads_session(loaded.config) and args.session:
            scored = [_queries(run, args.queries)[1] for run in of_row]
            of_seeds = [session_values(one, tuple(args.session)) for one in scored]
            summary = summarize(scored[0].rows, mean_values(of_seeds))
            figures[f"{row}, sessions"] = summary
            for name, by in (summary["sessions"] | summary["differences"]).items():
                sign = "+" if " - " in name else ""
                rows.append(_line(f"{row}, {len(of_row)} seeds, {name.replace('_', ' ')}", by, sign))
    for row, of_row in runs.items():
        base = base_of(row)
        if base not in queries_of or base not in runs:
            continue
        of_rows, (groups, names) = queries_of[base], positions(queries_of[base])
        everyone = np.ones(len(of_rows), bool)
        common = sorted({run.name for run in of_row} & {run.name for run in runs[base]})
        own, other = (_first_ranks([run for run in of if run.name in common]) for of in (of_row, runs[base]))
        for name, values in ((row, own), (f"{row} - {base}", own - other)):
            if row != base or " - " not in name:
                by = by_position(of_rows, groups, names, {_METRIC: values}, everyone)
                figures[name] = by
                rows.append(_line(f"{name}, {len(common)} seeds", by, "+" if " - " in name else ""))
    return Report("NDCG@1 on the enabled list by position in the session", {"metrics": figures}, rows)


if __name__ == "__main__":
    run(main, _flags)
