"""Tests of damaged checkpoints: refused in one line, or set aside for the step before."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest
from test_checkpointer import ARRAYS, make_state, replicated, same, save

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.orbax_log import is_unexpected
from jaxrec.checkpoints.seals import CHECKSUMS
from jaxrec.checkpoints.state_tree import with_shardings
from jaxrec.core.errors import InputError


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with step 1, the best, and step 2."""
    directory = tmp_path_factory.mktemp("checkpoints") / "c"
    with Checkpointer(directory, writing=True) as checkpoints:
        save(checkpoints, 1, 0.9)
        save(checkpoints, 2, 0.5)
    return directory


@pytest.fixture
def directory(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "c")


def read_all(directory, which="last", **options):
    with Checkpointer(directory, **options) as checkpoints:
        meta, arrays = checkpoints.restore_meta(which), checkpoints.restore_arrays(which)
        state = checkpoints.restore(which, with_shardings(make_state(0), replicated()))
        return meta["position"], arrays, state


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_step_is_sealed_when_it_is_complete(two_steps):
    for step in ("1", "2"):
        files = json.loads((two_steps / step / CHECKSUMS).read_text())
        assert {n.partition("/")[0] for n in files} >= {"state", "meta", "arrays", "metrics"}
        stored = {str(p.relative_to(two_steps / step)) for p in (two_steps / step).rglob("*") if p.is_file()}
        assert set(files) == stored - {CHECKSUMS}
    assert read_all(two_steps)[0] == 2


def test_each_flipped_or_cut_file_is_refused_in_one_line(two_steps, tmp_path):
    """All items but the metrics, which Orbax itself reads when it opens the folder."""
    paths = [p.relative_to(two_steps) for p in files_of(two_steps / "2")]
    read = [p for p in paths if p.parts[1] in ("state", "meta", "arrays")]
    assert len(read) >= 10
    damages = (flip, lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink())
    for i, path in enumerate(read):
        shutil.copytree(two_steps, tmp_path / "d")
        damages[i % 3](tmp_path / "d" / path)
        with pytest.raises(InputError) as error:
            read_all(tmp_path / "d")
        assert str(path.name) in str(error.value)
        assert "step 2" in str(error.value) and "\n" not in str(error.value)
        shutil.rmtree(tmp_path / "d")


@pytest.mark.parametrize("item", ["state", "arrays", "meta", "metrics"])
def test_a_run_sets_a_damaged_step_aside_and_uses_the_one_before(directory, item, caplog):
    path = max(files_of(directory / "2" / item), key=lambda p: p.stat().st_size)
    flip(path)
    position, arrays, state = read_all(directory, writing=True)
    assert position == 1 and same(state, make_state(1)) and list(arrays) == list(ARRAYS)
    assert {p.name for p in directory.iterdir()} == {"1", "damaged-2"}
    assert f"step 2, {item}: {path.name} is damaged" in caplog.text
    assert "it is now called damaged-2" in caplog.text


def test_a_damaged_best_step_is_set_aside_by_its_small_files(directory):
    flip(directory / "1" / "metrics" / "metrics")
    assert read_all(directory, writing=True)[0] == 2
    assert {p.name for p in directory.iterdir()} == {"2", "damaged-1"}


def test_a_run_without_an_undamaged_step_is_refused(directory):
    for step in ("1", "2"):
        flip(max(files_of(directory / step / "state"), key=lambda p: p.stat().st_size))
    with pytest.raises(InputError, match="all 2 steps are damaged and were renamed to damaged-<step>"):
        read_all(directory, writing=True)


def test_steps_without_checksums_are_read(directory):
    for step in ("1", "2"):
        (directory / step / CHECKSUMS).unlink()
    assert read_all(directory)[0] == 2
    assert read_all(directory, writing=True)[0] == 2


@pytest.mark.parametrize("damage", ["unlink", "cut", "not json"])
def test_without_checksums_a_file_that_orbax_cannot_read_is_one_line(directory, damage):
    (directory / "2" / CHECKSUMS).unlink()
    path = directory / "2" / "meta" / "metadata"
    if damage == "unlink":
        path.unlink()
    else:
        path.write_text("{" if damage == "cut" else "[1, 2]")
    with pytest.raises(InputError, match=r"step 2"):
        read_all(directory)


def test_a_bare_exception_of_orbax_is_one_line_and_a_defect_is_raised(directory, monkeypatch):
    """Orbax wraps TensorStore's errors, such as those of a cut array, in a bare Exception."""

    def restore(*_, **__):
        raise error

    with Checkpointer(directory) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        error = Exception("Encountered error while reading\nTensorStore({})")
        with pytest.raises(InputError) as refused:
            checkpoints.restore_meta("last")
        message = "step 2, meta: cannot be read: Encountered error while reading; give another checkpoint, or"
        assert message in str(refused.value) and "\n" not in str(refused.value)
        error = RuntimeError("a defect")
        with pytest.raises(RuntimeError, match="a defect"):
            checkpoints.restore_meta("last")


def test_the_traceback_of_a_failed_save_is_hidden_and_its_error_raised():
    def record(text, error=None):
        return logging.LogRecord("absl", logging.ERROR, "future.py", 1, text, (), error)

    try:
        raise OSError("full")
    except OSError:
        raised = sys.exc_info()
    for text in ("[process=%s] Failed to run", "Failed to write metadata=%s path=%s: %s"):
        assert not is_unexpected(record(text, raised))
    assert is_unexpected(record("[process=%s] a line without an error"))
    assert is_unexpected(record("another error", raised))


@pytest.mark.parametrize("fitting", [0, 1], ids=["first write", "second write"])
def test_metadata_that_cannot_be_written_is_one_error(tmp_path, caplog, monkeypatch, fitting):
    """Orbax writes metadata in a thread of its own, logs its traceback, and raises it while it waits."""
    absl_logger = logging.getLogger("absl")
    absl_logger.addHandler(caplog.handler)
    try:
        with (
            pytest.raises(OSError, match="No space left"),
            Checkpointer(tmp_path, writing=True) as checkpoints,
        ):
            path_type, written = type(checkpoints._manager.directory), []
            write_text = path_type.write_text

            def write(path, *arguments, **options):
                if "METADATA" in path.name and path.parent.name.startswith("1."):
                    written.append(path)
                    if len(written) > fitting:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write_text(path, *arguments, **options)

            monkeypatch.setattr(path_type, "write_text", write)
            save(checkpoints, 1, 0.9)
            checkpoints.wait()
    finally:
        absl_logger.removeHandler(caplog.handler)
    assert len(written) > fitting  # at least one was refused
    assert not [text for record in caplog.records if (text := record.getMessage()).startswith("Failed to")]


def test_another_format_is_refused(directory):
    path = directory / "2" / "meta" / "metadata"
    (directory / "2" / CHECKSUMS).unlink()
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="step 2: format=9; allowed: 1; read it with the version of jaxrec"):
        read_all(directory)


def test_a_save_that_cannot_be_written_starts_no_thread_of_orbax(tmp_path, monkeypatch):
    """Such threads wait for the folder of the step for five minutes, and Python for the threads."""

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with Checkpointer(tmp_path, writing=True) as checkpoints:
        save(checkpoints, 1, 0.9)
        checkpoints.wait()
        before = set(threading.enumerate())
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        with pytest.raises(OSError, match="Read-only file system"):
            save(checkpoints, 2, 0.8)
        assert set(threading.enumerate()) <= before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_a_read_only_folder_ends_the_process_at_once(tmp_path):
    """A bind mount is read-only for every user; it needs the right to mount."""
    if subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount a folder")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        with Checkpointer(tmp_path, writing=True) as checkpoints:
            before = set(threading.enumerate())
            with pytest.raises(OSError, match="Read-only file system"):
                save(checkpoints, 1, 0.9)
            assert set(threading.enumerate()) <= before
    finally:
        subprocess.run(["umount", tmp_path], check=True)
