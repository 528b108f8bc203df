"""The audit of a dataset: what is written holds; each planted leak and each broken fact is seen."""

import copy
import dataclasses

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.audit import audit, query_hashes, verify_dataset
from jaxrec.data.storage.dataset import Dataset, Rows, SelectedRows
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.data.storage.plausibility import time_notes, title_notes
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.sources import open_source


class Changed(Dataset):
    """A dataset in which rows of splits are replaced."""

    def __init__(self, directory, replaced):
        super().__init__(directory)
        self._replaced = replaced

    def rows(self, split) -> Rows:
        return SelectedRows(self._replaced[split]) if split in self._replaced else super().rows(split)


@pytest.fixture
def changed(tiny):
    """Function that returns the tiny dataset after `change(rows)` of one of its splits."""

    def of(split, change):
        rows = tiny.rows(split).all().copy()
        change(rows)
        return Changed(tiny.directory, {split: rows})

    return of


def test_every_row_of_a_prepared_dataset_holds(tiny):
    result = audit(tiny)
    assert result.problems == [] and result.notes == []
    assert result.rows == {s: n["examples"] for s, n in tiny.manifest["splits"].items()}
    assert verify_dataset(tiny).rows == result.rows


def test_a_sample_ends_with_a_block(tiny):
    assert audit(tiny, 600).rows == {"train": 1024, "validation": 275, "test": 604}


def set_to(field, index, value):
    def change(rows):
        rows[field][index] = value

    return change


PROBLEMS = {
    "a user number": (
        "test",
        set_to("user", 7, 10_000),
        "test: user out of range: 1 rows, the first is row 7",
    ),
    "a title": ("train", set_to("history_title", (3, -1), 999), "train: history_title is no title"),
    "no target": ("train", set_to("target", (3, 0), 1), "train: no target"),
    "a hole": ("train", set_to("history_title", (slice(None), -2), 0), "padding between titles of a history"),
    "a completion": (
        "train",
        set_to("history_completion", (3, -1), 1.5),
        "history_completion outside [0, 1]",
    ),
    "its completion": (
        "test",
        set_to("target_completion", (3, 0), np.nan),
        "target_completion outside [0, 1]",
    ),
    "the future": ("train", set_to("history_age", (slice(None), -1), -0.5), "history after its target"),
}


@pytest.mark.parametrize(("split", "change", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_fact_that_does_not_hold_is_counted_with_its_first_row(changed, split, change, message):
    problems = audit(changed(split, change)).problems
    assert any(message in problem for problem in problems), problems


def plant_target(field):
    def change(rows):
        at = (5, 0, 3) if rows[field].ndim == 3 else (5, 3)
        rows[field][at] = rows["target"][5, 0]

    return change


@pytest.mark.parametrize(
    ("split", "field"), [("train", "pool_hard"), ("train", "pool_random"), ("test", "list_enabled")]
)
def test_a_target_among_its_negatives_is_seen(changed, split, field):
    assert audit(changed(split, plant_target(field))).problems == [
        f"{split}: {field} holds the target: 1 rows, the first is row 5"
    ]


def test_a_played_title_in_the_disabled_list_is_seen(changed):
    def change(rows):
        row = int(np.flatnonzero(rows["history_title"][:, -1])[-1])
        rows["list_disabled"][row, 0, 4] = rows["history_title"][row, -1]

    (problem,) = audit(changed("test", change)).problems
    assert problem.startswith("test: list_disabled holds a title that the user played: 1 rows")


def test_held_out_queries_in_training_are_counted(tiny):
    """The test user's plays are in training too, under another user."""
    train, test = tiny.rows("train").all().copy(), tiny.rows("test").all()
    long = np.flatnonzero(query_hashes(test, tiny.layout))
    assert len(long) >= 40
    for name in ("target", "target_completion", *(n for n in train.dtype.names if n.startswith("history_"))):
        train[name][: len(long)] = test[name][long]
    (note,) = audit(Changed(tiny.directory, {"train": train})).notes
    assert note.startswith(f"{len(long):,} train examples have the target and the last 5 titles") and (
        "of a test query" in note
    )


def sequences(layout_rows, **fields):
    rows = np.zeros(len(next(iter(fields.values()))), layout_rows)
    for name, values in fields.items():
        rows[name] = values
    return rows


def test_a_query_of_a_sequence_has_the_hash_of_its_position_in_training(tiny):
    layout = dataclasses.replace(tiny.layout, rows="next_item", max_history=8)
    titles, times = np.arange(2, 20), np.arange(100, 118)
    train = sequences(layout.row_dtype(), title=[titles], time=[times])
    test = sequences(
        layout.query_dtype(), history_title=[titles[4:12], titles[3:11]],
        history_time=[times[4:12], times[:8]], target=[titles[12:13], titles[11:12]],
        target_time=[times[12], times[11]],
    )  # fmt: skip
    known, query = query_hashes(train, layout), query_hashes(test, layout)
    assert len(known) == 13 and list(np.isin(query, known)) == [True, False]  # the second has other times


def test_a_broken_row_is_refused_by_a_verification(changed):
    dataset = changed("train", set_to("target", (3, 0), 1))
    with pytest.raises(InputError, match="train: no target: 1 rows, the first is row 3; remove the folder"):
        verify_dataset(dataset)


def test_a_broken_row_stops_a_preparation(tiny_config, tmp_path, monkeypatch):
    """Unless data.verify is off, which also leaves out the comparison of arrays when they are read."""
    add = DatasetWriter.add

    def broken(self, split, rows):
        rows["target"][:, 0] = 1
        add(self, split, rows)

    monkeypatch.setattr(DatasetWriter, "add", broken)
    config = copy.deepcopy(tiny_config)
    source = open_source(config.source, config.features)
    with pytest.raises(RuntimeError, match="train: no target: 1,809 rows, the first is row 0"):
        prepare(source, config, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
    config.data.verify = False
    prepare(source, config, tmp_path / "d")
    path = tmp_path / "d" / "title_runtime.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert len(Dataset(tmp_path / "d", verify=False).arrays.title_runtime) == 200
    with pytest.raises(InputError, match=r"title_runtime\.npy is damaged: sha256"):
        Dataset(tmp_path / "d").load_all()


def daily(days, plays):
    return DailyPlays(
        np.asarray(days, np.int32), np.full(len(days), 2, np.int32), np.asarray(plays, np.uint32)
    )


def test_plays_beyond_a_gap_are_noted():
    days = [0, 1, *range(18_000, 18_100)]
    (note,) = time_notes(daily(days, [2, 1, *[50] * 100]))
    assert note.startswith(
        "3 of 5,003 first plays (0.06%) are before a gap of 17,999 days, 1970-01-02 to 2019-04-14"
    )
    (late,) = time_notes(daily([*range(18_000, 18_100), 19_000], [*[50] * 100, 4]))
    assert "4 of 5,004 first plays (0.08%) are after a gap of 901 days" in late
    assert time_notes(daily([0, 400], [50, 50])) == []  # two seasons
    assert time_notes(daily(range(18_000, 18_100), [50] * 100)) == []


def test_a_day_of_an_import_is_noted():
    (note,) = time_notes(daily(range(18_000, 18_040), [*[10] * 39, 390]))
    assert note == (
        "390 of 780 first plays (50.0%) are on 2019-05-23, one of 40 days: is it the day of an import?"
    )
    assert time_notes(daily(range(18_000, 18_005), [10, 10, 10, 10, 60])) == []


def test_titles_without_features_are_noted(tiny):
    arrays, layout = tiny.arrays, tiny.layout
    assert title_notes(arrays, layout) == []
    categories, numbers = arrays.title_categories.copy(), arrays.title_numbers.copy()
    categories[2:112], numbers[2:112] = 1, 0
    plays = arrays.title_plays[2:112].sum() / arrays.title_plays.sum()
    notes = title_notes(
        dataclasses.replace(arrays, title_categories=categories, title_numbers=numbers), layout
    )
    assert notes[0] == (
        f"110 of 200 titles ({plays:.1%} of the plays) have no known feature: check the titles table"
    )
    assert "feature genres is unknown for 110 of 200 titles" in notes
