"""Flags that a benchmark reads are flags that it declares."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = sorted(path for path in FOLDER.glob("*.py") if "flags.DEFINE" in path.read_text())
_EVERYWHERE = {"json"}  # `benchmarks.command.run` declares it


def declared_and_read(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the flags that a module declares, and those that its functions read.

    The flags are the parameter `args` of a function, or `self.args`, in all modules.
    """
    declared, read = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
            declared.add(ast.literal_eval(node.args[0]))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args"):
            read.add(node.attr)
    return declared, read


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_benchmark_declares_the_flags_that_it_reads(path):
    declared, read = declared_and_read(ast.parse(path.read_text()))
    assert read - declared <= _EVERYWHERE and read


def test_an_undeclared_flag_is_found():
    text = """
def _flags():
    flags.DEFINE_string("config", "", "")

def settings(args: flags.FlagValues):
    return args.config, args.resident
"""
    assert declared_and_read(ast.parse(text)) == ({"config"}, {"config", "resident"})
