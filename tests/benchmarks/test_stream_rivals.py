"""The stream benchmark: valid rows, complete peers, and the report."""

import numpy as np
import pytest

from benchmarks import stream as benchmark
from benchmarks.peers import grain_examples
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.dataset import Dataset

ROWS, BATCH = 1500, 100


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stream") / "rows"
    return directory, benchmark.write(directory, ROWS)


@pytest.fixture(scope="module")
def rows(written):
    return Dataset(written[0]).rows("train")


def packed(batches, dtype):
    """Return the rows of batches of fields, concatenated."""
    batch_rows = []
    for fields in batches:
        assert {*fields} == {*dtype.names}
        rows = np.zeros(BATCH, dtype)
        for name in dtype.names:
            values = np.asarray(fields[name])
            assert (values.dtype, values.shape) == (dtype[name].base, (BATCH, *dtype[name].shape)), name
            rows[name] = values
        batch_rows.append(rows)
    return np.concatenate(batch_rows)


def assert_every_row_once(returned, rows):
    assert len({r.tobytes() for r in returned}) == len(returned) == ROWS
    np.testing.assert_array_equal(returned[np.argsort(returned["user"])], rows.all())


def test_rows_are_valid(rows):
    all_rows = rows.all()
    assert all_rows.dtype.itemsize == 688  # Table 3's shapes
    filled = all_rows["history_title"] > 0
    assert (np.diff(filled.astype(int), axis=1) >= 0).all() and filled[:, -1].all()  # right-aligned
    assert {*filled.sum(axis=1)} == {*range(1, 33)}
    for name in ("completion", "age", "sessions", "abandoned"):
        assert not all_rows[f"history_{name}"][~filled].any() and all_rows[f"history_{name}"][filled].any()
    for name in ("hard", "trending", "tailing", "random"):
        assert all_rows[f"pool_{name}"].min() >= FIRST_TITLE and all_rows[f"pool_{name}"].max() < 5002
    assert ((all_rows["target"] > 0) == (all_rows["target_completion"] > 0)).all() and all_rows["target"][
        :, 0
    ].all()


def test_the_peers_file_holds_the_same_rows(written, rows):
    np.testing.assert_array_equal(np.fromfile(written[1], rows.dtype), rows.all())


@pytest.mark.parametrize("histories_packed", [False, True])
def test_ours_returns_all_fields(written, rows, histories_packed):
    batches = benchmark.ours(written[0], BATCH, histories_packed)
    batch_fields = [next(batches) for _ in range(ROWS // BATCH)]
    assert_every_row_once(packed(batch_fields, rows.dtype), rows)
    shown = [(f["history_title"] > 0) & (f["history_abandoned"] == 0) for f in batch_fields]
    ascend = [(np.diff(np.minimum(mask.sum(axis=1), 20)) >= 0).all() for mask in shown]
    assert all(ascend) if histories_packed else not any(ascend)


def test_rows_on_the_device_are_our_packed_batches(written, rows):
    by_words, by_index = benchmark.ours(written[0], BATCH, True), benchmark.resident(written[0], BATCH, True)
    for _ in range(3):
        words = np.asarray(next(by_index).words)
        fields = words.view(rows.dtype)[:, 0]
        for name, expected in next(by_words).items():
            np.testing.assert_array_equal(fields[name], expected)
    assert next(benchmark.resident(written[0], BATCH, False)).shape[:2] == (1, 1)


@pytest.mark.parametrize("setting", [*grain_examples.SETTINGS[:2], grain_examples.WHOLE_SETTINGS[0]])
def test_grain_returns_every_row_once(written, rows, setting):
    assert not setting.processes
    batches = grain_examples.batches(written[1], rows.dtype, BATCH, setting, epochs=1)
    returned = packed(batches, rows.dtype)
    assert_every_row_once(returned, rows)
    assert (returned["user"] != np.arange(ROWS)).any()  # shuffled


@pytest.mark.parametrize("fetch", ["parsed", "whole", "batched"])
def test_the_loader_returns_every_row_once(written, rows, fetch):
    pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    from benchmarks.peers import torch_loader

    assert fetch in torch_loader.FETCHES
    batches = torch_loader.batches(written[1], rows.dtype, BATCH, fetch, workers=0, epochs=1)
    returned = packed(batches, rows.dtype)
    assert_every_row_once(returned, rows)
    assert (returned["user"] != np.arange(ROWS)).any()


def test_opening_a_pipeline_takes_its_first_batches_and_closes_the_previous_one():
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


def test_report_names_the_pipelines_and_settings(monkeypatch):
    class Flags:
        rows, batch, rounds = 4_000, 100, 2

    all_peers = benchmark.peers

    def without_processes(*arguments):
        return {name: {next(iter(s)): next(iter(s.values()))} for name, s in all_peers(*arguments).items()}

    pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    monkeypatch.setattr(benchmark, "peers", without_processes)
    monkeypatch.setattr(benchmark, "_MEMORY_RUNS", 1)
    compared = []
    ratio = benchmark.measure.ratio
    monkeypatch.setattr(benchmark.measure, "ratio", lambda *pair: compared.append(pair) or ratio(*pair))
    report = benchmark.main(Flags)
    figures = report.figures
    assert {*figures["times_faster"]} == {*figures["settings"]} < {*figures["examples_per_second"]}
    for (name, times), pair in zip(figures["times_faster"].items(), compared, strict=True):
        assert [timing.rate(1) for timing in pair] == [
            figures["examples_per_second"][n] for n in (name, "ours")
        ]
        assert times["least"] <= times["median"] <= times["most"]
    assert figures["memory"]["whole"]["median"] > 2**20
    assert figures["bytes_per_second"]["median"] == pytest.approx(
        688 * figures["examples_per_second"]["ours"]["median"]
    )
    assert "target 20; best of its settings: 0 threads, 0 processes" in report.table()
