"""A dataset in a bucket: the one that this machine would have, whole once its manifest is there."""

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


def prepare_there(config, directory):
    prepare(open_source(config.source, config.features), config, directory)


@pytest.fixture
def sent(bucket, tiny_directory):
    """The tiny dataset in a bucket, and its place."""
    send_folder(tiny_directory, as_path(f"{bucket}/d"), last="manifest.json")
    return f"{bucket}/d"


def copies(tmp_path: Path) -> dict[str, Path]:
    """What lies in the cache, by name."""
    return {p.name: p for p in (tmp_path / "cache/jaxrec/datasets").glob("*/*") if p.name[0] != "."}


def object_of(key: str) -> Path:
    return Path(os.environ[FOLDER]) / "s3" / f"bucket%2Fd%2F{key}"


def test_it_is_the_same_dataset(bucket, tiny_config, tiny, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    prepare_there(tiny_config, f"{bucket}/d")
    assert Bucket.log[-1] == ("put", "bucket/d/manifest.json")
    assert list((tmp_path / "scratch").iterdir()) == []  # where it was written
    for path in tiny_directory.iterdir():
        assert object_of(path.name).read_bytes() == path.read_bytes()
    found = Dataset(f"{bucket}/d")
    assert found.fingerprint == tiny.fingerprint and str(found.directory) == "s3://bucket/d"
    for split in SPLITS:
        assert np.array_equal(found.rows(split).all(), tiny.rows(split).all())
    for name, array in vars(tiny.arrays).items():
        assert np.array_equal(vars(found.arrays)[name], array)
    assert np.array_equal(found.user_keys("test"), tiny.user_keys("test"))


def test_until_its_manifest_is_there_it_is_none(bucket, tiny_config, tmp_path, monkeypatch):
    def full(what, key):
        if key.endswith("users_test.npy"):
            raise OSError("the bucket is full")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "before", staticmethod(full))
        with pytest.raises(OSError, match="the bucket is full"):
            prepare_there(tiny_config, f"{bucket}/d")
    assert S3.objects() and "bucket/d/manifest.json" not in S3.objects()
    assert not list(tmp_path.glob("jaxrec-*"))
    with pytest.raises(InputError, match=r"dataset s3://bucket/d: no manifest\.json; prepare it"):
        Dataset(f"{bucket}/d")
    prepare_there(tiny_config, f"{bucket}/d")
    Dataset(f"{bucket}/d").rows("test").all()
    with pytest.raises(InputError, match="dataset s3://bucket/d: exists; remove it, or name another"):
        DatasetWriter(f"{bucket}/d")


def test_shards_are_copied_once_and_said(sent, tiny, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", lambda text, *values: said.append(text % values))
    rows = Dataset(sent).rows("train")
    assert copies(tmp_path) == {}  # nothing is copied before a row is asked for
    expected = tiny.rows("train")
    assert np.array_equal(rows.read(np.array([1, 0])), expected.read(np.array([1, 0])))
    assert set(copies(tmp_path)) == {"train-00000.rows"}
    assert said == [f"dataset {sent}: copying 1 shards to {copies(tmp_path)['train-00000.rows'].parent}"]
    shard = ("get", "bucket/d/train-00000.rows")
    assert Bucket.log.count(shard) == 1
    assert np.array_equal(Dataset(sent).rows("train").all(), expected.all())
    assert Bucket.log.count(shard) == 1 and len(said) == 1


def test_a_copy_that_was_cut_off_is_made_again(sent, tiny, tmp_path):
    Dataset(sent).rows("test").all()
    path = copies(tmp_path)["test-00000.rows"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    path.with_name(".test-00000.rows.part").write_bytes(b"left by a killed process")
    assert np.array_equal(Dataset(sent).rows("test").all(), tiny.rows("test").all())
    assert path.read_bytes() == whole


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(sent, tmp_path):
    whole = object_of("test-00000.rows").read_bytes()
    object_of("test-00000.rows").write_bytes(whole[: len(whole) // 2])
    message = "s3://bucket/d/test-00000.rows: holds 0 blocks, not 2; prepare it again"
    with pytest.raises(InputError, match=message):
        Dataset(sent).rows("test").all()
    assert copies(tmp_path) == {}
    object_of("test-00000.rows").unlink()
    with pytest.raises(InputError, match=r"dataset s3://bucket/d: test-00000\.rows is missing"):
        Dataset(sent).rows("test")


def test_a_changed_byte_of_a_copy_is_seen_when_it_is_read(sent, tmp_path):
    """By array_record's own hash of each block, which is why copies carry none of ours."""
    Dataset(sent).rows("test").all()
    path = copies(tmp_path)["test-00000.rows"]
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(RuntimeError, match="hash mismatch"):
        Dataset(sent).rows("test").all()


def test_copies_of_another_place_are_others(sent, bucket, tiny_directory, tmp_path):
    """One fingerprint does not say in which order rows lie."""
    send_folder(tiny_directory, as_path(f"{bucket}/e"), last="manifest.json")
    for place in (sent, f"{bucket}/e"):
        Dataset(place).rows("test").all()
    assert len({p.parent for p in (tmp_path / "cache/jaxrec/datasets").glob("*/test-00000.rows")}) == 2


def test_where_no_copies_can_be_kept_it_says_so(sent, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cannot hold copies of s3://bucket/d: .*set XDG_CACHE_HOME"):
        Dataset(sent).rows("test").all()


def test_a_dataset_of_this_machine_is_copied_nowhere(tiny_directory, bucket, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "d")
    Dataset(tmp_path / "d").rows("test").all()
    assert not (tmp_path / "cache").exists()
