"""JSON without NaN, infinity or NumPy scalars: atomic writes, and checks of what is read."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrec.core.errors import InputError

if TYPE_CHECKING:  # the loader of exports has no fsspec
    from jaxrec.core.paths import AnyPath


def plain(tree: Any) -> Any:
    """Convert a tree to values that JSON can represent.

    Args:
        tree: Nested mappings, lists and tuples of numbers, strings, None, and NumPy or jax arrays.

    Returns:
        Dicts, lists, numbers, strings and None; None also in place of NaN and infinities.

    Raises:
        TypeError: A value is of another type.
    """
    if isinstance(tree, Mapping):
        return {str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(v) for v in tree]
    if hasattr(tree, "__array__"):  # scalars and arrays of NumPy and jax
        return plain(np.asarray(tree).tolist())
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if tree is None or isinstance(tree, bool | int | str):
        return tree
    raise TypeError(f"{tree!r} is a {type(tree).__name__}, which JSON cannot represent")


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return `old` with the values of `new`, dictionary by dictionary."""
    out = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def dumps(tree: Any) -> str:
    """Return the tree as one line of JSON; arguments and errors are those of `plain`."""
    return json.dumps(plain(tree), allow_nan=False, ensure_ascii=False)


def write_bytes(path: "AnyPath", data: bytes) -> None:
    """Write a file atomically.

    A reader gets the old contents or the new contents, never a mixture.
    """
    if not isinstance(path, Path):  # in a bucket a file appears when it is closed, and a rename is a copy
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_text(path: "AnyPath", text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: "AnyPath", tree: Any) -> None:
    """Write a tree as indented JSON with a final newline, atomically.

    The tree and the errors are those of `plain`.
    """
    write_text(path, json.dumps(plain(tree), allow_nan=False, ensure_ascii=False, indent=1) + "\n")


# ---------------------------------------------------------------- reading

_WORDS = {
    dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number",
    bool: "true or false", type(None): "null",
}  # fmt: skip
ANY_KEY = "*"


def parse_json(data: bytes) -> Any:
    """Return the tree of a JSON file.

    Raises:
        ValueError: The bytes are no JSON, or are nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_kind(value: Any, kind: type) -> bool:
    """Return True for a value of a type of JSON; a bool is no number, and an int is a float."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_shape(tree: Any, shape: Any, what: str, advice: str = "") -> None:
    """Check the keys and types of a JSON tree that this program wrote.

    Args:
        tree: The tree.
        shape: A type of JSON; a list of one shape, for lists; or a dict of shapes by key. A key that ends
            with "?" may be absent, and ANY_KEY stands for all keys. An int is allowed for a float.
        what: File and key of the tree, for the message.
        advice: End of the message: what the user may do.

    Raises:
        InputError: A key is missing, or a value is of another type.
    """
    kind: type = shape if isinstance(shape, type) else type(shape)
    if not _is_kind(tree, kind):
        end = f"; {advice}" if advice else ""
        raise InputError(f"{what} is {_WORDS[type(tree)]}; allowed: {_WORDS[kind]}{end}")
    if isinstance(shape, list):
        for i, value in enumerate(tree):
            check_shape(value, shape[0], f"{what}[{i}]", advice)
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            names = [*tree] if key == ANY_KEY else [key.removesuffix("?")]
            for name in names:
                if name in tree:
                    check_shape(tree[name], inner, f"{what}: {name}", advice)
                elif not key.endswith("?"):
                    raise InputError(f"{what}: {name} is missing{f'; {advice}' if advice else ''}")
