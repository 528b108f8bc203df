"""Structure of the package: layers, sizes, names, docstrings and the map of modules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrec.__main__

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxrec"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.stat().st_size)
COMMANDS = {*jaxrec.__main__.COMMANDS, "__init__", "__main__"}
# A first word that hides what a function does, or what it returns.
VAGUE = re.compile(r"^(What|How|Whether|Of|Where|Which|Who|Whose|As)\b")
# Programs do not act like people; a variable is named after its content.
FORBIDDEN_WORDS = re.compile(
    r"\b(dealt|judge[sd]?|anew|to be had|whatever many|has it that"
    r"|says|said|asks|asked|knows|knew|told|tells|sees|saw)\b"
)
FORBIDDEN_NAMES = {"found", "given", "held", "said"}
# The rules of wording hold outside the package too.
SOURCES = sorted(
    p for folder in ("benchmarks", "configs", "docs", "tests") for p in (ROOT / folder).rglob("*.py")
)
SCRIPTS = sorted(p for p in (ROOT / "launch").rglob("*") if p.is_file())


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


def forbidden_words(text: str) -> list[str]:
    """Return the forbidden words of a text, outside quotes: quoted names are stored names."""
    return FORBIDDEN_WORDS.findall(re.sub(r"\"[^\"]*\"|`[^`]*`", "", text))


def definitions(path: Path):
    """Yield every module, class and function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_layer_contracts_hold():
    """The contracts of pyproject.toml: floors, and the one package that imports each outside library."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " 0 broken" in done.stdout


def test_the_root_holds_commands_alone_and_no_package_is_crowded():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= COMMANDS
    for folder in {path.parent for path in FILES} - {PACKAGE}:
        modules = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= 10, f"{name(folder)} holds {len(modules)} modules: {modules}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_module_has_a_docstring_and_one_purpose(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{name(path)} has no docstring"
    assert len(docstring.splitlines()[0]) <= 110
    # The schema is a table of declarations, which the config reference is generated from.
    limit = 450 if name(path) == "config/schema.py" else 350
    assert len(text.splitlines()) <= limit, f"{name(path)}: is it two things?"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_functions_are_short_and_have_few_parameters(path):
    for node in definitions(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where, arguments = f"{name(path)}: {node.name}", node.args
            parameters = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            parameters += [a.arg for a in (arguments.vararg, arguments.kwarg) if a]
            assert len(set(parameters) - {"self", "cls"}) <= 8, f"{where} has {len(parameters)} parameters"
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{where} has {lines} lines"


@pytest.mark.parametrize("path", FILES + SOURCES, ids=name)
def test_docstrings_and_names_are_plain(path):
    text = path.read_text()
    for node in definitions(path):
        docstring = ast.get_docstring(node) or ""
        where = f"{name(path)}: {getattr(node, 'name', 'module')}"
        assert not VAGUE.match(docstring), f"{where}: {docstring.splitlines()[0]}"
        assert not forbidden_words(docstring), f"{where}: {forbidden_words(docstring)}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id not in FORBIDDEN_NAMES, f"{name(path)}:{node.lineno}: {node.id}"
        elif isinstance(node, ast.arg):
            assert node.arg not in FORBIDDEN_NAMES, f"{name(path)}:{node.lineno}: {node.arg}"
    for number, line in enumerate(text.splitlines(), 1):
        assert not forbidden_words(line), f"{name(path)}:{number}: {line.strip()}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_the_words_of_launch_scripts_are_plain(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not forbidden_words(line), f"{name(path)}:{number}: {line.strip()}"


def test_no_two_public_classes_share_a_name():
    """Outside `config`, whose dataclasses are named as what they configure."""
    where: dict[str, str] = {}
    for path in FILES:
        if path.parent.name == "config":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in where, f"{node.name}: {where[node.name]} and {name(path)}"
                where[node.name] = name(path)


@pytest.mark.parametrize("package", ["core", "config", "sources", "codes", "data", "cli"])
def test_a_package_without_jax_imports_none_at_its_top(package):
    modules = [
        "jaxrec." + name(p).removesuffix(".py").replace("/", ".")
        for p in FILES
        if p.relative_to(PACKAGE).parts[0] == package
        # Apache Beam and Grain import what they find.
        and p.name != "beam.py"
        and p.parent.name != "loading"
    ]
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m.removesuffix('.__init__'))\n"
    )
    code += "print(sorted({'jax', 'flax', 'optax', 'orbax'} & {m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr[-2000:]


SIMULATED = """
import sys
from jaxrec.config import Simulator
from jaxrec.sources import open_source
import jaxrec.cli.app, jaxrec.data.runners.local, jaxrec.data.storage.dataset
import jaxrec
import jaxrec.describe, jaxrec.analysis.description, jaxrec.reporting.description_report
import jaxrec.train, jaxrec.evaluate, jaxrec.prepare, jaxrec.fill
import jaxrec.recommend, jaxrec.export, jaxrec.serve

source = open_source(Simulator(users=20, test_only_users=0, titles=50, slate=20), ())
next(source.interactions())
loaded = {m.split(".")[0] for m in sys.modules}
print(sorted(loaded & {"jax", "polars", "tensorflow_datasets", "tensorflow", "flax", "orbax", "matplotlib"}))
"""


def test_the_simulator_and_the_commands_load_neither_polars_nor_jax():
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_table_of_modules_is_that_of_their_docstrings():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import module_map
    finally:
        sys.path.pop(0)
    text = (PACKAGE / "README.md").read_text()
    assert text == module_map.with_table(text), "run python docs/module_map.py"
