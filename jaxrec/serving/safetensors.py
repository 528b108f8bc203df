"""Files of named arrays in the safetensors format, written and read with NumPy alone.

A file holds 8 bytes with the length of the header (little-endian), the header in JSON, and the bytes of the
arrays in C order. The header maps a name to `dtype`, `shape` and `data_offsets`, two positions after the
header. A file can hold no code.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError

_MAX_HEADER = 100_000_000  # bytes, the limit of the format
_ALIGNMENT = 8
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_BFLOAT16 = "BF16"


def to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the contents of a file.

    Args:
        arrays: Name -> array; stored in the order of the names.
        metadata: Text values of the header.

    Raises:
        TypeError: The format has no name for the dtype of an array.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, start = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        offsets = [start, start + len(data)]
        header[name] = {
            "dtype": _dtype_name(array.dtype),
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        parts.append(data)
        start = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Raises:
        InputError: The file is not of the format.
    """
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise InputError(f"{path}: the header has {size} bytes of {len(data)}; allowed: a safetensors file")
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {name: _array(data, 8 + size, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}; allowed: a safetensors file") from error


def _array(data: bytes, base: int, entry: Mapping[str, Any]) -> np.ndarray:
    """Return the array of one entry of the header."""
    start, end = entry["data_offsets"]
    dtype, count = _dtype(entry["dtype"]), int(np.prod(entry["shape"], dtype=np.int64))
    if not 0 <= start <= end <= len(data) - base or end - start != count * dtype.itemsize:
        raise ValueError(f"data_offsets={[start, end]} do not fit shape={entry['shape']} in the file")
    return np.frombuffer(data, dtype, count, base + start).reshape(entry["shape"])


def _dtype(name: str) -> np.dtype:
    # NumPy has bfloat16 by its name once jax is imported; without it, a TypeError.
    return np.dtype("bfloat16" if name == _BFLOAT16 else _DTYPES[name])


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.name == "bfloat16":
        return _BFLOAT16
    if dtype not in _NAMES:
        raise TypeError(f"{dtype} has no name in a safetensors file")
    return _NAMES[dtype]
