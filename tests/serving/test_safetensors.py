"""The safetensors format: bytes worked by hand, all dtypes, damaged files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.serving import safetensors


def test_the_bytes_of_a_file(tmp_path):
    contents = safetensors.to_bytes(
        {"b": np.array([1.0, -2.0], np.float32), "a": np.array([[258]], np.int32)}
    )
    header = (
        b'{"a":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    data = b"\x02\x01\x00\x00" + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0"
    assert contents == len(padded).to_bytes(8, "little") + padded + data
    (tmp_path / "f").write_bytes(contents)
    arrays = safetensors.read(tmp_path / "f")
    assert arrays["a"].tolist() == [[258]] and arrays["b"].tolist() == [1.0, -2.0]


def test_arrays_of_all_dtypes_are_read_back(tmp_path):
    dtypes = (np.float64, np.float16, np.int64, np.int8, np.uint32, np.uint8, bool, jnp.bfloat16)
    arrays = {np.dtype(d).name: np.arange(6).reshape(2, 3).T.astype(d) for d in dtypes}
    arrays |= {"scalar": np.float32(3.5), "empty": np.empty((4, 0), np.float32)}
    (tmp_path / "f").write_bytes(safetensors.to_bytes(arrays, {"format": "test"}))
    read = safetensors.read(tmp_path / "f")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
    with pytest.raises(TypeError, match="complex64 has no name"):
        safetensors.to_bytes({"x": np.zeros(1, np.complex64)})


@pytest.mark.parametrize(
    "entry", [{"data_offsets": [0, 8]}, {"shape": [3]}, {"dtype": "F8"}, {"data_offsets": [-4, 0]}]
)
def test_a_wrong_header_is_refused(entry, tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}).encode()
    (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(InputError, match="allowed: a safetensors file"):
        safetensors.read(tmp_path / "f")


@pytest.mark.parametrize("contents", [b"", b"\xff" * 8, (9).to_bytes(8, "little") + b"not json!"])
def test_another_file_is_refused(contents, tmp_path):
    (tmp_path / "f").write_bytes(contents)
    with pytest.raises(InputError, match="allowed: a safetensors file"):
        safetensors.read(tmp_path / "f")
