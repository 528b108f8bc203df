"""A config as JSON, and what of it names a dataset or tells two runs apart."""

import hashlib
import json
from typing import Any

from jaxrec.config import migrations
from jaxrec.config.schema import Config, Data
from jaxrec.config.tree import decode, differences, encode
from jaxrec.config.validation import check

# What may change between a run and its resumption: none of it changes what is computed.
_FREE = {
    "train": (
        "log_seconds", "checkpoint_every_seconds", "prefetch", "preemption_exit_code", "grace_seconds",
        "heartbeat_seconds", "join_seconds", "microbatch_size", "steps_per_call",
    ),
    "data": ("directory", "workers", "partitions"),
    "evaluate": ("batch_size", "checkpoint", "next_k"),
    "model": ("attention_impl", "remat"),
}  # fmt: skip
_NOT_IN_DIGEST = ("directory", "workers", "partitions")  # they move the dataset, never its bytes
# Left out of a digest at their defaults: datasets prepared before these fields existed stay valid.
_LATER = ("path", "split", "validation_from", "test_from")


def to_json(config: Config) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings; a dataclass out of a union says its `class`."""
    return encode(config, Config)


def from_json(tree: dict[str, Any]) -> Config:
    """The inverse of `to_json`, checked. Raises InputError on an unknown key, a missing one that has no
    default, or a wrong value."""
    config = decode(migrations.upgrade(tree), Config)
    check(config)
    return config


def digest(config: Config) -> str:
    """Return the hex sha256 of all that decides the dataset's bytes: source, features and data.

    Fields go by their old names (`config.migrations`), so that datasets prepared before a renaming are found.
    """
    tree, old = to_json(config), migrations.old_data_fields(config)
    left_out = (*_NOT_IN_DIGEST, *(k for k in _LATER if tree["data"][k] == getattr(Data(), k)))
    data = {old[name]: value for name, value in tree["data"].items() if name not in left_out}
    examples = migrations.old_examples(config)
    if examples != "requests":
        data["examples"] = examples
    hashed = {"source": tree["source"], "features": tree["features"], "data": data}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def dataset_directory(config: Config) -> str:
    """Where the prepared dataset lies: `data.directory`, or data/<source>-<start of the digest>, so that
    configs which differ in the model alone share it."""
    return config.data.directory or f"data/{type(config.source).__name__.lower()}-{digest(config)[:12]}"


def run_differences(kept: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (kept, now) of the settings in which the JSON of two configs makes two runs. Raises
    InputError where `kept` is none; a field it does not know yet has its default."""
    free = {f"{part}.{name}" for part, names in _FREE.items() for name in names}
    return {
        key: values
        for key, values in differences(to_json(decode(migrations.upgrade(kept), Config)), now).items()
        if key not in free
    }
