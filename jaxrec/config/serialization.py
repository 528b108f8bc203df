"""Configs as JSON, the digest that names a dataset, and the differences between two runs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jaxrec.config import migrations
from jaxrec.config.schema import Columns, Config, Data, FileFormat, Label, Signal, Simulator, Tables
from jaxrec.config.tree import decode, differences, encode, require
from jaxrec.config.validation import check

# Fields that may change between a run and its resumption: none changes what is computed.
_FREE = {
    "train": (
        "log_seconds", "checkpoint_every_seconds", "prefetch", "preemption_exit_code", "grace_seconds",
        "heartbeat_seconds", "join_seconds", "patience", "microbatch_size", "steps_per_call", "on_nonfinite",
        "resident",
    ),
    "data": ("directory", "workers", "partitions", "verify"),
    "evaluate": (
        "batch_size", "checkpoint", "next_k", "seen", "report", "report_users", "blends", "delay_hours",
    ),
    "model": ("attention_impl", "remat"),
    "codes": ("path", "beam", "vectors"),  # `check_same_run` compares the codes themselves
}  # fmt: skip
_NOT_IN_DIGEST = ("directory", "workers", "partitions", "verify")  # they move the dataset, never its bytes
# Left out of a digest at their defaults: datasets prepared before these fields existed stay valid.
_LATER = (
    "path", "split", "validation_from", "test_from", "examples", "fold", "truth_queries", "served",
    "request_window_seconds", "since", "until", "replay", "only", "continues", "capacity", "session",
    "session_gap_minutes", "validation_truth_queries", "tokens", "merge_minutes", "matching",
)  # fmt: skip
_NOT_IN_LABELS = ("of_drawn",)  # read by heads alone
_LATER_FORMATS = ("interactions_format", "titles_format", "users_format", "signals_format")
_LATER_COLUMNS = (
    "time_decimals", "seconds_unit", "runtime_unit", "log_runtime", "null_words", "value", "outcomes",
)  # fmt: skip
_LATER_SIMULATOR = (
    "habit", "surprise", "thumbs", "leniency", "ratings", "lists", "impressions_logged",
    "test_impressions_logged", "trailers", "launches", "novelty", "trend", "countries", "country_taste",
    "unlicensed", "mood_moves", "regimes", "search", "similar", "kinship",
)  # fmt: skip


def to_json(config: Config) -> dict[str, Any]:
    """Return the JSON of a config: dicts, lists, numbers and strings.

    A dataclass of a union has a key `class`.
    """
    return encode(config, Config)


def from_json(tree: dict[str, Any]) -> Config:
    """Return the checked config of a JSON tree: the inverse of `to_json`.

    Raises:
        InputError: A key is unknown, a key without a default is missing, or a value is wrong.
    """
    require(isinstance(tree, dict), "config", tree, "be an object")
    config = decode(migrations.upgrade(tree), Config)
    check(config)
    return config


def from_run_json(tree: dict[str, Any]) -> Config:
    """Return the config of a run that was made before, as `from_json`.

    A field in `_FREE` with a removed value has its default instead, with one line on standard error: such a
    value suits the training machine, and no result depends on it.
    """
    return from_json(migrations.without_removed_values(tree))


def digest(config: Config) -> str:
    """Return the hex sha256 of the config's source, features, signals, labels and data settings.

    These settings determine the dataset's bytes. Fields go by their old names (`config.migrations`), so that
    datasets prepared before a renaming are found.
    """
    tree, old = to_json(config), migrations.old_data_fields(config)
    left_out = (*_NOT_IN_DIGEST, *(k for k in _LATER if getattr(config.data, k) == getattr(Data(), k)))
    data = {old[name]: value for name, value in tree["data"].items() if name not in left_out}
    if config.rows != "ranking":
        data["examples"] = migrations.old_examples(config)
    hashed: dict[str, Any] = {
        "source": _source_for_digest(config, tree["source"]),
        # A feature that is a label or a code adds nothing to a row: such a config shares the dataset of
        # others.
        "features": [
            _feature_for_digest(f) for f in tree["features"] if f["where"] != "label" and f["kind"] != "codes"
        ],
        "data": data,
    }
    # Datasets without signals and labels keep the digests of before there were any, and those with them keep
    # theirs if a field is added.
    hashed |= {name: declarations_for_digest(declared) for name, declared in (
        ("signals", config.signals), ("labels", config.labels),
    ) if declared}  # fmt: skip
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def declarations_for_digest(declared: Sequence[Signal | Label]) -> list[dict[str, Any]]:
    """Return the JSON of declarations, each without the fields that have their defaults."""
    return [_not_at_defaults(declaration) for declaration in declared]


def _not_at_defaults(declaration: Signal | Label) -> dict[str, Any]:
    """Return the JSON of a declaration without the fields that have their defaults."""
    defaults = {field.name: field.default for field in fields(declaration)}
    tree = encode(declaration, type(declaration))
    return {
        name: value
        for name, value in tree.items()
        if getattr(declaration, name) != defaults[name] and name not in _NOT_IN_LABELS
    }


def _feature_for_digest(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a feature without fields newer than FORMAT 3 that have their defaults."""
    later = {"available": "request", "impute": "null"}
    return {name: value for name, value in tree.items() if value != later.get(name)}


def _source_for_digest(config: Config, tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of the source without fields that are newer than FORMAT 3, at their defaults."""
    if isinstance(config.source, Simulator):
        default = Simulator()
        return {k: v for k, v in tree.items() if k not in _LATER_SIMULATOR or v != getattr(default, k)}
    if not isinstance(config.source, Tables):
        return tree
    columns, source = encode(Columns(), Columns), dict(tree)
    source["columns"] = {
        k: v for k, v in tree["columns"].items() if k not in _LATER_COLUMNS or v != columns[k]
    }
    for name in _LATER_FORMATS:
        if getattr(config.source, name) == FileFormat():
            del source[name]
    return source


def dataset_directory(config: Config) -> str:
    """Return the directory of the prepared dataset.

    It is `data.directory`, or data/<source>-<start of the digest>: configs that differ in the model alone
    share a dataset.
    """
    return config.data.directory or f"data/{type(config.source).__name__.lower()}-{digest(config)[:12]}"


def run_differences(kept: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a run that differ between two configs.

    A field that `kept` lacks has its default. Settings that do not change a run's result are left out.

    Args:
        kept: JSON of the config of the existing run.
        now: JSON of the config of the new run.

    Returns:
        Dotted key -> (value in `kept`, value in `now`).

    Raises:
        InputError: `kept` is not the JSON of a config.
    """
    free = {f"{part}.{name}" for part, names in _FREE.items() for name in names}
    before = decode(migrations.upgrade(migrations.without_removed_values(kept)), Config)
    return {key: values for key, values in differences(to_json(before), now).items() if key not in free}
