"""Tests of local and bucket paths: parsing, errors, copies of folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bucket import FOLDER, S3, Bucket
from etils import epath

from jaxrec.core import paths
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json, write_text
from jaxrec.core.paths import as_path, scheme_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["data/tiny", "/data", "~/x", "a:b", "x/gs://y", "C:/x", "gs:/bucket"])
def test_as_path_returns_a_pathlib_path_for_a_local_path(text):
    assert type(as_path(text)) is type(Path(text)) and as_path(text) == Path(text)
    assert as_path(Path(text)) == Path(text) and scheme_of(text) == ""


@pytest.mark.usefixtures("bucket")
def test_a_bucket_path_keeps_its_text_and_scheme():
    path = as_path("s3://bucket/runs/one/")
    assert isinstance(path, epath.Path) and not isinstance(path, Path)
    assert str(path / "config.json") == "s3://bucket/runs/one/config.json"
    assert as_path(path) is path and scheme_of(str(path)) == "s3"


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "hdfs://a/b",
            "hdfs://a/b: hdfs:// is not supported; allowed: a path of this machine, gs://bucket/path",
        ),
        ("memory://a", "memory:// is not supported"),
        ("S3://a/b", "S3:// is not supported"),
        ("file:///a/b", "file:// is not supported"),
        ("gs://", "gs://: the bucket name is empty; allowed: "),
        ("s3:///a", "s3:///a: the bucket name is empty"),
    ],
)
def test_as_path_rejects_unsupported_schemes_and_empty_buckets(text, message):
    with pytest.raises(InputError) as error:
        as_path(text)
    assert message in str(error.value) and "\n" not in str(error.value)


_WITHOUT = "import runpy, sys; sys.modules['gcsfs'] = None; sys.argv = sys.argv[1:]; " + (
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
_TINY = ("--config", str(ROOT / "configs/tiny.py"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("jaxrec.train", *_TINY, "--workdir=gs://b/w"),
            "gs://b/w: gs:// needs gcsfs, which cannot be imported",
        ),
        (("jaxrec.prepare", *_TINY, "--out=gs://b/d"), "pip install gcsfs; allowed without it: a path of"),
        (("jaxrec.train", *_TINY, "--config.data.directory=hdfs://b"), "data.directory=hdfs://b: hdfs:// is"),
        (("jaxrec.evaluate", "--checkpoint=memory://w"), "memory://w: memory:// is not supported"),
        (("jaxrec.evaluate", "--checkpoint=w", "--data=gs://b/d"), "gs://b/d: gs:// needs gcsfs"),
        (("jaxrec.study", *_TINY, "--workdir=gs://b/d"), "--workdir=gs://b/d; allowed: a path of this"),
    ],
)
def test_commands_report_a_bad_path_in_one_line_before_writing(arguments, message, tmp_path):
    if arguments[0] == "jaxrec.study":
        arguments = tuple(str(ROOT / "configs/study.py") if a == _TINY[1] else a for a in arguments)
    line = [sys.executable, "-c", _WITHOUT, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout == "", result.stderr[-3000:]
    (error,) = result.stderr.strip().splitlines()
    assert error.startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_writes_to_a_bucket_leave_no_temporary_file(bucket):
    path = as_path(f"{bucket}/w/test.json")
    write_json(path, {"a": 1})
    write_text(path, "é\n")
    assert path.read_bytes().decode() == "é\n"
    assert S3.objects() == ["bucket/w/test.json"]


def make_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    for name, size in {"a": 3, "deep/b": 0, "deep/c": 5_000_000, "last": 1}.items():
        (folder / name).write_bytes(os.urandom(size))
    return folder


def test_folder_round_trip_sends_the_marker_last_and_removes_it_first(bucket, tmp_path):
    folder, there = make_folder(tmp_path), as_path(f"{bucket}/x")
    as_path(f"{bucket}/xy").write_bytes(b"another's")
    paths.send_folder(folder, there, last="last")
    assert Bucket.log[-1] == ("put", "bucket/x/last") and len(Bucket.log) == 5
    assert paths.files(there) == {"a": 3, "deep/b": 0, "deep/c": 5_000_000, "last": 1}
    paths.fetch_folder(there, tmp_path / "back", without=("deep",))
    assert sorted(p.name for p in (tmp_path / "back").rglob("*")) == ["a", "last"]
    paths.fetch_folder(there, tmp_path / "back")
    for name in paths.files(there):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    Bucket.log.clear()
    paths.remove_folder(there, first="last")
    assert Bucket.log[0] == ("rm", "bucket/x/last") and S3.objects() == ["bucket/xy"]
    assert paths.files(there) == {}
    paths.remove_folder(there, first="last")  # no error for a missing folder


def test_the_marker_is_not_sent_after_a_failed_transfer(bucket, tmp_path, monkeypatch):
    def fail(operation, key):
        if key.endswith("deep/b"):
            raise OSError("full")

    monkeypatch.setattr(Bucket, "before", staticmethod(fail))
    with pytest.raises(OSError, match="full"):
        paths.send_folder(make_folder(tmp_path), as_path(f"{bucket}/x"), last="last")
    assert "bucket/x/last" not in S3.objects()


def test_fetch_raises_for_a_truncated_file(bucket, tmp_path):
    path = as_path(f"{bucket}/x")
    path.write_bytes(b"12345")
    with pytest.raises(OSError, match="s3://bucket/x: received 5 bytes; expected 6"):
        paths.fetch(path, 6, tmp_path / "x")


def test_files_written_by_another_process_are_listed(bucket):
    """Cached listings of fsspec's file systems would hide files of another process."""
    path = as_path(f"{bucket}/d/manifest.json")
    assert not path.exists() and not path.parent.is_dir() and paths.files(path.parent) == {}
    assert not list(as_path(bucket).glob("*"))
    (Path(os.environ[FOLDER]) / "s3" / "bucket%2Fd%2Fmanifest.json").write_bytes(b"{}")
    assert path.exists() and path.parent.is_dir() and paths.files(path.parent) == {"manifest.json": 2}
    assert [str(p) for p in as_path(f"{bucket}/d").glob("*.json")] == [str(path)]
    assert [p.name for p in as_path(bucket).iterdir()] == ["d"]


def test_epath_uses_fsspec_instead_of_tensorflow():
    assert os.environ["EPATH_USE_TF"] == "false"
