"""Batch t is a function of (seed, t), not of threads, processes or earlier reads."""

import time
from concurrent.futures import wait

import jax
import numpy as np
import pytest

from jaxrec.core.batch import PackingPlan
from jaxrec.core.errors import InputError
from jaxrec.data.loading import batches as batches_module
from jaxrec.data.loading import row_order
from jaxrec.data.loading.batches import (
    BatchGroups,
    EvalBatches,
    PackedEvalBatches,
    TrainBatches,
    stream,
)
from jaxrec.data.loading.indexed_batches import IndexedBatches
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import RowOrder, Shards
from jaxrec.data.storage.dataset import BLOCK_ROWS, as_words
from jaxrec.tasks.inputs.device_packing import DevicePacking


@pytest.fixture
def rows(tiny, monkeypatch):
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", 1)  # so that batches cross windows
    return tiny.rows("train")


class Blocks:
    """Stand-in for `Rows`: many small blocks in memory, the last with 3 rows."""

    rows, blocks = 8 * 40 + 3, 41

    def __init__(self, monkeypatch):
        monkeypatch.setattr(batches_module, "BLOCK_ROWS", 8)
        self.dtype = np.dtype([("x", "<u4", (2,))])
        self.words = np.random.default_rng(0).integers(0, 1000, (self.rows, 2)).astype(np.uint32)
        self.reads = []

    def block_rows(self):
        return np.append(np.full(40, 8), 3)

    def read_into(self, blocks, out):
        self.reads.extend(blocks.tolist())
        out[:] = np.concatenate([self.words[8 * b : 8 * b + 8] for b in blocks])

    def all(self):
        return self.words.reshape(-1).view(self.dtype)


def make_batches(rows, batch=100, **more):
    steps = 3 * (rows.rows // batch)
    return TrainBatches(rows, batch, 5, steps, **more)


def lengths(words):
    """Return a whole number for each row, with many ties."""
    return words[:, 1] % 5


def plain_batch(rows, t, batch=100, seed=5):
    """Return batch t by the plain implementation: order the epoch, then slice."""
    epoch, step = divmod(t, rows.rows // batch)
    words, block_rows = as_words(rows.all()), rows.block_rows()
    first = np.cumsum(block_rows) - block_rows
    order = row_order._generator(seed, epoch).permutation(rows.blocks)
    windows = []
    for w, begin in enumerate(range(0, rows.blocks, row_order.WINDOW_BLOCKS)):
        blocks = order[begin : begin + row_order.WINDOW_BLOCKS]
        window = np.concatenate([words[first[b] : first[b] + block_rows[b]] for b in blocks])
        windows.append(window[row_order._generator(seed, epoch, w).permutation(len(window))])
    return np.concatenate(windows)[step * batch : (step + 1) * batch]


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize(("window", "batch"), [(1, 5), (1, 8), (2, 16), (2, 17), (3, 100), (50, 60)])
def test_batches_equal_the_plain_implementation(monkeypatch, window, batch, by_length):
    """Batches inside a window, across windows and at the short block, in any order."""
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", window)
    rows = Blocks(monkeypatch)
    batches = make_batches(rows, batch, lengths=by_length)
    n = len(batches)
    for t in [*range(n), *np.random.default_rng(0).integers(0, n, 200).tolist()]:
        expected = plain_batch(rows, t, batch)
        if by_length:
            expected = expected[np.argsort(lengths(expected), kind="stable")]
        np.testing.assert_array_equal(batches[t].words, expected)
        assert batches[t].valid.all() and len(batches[t].valid) == batch


@pytest.mark.parametrize("by_length", [None, lengths])
def test_an_epoch_takes_every_row_once_except_the_tail(tiny, rows, by_length):
    batches = make_batches(rows, lengths=by_length)
    words = np.concatenate([batches[t].words for t in range(batches.steps_per_epoch)])
    all_rows = {r.tobytes() for r in as_words(rows.all())}
    seen = [r.tobytes() for r in words]
    assert len(seen) == len(set(seen)) == rows.rows // 100 * 100
    assert set(seen) <= all_rows


def test_epochs_differ_and_seeds_differ(rows):
    batches = make_batches(rows)
    n = batches.steps_per_epoch
    assert not np.array_equal(batches[0].words, batches[n].words)
    assert not np.array_equal(batches[0].words, TrainBatches(rows, 100, 6, 1)[0].words)


def test_the_order_of_blocks_differs_between_epochs(rows):
    block_of = {r.tobytes(): i // BLOCK_ROWS for i, r in enumerate(as_words(rows.all()))}
    batches = TrainBatches(rows, 100, 5, 1000)
    first = {block_of[batches[e * batches.steps_per_epoch].words[0].tobytes()] for e in range(8)}
    assert len(first) > 1  # a window is one block here, so the first row shows which block came first


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_resumed_stream_equals_the_original(rows, threads, by_length):
    whole = [b.words for b in stream(make_batches(rows, lengths=by_length), prefetch=threads)]
    rest = [b.words for b in stream(make_batches(rows, lengths=by_length), start=7, prefetch=threads)]
    assert len(whole) == 3 * (rows.rows // 100)
    for a, b in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("size", "start", "expected"),
    [  # a run of 12 batches, 5 per epoch
        (1, 9, "9 10 11"),
        (2, 0, "01 23 4 56 78 9 1011"),
        (3, 0, "012 34 567 89 1011"),
        (3, 4, "4 567 89 1011"),
        (3, 6, "67 89 1011"),
        (5, 5, "56789 1011"),
        (4, 12, ""),
    ],
)
def test_a_group_ends_with_the_epoch_and_the_run_and_resumes_inside(size, start, expected):
    class Numbers:
        steps_per_epoch = 5

        def __len__(self):
            return 12

        def __getitem__(self, t):
            assert t < 12
            return t

    source = BatchGroups(Numbers(), size, start)
    assert len(source) == len(expected.split())
    groups = list(stream(source, then=lambda group: "".join(map(str, group))))
    assert groups == expected.split()


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_batch_is_distributed_over_the_shards(rows, shards, by_length):
    """Row j of shard d is row j * shards + d of the global batch."""
    whole, sharded = (
        make_batches(rows, lengths=by_length),
        make_batches(rows, lengths=by_length, shards=Shards(shards)),
    )
    for t in (0, 3, len(whole) - 1):
        words = sharded[t].words.reshape(shards, 100 // shards, -1)
        for d in range(shards):
            np.testing.assert_array_equal(words[d], whole[t].words[d::shards])


@pytest.mark.parametrize(("processes", "shards"), [(2, 1), (2, 4), (4, 4), (4, 1)])
def test_processes_take_their_range_of_the_shards(rows, processes, shards):
    whole = make_batches(rows, lengths=lengths, shards=Shards(max(shards, processes)))
    by_process = [
        make_batches(rows, lengths=lengths, shards=Shards(shards, p, processes)) for p in range(processes)
    ]
    for t in (0, 3, len(whole) - 1):
        np.testing.assert_array_equal(whole[t].words, np.concatenate([p[t].words for p in by_process]))
        assert all(len(p[t].valid) == 100 // processes for p in by_process)


@pytest.mark.parametrize(("process", "processes", "shards"), [(0, 1, 1), (0, 1, 4), (1, 2, 4)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_batches_by_row_index_are_the_batches_of_words(tiny, rows, is_packed, process, processes, shards):
    """Rows, order and packing, whichever rows the devices of this process hold."""
    words, packer, lengths_of_rows = as_words(rows.all()), None, None
    if is_packed:
        packer = Packer(rows.dtype, (8, 3), False).fit(words, 100, shards)
        lengths_of_rows = packer.lengths(words)
    distribution = Shards(shards, process, processes)
    by_words = make_batches(rows, shards=distribution, lengths=packer and packer.lengths, pack=packer)
    by_index = IndexedBatches(by_words.order, len(by_words), 2, packer, lengths_of_rows)
    assert len(by_index) == len(by_words) and by_index.steps_per_epoch == by_words.steps_per_epoch
    for t in [0, 3, len(by_words) - 1, 1]:
        expected, actual = by_words[t], by_index[t]
        global_rows = actual.rows[:100]
        np.testing.assert_array_equal(actual.rows, np.tile(global_rows, 2))  # for each of two devices
        own = np.split(global_rows, processes)[process]
        np.testing.assert_array_equal(words[own], expected.words)
        np.testing.assert_array_equal(actual.valid, expected.valid)
        assert (actual.plan is None) == (expected.packing is None) == (not is_packed)
        if packer:
            pack = DevicePacking(packer.dtype, packer.windows, packer.rows, packer.keeps_abandoned)
            halves = zip(*(np.split(start, 2) for start in actual.plan.starts), strict=True)
            for plan in map(PackingPlan, halves):
                jax.tree.map(np.testing.assert_array_equal, pack(expected.words, plan), expected.packing)


def test_batches_by_row_index_reach_the_short_block(monkeypatch):
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", 3)
    rows = Blocks(monkeypatch)
    order = RowOrder(rows.block_rows(), 17, 5)
    batches = IndexedBatches(order, 40, 1)
    for t in [*range(40), 3, 39]:
        np.testing.assert_array_equal(rows.words[batches[t].rows], plain_batch(rows, t, 17))


def test_a_block_is_read_once_per_epoch_and_one_window_ahead(monkeypatch):
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", 2)
    rows = Blocks(monkeypatch)
    batches = make_batches(rows, 43)  # 7 batches; 22 rows remain, more than a window
    order = [batches.order.epoch(e).blocks for e in range(3)]
    batches[0]  # its rows are in three windows
    wait([read for window in batches._windows.values() for read in window.reads])
    assert sorted(rows.reads) == sorted(order[0][:8])
    used = [np.searchsorted(batches.order.epoch(e).starts, 301) * 2 for e in range(2)]
    for t in range(1, 14):
        batches[t]
    batches._readers.shutdown()  # returns once all reads are done
    expected = [*order[0][: used[0]], *order[1][: used[1]], *order[2][:2]]
    assert max(used) < rows.blocks and sorted(rows.reads) == sorted(expected)


@pytest.mark.parametrize("ahead, twice", [(12, False), (1, True)])
def test_a_block_is_read_once_when_threads_make_several_batches(monkeypatch, ahead, twice):
    """Three threads take turns, each with its own group of four batches.

    With room for one batch only, windows are read repeatedly.
    """
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", 2)
    rows = Blocks(monkeypatch)
    batches = make_batches(rows, 13, ahead=ahead)
    for step in range(4):
        for thread in range(3):
            t = 4 * thread + step
            np.testing.assert_array_equal(batches[t].words, plain_batch(rows, t, 13))
    for window in batches._windows.values():
        wait(window.reads)
    assert (len(rows.reads) > len(set(rows.reads))) == twice


def test_a_slot_is_not_refilled_while_it_is_being_filled(monkeypatch):
    """Random access evicts a window that is still being read ahead, slowly."""
    monkeypatch.setattr(row_order, "WINDOW_BLOCKS", 1)
    rows = Blocks(monkeypatch)
    batches = make_batches(rows, 5)
    blocks, starts = batches.order.epoch(0)
    inside = [next(t for t in range(65) if starts[w] <= 5 * t <= starts[w + 1] - 5) for w in (0, 10, 20)]
    read_into = rows.read_into

    def slow_read(requested, out):
        time.sleep(0.1 * (blocks[1] in requested))
        read_into(requested, out)

    monkeypatch.setattr(rows, "read_into", slow_read)
    for t in inside:  # the first reads block 1 ahead, the third takes its slot
        np.testing.assert_array_equal(batches[t].words, plain_batch(rows, t, 5))
    time.sleep(0.15)  # long enough for the slow read to end
    np.testing.assert_array_equal(batches[inside[-1]].words, plain_batch(rows, inside[-1], 5))


def test_a_window_that_cannot_be_read_is_an_error(rows, monkeypatch):
    def broken(blocks, out):
        raise OSError("the disk is gone")

    monkeypatch.setattr(rows, "read_into", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        make_batches(rows)[0]


def test_evaluation_keeps_the_tail(tiny):
    rows = tiny.rows("test")
    batches = list(stream(EvalBatches(rows, 96)))
    valid = np.concatenate([b.valid for b in batches])
    assert valid.sum() == rows.rows and valid.sum() < len(valid)
    words = np.concatenate([b.words for b in batches])
    np.testing.assert_array_equal(words[valid], as_words(rows.all()))
    assert not words[~valid].any()
    by_process = [list(stream(EvalBatches(rows, 96, p, 2))) for p in range(2)]
    for b, *process_batches in zip(batches, *by_process, strict=True):
        np.testing.assert_array_equal(b.words, np.concatenate([p.words for p in process_batches]))


def test_a_batch_larger_than_the_dataset_is_refused(tiny):
    with pytest.raises(InputError, match=r"train.batch_size=1000000 is more than the dataset's \d+ training"):
        TrainBatches(tiny.rows("train"), 1_000_000, 0, 1)


def test_a_batch_that_does_not_divide_by_the_devices_is_refused(rows):
    with pytest.raises(InputError, match=r"train.batch_size=100 must divide by the 3 devices"):
        make_batches(rows, shards=Shards(3))


@pytest.mark.parametrize("shards", [1, 4])
def test_packed_evaluation_takes_every_row_once_and_names_it(tiny, shards):
    rows = tiny.rows("test")
    packer = Packer(rows.dtype, (8, 3), False)
    batches = PackedEvalBatches(rows, 96, shards, packer)
    records = list(stream(batches))
    assert len(records) == len(batches) == -(-rows.rows // 96)
    all_words, words = rows.read(np.arange(rows.blocks)), np.concatenate([b.words for b in records])
    row, valid = np.concatenate([b.place for b in records]), np.concatenate([b.valid for b in records])
    assert sorted(row[valid]) == list(range(rows.rows)) and (row[~valid] == -1).all()
    assert np.array_equal(words[valid], all_words[row[valid]]) and not words[~valid].any()
    for batch in records:
        lengths = packer.lengths(batch.words).reshape(shards, -1)
        assert (np.diff(lengths, axis=1) >= 0).all()
        assert batch.packing.titles.shape == (shards * packer.rows[0], 8)
    row_lengths = np.minimum(packer.lengths(all_words.reshape(len(all_words), -1)), 8)
    fewest = -(-int(row_lengths.sum()) // len(records) // 8 // shards)
    assert fewest <= packer.rows[0] <= fewest * 1.3 + 2  # one plan for all batches wastes little
