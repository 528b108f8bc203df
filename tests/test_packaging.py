"""pyproject.toml and the constraints files: each import is declared, each direct dependency is pinned."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
FILES = {"3.11": "constraints.txt", "3.12": "constraints-py312.txt", "3.13": "constraints-py312.txt"}
PYTHONS = {  # of each file, as its lines have it
    "constraints.txt": "python_version < '3.12'",
    "constraints-py312.txt": "python_version >= '3.12'",
}
UNPINNED = {"torch"}  # the header of the constraints files gives the reason
# Imported by a file that runs in an environment of its own, which the docstring of that file describes.
ELSEWHERE = {
    "rectools",
    "pytorch_lightning",
    "rectools_sasrec",
    "rectools_ranking",
    "kubeflow_trainer_api",
    "gcp_storage_emulator",
    "grpc",
}


def requirements():
    extras = PROJECT["optional-dependencies"]
    return [Requirement(line) for lines in [PROJECT["dependencies"], *extras.values()] for line in lines]


def pins(name):
    """Return {distribution: version} of a constraints file, without included files."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] not in "#-"]
    parsed = [Requirement(line) for line in lines]
    assert {str(one.marker).replace('"', "'") for one in parsed} == {PYTHONS[name]}
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in parsed}


@pytest.mark.parametrize("python, name", FILES.items())
def test_every_direct_dependency_is_pinned(python, name):
    pinned = pins(name)
    for one in requirements():
        distribution = canonicalize_name(one.name)
        if distribution in UNPINNED or (one.marker and not one.marker.evaluate({"python_version": python})):
            continue
        assert distribution in pinned, f"{name} has no {distribution}; run the command in its header"
        version = pinned[distribution]
        assert one.specifier.contains(version), f"{name}: {distribution}=={version}; pyproject.toml: {one}"


@pytest.mark.parametrize("name", PYTHONS)
def test_a_constraints_file_names_its_command_and_no_cuda_libraries(name):
    text = (ROOT / name).read_text()
    assert re.search(r"^#   uv pip compile pyproject.toml --python-version 3\.1[12] ", text, re.MULTILINE)
    extras = set(PROJECT["optional-dependencies"]) - {"peers"}
    assert set(re.findall(r"--extra (\w+)", text)) == extras
    libraries = [one for one in pins(name) if re.match("nvidia|cuda|torch|triton", one)]
    assert not libraries, f"{name}: {libraries} would hold torch back"
    # The plugins of jax's extras are of the version of jax itself.
    pinned = pins(name)
    assert pinned["jax"] == pinned["jaxlib"] == pinned["jax-cuda13-plugin"]


def test_the_first_file_includes_the_second():
    """So one command installs exact versions on every Python."""
    assert "-c constraints-py312.txt" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("python, jax, flax, together", [
    ("3.11", "0.10.2", "0.12.8", True),
    ("3.11", "0.11.0", "0.12.8", False),  # needs Python 3.12
    ("3.12", "0.12.0.1", "0.12.12", True),
    ("3.12", "0.11.1", "0.12.8", False),  # flax fails to import
])  # fmt: skip
def test_no_broken_pair_of_jax_and_flax_is_allowed(python, jax, flax, together):
    versions = {"jax": jax, "flax": flax}
    allowed = [
        one.specifier.contains(versions[one.name])
        for one in map(Requirement, PROJECT["dependencies"])
        if one.name in versions and one.marker.evaluate({"python_version": python})
    ]
    assert len(allowed) == 2 and all(allowed) == together


def imported(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield path, node.module.split(".")[0]


@pytest.mark.parametrize("folder", ["jaxrec", "benchmarks", "tests", "configs"])
def test_every_import_is_declared(folder):
    declared = {canonicalize_name(one.name) for one in requirements()}
    if (
        folder == "jaxrec"
    ):  # what the package itself imports is installed with it, but for the extras `beam`, `ann` and `serve`
        declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
        declared |= {"apache-beam", "usearch"}
        extra = PROJECT["optional-dependencies"]["serve"]
        declared |= {canonicalize_name(Requirement(line).name) for line in extra}
    local = (
        {p.stem for p in ROOT.rglob("tests/**/*.py")}
        | {p.stem for p in (ROOT / "docs").rglob("*.py")}
        | {"jaxrec", "benchmarks", "configs", "tests"}
        | ELSEWHERE
    )
    distributions = packages_distributions()
    for path, module in imported(folder):
        if module in sys.stdlib_module_names or module in local:
            continue
        candidates = {canonicalize_name(d) for d in distributions.get(module, [module])}
        assert candidates & declared, f"{path.relative_to(ROOT)} imports {module}: add it to pyproject.toml"


def test_a_folder_of_the_same_name_does_not_hide_an_editable_install(tmp_path):
    """`python -m` puts the working folder first: the parent of a clone has a folder `jaxrec`, no package."""
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == {"": "."}  # a path entry, not an import hook
    (tmp_path / "jaxrec").mkdir()
    shown = subprocess.check_output(
        [sys.executable, "-c", "import jaxrec; print(jaxrec.__file__)"], cwd=tmp_path, text=True
    )
    assert shown.endswith("__init__.py\n"), "a namespace package"
    command = [sys.executable, "-m", "jaxrec.train", "--config", "tiny", "--config.train.seed=-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: train.seed=-1 must be in [0, 2**32)\n")
