"""Datasets of FORMAT 2, whose layout has other names: they are read, found and of the same fingerprint."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import FORMAT, Dataset, sealed
from jaxrec.data.storage.writer import Fingerprint

FEATURES = (FeatureSpec("g", "category", "user", 4, size=5), FeatureSpec("n", "number", "context", 4))
OLD_KINDS = {"ranking": "requests", "next_item": "sequences"}


def old_layout(layout):
    """Return the layout's JSON as FORMAT 2 wrote it."""
    tree = json.loads(json.dumps(layout.to_json()))
    return {
        "titles": tree["num_titles"],
        "history": tree["max_history"],
        "next_k": tree["num_targets"],
        "pools": tree["pools"],
        "negatives": tree["negatives"],
        "features": tree["features"],
        "examples": OLD_KINDS[tree["rows"]],
    }


@pytest.fixture
def rewritten(tiny_directory, tmp_path):
    """`rewritten(**changes)`: a copy of the tiny dataset with these values in its manifest."""

    def copy(**changes):
        shutil.copytree(tiny_directory, tmp_path / "d")
        path = tmp_path / "d/manifest.json"
        path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))
        return tmp_path / "d"

    return copy


def test_a_dataset_of_format_2_is_read_and_found(tiny, tiny_config, rewritten):
    directory = rewritten(format=2, layout=old_layout(tiny.layout))
    old = Dataset(directory)
    assert (old.manifest["format"], tiny.manifest["format"]) == (2, FORMAT) == (2, 3)
    assert old.layout == tiny.layout and old.fingerprint == tiny.fingerprint
    for split in SPLITS:
        rows, expected = old.rows(split).all(), tiny.rows(split).all()
        assert rows.dtype == expected.dtype and np.array_equal(rows, expected)
    assert old.rows("test").all()["num_hard"].any()
    before = (directory / "manifest.json").read_text()
    ensure_dataset(tiny_config, directory)  # prepares nothing: the digest is that of the config
    assert (directory / "manifest.json").read_text() == before


@pytest.mark.parametrize("rows", OLD_KINDS)
def test_a_layout_with_old_names_is_the_layout(rows):
    layout = Layout(50, 8, 3, (4, 4, 4, 4), 20, FEATURES, rows)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert Layout.from_json(old_layout(layout)) == layout


def test_a_layout_before_there_were_kinds_of_rows_is_of_ranking():
    layout = Layout(50, 8, 3, (4, 4, 4, 4), 20, FEATURES)
    old = old_layout(layout)
    del old["examples"]
    assert Layout.from_json(old) == layout


# Recorded before the fields were renamed: name -> start, and the size of a row.
QUERY = {
    "user": 0, "position": 4, "target": 8, "target_completion": 20, "history_title": 32,
    "user_categories": 64, "context_numbers": 68, "history_completion": 72, "history_age": 88,
    "history_sessions": 104, "history_abandoned": 112, "list_enabled": 120, "oracle_enabled": 360,
    "truth_enabled": 444, "list_disabled": 528, "oracle_disabled": 768, "truth_disabled": 852,
    "list_hard": 936, "mood": 948,
}  # fmt: skip


def test_the_bytes_of_a_row_are_those_of_format_2():
    dtype = Layout(50, 8, 3, (4, 4, 4, 4), 20, FEATURES).query_dtype()
    starts = {name: dtype.fields[name][1] for name in dtype.names}
    assert starts == {"num_hard" if name == "list_hard" else name: at for name, at in QUERY.items()}
    assert list(dtype.names) == ["num_hard" if name == "list_hard" else name for name in QUERY]
    assert dtype.itemsize == 952


def test_the_fingerprint_is_of_the_manifest_with_old_names(tiny):
    content = tiny.manifest | {"format": 2, "layout": old_layout(tiny.layout)}
    fingerprint = content.pop("fingerprint")
    assert content.pop("notes") == content.pop("source_files") == []  # beside the fingerprint
    assert content.pop("files") and content.pop("checksum")
    sums = {}
    for split in SPLITS:
        rows = Fingerprint()
        rows.add(tiny.rows(split).all())
        sums[split] = f"{rows.value():032x}"
    text = json.dumps([content, sums], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:32] == fingerprint


def test_a_format_of_the_future_is_refused(rewritten):
    directory = rewritten(format=4)
    with pytest.raises(InputError) as error:
        Dataset(directory)
    assert str(error.value) == (
        f"dataset {directory}: format=4; allowed: 2 or 3; "
        "prepare it again, or read it with the version of jaxrec that prepared it"
    )


def wrong_layouts(layout):
    """Return each wrong layout's JSON, and the part of the message about it."""
    good = layout.to_json()
    missing = {name: value for name, value in good.items() if name != "pools"}
    features = [good["features"][0] | {"scale": 2.0}, *good["features"][1:]]
    return {
        "unknown": (
            good | {"rows_per_user": 1},
            "layout.rows_per_user does not exist; there are num_titles, ",
        ),
        "rows": (good | {"rows": "pairs"}, "layout.rows='pairs' must be one of ranking, next_item"),
        "old rows": (
            old_layout(layout) | {"examples": "pairs"},
            "layout.rows='pairs' must be one of ranking",
        ),
        "missing": (missing, "layout.pools is missing"),
        "feature": (
            good | {"features": features},
            "layout.features[0].scale does not exist; there are name, ",
        ),
    }


@pytest.mark.parametrize("case", ["unknown", "rows", "old rows", "missing", "feature"])
def test_a_wrong_layout_is_refused_by_name(tiny, rewritten, case):
    layout, message = wrong_layouts(tiny.layout)[case]
    directory = rewritten(layout=layout)
    with pytest.raises(InputError) as error:
        Dataset(directory)
    assert str(error.value).startswith(f"dataset {directory}: manifest.json: {message}")
