"""Types of what is known and of outcomes: mypy refuses an outcome as the input of a model."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAK = Path(__file__).with_name("leak.py")


@pytest.mark.slow
def test_mypy_refuses_each_leak_and_no_other_line():
    """The gate runs this test after mypy, whose cache it reads."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(LEAK)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    lines = LEAK.read_text().splitlines()
    leaks = {number for number, line in enumerate(lines, 1) if line.endswith("# leak")}
    errors = {int(match[1]) for match in re.finditer(r"leak\.py:(\d+): error: .*\[arg-type\]", done.stdout)}
    assert (done.returncode, errors, len(leaks)) == (1, leaks, 6), done.stdout + done.stderr
    assert done.stdout.count(": error: ") == len(leaks), done.stdout


def _calls(tree: ast.AST, name: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (name, f"batch.{name}")
    ]


def test_two_functions_turn_an_outcome_into_known_input():
    calls = {
        (path.relative_to(ROOT).as_posix(), name, len(lines))
        for path in (ROOT / "jaxrec").rglob("*.py")
        for name in ("PastOutcome", "after", "ObservedOutcome", "observed")
        if (lines := _calls(ast.parse(path.read_text()), name))
    }
    assert calls == {
        ("jaxrec/core/batch.py", "PastOutcome", 1),  # in `after`
        ("jaxrec/tasks/ranking_inputs.py", "after", 1),  # the outcomes of a stored history
        ("jaxrec/tasks/inputs/session.py", "after", 1),  # the events of a session
        ("jaxrec/tasks/inputs/tokens.py", "after", 1),  # the tokens of a window
        ("jaxrec/core/batch.py", "ObservedOutcome", 1),  # in `observed`
        ("jaxrec/tasks/ranking_inputs.py", "observed", 1),  # early labels, in offline runs
    }


def test_no_model_names_an_outcome_and_no_loss_names_what_is_known():
    for folder, names in (
        ("models", {"Outcome", "after", "observed"}),
        ("losses", {"Known", "History", "after", "observed"}),
    ):
        for path in (ROOT / "jaxrec" / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            imported = {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
            assert not imported & names, path


def test_models_read_known_inputs_alone():
    from jaxrec.core.batch import History, Known, Outcome
    from jaxrec.models.next_item import ItemWindow

    assert issubclass(History, Known) and issubclass(ItemWindow, Known)
    assert not issubclass(Outcome, Known)
