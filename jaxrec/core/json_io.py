"""Results as JSON any reader takes: no NaN or infinity, no NumPy scalars; files whole or not at all."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.core.paths import AnyPath


def plain(tree: Any) -> Any:
    """Dicts, lists, numbers, strings and None. NaN and infinities, which JSON lacks, become None."""
    if isinstance(tree, Mapping):
        return {str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(v) for v in tree]
    if hasattr(tree, "__array__"):  # NumPy's and jax's scalars and arrays
        return plain(np.asarray(tree).tolist())
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if tree is None or isinstance(tree, bool | int | str):
        return tree
    raise TypeError(f"{tree!r} is a {type(tree).__name__}, which JSON cannot hold")


def dumps(tree: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(tree), allow_nan=False, ensure_ascii=False)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Writes the file, or leaves the old one: never half."""
    if not isinstance(path, Path):  # in a bucket a file appears when it is closed, and a rename is a copy
        path.write_bytes(data)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def write_text(path: AnyPath, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: AnyPath, tree: Any) -> None:
    write_text(path, json.dumps(plain(tree), allow_nan=False, ensure_ascii=False, indent=1) + "\n")
