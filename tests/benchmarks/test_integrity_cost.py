"""The benchmark of checksums leaves them out of one side alone, and counts their time."""

import time

import pytest

from benchmarks import integrity
from jaxrec.data.storage import source_files
from jaxrec.runtime import checksums, locks


def test_checks_are_left_out_in_the_modules_that_import_them_and_come_back(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("a row")
    described = source_files.describe([str(path)])
    with integrity.replaced(integrity._NO_CHECKS):
        assert source_files.describe([str(path)])[0]["sha256"] == ""
        with locks.exclusive(tmp_path / "lock", "a folder", wait=False):
            assert not (tmp_path / "lock").exists()
        checksums.verify(path, {"bytes": 1, "sha256": "another"}, "a log", "")
    assert source_files.describe([str(path)]) == described and described[0]["sha256"]
    with pytest.raises(checksums.DamagedFileError):
        checksums.verify(path, {"bytes": 1, "sha256": "another"}, "a log", "")


def test_the_share_is_the_time_in_checks_and_nested_calls_count_once(tmp_path, monkeypatch):
    path, calls, now = tmp_path / "log.csv", [], [0.0]
    path.write_text("a row")
    expected = checksums.checksum(path)

    def slow(path):
        calls.append(path)
        now[0] += 1.0
        return dict(expected)

    def work(name):
        now[0] += 3.0
        checksums.verify(path, expected, "a log", "")  # calls `checksum`, which is counted too

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(checksums, "checksum", slow)
    monkeypatch.setattr(integrity, "_NO_CHECKS", integrity._NO_CHECKS | {slow: lambda path: dict(expected)})
    figures = integrity.compare(work, rounds=2)
    assert len(calls) == 3  # the warm-up and two rounds, all with the checks
    assert figures["share"] == 0.25 and figures["ratio"]["median"] == 4.0 / 3.0
