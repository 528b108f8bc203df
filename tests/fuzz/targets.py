"""Targets of the fuzzer: functions of bytes that raise nothing but the documented errors of one line."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxrec.checkpoints.array_codec import decode_arrays
from jaxrec.checkpoints.documents import checked_document, checked_metric
from jaxrec.cli.flags import _check_override
from jaxrec.config.loading import load_config
from jaxrec.config.migrations import upgrade_arguments
from jaxrec.config.schema import Columns, Feature, Tables
from jaxrec.config.serialization import from_run_json, to_json
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError, RunError
from jaxrec.core.json_io import check_shape, parse_json
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Dataset
from jaxrec.reporting.metric_writer import read_metrics
from jaxrec.sources import open_source
from jaxrec.sources.proposals.propose import propose
from jaxrec.tasks.loading import _META

ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).with_name("seeds")
DOCUMENTED = (InputError, RunError)
_SUFFIXES = (".csv", ".tsv", ".parquet", ".inter", ".csv.gz", ".csv.zst", ".dat", ".txt")
_FEATURES = (Feature("title_id", "category", "title", 2), Feature("device", "category", "context", 2))


def tables(data: bytes) -> None:
    """Read a log, a titles table, or raw files of an unknown format; the first byte selects which."""
    if not data:
        return
    kind, content = divmod(data[0], len(_SUFFIXES)), data[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"log{_SUFFIXES[kind[1]]}")
        path.write_bytes(content)
        if kind[0] % 3 == 0:
            propose(str(path), "", "", "fuzz")
            return
        titles = str(path) if kind[0] % 3 == 1 else ""
        columns = Columns(runtime="runtime_minutes" if titles else "", seconds="")
        source = open_source(Tables(interactions=str(path), titles=titles, columns=columns), _FEATURES)
        source.titles()
        for chunk in source.interactions():
            assert len(chunk.user) == len(chunk.title) == len(chunk.time)


def manifest(data: bytes) -> None:
    """Open a dataset whose manifest are these bytes, and read what the manifest describes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(data)
        dataset = Dataset(folder)
        for split in ("train", "validation", "test"):
            dataset.rows(split)


def config(data: bytes) -> None:
    """Check the JSON of a config, or overrides on a command line: one a line after the first byte."""
    if data[:1] == b"{":
        try:
            tree = parse_json(data)
        except ValueError:
            return  # a config of JSON is part of a document that its reader parses
        check(from_run_json(tree))
        return
    arguments = upgrade_arguments(["x", *data.decode("utf-8", "replace").split("\n")])[1:]
    tiny = load_config(str(ROOT / "configs/tiny.py"))
    for argument in arguments:
        key, equals, value = argument.removeprefix("--config.").partition("=")
        _check_override(tiny, key)
        parent, _, name = key.rpartition(".")
        if equals and "[" not in key:
            inner = tiny
            for part in parent.split(".") if parent else ():
                inner = getattr(inner, part)
            setattr(inner, name, value)
    check(tiny)


def checkpoint(data: bytes) -> None:
    """Check the JSON of a checkpoint: the document, its config and layout, the specs of arrays, metrics."""
    try:
        tree = parse_json(data)
    except ValueError:
        return  # `Checkpointer` reports it, with the file
    if isinstance(tree, dict) and "ndcg@1" in tree:
        checked_metric(tree, "checkpoint")
        return
    document = checked_document(tree, "checkpoint")
    check_shape(document["meta"], _META, "meta")
    Layout.from_json(document["meta"]["layout"]).query_dtype()
    check(from_run_json(document["meta"]["config"]))
    try:
        decode_arrays({}, document["arrays"])
    except (ValueError, TypeError):
        return  # `Checkpointer._read` reports these, with the file


def metrics(data: bytes) -> None:
    """Read a metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        path.write_bytes(data)
        for record in read_metrics(path):
            assert isinstance(record, dict)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tables": tables, "manifest": manifest, "config": config, "checkpoint": checkpoint, "metrics": metrics,
}  # fmt: skip


def run(target: str, data: bytes) -> bool:
    """Run a target; return False where the input was refused. Any error that is not documented is a find."""
    try:
        TARGETS[target](data)
    except DOCUMENTED as error:
        assert str(error).strip(), "an error without a text"
        return False
    return True


def seeds(target: str) -> dict[str, bytes]:
    """Return the stored inputs of a target by name."""
    return {path.name: path.read_bytes() for path in sorted((SEEDS / target).iterdir())}


def tiny_config_json() -> bytes:
    """Return the JSON of configs/tiny.py."""
    return json.dumps(to_json(load_config(str(ROOT / "configs/tiny.py")))).encode()
