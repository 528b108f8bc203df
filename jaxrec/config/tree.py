"""Checks of a tree of dataclasses against its annotations, and its JSON.

Dataclasses accept anything: a misspelt attribute, None for a number, NaN, a list for a tuple.
Annotations a config may use: float, int, bool, str, None, Literal of strings, tuple[x, ...], dataclasses, and
unions of these.
The root's key is "", so that messages have `train.batch_size` and not `config.train.batch_size`.
"""

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from jaxrec.core.errors import InputError


def require(holds: bool, key: str, value: Any, allowed: str) -> None:
    """Raise InputError `key=value must allowed` unless `holds`."""
    if not holds:
        raise InputError(f"{key or 'config'}={_shown(value)} must {allowed}")


def _shown(value: Any) -> str:
    """Return a value for a message, cut after 300 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python converts to text
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text):,} characters)"


def among(key: str, value: Any, names: Iterable[str]) -> None:
    """Raise InputError unless `value` is one of `names`; the message lists the names."""
    names = [*names]
    require(value in names, key, value, f"be one of {', '.join(names)}{near(value, names)}")


def near(value: Any, names: Iterable[str]) -> str:
    """Return the name that a misspelt one is near to, as the end of a message; "" for none."""
    close = difflib.get_close_matches(value, names, 1, 0.75) if isinstance(value, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def known_key(key: str, name: str, known: Iterable[str]) -> None:
    """Raise InputError unless `name` is a field of the dataclass at `key`.

    Args:
        key: Dotted key of the dataclass, for the message.
        name: Name to check.
        known: Names of the fields.
    """
    if name not in known:
        names = [*known]
        raise InputError(f"{join(key, name)} does not exist; there are {', '.join(names)}{near(name, names)}")


def join(key: str, name: str) -> str:
    """Return the dotted key of the field `name` below `key`; `key` may be empty."""
    return f"{key}.{name}" if key else name


def fields_of(cls: type) -> dict[str, Any]:
    """Return name and resolved annotation of each field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def choices(cls: type, name: str) -> tuple[str, ...]:
    """Return the strings that a field annotated as a Literal may hold."""
    return typing.get_args(fields_of(cls)[name])


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; any other annotation alone."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def is_dataclass_type(annotation: Any) -> bool:
    """Return True if an annotation is a dataclass, and not an instance of one."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _in_words(annotation: Any) -> str:
    """Return an annotation in words."""
    if len(members(annotation)) > 1:
        return " or ".join(_in_words(a) for a in members(annotation))
    if typing.get_origin(annotation) is Literal:
        return f"one of {', '.join(typing.get_args(annotation))}"
    if typing.get_origin(annotation) is tuple:
        return f"a tuple, each {_in_words(typing.get_args(annotation)[0])}"
    words = {float: "a finite number", int: "a whole number", bool: "True or False", str: "a string"}
    name = annotation.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    return words.get(annotation) or ("None" if annotation is types.NoneType else f"{article} {name}")


def _fits(value: Any, annotation: Any) -> bool:
    """Return True for a value of the annotation's outermost type; a bool is no number."""
    if len(members(annotation)) > 1:
        return any(_fits(value, a) for a in members(annotation))
    if typing.get_origin(annotation) is Literal:
        return value in typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return isinstance(value, tuple)
    if annotation is float:
        if isinstance(value, int) and not isinstance(value, bool):
            return abs(value) <= sys.float_info.max
        return isinstance(value, float) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return (
        type(value) is annotation if dataclasses.is_dataclass(annotation) else isinstance(value, annotation)
    )


def walk(value: Any, annotation: Any, key: str = "") -> None:
    """Check a value, and all values inside it, against its annotation.

    Args:
        value: Value of any type.
        annotation: Resolved annotation of the value.
        key: Dotted key of the value, for the message.

    Raises:
        InputError: The first value that does not fit.
    """
    require(_fits(value, annotation), key, value, f"be {_in_words(annotation)}")
    if isinstance(value, tuple):
        for i, element in enumerate(value):
            walk(element, typing.get_args(annotation)[0], f"{key}[{i}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = fields_of(type(value))
        for name in vars(value):
            known_key(key, name, known)
        for name, inner in known.items():
            walk(getattr(value, name), inner, join(key, name))


def encode(value: Any, annotation: Any) -> Any:
    """Return the JSON of a checked value.

    A dataclass of a union has a key `class`. A whole number for a float becomes a float, so that 1 and 1.0
    are one config.
    """
    if isinstance(value, tuple):
        return [encode(v, typing.get_args(annotation)[0]) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {"class": type(value).__name__} if len(members(annotation)) > 1 else {}
        return tag | {n: encode(getattr(value, n), a) for n, a in fields_of(type(value)).items()}
    if float in members(annotation) and value is not None:
        return float(value)
    return value


def decode(value: Any, annotation: Any, key: str = "") -> Any:
    """Return the value of a JSON tree: the inverse of `encode`.

    Leaves are not checked; `walk` checks them. A missing field has its default: the behaviour before the
    field
    existed.

    Raises:
        InputError: A key is unknown, or a key without a default is missing.
    """
    if typing.get_origin(annotation) is tuple:
        require(isinstance(value, list), key, value, "be a list")
        return tuple(decode(v, typing.get_args(annotation)[0], f"{key}[{i}]") for i, v in enumerate(value))
    classes: dict[str, type] = {c.__name__: c for c in members(annotation) if is_dataclass_type(c)}
    if not classes:
        return value
    require(isinstance(value, dict), key, value, "be an object")
    cls = next(iter(classes.values()))
    if len(classes) > 1:
        require("class" in value, key, sorted(value), f"hold a class, one of {', '.join(classes)}")
        among(join(key, "class"), value["class"], classes)
        cls = classes[value["class"]]
        value = {n: v for n, v in value.items() if n != "class"}
    known = fields_of(cls)
    for name in value:
        known_key(key, name, known)
    for field in dataclasses.fields(cls):
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        require(field.name in value or has_default, key, sorted(value), f"hold {field.name}")
    return cls(**{n: decode(value[n], a, join(key, n)) for n, a in known.items() if n in value})


def differences(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (before, after) of the leaves in which JSON trees differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        out: dict[str, tuple[Any, Any]] = {}
        for name in sorted({*before, *after}):
            out |= differences(before.get(name), after.get(name), join(key, name))
        return out
    return {} if before == after else {key: (before, after)}
