"""Tests of damaged files of a dataset: each is refused in one line that names the file."""

import json
import shutil

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset, sealed

AGAIN = "; remove the folder and prepare it again"


@pytest.fixture
def directory(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "d")
    return tmp_path / "d"


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def read_all(directory):
    """Read all that a dataset holds."""
    dataset = Dataset(directory)
    dataset.arrays  # noqa: B018
    for split in ("train", "validation", "test"):
        dataset.rows(split).all()
        if split != "train":
            dataset.user_keys(split)
            dataset.seen_titles(split)
    dataset.daily_plays()


def refused(directory):
    with pytest.raises(InputError) as error:
        read_all(directory)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"dataset {directory}: ")


def test_a_whole_dataset_is_read(directory):
    read_all(directory)


def test_each_array_is_compared_with_its_checksum(directory):
    arrays = sorted(directory.glob("*.npy"))
    assert len(arrays) >= 12
    for path in arrays:
        content = path.read_bytes()
        flip(path, len(content) - 1)
        assert refused(directory).startswith(f"{path.name} is damaged: sha256 ")
        cut(path, len(content) // 2)
        sizes = f"{len(content) // 2:,} bytes in place of {len(content):,}"
        assert refused(directory) == f"{path.name} is damaged: {sizes}{AGAIN}"
        path.unlink()
        assert refused(directory) == f"{path.name} cannot be read: No such file or directory{AGAIN}"
        path.write_bytes(content)
    read_all(directory)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_block_of_a_shard_is_compared(directory, split):
    path = directory / f"{split}-00000.rows"
    content = path.read_bytes()
    for position in np.linspace(100, len(content) // 2, 5).astype(int):
        flip(path, position)
        assert refused(directory).startswith(f"{path.name} is damaged: Corrupted Riegeli")
        path.write_bytes(content)
    for size in (0, 10, len(content) // 2, len(content) - 1):
        cut(path, size)
        assert refused(directory).startswith(f"{path.name} is damaged: ")
        path.write_bytes(content)
    path.unlink()
    assert "is missing" in refused(directory)


def test_a_manifest_that_is_damaged_or_edited_is_refused(directory, tiny_config):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    edited = "manifest.json was changed after the preparation" + AGAIN
    for changes in ({"titles": 5}, {"fingerprint": "0"}, {"files": {}}, {"splits": {}}):
        path.write_text(json.dumps(manifest | changes))
        assert refused(directory) == edited
    with pytest.raises(InputError, match="was changed after the preparation"):
        ensure_dataset(tiny_config, directory)
    for text in ("", "{", "[]", "3", '"x"', "{}", "\0\0"):
        path.write_text(text)
        assert refused(directory).startswith("manifest.json is ")
    path.write_text(json.dumps(sealed(manifest), indent=7))  # the layout of the text is no content
    read_all(directory)


def test_a_dataset_from_before_there_were_checksums_is_read(directory):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"], manifest["checksum"]
    path.write_text(json.dumps(manifest))
    read_all(directory)
