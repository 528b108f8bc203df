"""Tests of the identity of a dataset's source files."""

import os

import pytest

from jaxrec.data.storage.source_files import describe, differences


@pytest.fixture
def files(tmp_path):
    for name, content in (("a.csv", "one"), ("b.csv", "two")):
        (tmp_path / name).write_text(content)
    return [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


def test_the_same_content_is_no_difference_under_other_names_and_times(files, tmp_path):
    described = describe(files)
    assert differences(described, files) == []
    os.utime(files[0], ns=(1, 1))
    os.rename(files[1], tmp_path / "c.csv")
    assert differences(described, [files[0], str(tmp_path / "c.csv")]) == []


def test_each_change_is_named(files, tmp_path):
    described = describe(files)
    a, b = files
    with open(a, "a") as file:
        file.write(" more")
    assert differences(described, files) == [f"{a} had 3 bytes, 8 bytes now"]
    (tmp_path / "a.csv").write_text("ONE")
    os.utime(a, ns=(1, 1))
    assert differences(described, files) == [f"{a} has other content"]
    assert differences(described, [b]) == [f"{a} is missing"]
    (tmp_path / "c.csv").write_text("three")
    assert differences(describe(files), [*files, str(tmp_path / "c.csv")]) == [f"{tmp_path}/c.csv is new"]


def test_exchanged_names_are_no_difference(files, tmp_path):
    described = describe(files)
    os.rename(files[0], tmp_path / "x")
    os.rename(files[1], files[0])
    os.rename(tmp_path / "x", files[1])
    assert differences(described, files) == []
