"""A config as JSON, and what of it names a dataset or tells two runs apart."""

import hashlib
import json
from typing import Any

from jaxrec.config.schema import Config, Data
from jaxrec.config.tree import decode, differences, encode, walk
from jaxrec.config.validation import check

# What may change between a run and its resumption: none of it changes what is computed.
_FREE = {
    "train": (
        "log_seconds", "checkpoint_every_seconds", "prefetch", "preempted_exit", "grace_seconds",
        "heartbeat_seconds", "join_seconds", "microbatch", "dispatch",
    ),
    "data": ("directory", "workers", "partitions"),
    "evaluate": ("batch_size", "which", "next_k"),
    "model": ("attention", "remat"),
}  # fmt: skip
_NOT_IN_DIGEST = ("directory", "workers", "partitions")  # they move the dataset, never its bytes
# Not in it while they have their defaults: datasets prepared before there were such fields stay valid.
_LATER = ("path", "examples", "rows", "split", "validation_from", "test_from")


def to_json(config: Config) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings; a dataclass out of a union says its `class`."""
    return encode(config, Config)


def from_json(tree: dict[str, Any]) -> Config:
    """The inverse of `to_json`, checked. Raises InputError on an unknown key, a missing one that has no
    default, or a wrong value."""
    config = decode(_renamed(tree), Config)
    check(config)
    return config


def _renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of when train.checkpoint_every_seconds was train.save_minutes, as it is written now."""
    train = tree.get("train")
    if not isinstance(train, dict) or "save_minutes" not in train:
        return tree
    walk(train["save_minutes"], float, "train.save_minutes")
    others = {name: value for name, value in train.items() if name != "save_minutes"}
    return tree | {"train": others | {"checkpoint_every_seconds": 60.0 * train["save_minutes"]}}


def digest(config: Config) -> str:
    """Hex sha256 over what decides the dataset: source, features and data, but for where it lies and
    how the work was split."""
    tree = to_json(config)
    left_out = (*_NOT_IN_DIGEST, *(k for k in _LATER if tree["data"][k] == getattr(Data(), k)))
    data = {k: v for k, v in tree["data"].items() if k not in left_out}
    parts = {"source": tree["source"], "features": tree["features"], "data": data}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
        for key, values in differences(to_json(decode(_renamed(kept), Config)), now).items()
        if key not in free
    }
