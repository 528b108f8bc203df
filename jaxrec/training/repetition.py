"""Repetition of a run: its config once more, and a comparison value by value."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.config.schema import Config
from jaxrec.config.serialization import from_run_json
from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics
from jaxrec.reporting.result_table import TEST_JSON
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint

_OF_THE_CLOCK = ("examples_per_second", "input_stall", "save_stall", "seconds")
_SHOWN = 20  # values that differ, in a text


class RepeatedValue(NamedTuple):
    """Comparison of a value of two runs.

    Attributes:
        name: Name of the value: of a metric, of a figure of test.json, or of a parameter.
        numbers: Numbers compared: of a metric one for each line, of a parameter one for each element.
        different: Numbers that are not equal, bit for bit.
        largest: Largest absolute difference.
    """

    name: str
    numbers: int
    different: int
    largest: float


class Origin(NamedTuple):
    """Config and dataset of a run that is repeated."""

    config: Config
    dataset_directory: str
    dataset: str  # fingerprint


def read_origin(workdir: AnyPath) -> Origin:
    """Return the config and the dataset of a finished run.

    Raises:
        InputError: The workdir holds no finished run, or one that was extended.
    """
    if not (workdir / TEST_JSON).exists():
        raise InputError(f"--repeat={workdir}: holds no {TEST_JSON}; allowed: the workdir of a finished run")
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta("last")
    if meta.get("extended"):
        raise InputError(
            f"--repeat={workdir}: was extended from step {meta['extended'][0][0]:,}, so that its schedules "
            "had two lengths; allowed: a run of one length"
        )
    config = from_run_json(json.loads((workdir / "config.json").read_bytes()))
    return Origin(config, meta["dataset_directory"], meta["dataset"])


def compare_runs(first: AnyPath, second: AnyPath) -> list[RepeatedValue]:
    """Compare two finished runs: lines of metrics.jsonl, figures of test.json, the last parameters.

    A line of training is a mean since the line before, and lines come by the clock: those of other steps
    than in the first run are left out. Figures of the clock are too.

    Args:
        first: Workdir of the run.
        second: Workdir of its repetition.
    """
    values = [*_compare(_lines(first), _lines(second))]
    tests = [json.loads((workdir / TEST_JSON).read_bytes()) for workdir in (first, second)]
    values += _compare(*({f"test/{name}": [x] for name, x in _numbers(test)} for test in tests))
    return [*values, *_compare(_parameters(first), _parameters(second))]


def _lines(workdir: AnyPath) -> dict[str, dict[tuple[int, int], float]]:
    """Return metric -> (step of the line before, step) -> value."""
    out: dict[str, dict[tuple[int, int], float]] = {}
    before = {"train": 0}
    for line in read_metrics(workdir / METRICS_FILE):
        split, span = line["split"], (before.get(line["split"], 0), line["step"])
        if split in before:
            before[split] = line["step"]
        for name, value in line.items():
            if name not in ("step", "epoch", "split", *_OF_THE_CLOCK):
                number = math.nan if value is None else value
                out.setdefault(f"{split}/{name}", {})[span] = number
    return out


def _parameters(workdir: AnyPath) -> dict[str, np.ndarray]:
    """Return the parameters of the last checkpoint by their names."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(load_checkpoint(workdir, "last").params))
    return {f"parameter/{jax.tree_util.keystr(k, simple=True, separator='/')}": x for k, x in leaves}


def _numbers(tree: Any, prefix: str = "") -> Iterable[tuple[str, float]]:
    """Yield the dotted name and the value of each number of a JSON tree, without those of the clock."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name not in _OF_THE_CLOCK:
                yield from _numbers(value, f"{prefix}.{name}" if prefix else name)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _numbers(value, f"{prefix}[{i}]")
    elif isinstance(tree, int | float):
        yield prefix, float(tree)


def _compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterable[RepeatedValue]:
    """Yield the comparison of each name; a name that one run lacks differs everywhere."""
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            yield RepeatedValue(name, 0, 1, math.inf)
            continue
        a, b = first[name], second[name]
        if isinstance(a, dict):
            common = [span for span in a if span in b]
            a, b = [a[span] for span in common], [b[span] for span in common]
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            yield RepeatedValue(name, x.size, x.size, math.inf)
            continue
        equal = (x == y) | ((x != x) & (y != y))
        apart = np.abs(np.where(equal, 0, x.astype(np.float64) - y.astype(np.float64)))
        yield RepeatedValue(name, x.size, int((~equal).sum()), float(apart.max(initial=0.0)))


def format_repetition(values: list[RepeatedValue]) -> str:
    """Return the lines that say which values came out the same."""
    lines = []
    for kind in dict.fromkeys(value.name.partition("/")[0] for value in values):
        group = [value for value in values if value.name.startswith(f"{kind}/")]
        same = [value for value in group if not value.different]
        total = sum(value.numbers for value in group)
        lines.append(f"{kind}: {len(same):,} of {len(group):,} values the same, {total:,} numbers compared")
    different = sorted((v for v in values if v.different), key=lambda v: -v.largest)
    for value in different[:_SHOWN]:
        lines.append(
            f"  differs: {value.name} in {value.different:,} of {value.numbers:,} numbers, by at most "
            f"{value.largest:.3g}"
        )
    if len(different) > _SHOWN:
        lines.append(f"  and {len(different) - _SHOWN:,} values more")
    lines.append("the repetition is the run, bit for bit" if not different else "the repetition differs")
    return "\n".join(lines)
