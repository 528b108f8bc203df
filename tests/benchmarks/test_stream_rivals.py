"""The stream's benchmark: well-formed rows, peers that deliver all of them, and a report of what was run."""

import numpy as np
import pytest

from benchmarks import stream as benchmark
from benchmarks.peers import grain_examples
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.dataset import Dataset

ROWS, BATCH = 1500, 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stream") / "rows"
    return directory, benchmark.write(directory, ROWS)


@pytest.fixture(scope="module")
def rows(made):
    return Dataset(made[0]).rows("train")


def packed(batches, dtype):
    """The rows of batches of fields."""
    parts = []
    for fields in batches:
        assert {*fields} == {*dtype.names}
        part = np.zeros(BATCH, dtype)
        for name in dtype.names:
            values = np.asarray(fields[name])
            assert (values.dtype, values.shape) == (dtype[name].base, (BATCH, *dtype[name].shape)), name
            part[name] = values
        parts.append(part)
    return np.concatenate(parts)


def assert_every_row_once(found, rows):
    assert len({r.tobytes() for r in found}) == len(found) == ROWS
    np.testing.assert_array_equal(found[np.argsort(found["user"])], rows.all())


def test_the_rows_are_well_formed(rows):
    every = rows.all()
    assert every.dtype.itemsize == 688  # Table 3's shapes
    seen = every["history_title"] > 0
    assert (np.diff(seen.astype(int), axis=1) >= 0).all() and seen[:, -1].all()  # right-aligned
    assert {*seen.sum(axis=1)} == {*range(1, 33)}
    for name in ("completion", "age", "sessions", "abandoned"):
        assert not every[f"history_{name}"][~seen].any() and every[f"history_{name}"][seen].any()
    for name in ("hard", "trending", "tailing", "random"):
        assert every[f"pool_{name}"].min() >= FIRST_TITLE and every[f"pool_{name}"].max() < 5002
    assert ((every["target"] > 0) == (every["target_completion"] > 0)).all() and every["target"][:, 0].all()


def test_the_peers_file_holds_the_same_rows(made, rows):
    np.testing.assert_array_equal(np.fromfile(made[1], rows.dtype), rows.all())


@pytest.mark.parametrize("histories_packed", [False, True])
def test_ours_gives_every_field(made, rows, histories_packed):
    batches = benchmark.ours(made[0], BATCH, histories_packed)
    taken = [next(batches) for _ in range(ROWS // BATCH)]
    assert_every_row_once(packed(taken, rows.dtype), rows)
    shown = [(f["history_title"] > 0) & (f["history_abandoned"] == 0) for f in taken]
    ascend = [(np.diff(np.minimum(kept.sum(axis=1), 20)) >= 0).all() for kept in shown]
    assert all(ascend) if histories_packed else not any(ascend)


@pytest.mark.parametrize("setting", [*grain_examples.SETTINGS[:2], grain_examples.WHOLE_SETTINGS[0]])
def test_grain_gives_every_row_once(made, rows, setting):
    assert not setting.processes
    batches = grain_examples.batches(made[1], rows.dtype, BATCH, setting, epochs=1)
    found = packed(batches, rows.dtype)
    assert_every_row_once(found, rows)
    assert (found["user"] != np.arange(ROWS)).any()  # shuffled


@pytest.mark.parametrize("fetch", ["parsed", "whole", "batched"])
def test_the_loader_gives_every_row_once(made, rows, fetch):
    pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    from benchmarks.peers import torch_loader

    assert fetch in torch_loader.FETCHES
    batches = torch_loader.batches(made[1], rows.dtype, BATCH, fetch, workers=0, epochs=1)
    found = packed(batches, rows.dtype)
    assert_every_row_once(found, rows)
    assert (found["user"] != np.arange(ROWS)).any()


def test_a_turn_settles_first_and_ends_the_one_before():
    taken, closed = [], []

    class Pipeline:
        def __init__(self, name):
            self.name = name

        def __next__(self):
            taken.append(self.name)

        def close(self):
            closed.append(self.name)

    track = benchmark.Track()
    track.open(lambda: Pipeline("a"))
    assert taken == ["a"] * benchmark._LEAD
    track.take(3)
    track.open(lambda: Pipeline("b"))
    assert taken == ["a"] * (benchmark._LEAD + 3) + ["b"] * benchmark._LEAD
    assert closed == ["a"]
    track.close()
    assert closed == ["a", "b"]


def test_the_report_names_what_was_run(monkeypatch):
    class Flags:
        rows, batch, rounds = 4_000, 100, 2

    every = benchmark.peers

    def without_processes(*given):
        return {name: {next(iter(s)): next(iter(s.values()))} for name, s in every(*given).items()}

    pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    monkeypatch.setattr(benchmark, "peers", without_processes)
    monkeypatch.setattr(benchmark, "_MEMORY_RUNS", 1)
    report = benchmark.main(Flags)
    figures = report.figures
    assert {*figures["times_faster"]} == {*figures["settings"]} < {*figures["examples_per_second"]}
    for name, times in figures["times_faster"].items():
        ours, theirs = (figures["examples_per_second"][n]["median"] for n in ("ours", name))
        assert times["least"] <= times["median"] <= times["most"]
        assert times["median"] == pytest.approx(ours / theirs, rel=0.9)
    assert figures["memory"]["whole"]["median"] > 2**20
    assert figures["bytes_per_second"]["median"] == pytest.approx(
        688 * figures["examples_per_second"]["ours"]["median"]
    )
    assert "target 20; best of its settings: 0 threads, 0 processes" in report.table()
