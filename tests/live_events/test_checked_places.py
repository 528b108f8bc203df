"""The reader of `benchmarks.live_places`, which shares no code with what writes slates, and what it finds."""

import hashlib
import json
import shutil

import pytest

from benchmarks.live_places import check, fits_schema, is_same, slot_of


def test_no_place_is_wrong_by_another_reader(slates_folder, slate_inputs):
    counts = check(slates_folder, slate_inputs / "events.json", slate_inputs / "licences.csv")
    # Two events, five stages, two regions, four clusters and the default one, forty places.
    assert counts["places"] == 40 * counts["slates"] == 40 * 2 * 5 * 2 * 5
    assert {kind for kind, number in counts.items() if number} == {"places", "slates"}
    assert fits_schema(slates_folder) == len([*(slates_folder / "payloads").iterdir()])


def changed(folder, change):
    """Replace each payload of the folder by what `change` makes of it, with the hash of its new content."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for record in manifest["payloads"]:
        path = folder / "payloads" / f"{record['hash']}.json"
        document = json.loads(path.read_text())
        change(document)
        content = json.dumps(document).encode()
        record["hash"] = hashlib.sha256(content).hexdigest()[:32]
        (folder / "payloads" / f"{record['hash']}.json").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def twice(document):
    document["spare"][0] = document["titles"][-1]


def one_less(document):
    document["titles"].pop()


def unknown(document):
    document["titles"][-1] = "no such title"


def moved(document):
    document["titles"].insert(0, document["titles"].pop(1))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (twice, "repeated"), (one_less, "missing"), (unknown, "unlicensed"),
        (moved, "events out of their slot"), (lambda d: d["slots"].clear(), "events out of their slot"),
    ],
)  # fmt: skip
def test_the_reader_finds_each_kind_of_fault(slates_folder, slate_inputs, tmp_path, change, kind):
    folder = shutil.copytree(slates_folder, tmp_path / "slates")
    assert is_same(folder, slates_folder)
    changed(folder, change)
    assert not is_same(folder, slates_folder)
    counts = check(folder, slate_inputs / "events.json", slate_inputs / "licences.csv")
    assert {k for k, n in counts.items() if n} == {"places", "slates", kind}, counts


def test_the_reader_finds_a_damaged_payload(slates_folder, slate_inputs, tmp_path):
    folder = shutil.copytree(slates_folder, tmp_path / "slates")
    path = next((folder / "payloads").iterdir())
    path.write_bytes(path.read_bytes() + b" ")
    counts = check(folder, slate_inputs / "events.json", slate_inputs / "licences.csv")
    assert counts["damaged payloads"] >= 1


@pytest.mark.parametrize(
    ("event", "stage", "region", "slot"),
    [
        ({}, "pre", "us", 3), ({}, "live", "us", 1), ({}, "cancelled", "us", 0),
        ({"regions": ["us"]}, "live", "de", 0), ({"recap_regions": ["us"]}, "ended", "de", 0),
        ({"recap_regions": ["us"]}, "ended", "us", 1), ({"stages": {"live": {"slot": 7}}}, "live", "us", 7),
    ],
)  # fmt: skip
def test_the_slot_of_an_event(event, stage, region, slot):
    assert slot_of(event, stage, region) == slot
