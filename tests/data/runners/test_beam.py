"""Preparation on Apache Beam's direct runner, compared with that on one machine.

The KuaiRand sample is the folder in JAXREC_KUAIRAND, else ../shared/data/kuairand_pure_sample beside the
checkout. The long form is `pytest -m slow tests/data/runners/test_beam.py`.
"""

import copy
import filecmp
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Columns, Feature, Signal, Tables
from jaxrec.core.errors import InputError, RunError
from jaxrec.core.ids import SPLITS
from jaxrec.data.events import partitions
from jaxrec.data.runners import beam, local, stages
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import files, open_source, text
from jaxrec.sources.simulator import source as source_module

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))


def prepare_both(config, directory, monkeypatch):
    """Prepare on one machine and on Beam, compare all files, return the dataset."""
    open_ = lambda: open_source(  # noqa: E731
        config.source, config.features, config.data.path, config.signals
    )
    local.prepare(open_(), config, str(directory / "one"))
    partitions_ = []
    monkeypatch.setattr(
        stages, "merge_ranges", lambda *a: partitions_.append(partitions.merge_ranges(*a)) or partitions_[-1]
    )
    beam.prepare(open_(), config, str(directory / "beam"))
    monkeypatch.undo()
    assert partitions_[0].max() > 0, "one partition"
    one, on_beam = Dataset(directory / "one"), Dataset(directory / "beam")
    assert one.fingerprint == on_beam.fingerprint and one.manifest == on_beam.manifest
    for split in SPLITS:
        rows = one.rows(split).all()
        assert len(rows) and rows.tobytes() == on_beam.rows(split).all().tobytes(), split
    names = sorted(p.name for p in one.directory.iterdir())
    assert names == sorted(p.name for p in on_beam.directory.iterdir())
    same, _, _ = filecmp.cmpfiles(one.directory, on_beam.directory, names, shallow=False)
    assert same == names
    assert sorted(p.name for p in directory.iterdir()) == ["beam", "one"]
    return on_beam


def with_data_settings(config, **data):
    config = copy.deepcopy(config)
    if data.pop("task", "ranking") == "next_item":
        config.task.name = "next_item"
        config.features = tuple(f for f in config.features if f.where == "title")
        data |= {"num_targets": 1}
    for name, value in data.items():
        setattr(config.data, name, value)
    return config


TIME = {"split": "time", "validation_from": "2024-12-20", "test_from": "2025-01-03"}
LAST = {"split": "last", "validation_share": 0.5}


@pytest.mark.parametrize(
    "task, split",
    [
        pytest.param("ranking", {}, id="requests-users"),
        pytest.param("ranking", LAST, id="requests-last", marks=pytest.mark.slow),
        pytest.param("next_item", LAST, id="sequences-last"),
        pytest.param("next_item", TIME, id="sequences-time", marks=pytest.mark.slow),
    ],
)
def test_the_simulator_on_beam_equals_the_simulator_on_one_machine(
    tiny_config, tmp_path, monkeypatch, task, split
):
    """The simulator's user and context features, oracle, and test-only users."""
    monkeypatch.setattr(source_module, "BLOCK", 100)
    dataset = prepare_both(
        with_data_settings(tiny_config, partitions=3, task=task, **split), tmp_path, monkeypatch
    )
    if task == "ranking":
        assert {f.where for f in dataset.layout.features} == {"title", "user", "context", "interaction"}
        rows = dataset.rows("test").all()
        assert np.isfinite(rows["oracle_enabled"]).all() and (rows["mood"] > 0).all()


DAYS = {"since": "2024-12-20", "until": "2025-01-10", "replay": 0.3, "capacity": 64}


@pytest.mark.parametrize(
    "task, only",
    [("ranking", "device=tv"), pytest.param("next_item", "", marks=pytest.mark.slow)],
)
def test_a_day_on_beam_equals_that_on_one_machine(tiny_config, tmp_path, monkeypatch, task, only):
    """Later plays, older targets, one category, the ids of an earlier dataset, and unused ids."""
    monkeypatch.setattr(source_module, "BLOCK", 100)
    earlier = with_data_settings(tiny_config, task=task, until="2024-12-20", capacity=64)
    source = open_source(earlier.source, earlier.features)
    local.prepare(source, earlier, str(tmp_path / "earlier"))
    (tmp_path / "days").mkdir()
    settings = DAYS | {"only": only, "continues": str(tmp_path / "earlier"), "task": task, "partitions": 3}
    dataset = prepare_both(with_data_settings(tiny_config, **settings), tmp_path / "days", monkeypatch)
    before = Dataset(tmp_path / "earlier").arrays
    np.testing.assert_array_equal(dataset.arrays.title_key, before.title_key)
    assert (dataset.arrays.id_of_rank != before.id_of_rank).any()  # the order of popularity has changed


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the KuaiRand sample is not in {SAMPLE}")
@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=pytest.mark.slow) for spec in ("kuairand.py", "sequences.py:kuairand")]
)
def test_the_kuairand_sample_on_beam_equals_that_on_one_machine(tmp_path, monkeypatch, spec):
    config = load_config(str(ROOT / "configs" / spec))
    config.source.directory = str(SAMPLE)
    assert prepare_both(config, tmp_path, monkeypatch).manifest["rows"]["read"] > 200_000


@pytest.fixture
def logs(tiny_config, tmp_path):
    """Return a function that writes the simulated log as two files of a format, and returns the config.

    The log has a number in the context, invalid rows, and user names of various lengths.
    """
    source = open_source(tiny_config.source, tiny_config.features)
    [plays], titles, [users] = source.interactions(), source.titles(), source.users()
    name = lambda keys: [f"u{10 ** (k % 9)}.{k}" for k in keys.tolist()]  # noqa: E731
    log = pl.DataFrame(
        {
            "user_id": name(plays.user),
            "title_id": titles.key[plays.title],
            "time": plays.time,
            "seconds_viewed": plays.seconds,
            "room": np.arange(len(plays.user)) // 150,  # values differ between chunks
            "load": np.random.default_rng(0).lognormal(0, 5, len(plays.user)),
        }
    )
    rng = np.random.default_rng(1)
    log = log.with_columns(
        thumb=rng.choice([-1, 0, 0, 1, 2], len(log), p=[0.1, 0.4, 0.3, 0.19, 0.01]),
        query=rng.choice(["", "drama", "a western"], len(log)),
    ).with_columns(
        title_id=pl.when(pl.int_range(pl.len()) % 97 == 5).then(-7).otherwise("title_id"),
        seconds_viewed=pl.when(pl.int_range(pl.len()) % 89 == 3).then(None).otherwise("seconds_viewed"),
    )
    here = tmp_path / "logs"
    here.mkdir()
    pages = log.select("user_id", "time").sample(400, with_replacement=True, seed=2)
    pages.with_columns(
        user_id=pl.when(pl.int_range(400) == 9).then(pl.lit("x")).otherwise("user_id")
    ).write_csv(here / "pages.csv")
    pl.DataFrame({"title_id": titles.key, "runtime_minutes": titles.runtime}).write_csv(here / "titles.csv")
    pl.DataFrame({"user_id": name(users.key), **users.features}).write_csv(here / "users.csv")
    config = copy.deepcopy(tiny_config)
    config.features = (
        Feature("title_id", "category", "title", 8),
        Feature("segment", "category", "user", 4),
        Feature("room", "category", "context", 4),
        Feature("load", "number", "context", 4),
    )
    config.data.partitions = 4
    config.signals = (
        Signal("thumb", "sign", column="thumb"),
        Signal("search", "text", "user", column="query"),
        Signal("page", about="user", table=str(here / "pages.csv")),
    )

    def written(form):
        half = log.height // 2
        for i, part in enumerate((log[:half], log[half:])):
            getattr(part, f"write_{form}")(here / f"log{i}.{form}")
        config.source = Tables(
            str(here / f"log*.{form}"), str(here / "titles.csv"), str(here / "users.csv"), Columns()
        )
        return config

    return written


@pytest.mark.parametrize("form", [pytest.param("csv", marks=pytest.mark.slow), "parquet"])
def test_files_on_beam_equal_files_on_one_machine(logs, tmp_path, monkeypatch, form):
    """Files read in parts and chunks: rows left out, moments, width of names."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(files, "SLICE_ROWS", 1_000)
    config, out = logs(form), tmp_path / "out"
    out.mkdir()
    assert len(open_source(config.source, config.features).parts()) == {"csv": 2, "parquet": 6}[form]
    dataset = prepare_both(config, out, monkeypatch)
    assert dataset.manifest["rows"]["dropped"] == {
        "row that cannot be parsed": 61,
        "title not in the catalogue": 55,
    }
    assert dataset.user_keys("test").dtype.itemsize == 14
    thumb, search, page = (dataset.manifest["signals"][s.name] for s in config.signals)
    assert thumb["dropped"].keys() == {"sign neither -1 nor 1", "title not in the catalogue"}
    assert page["dropped"] == {"user without a valid play": 1} and page["copies"] > 9
    assert search["kept"] > 3_000 and search["dropped"] == {}


@pytest.mark.parametrize(
    "field, value, message",
    [
        # Of all rows.
        (("data", "latest"), "1990-01-02", r"^5403 of 5403 rows .* more than data\.max_invalid_fraction"),
        (("source", "users"), 2, r"^source: no \w+ example is left"),  # of the rows that were built
        (("features",), (Feature("no", "category", "context", 4),), r"^feature no: no such context column"),
        pytest.param(
            ("features",), (Feature("no", "category", "user", 4),), r"^feature no: no such user column",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("features",), (Feature("no", "category", "title", 4),), r"^feature no: no such title column",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_invalid_input_leaves_no_file(tiny_config, tmp_path, field, value, message):
    config = copy.deepcopy(tiny_config)
    *path, name = field
    setattr(getattr(config, path[0]) if path else config, name, value)
    if name == "users":
        config.source.test_only_users = 0
    with pytest.raises(InputError, match=message) as error:
        beam.prepare(open_source(config.source, ()), config, str(tmp_path / "bad"))
    assert "while running" not in str(error.value)  # which Beam would add
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_not_an_input_error_and_leaves_no_file(tiny_config, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(stages, "assign_shards", broken)
    with pytest.raises(Exception, match="a defect") as caught:
        beam.prepare(open_source(tiny_config.source, ()), tiny_config, str(tmp_path / "bad"))
    assert not isinstance(caught.value, InputError) and list(tmp_path.iterdir()) == []


class FailedJob:
    """Pipeline and job of a portable runner that failed; its messages are those of Beam 2.77."""

    TEXT = (
        "Pipeline job-1 failed in state FAILED: Error running.\n\nTraceback (most recent call last):\n"
        '  File "data_plane.py", line 594, in input_elements\n    raise RuntimeError(...)\n'
        "RuntimeError: Channel closed prematurely.\n"
    )

    def run(self):
        return self

    def wait_until_finish(self):
        logger = logging.getLogger()
        for message in (self.TEXT, "a message"):
            record = logger.makeRecord("root", logging.ERROR, "portable_runner.py", 1, "%s", (message,), None)
            logger.handle(record)
        raise RuntimeError(self.TEXT)


def test_a_job_that_lost_a_worker_fails_in_one_line(tmp_path, caplog):
    with pytest.raises(RunError, match=r"none of its stages did: RuntimeError: Channel closed prem") as error:
        beam._run(FailedJob(), tmp_path)
    assert "\n" not in str(error.value) and [r.getMessage() for r in caplog.records] == ["a message"]


@pytest.mark.parametrize(
    "wrong, kind", [(ZeroDivisionError("a defect"), RuntimeError), (InputError("x=1"), InputError)]
)
def test_a_stage_that_failed_on_a_worker_is_no_lost_worker(tmp_path, wrong, kind):
    def broken(_):
        raise wrong
        yield

    with pytest.raises(type(wrong)):
        next(beam._Step(broken, str(tmp_path)).process(None))
    with pytest.raises(kind, match="x=1" if kind is InputError else "Traceback"):
        beam._run(FailedJob(), tmp_path)


@pytest.mark.parametrize(
    "text, line",
    [
        ("Pipeline failed.", "Pipeline failed."),
        ("", ""),
        (
            "java.lang.RuntimeException: lost\n\tat X.run(X.java:3)\n\t... 3 more",
            "java.lang.RuntimeException: lost",
        ),
    ],
)
def test_the_line_of_a_job_that_names_its_error(text, line):
    assert beam._name_error(text) == line


def test_an_existing_dataset_is_not_overwritten(tiny_config, tiny_directory):
    with pytest.raises(InputError, match="exists"):
        beam.prepare(open_source(tiny_config.source, ()), tiny_config, str(tiny_directory))


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "flags, message",
    [
        ("'", "No closing quotation"),
        ("stray", "'stray' is not a flag of Beam"),
        ("--runner=FlinkRunner --parallelism 3 stray", "'stray' is not a flag of Beam"),
        ("--foo=3", "'--foo=3' is not a flag of Beam"),
        ("--direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
        ("--runner=Nobody", "--runner=Nobody: Unexpected pipeline runner"),
    ],
)
def test_invalid_flags_of_beam(flags, message):
    with pytest.raises(InputError) as error:
        beam.parse_options(flags)
    assert str(error.value).startswith(f"--beam_args={flags!r}: ") and message in str(error.value)


def test_flags_of_beam():
    options = beam.parse_options(
        "--runner=FlinkRunner --flink_master=host:8081 --parallelism 3"
    ).get_all_options()
    assert (options["runner"], options["flink_master"]) == ("FlinkRunner", "host:8081")
    assert beam.parse_options("").get_all_options()["runner"] == "FnApiRunner"


def run(*arguments):
    line = [sys.executable, "-m", "jaxrec.prepare", f"--config={ROOT / 'configs' / 'tiny.py'}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
def test_the_command(tmp_path, tiny):
    """Invalid input is reported in one line, and two processes make the dataset."""
    out = f"--out={tmp_path / 'd'}"
    invalid = run(out, "--runner=beam", "--config.data.latest=1990-01-02")
    [message] = [line for line in invalid.stderr.splitlines() if not line.startswith("I")]
    assert (invalid.returncode, invalid.stdout) == (2, "") and message.startswith("error: 5403 of 5403 rows")
    assert list(tmp_path.iterdir()) == []
    workers = "--direct_running_mode=multi_processing --direct_num_workers=2"
    done = run(out, "--runner=beam", f"--beam_args={workers}", "--config.data.partitions=3")
    assert done.returncode == 0, done.stderr
    assert f"fingerprint {tiny.fingerprint}" in done.stdout
    assert Dataset(tmp_path / "d").fingerprint == tiny.fingerprint


def test_beam_must_be_selected_and_installed(tiny_config, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^--beam_args='--x': must be empty unless --runner is beam"):
        ensure_dataset(tiny_config, str(tmp_path / "d"), beam_args="--x")
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "jaxrec.data.runners.beam")
    monkeypatch.delattr("jaxrec.data.runners.beam")
    with pytest.raises(InputError, match=r"^--runner=beam: apache_beam is not installed; .*jaxrec\[beam\]"):
        ensure_dataset(tiny_config, str(tmp_path / "d"), runner="beam")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "signal",
    [
        pytest.param(SystemExit(143), id="SIGTERM"),
        pytest.param(KeyboardInterrupt(), id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_a_stage_is_raised_again(tiny_config, tmp_path, monkeypatch, caplog, signal):
    """The direct runner runs stages in the main thread, where signals are raised."""

    def interrupted(*_):
        raise signal

    monkeypatch.setattr(stages, "assign_shards", interrupted)
    with pytest.raises(type(signal)) as caught:
        beam.prepare(open_source(tiny_config.source, ()), tiny_config, str(tmp_path / "d"))
    assert caught.value.args == signal.args and list(tmp_path.iterdir()) == []
    assert "Traceback" not in caplog.text


def test_a_bucket_is_refused_on_beam():
    config = load_config(str(ROOT / "configs/tiny.py"))
    with pytest.raises(InputError, match=r"^dataset s3://b/d: allowed with --runner=beam: a folder that all"):
        ensure_dataset(config, "s3://b/d", "beam")
