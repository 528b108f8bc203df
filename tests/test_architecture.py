"""The plan of the house, held over the syntax tree: floors, doors, sizes, the map."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "jaxrec"
FILES = sorted(p for p in HOUSE.rglob("*.py") if p.stat().st_size)

# From the ground up. A room is a file or a folder; it imports from floors below, and from itself.
FLOORS = (
    ("errors", "schema", "config", "hashing", "interrupt", "private_apis"),
    ("config_tree", "paths"),
    ("config_data", "plain"),
    ("config_check",),
    ("config_json",),
    (
        "command",
        "compiled",
        "heap",
        "hosts",
        "sources",
        "data",
        "nn",
        "losses",
        "catalogue_losses",
        "metrics",
        "gating",
        "significance",
        "staging",
        "weighting",
        "optimizer",
        "parallel",
    ),
    ("batch", "sampled", "baselines", "checkpoint", "paired", "writer"),
    ("windows",),
    ("training",),
    ("step", "sequence_step"),
    ("scoring", "programs", "feed"),
    ("evaluation", "report"),
    ("loop", "studies"),
    ("prepare",),
    ("train", "evaluate", "compare", "recommend", "export"),
    ("study",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# A library and the files (or folders) that may import it, at their top or inside.
DOORS = {
    "grain": ("data/stream.py",),
    "array_record": ("data/store.py",),
    "orbax": ("checkpoint.py", "private_apis.py"),
    "optax": ("optimizer.py", "losses.py"),
    "polars": ("sources/", "paired.py", "evaluate.py", "recommend.py"),
    "tensorflow_datasets": ("sources/tfds.py",),
    "matplotlib": ("report.py",),
    "tensorboardX": ("writer.py",),
    "rich": ("writer.py", "prepare.py"),
    "ml_collections": ("command.py",),
    "scipy": ("significance.py",),
    "etils": ("paths.py",),
    "fsspec": ("paths.py",),
    "gcsfs": (),
    "s3fs": (),
    "flax": ("nn/",),
    "apache_beam": ("data/beam.py",),
    "pandas": (),
    "torch": (),
    "tensorflow": (),
}
# Jax takes seconds to import and a device to start: what prepares data or reads a command line has none.
NO_JAX = (
    "errors",
    "schema",
    "config",
    "hashing",
    "paths",
    "plain",
    "interrupt",
    "config_tree",
    "config_data",
    "config_check",
    "config_json",
    "command",
    "sources",
    "data",
)


def name(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Dotted names imported anywhere in a file; `from jaxrec import x` counts as jaxrec.x."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_the_reader_of_imports(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("import a.b as c\nfrom jaxrec import report\ndef f():\n    from jaxrec.nn.x import y\n")
    assert imports(path) == ["a.b", "jaxrec.report", "jaxrec.nn.x.y"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down_only(path):
    here = room(path)
    assert here in FLOOR, f"jaxrec/{name(path)} has no floor; give it one in FLOORS and in jaxrec/README.md"
    for imported in imports(path):
        if imported.startswith("jaxrec."):
            there = imported.split(".")[1]
            assert there in FLOOR, f"{name(path)} imports {imported}, which has no floor"
            down = there == here or FLOOR[there] < FLOOR[here]
            assert down, f"{name(path)} imports {imported}, which is not on a floor below"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_library_has_its_door(path):
    for imported in imports(path):
        doors = DOORS.get(imported.split(".")[0])
        assert doors is None or name(path).startswith(doors), (
            f"{name(path)} imports {imported}; its door: {doors}"
        )


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in NO_JAX], ids=name)
def test_preparing_data_needs_no_accelerator_stack(path):
    assert not [
        i for i in imports(path) if i.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
    ]


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "nn"], ids=name)
def test_nn_takes_plain_fields(path):
    assert not [i for i in imports(path) if i.startswith("jaxrec.config")]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_what_it_is_for_and_is_not_too_long(path):
    text = path.read_text()
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(text)), f"{name(path)} has no docstring"
    assert len(text.splitlines()) <= 400, f"{name(path)}: is it two things?"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


LOADED = """
import sys
from jaxrec.config import Simulator
from jaxrec.sources import open_source
import jaxrec.command, jaxrec.data.dataset, jaxrec.data.store, jaxrec.train, jaxrec.evaluate, jaxrec.prepare

source = open_source(Simulator(users=20, test_only_users=0, titles=50, slate=20), ())
next(source.interactions())
loaded = {m.split(".")[0] for m in sys.modules}
print(sorted(loaded & {"jax", "polars", "tensorflow_datasets", "tensorflow", "flax", "orbax", "matplotlib"}))
"""


def test_the_simulators_way_loads_neither_polars_nor_jax():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_map_is_true():
    """Each file stands in jaxrec/README.md, and each file there exists."""
    text = (HOUSE / "README.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_0-9/]+\.py)` \|", text, re.MULTILINE))
    assert listed == {name(p) for p in FILES}
