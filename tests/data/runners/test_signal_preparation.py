"""Preparation with signals: bytes, counts and hash do not depend on order, cores, partitions or engine."""

import copy
import filecmp
import json

import numpy as np
import polars as pl
import pytest
from test_stages import Engine, run_stages

from jaxrec import prepare as command
from jaxrec.config.schema import Feature, Label, Reward, Signal, Tables, Term
from jaxrec.config.serialization import digest
from jaxrec.core.errors import InputError
from jaxrec.data.events import partitions
from jaxrec.data.runners import local, partition_job, statistics
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.reporting.check_report import format_check
from jaxrec.sources import files, open_source

ROWS = 2_000  # plays of 100 users


def write_tables(folder):
    """Write a log with two signals, and a table of list adds, with copies and users without plays."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 100, ROWS),
            "title_id": rng.integers(0, 120, ROWS),
            "time": 1_700_000_000_000 + rng.integers(0, 60 * 86_400_000, ROWS),
            "seconds_viewed": rng.choice([60.0, 3000.0], ROWS),
            "thumb": rng.choice([-1, 0, 1, 3], ROWS, p=[0.1, 0.795, 0.1, 0.005]),
            "stayed": np.round(rng.exponential(9.0, ROWS) * rng.integers(0, 2, ROWS), 3),
        }
    )
    adds = pl.DataFrame(
        {
            "user_id": rng.integers(0, 110, 700),
            "title_id": rng.integers(0, 123, 700),  # three are not in the catalogue
            "time": 1_700_000_000_000 + rng.integers(0, 60 * 86_400_000, 700),
        }
    )
    adds = pl.concat([adds, adds[::7]])
    titles = pl.DataFrame({"title_id": np.arange(120), "runtime_minutes": 90.0})
    titles.write_parquet(folder / "titles.parquet")
    for name, order in (("in order", slice(None)), ("backwards", slice(None, None, -1))):
        (folder / name).mkdir()
        log[order].write_parquet(folder / name / "log.parquet")
        adds[order].write_parquet(folder / name / "adds.parquet")


@pytest.fixture(scope="module")
def tables(once):
    return once("signals", write_tables)


@pytest.fixture
def config(tiny_config, tables):
    return with_signals(tiny_config, tables)


def with_signals(tiny_config, tables, order="in order"):
    config = copy.deepcopy(tiny_config)
    config.features = (Feature("title_id", "category", "title", 8),)
    config.source = Tables(str(tables / order / "log.parquet"), str(tables / "titles.parquet"))
    config.signals = (
        Signal("thumb", "sign", column="thumb"),
        Signal("stay", "seconds", column="stayed"),
        Signal("add", table=str(tables / order / "adds.parquet")),
        Signal("shown", about="user", column="*"),
    )
    config.labels = (
        Label("liked", "last", "thumb"),
        Label("stayed", "seconds", "stay", hours=100),
        Label("back", "returned", hours=48),
        Label("finished", "at_least", hours=500, at=0.5),
    )
    return config


def opened(config):
    return open_source(config.source, config.features, "", config.signals)


@pytest.fixture(scope="module")
def prepared(once, tiny_config, tables):
    config = with_signals(tiny_config, tables)
    return once("with-signals", lambda folder: local.prepare(opened(config), config, str(folder)))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def same_files(one, two, without=()):
    names = sorted(p.name for p in one.iterdir() if p.name not in without)
    assert names == sorted(p.name for p in two.iterdir() if p.name not in without)
    return filecmp.cmpfiles(one, two, names, shallow=False)[1:] == ([], [])


def test_signals_are_counted_in_the_manifest_and_change_no_row(config, tmp_path):
    prepared, config.labels = tmp_path / "with", ()
    local.prepare(opened(config), config, str(prepared))
    log = pl.read_parquet(config.source.interactions)
    adds = pl.read_parquet(config.signals[2].table)
    known, in_log = adds.filter(pl.col("title_id") < 120), pl.col("user_id") < 100
    thumbs = log.filter(pl.col("thumb") != 0)
    with_signals = manifest_of(prepared)
    assert with_signals["signals"] == {
        "thumb": {
            "read": thumbs.height, "copies": 0,
            "dropped": {"sign neither -1 nor 1": int((log["thumb"] == 3).sum())},
            "kept": int((log["thumb"].abs() == 1).sum()),
        },
        "stay": {"read": (n := int((log["stayed"] != 0).sum())), "copies": 0, "dropped": {}, "kept": n},
        "add": {
            "read": 800, "copies": known.filter(in_log).height - (n := known.filter(in_log).unique().height),
            "dropped": {
                "title not in the catalogue": 800 - known.height,
                "user without a valid play": known.filter(~in_log).height,
            },
            "kept": n,
        },
        "shown": {"read": ROWS, "copies": 0, "dropped": {}, "kept": ROWS},
    }  # fmt: skip
    config.signals = ()
    local.prepare(opened(config), config, str(tmp_path / "without"))
    assert same_files(prepared, tmp_path / "without", {"manifest.json"})
    without = manifest_of(tmp_path / "without")
    new = {"signals", "signals_sum", "digest", "fingerprint", "source_files", "checksum"}
    assert with_signals.keys() - without.keys() == {"signals", "signals_sum"}
    assert without.keys() - with_signals.keys() == set()
    assert {k: v for k, v in with_signals.items() if k not in new} == {
        k: v for k, v in without.items() if k not in new
    }
    assert with_signals["fingerprint"] != without["fingerprint"]


def test_labels_are_described_from_the_rows(config, prepared):
    dataset = Dataset(prepared)
    rows = dataset.rows("train").all()
    described = dataset.manifest["labels"]
    names = [label.name for label in config.labels]
    assert [*dataset.layout.labels] == names and described.keys() == {*names}
    present = rows["target"] > 0
    for i, name in enumerate(names):
        entry = described[name]
        known = (rows["label_known"] >> i & 1 == 1) & present
        assert entry["entries"] == present.sum() and 0.01 < entry["known"] == known.sum() / present.sum() < 1
        assert entry["mean"] == pytest.approx(rows["label"][..., i][known].mean(), rel=1e-3)
        line = f"label {name}: known for {entry['known']:.1%} of {entry['entries']:,} training targets, mean "
        assert line in command.table(dataset.manifest)
    config.labels = config.labels[:3]
    assert digest(config) != dataset.manifest["digest"]
    config.rewards = (Reward("r", (Term("liked"),)),)
    with_reward, config.rewards = digest(config), ()
    assert with_reward == digest(config)  # rewards are computed from stored labels


@pytest.mark.parametrize(
    "count, workers, order, most",
    [(1, 1, "in order", 10**6), (9, 3, "in order", 10**6), (1, 2, "backwards", 700)],
)
def test_bytes_do_not_depend_on_cores_partitions_and_order(
    tiny_config, tables, prepared, tmp_path, monkeypatch, count, workers, order, most
):
    """With partitions of at most 700 events, plays and signals together."""
    monkeypatch.setattr(partitions, "_MAX_EVENTS", most)
    config, totals = with_signals(tiny_config, tables, order), {}
    config.data.partitions, config.data.workers = count, workers
    report = lambda stage, done, total: totals.update({stage: total})  # noqa: E731
    local.prepare(opened(config), config, str(tmp_path / "again"), report)
    assert same_files(prepared, tmp_path / "again", {"manifest.json"})
    new = {"digest", "fingerprint", "source_files", "checksum"} if order == "backwards" else set()
    one, two = (
        {k: v for k, v in manifest_of(d).items() if k not in new} for d in (prepared, tmp_path / "again")
    )
    assert one == two
    events = sum(signal["kept"] for signal in one["signals"].values()) + ROWS
    assert totals["building rows"] >= {10**6: count, 700: events / 700}[most]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_stages_of_an_engine_make_the_same_bytes(config, prepared, tmp_path, monkeypatch, seed):
    """The table of adds is read in four parts."""
    monkeypatch.setattr(files, "SLICE_ROWS", 250)
    config.data.partitions = 3
    assert len(opened(config).signal_parts()) == ROWS // 250 + 4
    count, _ = run_stages(opened(config), config, tmp_path / "spread", Engine(seed))
    assert count > 1 and same_files(prepared, tmp_path / "spread", {"manifest.json"})
    one, two = manifest_of(prepared), manifest_of(tmp_path / "spread")
    unlike = {"source_files": [], "checksum": ""}
    assert one | unlike == two | unlike


@pytest.mark.parametrize("stream", ["signal_chunks", "signal_shares", "tallies"])
def test_a_lost_or_duplicated_event_is_an_error(config, tmp_path, monkeypatch, stream):
    monkeypatch.setattr(files, "SLICE_ROWS", 1000)
    for lost in ({"lost_output": stream}, {"duplicated_output": stream}):
        with pytest.raises(RuntimeError, match="some were lost or duplicated"):
            run_stages(opened(config), config, tmp_path / "lost", Engine(0, **lost))


def test_rows_are_built_from_the_events_of_the_same_users(config, prepared, tmp_path, monkeypatch):
    """The events that reach `build` are those that the manifest counts, sorted, of users with plays."""
    built, build = [], partition_job.build
    monkeypatch.setattr(
        partition_job, "build", lambda events, *rest: built.append(events) or build(events, *rest)
    )
    local.prepare(opened(config), config, str(tmp_path / "d"))
    assert len(built) > 1
    kinds = np.concatenate([events.signals["kind"] for events in built])
    kept = [signal["kept"] for signal in manifest_of(prepared)["signals"].values()]
    names = [*manifest_of(prepared)["signals"]]
    order = [names.index(s.name) for s in config.signals]
    assert np.bincount(kinds).tolist() == [kept[i] for i in order]
    for plays, signals in built:
        assert set(signals["user"].tolist()) <= set(plays["user"].tolist())
        keys = list(zip(*(signals[n].tolist() for n in ("user", "title", "time", "kind")), strict=True))
        assert keys == sorted(keys)


def test_too_many_invalid_events_of_one_signal_end_the_preparation(config, tmp_path):
    config.data.max_invalid_fraction = 0.01  # of the thumbs about one in 40 is neither -1 nor 1
    with pytest.raises(
        InputError, match=r"^\d+ of \d+ events of signal 'thumb' \(\d.\d%\) would be left out, "
    ):
        local.prepare(opened(config), config, str(tmp_path / "bad"))
    assert [*tmp_path.iterdir()] == []


def test_a_dataset_of_other_signals_is_refused_and_the_same_is_opened(config, prepared):
    ensure_dataset(config, prepared)
    config.signals = config.signals[:3]
    with pytest.raises(
        InputError, match="prepared with other source, features, signals, labels or data settings"
    ):
        ensure_dataset(config, prepared)


def test_commands_print_the_counts(config, prepared):
    manifest = manifest_of(prepared)
    add = manifest["signals"]["add"]
    text = command.table(manifest)
    assert f"signal add: events read 800; duplicates {add['copies']}; kept {add['kept']}\n" in text
    assert f"\n  dropped: user without a valid play {add['dropped']['user without a valid play']}\n" in text
    counts = statistics.log_statistics(opened(config), config).to_json()
    assert {name: s["read"] for name, s in counts["signals"].items()} == {
        name: s["read"] for name, s in manifest["signals"].items()
    }
    report = format_check({"statistics": counts, "proposed": {}, "next": "x"})
    thumb = manifest["signals"]["thumb"]
    assert f"  signal thumb: {thumb['read']} events, {thumb['read'] / ROWS:.3g} a row of the log\n" in report
    wrong = thumb["dropped"]["sign neither -1 nor 1"]
    assert f"    dropped {wrong}, sign neither -1 nor 1: {config.source.interactions}, row " in report
