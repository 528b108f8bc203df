"""Files of a workdir that a report reads."""

from typing import Any, NamedTuple

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import ANY_KEY, check_shape, merged, parse_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

_RESULT = {"split": str, "which": str, "dataset?": str, "lists?": {ANY_KEY: {ANY_KEY: float}}}
_SAME = ("split", "which", "dataset", "step")  # of evaluations whose results are joined


class RunFiles(NamedTuple):
    """Contents of a workdir.

    Attributes:
        workdir: The folder, as text.
        config: JSON of the config; {} without config.json.
        lines: Lines of metrics.jsonl.
        result: Result of the training's test, with the results of later evaluations of the same checkpoint,
            split and dataset; without a test, the result of an evaluation.
        measured: Measurements of the same evaluation; {} for a run from before they were stored.
        others: File name -> result of each further evaluation.
        check: The JSON that `prepare --check --json` printed, from check.json; {} without the file.
    """

    workdir: str
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    result: dict[str, Any]
    measured: dict[str, Any]
    others: dict[str, dict[str, Any]]
    check: dict[str, Any]


def read_run(workdir: str | AnyPath) -> RunFiles:
    """Read the files of a run.

    Args:
        workdir: Folder of the run.

    Raises:
        InputError: The folder holds no result.
    """
    folder = as_path(workdir)
    results = {path.name: _read_json(path) for path in sorted(folder.glob("eval-*.json"))}
    if test := _read_json(folder / "test.json"):
        results = {"test.json": test} | results
    if not results:
        raise InputError(f"{workdir}: holds neither test.json nor eval-*.json; run evaluate first")
    for name, tree in results.items():
        check_shape(tree, _RESULT, str(folder / name), "run evaluate again")
    first = next(iter(results))
    result, others = results[first], {}
    for name, other in results.items():
        if name == first:
            continue
        if _describe_the_same(result, other):
            result = merged(result, other) | {"seconds": result.get("seconds")}
        else:
            others[name] = other
    measured = _read_json(folder / f"report-{result['split']}-{result['which']}.json")
    if any(measured.get(key) != result.get(key) for key in ("dataset", "step")):
        measured = {}
    result = merged(result, measured.get("result", {})) | {"seconds": result.get("seconds")}
    lines = [
        line
        for line in read_metrics(folder / METRICS_FILE)
        if isinstance(line.get("step"), int) and isinstance(line.get("split"), str)
    ]
    config, check = _read_json(folder / "config.json"), _read_json(folder / "check.json")
    return RunFiles(str(workdir), config, lines, result, measured, others, check)


def _describe_the_same(result: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return True for results of the same checkpoint on the same queries, by protocols that agree."""
    seen, other_seen = (tree.get("catalogue", {}).get("seen") for tree in (result, other))
    agree = seen is None or other_seen is None or seen == other_seen
    return agree and all(other.get(key) == result.get(key) for key in _SAME)


def _read_json(path: AnyPath) -> dict[str, Any]:
    """Return the object of a JSON file, or {} if there is no file.

    Raises:
        InputError: The file does not hold a JSON object.
    """
    if not path.exists():
        return {}
    try:
        tree = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no JSON object")
    return tree
