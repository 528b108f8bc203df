"""Old names of config fields, and how old configs are read today.

A config's JSON in a workdir or checkpoint, a key on the command line, and a keyword or an assignment in a
Python config may use an old name or an old value; outside JSON, one line on standard error gives the new one.
A removed field is dropped where it has the value that stands for what is done today, and refused by name
where it has another. A removed value of a field is refused by name. Digests of datasets are computed over the
old names, so datasets prepared before are found.
"""

import dataclasses
import functools
import re
import sys
import typing
from collections.abc import Callable
from typing import Any

from jaxrec.config import schema
from jaxrec.config.tree import choices, fields_of, is_dataclass_type, members, require, walk
from jaxrec.core.formats.old_layouts import RENAMED_ROWS

# Class -> old field -> new field.
RENAMED: dict[type, dict[str, str]] = {
    schema.Config: {"next_title": "next_item"},
    schema.Data: {
        "history": "max_history",
        "next_k": "num_targets",
        "abandon_below": "abandon_threshold",
        "max_dropped": "max_invalid_fraction",
    },
    schema.Sampling: {"unknown_rate": "id_dropout", "labels": "target_weights"},
    schema.Expert: {
        "window": "max_len",
        "layers": "num_layers",
        "heads": "num_heads",
        "feedforward": "mlp_ratio",
        "kind": "encoder",
    },
    schema.Gate: {"noise": "noise_std", "anneal": "anneal_fraction"},
    schema.Model: {
        "matcher": "head_hidden",
        "reads": "features",
        "two_tables": "untied_item_embeddings",
        "title_table": "item_table_sharding",
        "embedding_spread": "embedding_init_std",
        "retrieval": "retrieval_dim",
        "attention": "attention_impl",
    },
    schema.NextItem: {
        "drawn": "negative_distribution",
        "shared": "negatives_shared_by",
        "log_q": "logq_correction",
        "budget": "logits_budget_mib",
    },
    schema.Optimizer: {
        "b2": "beta2",
        "warmup": "warmup_steps",
        "decay": "weight_decay_mode",
        "average": "ema_decay",
    },
    schema.Train: {
        "length": "duration",
        "microbatch": "microbatch_size",
        "dispatch": "steps_per_call",
        "preempted_exit": "preemption_exit_code",
    },
    schema.Evaluate: {"score": "ranking_head", "which": "checkpoint"},
}

# Class -> removed field -> the value that stands for what is done today.
REMOVED: dict[type, dict[str, Any]] = {
    schema.Data: {"rows": "one"},
    schema.Optimizer: {"lazy": False, "decay_spares": "nothing"},
}

# Class -> field -> removed values.
REMOVED_VALUES: dict[type, dict[str, tuple[str, ...]]] = {
    schema.Model: {"attention_impl": ("cudnn", "broadcast")},
}

# Class -> field -> old value -> new value.
RENAMED_VALUES: dict[type, dict[str, dict[str, str]]] = {
    schema.NextItem: {"negatives_shared_by": {"place": "position"}},
}

# Value of data.examples that was the rows of a task before task.name.
OLD_EXAMPLES, TASK_OF_OLD_EXAMPLES = "sequences", "next_item"

_KEYS = {  # of the classes above, for messages
    schema.Config: "", schema.Data: "data.", schema.Sampling: "sampling.", schema.Gate: "model.gate.",
    schema.Expert: "model.experts[i].", schema.Model: "model.", schema.NextItem: "next_item.",
    schema.Optimizer: "optimizer.", schema.Train: "train.", schema.Evaluate: "evaluate.",
}  # fmt: skip


# ---------------------------------------------------------------- JSON


def upgrade(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a config's JSON with the current names.

    Raises:
        InputError: A removed field had another value than its default, or a field has a removed value.
    """
    tree = _upgrade(tree, schema.Config)
    data, train = tree.get("data"), tree.get("train")
    if isinstance(data, dict) and data.get("examples") == OLD_EXAMPLES:
        data = {name: value for name, value in data.items() if name != "examples"}
        tree = {"task": {"name": TASK_OF_OLD_EXAMPLES}} | tree | {"data": data}
    if isinstance(train, dict) and "save_minutes" in train:  # of before train.checkpoint_every_seconds
        walk(train["save_minutes"], float, "train.save_minutes")
        others = {name: value for name, value in train.items() if name != "save_minutes"}
        tree = tree | {"train": others | {"checkpoint_every_seconds": 60.0 * train["save_minutes"]}}
    return tree


def _upgrade(value: Any, annotation: Any) -> Any:
    """Return `value`, the JSON of a field of this annotation, with new names at every level."""
    if typing.get_origin(annotation) is tuple and isinstance(value, list):
        return [_upgrade(element, typing.get_args(annotation)[0]) for element in value]
    classes = [c for c in members(annotation) if is_dataclass_type(c)]
    if len(classes) != 1 or not isinstance(value, dict):
        return value
    cls = classes[0]
    known, renamed, removed = fields_of(cls), RENAMED.get(cls, {}), REMOVED.get(cls, {})
    upgraded = {}
    for old, inner in value.items():
        if old in removed and old not in known:
            _refuse_unless_default(cls, old, inner)
            continue
        name = str(renamed.get(old, old))
        _refuse_removed_value(cls, name, inner)
        inner = _renamed_value(cls, name, inner)
        upgraded[name] = _upgrade(inner, known[name]) if name in known else inner
    return upgraded


def without_removed_values(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a run's config without the fields that have a removed value, with one line for each.

    Only for a run made before, whose results do not depend on these fields: they have their defaults then.
    """
    for cls, fields in REMOVED_VALUES.items():
        part = _KEYS[cls].rstrip(".")
        section = tree.get(part)
        for name, value in section.items() if isinstance(section, dict) else ():
            current = str(RENAMED[cls].get(name, name))
            if value in fields.get(current, ()):
                print(f"config: {part}.{name}={value!r} was removed; the default is read", file=sys.stderr)
                tree = tree | {part: {key: v for key, v in tree[part].items() if key != name}}
    return tree


def _refuse_removed_value(cls: type, name: str, value: Any) -> None:
    removed = REMOVED_VALUES.get(cls, {}).get(name, ())
    if value in removed:
        names = ", ".join(choices(cls, name))
        require(False, f"{_KEYS[cls]}{name}", value, f"be one of {names}: it was removed")


def _renamed_value(cls: type, name: Any, value: Any) -> Any:
    """Return the value of a field with the word of today."""
    renamed = RENAMED_VALUES.get(cls, {}).get(name, {})
    return renamed.get(value, value) if isinstance(value, str) else value


def _refuse_unless_default(cls: type, name: str, value: Any) -> None:
    default = REMOVED[cls][name]
    require(value == default, f"{_KEYS[cls]}{name}", value, f"be {default!r}: other values were removed")


def old_data_fields(config: schema.Config) -> dict[str, str]:
    """Return new name -> old name of the fields of `data`, for digests."""
    old = {new: name for name, new in RENAMED[schema.Data].items()}
    return {name: old.get(name, name) for name in fields_of(type(config.data))}


def old_examples(config: schema.Config) -> str:
    """Return the value that the old field data.examples has for the rows of the config's task."""
    old = {new: examples for examples, new in RENAMED_ROWS.items()}
    return old.get(config.rows, config.rows)


# ---------------------------------------------------------------- keys of the command line and of studies


def renamed_key(key: str) -> str:
    """Return a dotted key with the current names, as "data.max_history" for "data.history"."""
    annotation: Any = schema.Config
    names = []
    for part in key.split("."):
        name, bracket, index = part.partition("[")
        classes = [c for c in members(annotation) if is_dataclass_type(c)]
        cls = classes[0] if len(classes) == 1 else None
        name = RENAMED.get(cls, {}).get(name, name) if cls else name
        names.append(f"{name}{bracket}{index}")
        annotation = fields_of(cls).get(name) if cls else None
        if typing.get_origin(annotation) is tuple:
            annotation = typing.get_args(annotation)[0]
    return ".".join(names)


def upgrade_arguments(arguments: list[str]) -> list[str]:
    """Return command-line arguments with the current names in --config.key=value.

    Raises:
        InputError: A removed field has another value than its default, or a field has a removed value.
    """
    return [new for argument in arguments for new in _upgrade_argument(argument)]


def _upgrade_argument(argument: str) -> list[str]:
    match = re.fullmatch(r"(--?)(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
    if not match:
        return [argument]
    dashes, negation, key, value = match[1], match[2] or "", match[3], match[4]
    if key == "data.examples" and value == OLD_EXAMPLES:
        _note(f"{key}={value}", f"task.name={TASK_OF_OLD_EXAMPLES}")
        return [f"{dashes}config.task.name={TASK_OF_OLD_EXAMPLES}"]
    for cls, removed in REMOVED.items():
        name = key.removeprefix(_KEYS[cls])
        if key == f"{_KEYS[cls]}{name}" and name in removed and name not in fields_of(cls):
            value_now = {"true": True, "false": False, None: not negation}.get(value and value.lower(), value)
            _refuse_unless_default(cls, name, value_now)
            return []
    new = renamed_key(key)
    for cls in REMOVED_VALUES:
        _refuse_removed_value(cls, new.removeprefix(_KEYS[cls]), value)
    if new == key:
        return [argument]
    _note(key, new)
    return [f"{dashes}{negation}config.{new}" + ("" if value is None else f"={value}")]


# ---------------------------------------------------------------- Python configs


def accept_old_names() -> None:
    """Accept old names as keywords of config classes and in assignments.

    The package calls this function once.
    """
    for cls in {*RENAMED, *REMOVED, *REMOVED_VALUES, *RENAMED_VALUES}:
        _accept_old_names(cls)


def _accept_old_names(cls: type) -> None:
    renamed, removed = RENAMED.get(cls, {}), REMOVED.get(cls, {})
    original = cls.__init__  # type: ignore[misc]

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for old in [name for name in kwargs if name in renamed or name in removed]:
            value = kwargs.pop(old)
            if old in renamed:
                kwargs[_current(cls, old)] = value
            else:
                setattr(self, old, value)
        original(self, *args, **kwargs)

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if name in renamed:
            name = _current(cls, name)
        elif cls is schema.Data and name == "examples" and value == OLD_EXAMPLES:
            _note(f"data.examples={value!r}", f"task.name={TASK_OF_OLD_EXAMPLES!r}")
            self.__dict__["_task_name"] = TASK_OF_OLD_EXAMPLES  # until `adopt_task`
            value = "requests"
        elif name in removed:
            _refuse_unless_default(cls, name, value)
            return
        _refuse_removed_value(cls, name, value)
        now = _renamed_value(cls, name, value)
        if now is not value:
            _note(f"{_KEYS[cls]}{name}={value!r}", repr(now))
        object.__setattr__(self, name, now)

    patched: Callable = init
    cls.__init__ = patched  # type: ignore[misc]
    cls.__setattr__ = set_attribute  # type: ignore[assignment]


def adopt_task(config: schema.Config) -> None:
    """Set `task.name` from an old `Data(examples=...)`, after reading a config file."""
    data = config.data
    name = (
        vars(data).pop("_task_name", None) if isinstance(data, schema.Data) else None
    )  # `check` refuses others
    if name is not None:
        config.task = dataclasses.replace(config.task, name=name)


def _current(cls: type, old: str) -> str:
    new = RENAMED[cls][old]
    _note(f"{_KEYS[cls]}{old}", f"{_KEYS[cls]}{new}")
    return new


_noted: set[str] = set()


def _note(old: str, new: str) -> None:
    """Print, once per name, that `old` is now `new`."""
    if old not in _noted:
        _noted.add(old)
        print(f"config: {old} is now {new}", file=sys.stderr, flush=True)
