"""The forms of the benchmark of signals read the same log, and the larger ones more."""

import pytest

from benchmarks import signals
from jaxrec.data.storage.dataset import Dataset


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals") / "tables"
    signals.write_tables(folder, 1500)
    return folder


def test_every_form_prepares_the_same_plays(tables, tmp_path):
    plays = {}
    for form in signals.FORMS:
        config = signals.config_of(tables, form)
        source = signals.open_source(config.source, config.features, "", config.signals)
        signals.local.prepare(source, config, str(tmp_path / form))
        plays[form] = Dataset(tmp_path / form)
    read = [dataset.manifest["rows"] for dataset in plays.values()]
    assert read[0] == read[1] == read[2]
    most = plays[signals.LABELS].manifest
    assert {"thumb", "trailer"} == most["signals"].keys() and len(most["labels"]) == 5
    kept = sum(signal["kept"] for signal in most["signals"].values())
    assert 0.9 * read[0]["read"] < kept <= read[0]["read"]
    assert all(0 < label["known"] <= 1 for label in most["labels"].values())


def test_a_form_is_measured_in_a_process_of_its_own(tables, tmp_path):
    figures = signals.in_process(tables, tmp_path / "out", signals.LABELS)
    assert figures["plays"] > 1000 and figures["events"] > 1000 and figures["seconds"] > 0
    assert 2**25 < figures["peak_bytes"] < 2**32
