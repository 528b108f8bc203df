"""The table of tests/broken is true of the files as they are."""

import subprocess
from collections import Counter

import pytest

from tests.broken import LINES, ROOT, Line, __main__


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.file}: {line.guards}")
def test_a_line_stands_once_in_its_file_and_its_tests_are_there(line):
    text = (ROOT / line.file).read_text()
    assert text.count(line.old) == 1
    assert line.new != line.old and text.replace(line.old, line.new) != text
    for target in line.tests:
        file, _, name = target.partition("::")
        name = name.partition("[")[0]  # of a parametrized test
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file()


def test_there_are_many_and_each_is_another():
    assert len(LINES) >= 120
    packages = {line.file.split("/")[1] for line in LINES if line.file.count("/") > 1}
    assert packages >= {path.parent.name for path in ROOT.glob("jaxrec/*/__init__.py")}
    assert Counter(line.guards for line in LINES).most_common(1)[0][1] == 1


@pytest.mark.parametrize(("status", "seen"), [(0, False), (1, True), (2, False), (4, False), (5, False)])
def test_a_break_is_seen_where_a_test_fails_and_the_file_is_left_as_it_was(
    tmp_path, monkeypatch, status, seen
):
    """A wrong name of a test, 4, or an error of collection, 2, is no test that fails."""
    path, texts = tmp_path / "a.py", []
    path.write_text("ONE = 1\nTWO = 2\n")

    def run(command, **options):
        texts.append(path.read_text())
        assert command[-1] == "test_a.py" and options["cwd"] == tmp_path
        return subprocess.CompletedProcess(command, status, "1 failed\n", "")

    monkeypatch.setattr(__main__.subprocess, "run", run)
    line = Line("one", "a.py", "ONE = 1", "ONE = 3", ("test_a.py",))
    assert __main__.is_seen(line, tmp_path, {}) == (seen, "1 failed")
    assert texts == ["ONE = 3\nTWO = 2\n"] and path.read_text() == "ONE = 1\nTWO = 2\n"


def test_nothing_is_broken_where_a_test_fails_already(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "copy_tracked", lambda to: None)
    monkeypatch.setattr(__main__, "run_tests", lambda tests, folder, environment: (1, "1 failed"))
    assert __main__.main([0, 1]) == 1
    assert capsys.readouterr().out == "no line is broken: a test fails without a break: 1 failed\n"
