"""A checkpoint that holds a layout with the names of FORMAT 2, on datasets of both formats."""

import json
import shutil

import numpy as np
import pytest

from jaxrec.checkpoints.seals import CHECKSUMS
from jaxrec.core.errors import InputError
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint

OLD_NAMES = {"num_titles": "titles", "max_history": "history", "num_targets": "next_k", "rows": "examples"}


def with_old_names(layout):
    """Return the JSON of a ranking layout as FORMAT 2 wrote it."""
    assert layout["rows"] == "ranking"
    return {OLD_NAMES.get(name, name): value for name, value in (layout | {"rows": "requests"}).items()}


def change_layouts(workdir, change):
    """Replace the layout in each checkpoint of a run, and remove its checksums: old ones have none."""
    documents = list((workdir / CHECKPOINTS).glob("*/meta/*metadata*"))
    assert documents
    for path in documents:
        document = json.loads(path.read_text())
        document["meta"]["layout"] = change(document["meta"]["layout"])
        path.write_text(json.dumps(document))
        (path.parents[1] / CHECKSUMS).unlink(missing_ok=True)


@pytest.fixture
def old_run(tiny_run, tmp_path):
    """The workdir of the tiny run, as it was before the layout's fields were renamed."""
    shutil.copytree(tiny_run / "run", tmp_path / "run")
    change_layouts(tmp_path / "run", with_old_names)
    return tmp_path / "run"


@pytest.fixture
def old_directory(tiny_directory, tmp_path):
    """The tiny dataset in FORMAT 2."""
    shutil.copytree(tiny_directory, tmp_path / "data")
    path = tmp_path / "data/manifest.json"
    manifest = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("files", "checksum")}
    path.write_text(json.dumps(manifest | {"format": 2, "layout": with_old_names(manifest["layout"])}))
    return tmp_path / "data"


def test_an_old_checkpoint_gives_the_same_scores_on_both_formats(
    tiny_run, tiny_directory, old_run, old_directory
):
    meta = load_checkpoint(old_run, "last").meta
    assert meta["layout"]["next_k"] == 3 and "num_targets" not in meta["layout"]
    expected = evaluate(tiny_run / "run", data=tiny_directory)
    for directory in (tiny_directory, old_directory):
        result = evaluate(old_run, data=directory)
        assert np.array_equal(result.scores, expected.scores)
        assert result.result["lists"] == expected.result["lists"]
        assert result.result["dataset"] == expected.result["dataset"]


def test_a_checkpoint_with_an_unknown_layout_is_refused_by_name(old_run):
    change_layouts(old_run, lambda layout: layout | {"next_titles": 3})
    with pytest.raises(
        InputError, match=r"^checkpoint .*run.*: layout\.next_titles does not exist; there are"
    ):
        load_checkpoint(old_run, "last")
