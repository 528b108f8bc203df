"""Titles that were shown with the plays of sequences, against the log of the simulated service."""

import dataclasses

import numpy as np
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Signal
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.audit import audit, verify_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source
from tests.data.storage.test_audit import Changed

WIDTH = 6


def config_of(folder, served):
    config = load_config("configs/policy.py:tiny")
    config.source = dataclasses.replace(config.source, impressions_logged=0.5)
    config.data.directory, config.data.served = str(folder), served
    if served:
        config.signals = (*config.signals, Signal("impression"))
    return config


@pytest.fixture(scope="module")
def datasets(once):
    """Datasets of one log, with the titles that were shown and without them."""

    def make(folder):
        for name, served in (("with", WIDTH), ("without", 0)):
            ensure_dataset(config_of(folder / name, served), folder / name)

    folder = once("shown-sequences", make)
    return Dataset(folder / "with"), Dataset(folder / "without")


def test_each_play_of_a_training_row_has_titles_of_its_slate(datasets):
    dataset = datasets[0]
    config = config_of(dataset.directory, WIDTH)
    source = open_source(config.source, config.features, None, config.signals)
    id_of = {key: i + 2 for i, key in enumerate(dataset.arrays.title_key.tolist())}
    title = np.array([id_of[key] for key in source.titles().key.tolist()])
    slates = {}
    impression = [signal.name for signal in config.signals].index("impression")
    for part in source.signal_parts():
        for events in source.signals(part):
            for user, of, time, kind in zip(events.user, events.title, events.time, events.kind, strict=True):
                if kind == impression:
                    slates.setdefault((int(time) // 1000, int(title[of])), []).append((int(user), int(time)))
    by_request = {}
    for (_, shown), requests in slates.items():
        for request in requests:
            by_request.setdefault(request, set()).add(shown)
    full = known = plays = 0
    for row in dataset.rows("train").all():
        at = np.flatnonzero(row["title"])
        assert not row["shown"][: at[0]].any()
        for play in at:
            own, shown = int(row["title"][play]), row["shown"][play][row["shown"][play] > 0].tolist()
            requests = slates.get((int(row["time"][play]), own), [])  # a chosen title is in its slate
            if shown:
                assert len(set(shown)) == len(shown) and own not in shown
                assert any(set(shown) <= by_request[request] - {own} for request in requests)
            known, plays, full = known + bool(shown), plays + 1, full + (len(shown) == WIDTH)
    assert 0.4 < known / plays < 0.6 and full > 0.8 * known


def test_all_else_of_the_rows_does_not_depend_on_what_was_shown(datasets):
    ours, theirs = datasets
    assert ours.layout == dataclasses.replace(theirs.layout, shown=WIDTH)
    for split in ("train", "validation", "test"):
        a, b = (dataset.rows(split).all() for dataset in datasets)
        assert len(a) == len(b)
        for name in b.dtype.names:
            np.testing.assert_array_equal(a[name], b[name])
    assert not verify_dataset(ours).problems


@pytest.mark.parametrize(
    ("value", "problem"), [(0, "shown holds the title that was played"), (9999, "shown is no title")]
)
def test_an_audit_finds_wrong_shown_titles(datasets, value, problem):
    rows = datasets[0].rows("train").all().copy()
    rows["shown"][3, -1, 0] = value or rows["title"][3, -1]
    (line,) = audit(Changed(datasets[0].directory, {"train": rows})).problems
    assert line == f"train: {problem}: 1 rows, the first is row 3"
