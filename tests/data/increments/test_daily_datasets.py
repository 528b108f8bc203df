"""Datasets of a day: what they count, which targets they hold, and what they take over."""

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from daily_logs import DAYS, FIRST, TITLES, daily_config, day, make_log, write_tables

from jaxrec.config.schema import Columns, Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, POOLS, SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.increments.selection import TargetSelection
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source


def prepared(config, folder):
    source = open_source(config.source, config.features, config.data.path, config.signals)
    prepare(source, config, str(folder))
    return Dataset(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("daily")
    write_tables(folder, make_log())
    return folder


@pytest.fixture(scope="module")
def datasets(folder):
    """Return a function that prepares the dataset of a config of the log once."""
    made = {}

    def make(task="ranking", **data):
        key = json.dumps([task, data], sort_keys=True)
        if key not in made:
            made[key] = prepared(daily_config(folder, task, **data), folder / f"d{len(made)}")
        return made[key]

    return make


def without_titles(config):
    """Change a config to read its titles from the log."""
    config.source = replace(config.source, titles="", columns=Columns(seconds="", runtime=""))
    config.features = tuple(f for f in config.features if f.name not in ("genre", "budget"))
    return config


# ---------------------------------------------------------------- until


@pytest.mark.parametrize("titles_of", ["table", "log"])
@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_the_log_after_until_changes_no_byte(tmp_path, task, titles_of):
    datasets = []
    for days in (6, DAYS):
        folder = tmp_path / str(days)
        folder.mkdir()
        write_tables(folder, make_log(days))
        config = daily_config(folder, task, until=day(6), capacity=16)
        if titles_of == "log":
            without_titles(config)
        datasets.append(prepared(config, folder / "d"))
    short, long = datasets
    # The digest covers the paths of the tables.
    left_out = ("source_files", "checksum", "digest", "fingerprint")
    contents = [{k: v for k, v in d.manifest.items() if k not in left_out} for d in datasets]
    assert contents[0] == contents[1]
    for path in short.directory.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (long.directory / path.name).read_bytes(), path.name
    if titles_of == "log":
        assert short.manifest["titles"] < TITLES  # tomorrow's titles are no titles yet


def test_counts_before_until_are_those_of_a_log_that_ends(folder, tmp_path, datasets):
    """Plays, ranks and the trending titles of a day, against the log of the days before alone."""
    known = datasets(until=day(4))
    write_tables(tmp_path, make_log(4))
    ended = prepared(daily_config(tmp_path), tmp_path / "d")
    whole = datasets()
    for name in vars(known.arrays):
        np.testing.assert_array_equal(getattr(known.arrays, name), getattr(ended.arrays, name))
    assert known.manifest["trending"] == ended.manifest["trending"]
    assert known.manifest["rows"]["read"] == 4 * 160 < whole.manifest["rows"]["read"]
    specs = [{f.name: (f.mean, f.std) for f in d.layout.of("context")} for d in (known, whole)]
    assert specs[0]["length"] != specs[1]["length"]
    assert known.manifest["signals"] == ended.manifest["signals"]


def test_a_title_is_in_the_catalogue_from_its_launch(folder):
    """A source with launches; plays of a title count from its first event on in any case."""
    config = daily_config(folder, until=day(3))
    source = open_source(config.source, config.features, "", config.signals)
    titles = source.titles()
    launched = np.full(len(titles.key), np.iinfo(np.int64).min)
    at = int((FIRST + 3).astype("datetime64[ms]").astype(int))
    launched[-2:] = at - 1, at
    source.titles = lambda: replace(titles, launched=launched)
    prepare(source, config, str(folder / "launched"))
    dataset = Dataset(folder / "launched")
    assert titles.key[-2] in dataset.arrays.title_key and titles.key[-1] not in dataset.arrays.title_key
    assert dataset.layout.num_titles == len(titles.key) - 1 + FIRST_TITLE
    budget = titles.features["budget"][:-1]
    spec = next(f for f in dataset.layout.features if f.name == "budget")
    np.testing.assert_allclose([spec.mean, spec.std], [budget.mean(), budget.std()])


def test_titles_that_the_service_launches_get_the_next_ids(tiny_config, tmp_path):
    """Five days of a service with launches: the ids of a title are equal in all datasets of the chain."""
    config, chain = copy.deepcopy(tiny_config), []
    config.source.users, config.source.test_only_users, config.source.launches = 120, 40, 0.4
    config.data.trending, config.data.tailing, config.data.negatives = 16, 12, 10
    for number in range(5):
        config.data.until = str(np.datetime64("2024-12-20") + 5 * number)
        config.data.continues = str(chain[-1].directory) if chain else ""
        chain.append(prepared(config, tmp_path / str(number)))
    keys = [d.arrays.title_key for d in chain]
    for earlier, later in itertools.pairwise(keys):
        assert len(earlier) < len(later) < config.source.titles
        np.testing.assert_array_equal(later[: len(earlier)], earlier)
    titles = open_source(config.source, config.features).titles()
    days = (titles.launched.astype("datetime64[ms]") < np.datetime64("2024-12-20")).sum()
    assert days == len(keys[0])


# ---------------------------------------------------------------- since and replay


def keys_of(rows, split):
    """Return the rows without the number of their user, as bytes."""
    rows = rows.copy()
    rows["user"] = 0
    return [row.tobytes() for row in rows]


def times_of(dataset, config, split):
    """Return the time of each row's target in days of the log."""
    seen = dataset.seen_titles(split)
    return (seen.query_time.astype("datetime64[s]") - FIRST) / np.timedelta64(1, "D")


def test_rows_since_a_day_are_those_of_the_whole_dataset(datasets):
    whole, new = datasets(until=day(8)), datasets(until=day(8), since=day(6))
    for split in SPLITS:
        there = keys_of(whole.rows(split).all(), split)
        rows = keys_of(new.rows(split).all(), split)
        assert 0 < len(rows) < len(there) and set(rows) < set(there)
    for split in SPLITS[1:]:
        times = times_of(whole, None, split)
        rows = whole.rows(split).all()[times >= 6]
        assert keys_of(rows, split) == keys_of(new.rows(split).all(), split)
    for name in vars(whole.arrays):
        np.testing.assert_array_equal(getattr(whole.arrays, name), getattr(new.arrays, name))
    assert new.rows("train").all()["history_title"][:, -1].min() > 0  # histories reach back


def test_a_share_of_older_targets_is_replayed(datasets):
    whole = datasets(until=day(8))
    counts, kept = [], []
    for replay in (0.0, 0.2, 0.6, 1.0):
        dataset = datasets(until=day(8), since=day(6), replay=replay)
        kept.append(set(keys_of(dataset.rows("train").all(), "train")))
        counts.append(len(kept[-1]))
        for split in SPLITS[1:]:  # held-out targets are new in any case
            new = datasets(until=day(8), since=day(6))
            assert keys_of(dataset.rows(split).all(), split) == keys_of(new.rows(split).all(), split)
    assert kept[0] < kept[1] < kept[2] < kept[3]
    older = counts[-1] - counts[0]
    assert counts[-1] == len(whole.rows("train").all())
    for count, share in zip(counts, (0.0, 0.2, 0.6, 1.0), strict=True):
        assert abs((count - counts[0]) / older - share) < 0.12
    other_day = datasets(until=day(8), since=day(5), replay=0.2)
    again = set(keys_of(other_day.rows("train").all(), "train")) & kept[1]
    assert len(again) < 0.5 * len(kept[1] - kept[0]) + counts[0]  # by another draw


def test_sequences_mark_the_targets_since_a_day(datasets):
    task = "next_item"
    whole, new = datasets(task, until=day(8)), datasets(task, until=day(8), since=day(6), replay=0.3)
    assert "selected" not in whole.rows("train").all().dtype.names and new.layout.selects_targets
    assert Layout.from_json(json.loads(json.dumps(new.layout.to_json()))) == new.layout
    rows = new.rows("train").all()
    times = (rows["time"].astype("datetime64[s]") - FIRST) / np.timedelta64(1, "D")
    selected, present = rows["selected"] > 0, rows["title"] > 0
    first = np.argmax(present, axis=1)
    is_target = present & (np.arange(rows["title"].shape[1]) > first[:, None])
    recent = is_target & (times >= 6)
    assert selected[recent].all() and not selected[~present].any()
    older = is_target & (times < 6)
    assert 0.2 < selected[older].mean() < 0.4
    assert selected.any(axis=1).all()
    all_rows = whole.rows("train").all()
    plays = {row["title"].tobytes() for row in all_rows}
    assert {row["title"].tobytes() for row in rows} <= plays and len(rows) < len(all_rows)


# ---------------------------------------------------------------- only


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_only_holds_the_rows_of_one_country(datasets, task):
    everyone = datasets(task, only="country=AR") if task == "next_item" else datasets()
    chosen = datasets(task, only="country=BR")
    values = chosen.manifest["categories"]["country"]
    assert values == ["AR", "BR", "CL"]
    users = {key for split in SPLITS[1:] for key in chosen.user_keys(split).astype(str)}
    assert users and all(int(key[1:]) % 4 == 1 for key in users)
    if task == "ranking":
        for split in SPLITS:
            rows, of_all = chosen.rows(split).all(), everyone.rows(split).all()
            wanted = of_all[of_all["user_categories"][:, 0] == FIRST_TITLE + values.index("BR")]
            assert keys_of(rows, split) == keys_of(wanted, split) and len(rows)
    for name in vars(chosen.arrays):  # plays, ranks and ids are those of all users
        np.testing.assert_array_equal(getattr(chosen.arrays, name), getattr(everyone.arrays, name))


def test_only_holds_the_requests_of_one_device(datasets):
    everyone, chosen = datasets(), datasets(only="device=tv")
    tv = FIRST_TITLE + chosen.manifest["categories"]["device"].index("tv")
    for split in SPLITS:
        of_all = everyone.rows(split).all()
        wanted = of_all[of_all["context_categories"][:, 0] == tv]
        assert keys_of(chosen.rows(split).all(), split) == keys_of(wanted, split) and len(wanted)


def test_an_unknown_value_is_an_error(folder, tmp_path):
    with pytest.raises(InputError, match="country has no such value; allowed: AR, BR, CL"):
        prepared(daily_config(folder, only="country=ZZ"), tmp_path / "d")
    assert not (tmp_path / "d").exists()


# ---------------------------------------------------------------- continues and capacity


def test_ids_and_statistics_of_the_earlier_dataset_stay(folder, tmp_path):
    """Three days of a log with new titles; the last titles table has other genres, and lacks two titles."""
    chain, config = [], None
    for number in range(3):
        until, lines = 5 + 2 * number, make_log(5 + 2 * number)
        here = tmp_path / str(number)
        here.mkdir()
        write_tables(here, lines, titles=40 + 4 * until)
        if number == 2:
            table = (here / "titles.csv").read_text().splitlines()
            kept = [line for line in table if not line.startswith(("t0,", "t7,"))]
            (here / "titles.csv").write_text("\n".join([*kept, "t999,40,alpine,3"]) + "\n")
        config = daily_config(
            here,
            until=day(until),
            capacity=16,
            max_invalid_fraction=0.2,
            continues=str(chain[-1].directory) if chain else "",
        )
        chain.append(prepared(config, here / "d"))
    first, second, third = (d.arrays for d in chain)
    assert (chain[0].layout.num_titles % 16, chain[2].layout.num_titles % 16) == (0, 0)
    for earlier, later in ((first, second), (second, third)):
        known = len(earlier.title_key)
        np.testing.assert_array_equal(later.title_key[:known], earlier.title_key)
        assert len(later.title_key) > known
        ids = np.sort(later.id_of_rank)
        np.testing.assert_array_equal(later.rank_of_id[later.id_of_rank], np.arange(len(ids)))
        plays = later.title_plays[later.id_of_rank]
        assert (np.diff(plays) <= 0).all()  # ids are not ranks, ranks still follow plays
        assert (later.rank_of_id[FIRST_TITLE + len(later.title_key) :] == len(later.rank_of_id)).all()
    gone = FIRST_TITLE + np.flatnonzero(np.isin(third.title_key, ["t0", "t7"]))
    assert len(gone) == 2 and not np.isin(third.id_of_rank, gone).any() and not third.title_plays[gone].any()
    np.testing.assert_array_equal(third.title_categories[gone], second.title_categories[gone])
    np.testing.assert_array_equal(third.title_numbers[gone], second.title_numbers[gone])
    assert third.title_runtime[gone - FIRST_TITLE].tolist() == [40.0, 40.0]
    genres = [d.manifest["categories"]["genre"] for d in chain]
    assert genres[0] == ["comedy", "crime", "drama", "space"] == genres[1]
    assert genres[2] == [*genres[0], "alpine"]
    new = FIRST_TITLE + int(np.flatnonzero(third.title_key == "t999")[0])
    assert third.title_categories[new, 0] == FIRST_TITLE + 4
    specs = [{f.name: (f.mean, f.std) for f in d.layout.features if f.kind == "number"} for d in chain]
    assert specs[0] == specs[1] == specs[2] and specs[0]["budget"][1] > 1
    budget = {key: float(key[1:]) * 1.5 for key in third.title_key.tolist()} | {"t999": 3.0}
    mean, std = specs[0]["budget"]
    np.testing.assert_allclose(
        third.title_numbers[FIRST_TITLE : FIRST_TITLE + len(third.title_key), 0],
        [(budget[key] - mean) / std for key in third.title_key.tolist()], rtol=1e-5,
    )  # fmt: skip
    assert chain[2].manifest["completion_threshold"] == chain[0].manifest["completion_threshold"]
    assert chain[1].manifest["continues"] == chain[0].fingerprint


@pytest.mark.parametrize("task", ["ranking", "next_item"])
def test_ids_without_a_title_are_in_no_row(datasets, task):
    dataset = datasets(task, capacity=64)
    arrays, layout = dataset.arrays, dataset.layout
    assert layout.num_titles == 64 and layout.has_gaps and len(arrays.title_key) == TITLES
    assert np.sort(arrays.id_of_rank).tolist() == list(range(FIRST_TITLE, FIRST_TITLE + TITLES))
    plain = datasets(task)
    assert plain.layout.num_titles == TITLES + FIRST_TITLE and not plain.layout.has_gaps
    for split in SPLITS:  # a capacity changes the number of ids alone
        rows = dataset.rows(split).all()
        assert rows.tobytes() == plain.rows(split).all().tobytes()
        for name in rows.dtype.names:
            if name.startswith(("pool_", "list_")) and not name.endswith("filled") and name[5:] in POOLS:
                assert rows[name].max() < FIRST_TITLE + TITLES


def test_another_earlier_dataset_is_noticed(folder, tmp_path):
    from jaxrec.data.runners.run import ensure_dataset

    first, second = (daily_config(folder, until=day(until)) for until in (4, 5))
    first.data.directory = second.data.directory = str(tmp_path / "first")
    ensure_dataset(first, tmp_path / "first")
    third = daily_config(folder, until=day(6), continues=str(tmp_path / "first"))
    ensure_dataset(third, tmp_path / "third")
    ensure_dataset(third, tmp_path / "third")
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    ensure_dataset(third, tmp_path / "third")  # it may be absent
    ensure_dataset(second, tmp_path / "first")
    with pytest.raises(InputError, match="continues a dataset of fingerprint"):
        ensure_dataset(third, tmp_path / "third")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, d: setattr(c, "task", type(c.task)("next_item")), "rows of requests, not of next_item"),
        (lambda c, d: setattr(c, "features", c.features[:-1]), "feature 6 is length"),
        (
            lambda c, d: setattr(c, "features", (*c.features[:2], Feature("budget", "category", "title", 4),
                                                *c.features[3:])),
            "feature 3 is budget",
        ),
    ],
)  # fmt: skip
def test_a_dataset_of_another_kind_is_not_continued(folder, datasets, tmp_path, change, message):
    earlier = datasets(until=day(5))
    config = copy.deepcopy(daily_config(folder, until=day(6), continues=str(earlier.directory)))
    change(config, earlier)
    config.signals = ()
    with pytest.raises(InputError, match=message):
        prepared(config, tmp_path / "d")


def test_keys_of_another_type_are_an_error(folder, datasets, tmp_path):
    config = daily_config(folder, until=day(6), continues=str(datasets(until=day(5)).directory))
    source = open_source(config.source, config.features, "", config.signals)
    titles = source.titles()
    source.titles = lambda: replace(titles, key=np.arange(len(titles.key)))
    with pytest.raises(InputError, match="keys of titles are text there and whole numbers here"):
        prepare(source, config, str(tmp_path / "d"))
    features = titles.features | {"genre": np.arange(len(titles.key)) % 4}
    source.titles = lambda: replace(titles, features=features)
    with pytest.raises(InputError, match="feature genre holds text there and whole numbers here"):
        prepare(source, config, str(tmp_path / "d"))
    assert not list(tmp_path.iterdir())


def test_the_draw_of_older_targets_is_a_function_of_the_target(datasets):
    """The share kept does not depend on the log around a target."""
    from jaxrec.core.hashing import uniform
    from jaxrec.data.events.event_log import Log

    none = np.empty((1, 0))
    log = Log(np.array([7], np.uint64), np.zeros(1, np.int8), *(np.empty(0),) * 4, none, none, none, none)
    user, time = np.zeros(1000, int), np.arange(1000)
    hashes = np.arange(1000).astype(np.uint64)
    selection = TargetSelection(10_000, 0.25, 3, None)
    kept = selection.targets(log, user, time, np.zeros(1000, int), hashes, np.empty((1000, 0)))
    assert abs(kept.mean() - 0.25) < 0.05
    assert not selection.targets(log, user, time, np.ones(1000, int), hashes, np.empty((1000, 0))).any()
    order = np.arange(1000)[::-1]
    again = selection.targets(log, user, time[order], np.zeros(1000, int), hashes[order], np.empty((1000, 0)))
    np.testing.assert_array_equal(again, kept[order])
    assert uniform(3, 0x4E91, 10_000, 7, hashes, time).shape == (1000,)
