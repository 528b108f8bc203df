"""A dataset in a bucket equals the local one, complete once it has a manifest."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from bucket import FOLDER, S3, Bucket

from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import as_path, send_folder
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.sources import open_source


def prepare_in(config, directory):
    prepare(open_source(config.source, config.features), config, directory)


@pytest.fixture
def sent(bucket, tiny_directory):
    """The path of the tiny dataset in a bucket."""
    send_folder(tiny_directory, as_path(f"{bucket}/d"), last="manifest.json")
    return f"{bucket}/d"


def cached_shards(tmp_path: Path) -> dict[str, Path]:
    """Return the files in the cache, by name."""
    return {p.name: p for p in (tmp_path / "cache/jaxrec/datasets").glob("*/*") if p.name[0] != "."}


def object_path(key: str) -> Path:
    return Path(os.environ[FOLDER]) / "s3" / f"bucket%2Fd%2F{key}"


def test_a_dataset_in_a_bucket_equals_the_local_one(
    bucket, tiny_config, tiny, tiny_directory, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    prepare_in(tiny_config, f"{bucket}/d")
    assert Bucket.log[-1] == ("put", "bucket/d/manifest.json")
    assert list((tmp_path / "scratch").iterdir()) == []  # the temporary folder is empty again
    for path in tiny_directory.iterdir():
        assert object_path(path.name).read_bytes() == path.read_bytes()
    remote = Dataset(f"{bucket}/d")
    assert remote.fingerprint == tiny.fingerprint and str(remote.directory) == "s3://bucket/d"
    for split in SPLITS:
        assert np.array_equal(remote.rows(split).all(), tiny.rows(split).all())
    for name, array in vars(tiny.arrays).items():
        assert np.array_equal(vars(remote.arrays)[name], array)
    assert np.array_equal(remote.user_keys("test"), tiny.user_keys("test"))


def test_without_a_manifest_there_is_no_dataset(bucket, tiny_config, tmp_path, monkeypatch):
    def full(operation, key):
        if key.endswith("users_test.npy"):
            raise OSError("the bucket is full")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "before", staticmethod(full))
        with pytest.raises(OSError, match="the bucket is full"):
            prepare_in(tiny_config, f"{bucket}/d")
    assert S3.objects() and "bucket/d/manifest.json" not in S3.objects()
    assert not list(tmp_path.glob("jaxrec-*"))
    with pytest.raises(InputError, match=r"dataset s3://bucket/d: no manifest\.json; prepare it"):
        Dataset(f"{bucket}/d")
    prepare_in(tiny_config, f"{bucket}/d")
    Dataset(f"{bucket}/d").rows("test").all()
    with pytest.raises(InputError, match="dataset s3://bucket/d: exists; remove it, or name another"):
        DatasetWriter(f"{bucket}/d")


def test_shards_are_copied_once_and_logged(sent, tiny, tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "info", lambda text, *values: messages.append(text % values))
    rows = Dataset(sent).rows("train")
    assert cached_shards(tmp_path) == {}  # nothing is copied before a row is read
    expected = tiny.rows("train")
    assert np.array_equal(rows.read(np.array([1, 0])), expected.read(np.array([1, 0])))
    assert set(cached_shards(tmp_path)) == {"train-00000.rows"}
    assert messages == [
        f"dataset {sent}: copying 1 shards to {cached_shards(tmp_path)['train-00000.rows'].parent}"
    ]
    shard = ("get", "bucket/d/train-00000.rows")
    assert Bucket.log.count(shard) == 1
    assert np.array_equal(Dataset(sent).rows("train").all(), expected.all())
    assert Bucket.log.count(shard) == 1 and len(messages) == 1


def test_a_truncated_copy_is_replaced(sent, tiny, tmp_path):
    Dataset(sent).rows("test").all()
    path = cached_shards(tmp_path)["test-00000.rows"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    path.with_name(".test-00000.rows.part").write_bytes(b"left by a killed process")
    assert np.array_equal(Dataset(sent).rows("test").all(), tiny.rows("test").all())
    assert path.read_bytes() == whole


def test_a_shard_that_differs_from_the_manifest_is_refused(sent, tmp_path):
    whole = object_path("test-00000.rows").read_bytes()
    object_path("test-00000.rows").write_bytes(whole[: len(whole) // 2])
    message = "s3://bucket/d/test-00000.rows: has 0 blocks, expected 2; prepare the dataset again"
    with pytest.raises(InputError, match=message):
        Dataset(sent).rows("test").all()
    assert cached_shards(tmp_path) == {}
    object_path("test-00000.rows").unlink()
    with pytest.raises(InputError, match=r"dataset s3://bucket/d: test-00000\.rows is missing"):
        Dataset(sent).rows("test")


def test_a_changed_byte_of_a_copy_is_an_error_on_reading(sent, tmp_path):
    """The hash of each block is array_record's: copies need no other check."""
    Dataset(sent).rows("test").all()
    path = cached_shards(tmp_path)["test-00000.rows"]
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(InputError, match=f"hash mismatch.*; remove the copy {path}$"):
        Dataset(sent).rows("test").all()


def test_datasets_of_different_paths_have_different_copies(sent, bucket, tiny_directory, tmp_path):
    """A fingerprint does not determine the order of rows."""
    send_folder(tiny_directory, as_path(f"{bucket}/e"), last="manifest.json")
    for path in (sent, f"{bucket}/e"):
        Dataset(path).rows("test").all()
    assert len({p.parent for p in (tmp_path / "cache/jaxrec/datasets").glob("*/test-00000.rows")}) == 2


def test_a_cache_folder_that_cannot_be_created_is_an_error(sent, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cannot store copies of s3://bucket/d: .*set XDG_CACHE_HOME"):
        Dataset(sent).rows("test").all()


def test_a_local_dataset_is_not_copied(tiny_directory, bucket, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "d")
    Dataset(tmp_path / "d").rows("test").all()
    assert not (tmp_path / "cache").exists()
