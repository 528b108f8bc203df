"""The promises of SECURITY.md: files that are data run nothing, and names in them stay in their folder."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.paths import as_path, inside

ROOT = Path(__file__).resolve().parents[1]

# Calls that run what they read -> the modules that may, and why.
ALLOWED = {
    "pickle.load": {"data/events/user_groups.py": "its own scratch files"},
    "pickle.loads": {"data/runners/beam.py": "its own scratch file"},
    "importlib.import_module": {"core/registry.py": "names of extensions, from code and installed packages"},
    "import_module": {"__init__.py": "names of this module"},
    "runpy.run_path": {"config/loading.py": "a config file is Python"},
    "eval": {}, "exec": {}, "compile": {}, "__import__": {}, "yaml.load": {}, "marshal.loads": {},
    "pickle.Unpickler": {}, "shelve.open": {}, "np.load": {}, "os.system": {}, "jax.numpy.load": {},
}  # fmt: skip


def calls(path):
    """Yield the dotted name and the node of each call of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_these_modules_run_what_they_read():
    seen = set()
    for path in sorted((ROOT / "jaxrec").rglob("*.py")):
        module = str(path.relative_to(ROOT / "jaxrec"))
        for name, node in calls(path):
            if name == "np.load":
                pickles = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("allow_pickle")
                assert pickles == "False", f"{module}:{node.lineno}"
            elif name in ALLOWED:
                assert module in ALLOWED[name], f"{module}:{node.lineno}: {name}"
                seen.add((name, module))
    assert seen == {(name, module) for name, modules in ALLOWED.items() for module in modules}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "..", "a\\..\\x", "a\0b"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is no file of this folder; the file that names it was changed"):
        inside(tmp_path, name)


def test_a_name_inside_its_folder_is_a_path_of_it(tmp_path, bucket):
    assert inside(tmp_path, "state/d/a..b") == tmp_path / "state" / "d" / "a..b"
    assert str(inside(as_path(bucket), "a/b")) == f"{bucket}/a/b"


def test_a_manifest_or_a_checkpoint_that_names_a_file_outside_is_refused(tiny_run, tiny_directory, tmp_path):

    from jaxrec.checkpoints.seals import CHECKSUMS, verify_steps
    from jaxrec.data.storage.dataset import MANIFEST, Dataset, sealed

    shutil.copytree(tiny_directory, tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / MANIFEST).read_text())
    manifest["files"]["../outside.npy"] = {"bytes": 0, "sha256": ""}
    (tmp_path / "d" / MANIFEST).write_text(json.dumps(sealed(manifest)))
    with pytest.raises(InputError, match=r"'\.\./outside\.npy' is no file of this folder"):
        Dataset(tmp_path / "d").load_all()
    shutil.copytree(tiny_run / "run" / "checkpoints", tmp_path / "c")
    path = next((tmp_path / "c").glob(f"*/{CHECKSUMS}"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"../../outside": {"bytes": 0, "sha256": ""}}))
    with pytest.raises(InputError, match=r"'\.\./\.\./outside' is no file of this folder"):
        verify_steps(tmp_path / "c")


def test_an_export_that_names_a_file_outside_is_refused(export_folder, tmp_path):
    from jaxrec.serving.exported import MANIFEST, ExportedRecommender

    shutil.copytree(export_folder, tmp_path / "export")
    path = tmp_path / "export" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = {"sha256": ""}
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"files: \.\./secret is outside of the folder"):
        ExportedRecommender.load(tmp_path / "export")


def test_no_array_of_objects_is_read(tiny_directory, tmp_path):
    """A pickle in a dataset's array is a damaged file, and is not run."""

    import numpy as np

    from jaxrec.data.storage.dataset import Dataset

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    shutil.copytree(tiny_directory, tmp_path / "d")
    np.save(tmp_path / "d" / "title_runtime.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"title_runtime\.npy is damaged"):
        Dataset(tmp_path / "d", verify=False).load_all()
    assert not (tmp_path / "run").exists()
