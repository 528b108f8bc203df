"""Verdicts: the files of a run compared with those of a run left alone, and refusals in one line.

Parameters, optimizer and all else in the checkpoints, result files and validation metrics are equal bit for
bit; so is each line of training metrics that covers the same step alone. Times and rates are left out.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults.processes import unusual_lines
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

_RESULTS = ("test.json", "report-test-best.json", "config.json")
_LEFT_OUT = ("seconds", "examples_per_second", "input_stall", "save_stall", "directory")
REFUSED_STATUSES = (1, 2)
_LEAST_COMPARED = 10  # lines of training metrics


class FaultError(Exception):
    """An end that is neither equal nor refused."""


class Outcome(NamedTuple):
    """Checkpoints, results and metrics of a finished run."""

    arrays: dict[str, np.ndarray]  # "step/name" -> array of a checkpoint
    results: dict[str, Any]  # file or "validation at step" -> compared contents
    steps: dict[int, dict[str, Any]]  # step -> training metrics, where a line covers this step alone


def _compared(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _compared(value) for key, value in tree.items() if key not in _LEFT_OUT}
    return [_compared(value) for value in tree] if isinstance(tree, list) else tree


def read_state(step: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a checkpoint's state by name."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(step / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(step / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def read_outcome(workdir: Path) -> Outcome:
    """Return what a finished run left behind.

    Raises:
        FaultError: A file is missing or cannot be read.
    """
    try:
        steps = [p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
        arrays = {f"{p.name}{name}": leaf for p in steps for name, leaf in read_state(p).items()}
        results = {name: _compared(json.loads((workdir / name).read_text())) for name in _RESULTS}
        results["report.html"] = "<svg" in (workdir / "report.html").read_text()
    except Exception as error:  # of Orbax: any
        raise FaultError(f"cannot be read: {type(error).__name__}: {error}") from error
    lines, covered = read_metrics(workdir / METRICS_FILE), dict[int, dict[str, Any]]()
    numbers = [line["step"] for line in lines]
    if numbers != sorted(numbers):
        raise FaultError(f"steps of {METRICS_FILE} are out of order: {numbers}")
    before = 0
    for line in lines:
        if line["split"] == "validation":
            results[f"validation at {line['step']}"] = _compared(line)
        elif line["step"] == before + 1:
            covered[line["step"]] = _compared(line)
        before = line["step"]
    return Outcome(arrays, results, covered)


def differences(expected: Outcome, actual: Outcome) -> list[str]:
    """Return what differs between two outcomes, one text each."""
    out = [f"{k}: not in both" for k in sorted(expected.arrays.keys() ^ actual.arrays.keys())]
    for key in sorted(expected.arrays.keys() & actual.arrays.keys()):
        a, b = expected.arrays[key], actual.arrays[key]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            out.append(f"{key}: other values")
    for key in sorted(expected.results.keys() | actual.results.keys()):
        if expected.results.get(key) != actual.results.get(key):
            out.append(f"{key}: other contents")
    both = sorted(expected.steps.keys() & actual.steps.keys())
    out += [f"metrics of step {s}: other values" for s in both if expected.steps[s] != actual.steps[s]]
    if len(both) < _LEAST_COMPARED:
        out.append(f"only {len(both)} steps of {METRICS_FILE} can be compared")
    return out


def refusal(status: int, stderr: str, names: str) -> str:
    """Return the line of a refusal.

    Args:
        status: Exit status of the process.
        stderr: Its standard error.
        names: Regular expression of what the line must name.

    Raises:
        FaultError: The end is not a refusal in one line with that name.
    """
    lines = unusual_lines(stderr)
    if status not in REFUSED_STATUSES or len(lines) != 1 or not lines[0].startswith("error: "):
        raise FaultError(f"status {status}, not refused in one line: {' | '.join(lines)[-600:]}")
    if not re.search(names, lines[0]):
        raise FaultError(f"the line does not name {names}: {lines[0]}")
    return lines[0]


def contents(folder: Path) -> dict[str, str]:
    """Return relative path -> sha256 of the files of a folder; hidden files are left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
