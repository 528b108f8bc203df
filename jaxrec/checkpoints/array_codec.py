"""NumPy arrays, strings and empty ones included, as arrays that Orbax can write."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Encode arrays for Orbax.

    Returns:
        The encoded arrays by name, and [dtype, shape] of each original array. Strings [...] become bytes
        [..., itemsize]. Empty arrays, which TensorStore rejects, have a shape but no encoded array.
    """
    encoded, specs = {}, {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        specs[name] = [array.dtype.str, list(array.shape)]
        if array.dtype.kind in "US":
            array = array.view(np.uint8).reshape(*array.shape, -1)
        if array.size:
            encoded[name] = array
    return encoded, specs


def decode_arrays(encoded: Mapping[str, Any], specs: Mapping[str, list]) -> dict[str, np.ndarray]:
    """Decode arrays; inverse of `encode_arrays`.

    Raises:
        ValueError: The names, a dtype or a shape of the specs are not those of the arrays.
    """
    arrays = {}
    stored = {name for name, (_, shape) in specs.items() if 0 not in shape}
    if stored != set(encoded):
        raise ValueError(f"the names of arrays differ: {', '.join(sorted(stored ^ set(encoded)))}")
    for name, (dtype_text, shape) in specs.items():
        dtype = np.dtype(dtype_text)
        if 0 in shape:
            arrays[name] = np.empty(shape, dtype)
        else:
            array = np.ascontiguousarray(encoded[name])
            array = array.view(dtype).reshape(shape) if dtype.kind in "US" else array
            if (array.dtype, list(array.shape)) != (dtype, shape):
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not {dtype}{shape}")
            arrays[name] = array
    return arrays
