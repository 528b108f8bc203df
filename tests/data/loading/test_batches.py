"""Batch t is a function of (seed, t): not of workers, hosts, or what was read before."""

import time
from concurrent.futures import wait

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.data.loading import batches as batches_module
from jaxrec.data.loading.batches import BatchGroups, EvalBatches, PackedEvalBatches, TrainBatches, stream
from jaxrec.data.loading.packing import Packer
from jaxrec.data.storage.dataset import BLOCK_ROWS, as_words


@pytest.fixture
def rows(tiny, monkeypatch):
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", 1)  # so that batches cross windows
    return tiny.rows("train")


class Blocks:
    """Many small blocks in memory, read as a split of a dataset is; the last block holds 3 rows."""

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


def make(rows, batch=100, **more):
    steps = 3 * (rows.rows // batch)
    return TrainBatches(rows, batch, 5, steps, **more)


def lengths(words):
    """Some whole number of each row, with many rows alike."""
    return words[:, 1] % 5


def plain(rows, t, batch=100, seed=5):
    """Batch t in the plain form: the whole epoch put in its order, then cut."""
    epoch, step = divmod(t, rows.rows // batch)
    words, block_rows = as_words(rows.all()), rows.block_rows()
    first = np.cumsum(block_rows) - block_rows
    order = batches_module._generator(seed, epoch).permutation(rows.blocks)
    parts = []
    for w, at in enumerate(range(0, rows.blocks, batches_module.WINDOW_BLOCKS)):
        blocks = order[at : at + batches_module.WINDOW_BLOCKS]
        window = np.concatenate([words[first[b] : first[b] + block_rows[b]] for b in blocks])
        parts.append(window[batches_module._generator(seed, epoch, w).permutation(len(window))])
    return np.concatenate(parts)[step * batch : (step + 1) * batch]


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize(("window", "batch"), [(1, 5), (1, 8), (2, 16), (2, 17), (3, 100), (50, 60)])
def test_batches_are_those_of_the_plain_form(monkeypatch, window, batch, by_length):
    """Inside a window, across two, across many and at the short block, in any order."""
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", window)
    rows = Blocks(monkeypatch)
    batches = make(rows, batch, lengths=by_length)
    n = len(batches)
    for t in [*range(n), *np.random.default_rng(0).integers(0, n, 200).tolist()]:
        expected = plain(rows, t, batch)
        if by_length:
            expected = expected[np.argsort(lengths(expected), kind="stable")]
        np.testing.assert_array_equal(batches[t].words, expected)
        assert batches[t].valid.all() and len(batches[t].valid) == batch


@pytest.mark.parametrize("by_length", [None, lengths])
def test_an_epoch_is_every_row_once_but_the_tail(tiny, rows, by_length):
    batches = make(rows, lengths=by_length)
    words = np.concatenate([batches[t].words for t in range(batches.steps_per_epoch)])
    every = {r.tobytes() for r in as_words(rows.all())}
    seen = [r.tobytes() for r in words]
    assert len(seen) == len(set(seen)) == rows.rows // 100 * 100
    assert set(seen) <= every


def test_epochs_differ_and_seeds_differ(rows):
    batches = make(rows)
    n = batches.steps_per_epoch
    assert not np.array_equal(batches[0].words, batches[n].words)
    assert not np.array_equal(batches[0].words, TrainBatches(rows, 100, 6, 1)[0].words)


def test_blocks_come_in_another_order_each_epoch(rows):
    block_of = {r.tobytes(): i // BLOCK_ROWS for i, r in enumerate(as_words(rows.all()))}
    batches = TrainBatches(rows, 100, 5, 1000)
    first = {block_of[batches[e * batches.steps_per_epoch].words[0].tobytes()] for e in range(8)}
    assert len(first) > 1  # a window is one block here, so the first row tells which came first


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize("threads", [1, 4])
def test_resuming_is_starting_at_the_step(rows, threads, by_length):
    whole = [b.words for b in stream(make(rows, lengths=by_length), prefetch=threads)]
    rest = [b.words for b in stream(make(rows, lengths=by_length), start=7, prefetch=threads)]
    assert len(whole) == 3 * (rows.rows // 100)
    for a, b in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("size", "start", "expected"),
    [  # of a run of 12 batches, 5 to an epoch
        (1, 9, "9 10 11"),
        (2, 0, "01 23 4 56 78 9 1011"),
        (3, 0, "012 34 567 89 1011"),
        (3, 4, "4 567 89 1011"),
        (3, 6, "67 89 1011"),
        (5, 5, "56789 1011"),
        (4, 12, ""),
    ],
)
def test_a_dispatch_crosses_neither_an_epochs_end_nor_the_runs_and_resumes_in_mid_course(
    size, start, expected
):
    class Numbers:
        steps_per_epoch = 5

        def __len__(self):
            return 12

        def __getitem__(self, t):
            assert t < 12
            return t

    source = BatchGroups(Numbers(), size, start)
    assert len(source) == len(expected.split())
    found = list(stream(source, then=lambda some: "".join(map(str, some))))
    assert found == expected.split()


@pytest.mark.parametrize("by_length", [None, lengths])
@pytest.mark.parametrize("shares", [1, 2, 4])
def test_a_batch_is_dealt_to_the_shares(rows, shares, by_length):
    """Row j of share d is row j * shares + d of the global batch, however many share it."""
    whole, dealt = make(rows, lengths=by_length), make(rows, lengths=by_length, shares=shares)
    for t in (0, 3, len(whole) - 1):
        words = dealt[t].words.reshape(shares, 100 // shares, -1)
        for d in range(shares):
            np.testing.assert_array_equal(words[d], whole[t].words[d::shares])


@pytest.mark.parametrize(("processes", "shares"), [(2, 1), (2, 4), (4, 4), (4, 1)])
def test_processes_take_their_range_of_the_shares(rows, processes, shares):
    whole = make(rows, lengths=lengths, shares=max(shares, processes))
    parts = [
        make(rows, lengths=lengths, process=p, processes=processes, shares=shares) for p in range(processes)
    ]
    for t in (0, 3, len(whole) - 1):
        np.testing.assert_array_equal(whole[t].words, np.concatenate([p[t].words for p in parts]))
        assert all(len(p[t].valid) == 100 // processes for p in parts)


def test_a_block_is_read_once_an_epoch_and_one_window_ahead(monkeypatch):
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", 2)
    rows = Blocks(monkeypatch)
    batches = make(rows, 43)  # 7 batches; 22 rows are left, more than a window
    order = [batches._epoch(e).blocks for e in range(3)]
    batches[0]  # lies in three windows
    wait([part for window in batches._windows.values() for part in window.parts])
    assert sorted(rows.reads) == sorted(order[0][:8])
    used = [np.searchsorted(batches._epoch(e).starts, 301) * 2 for e in range(2)]
    for t in range(1, 14):
        batches[t]
    batches._readers.shutdown()  # ends once what was asked for is read
    asked = [*order[0][: used[0]], *order[1][: used[1]], *order[2][:2]]
    assert max(used) < rows.blocks and sorted(rows.reads) == sorted(asked)


@pytest.mark.parametrize("ahead, twice", [(12, False), (1, True)])
def test_a_block_is_read_once_however_many_batches_are_made_at_a_time(monkeypatch, ahead, twice):
    """Three threads, each at a dispatch of four batches of its own, ask in turn: where there is room for one
    batch alone, windows are read again and again."""
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", 2)
    rows = Blocks(monkeypatch)
    batches = make(rows, 13, ahead=ahead)
    for step in range(4):
        for thread in range(3):
            t = 4 * thread + step
            np.testing.assert_array_equal(batches[t].words, plain(rows, t, 13))
    for window in batches._windows.values():
        wait(window.parts)
    assert (len(rows.reads) > len(set(rows.reads))) == twice


def test_a_slot_is_not_refilled_while_it_is_being_filled(monkeypatch):
    """Jumping about throws away a window that is still being read ahead, slowly."""
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", 1)
    rows = Blocks(monkeypatch)
    batches = make(rows, 5)
    blocks, starts = batches._epoch(0)
    inside = [next(t for t in range(65) if starts[w] <= 5 * t <= starts[w + 1] - 5) for w in (0, 10, 20)]
    read_into = rows.read_into

    def uneven(asked, out):
        time.sleep(0.1 * (blocks[1] in asked))
        read_into(asked, out)

    monkeypatch.setattr(rows, "read_into", uneven)
    for t in inside:  # the first has block 1 read ahead, the third takes its slot
        np.testing.assert_array_equal(batches[t].words, plain(rows, t, 5))
    time.sleep(0.15)  # the slow read would have come by now
    np.testing.assert_array_equal(batches[inside[-1]].words, plain(rows, inside[-1], 5))


def test_a_window_that_cannot_be_read_is_an_error(rows, monkeypatch):
    def broken(blocks, out):
        raise OSError("the disk is gone")

    monkeypatch.setattr(rows, "read_into", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        make(rows)[0]


def test_evaluation_drops_no_tail(tiny):
    rows = tiny.rows("test")
    batches = list(stream(EvalBatches(rows, 96)))
    valid = np.concatenate([b.valid for b in batches])
    assert valid.sum() == rows.rows and valid.sum() < len(valid)
    words = np.concatenate([b.words for b in batches])
    np.testing.assert_array_equal(words[valid], as_words(rows.all()))
    assert not words[~valid].any()
    shares = [list(stream(EvalBatches(rows, 96, p, 2))) for p in range(2)]
    for b, *parts in zip(batches, *shares, strict=True):
        np.testing.assert_array_equal(b.words, np.concatenate([p.words for p in parts]))


def test_a_batch_larger_than_the_dataset_is_refused(tiny):
    with pytest.raises(InputError, match=r"train.batch_size=1000000 is more than the dataset's \d+ training"):
        TrainBatches(tiny.rows("train"), 1_000_000, 0, 1)


def test_a_batch_that_cannot_be_dealt_is_refused(rows):
    with pytest.raises(InputError, match=r"train.batch_size=100 must divide by the 3 devices"):
        make(rows, shares=3)


@pytest.mark.parametrize("shares", [1, 4])
def test_packed_evaluation_gives_every_row_once_and_says_which(tiny, shares):
    rows = tiny.rows("test")
    packer = Packer(rows.dtype, (8, 3), False)
    batches = PackedEvalBatches(rows, 96, shares, packer)
    found = list(stream(batches))
    assert len(found) == len(batches) == -(-rows.rows // 96)
    every, words = rows.read(np.arange(rows.blocks)), np.concatenate([b.words for b in found])
    place, valid = np.concatenate([b.place for b in found]), np.concatenate([b.valid for b in found])
    assert sorted(place[valid]) == list(range(rows.rows)) and (place[~valid] == -1).all()
    assert np.array_equal(words[valid], every[place[valid]]) and not words[~valid].any()
    for batch in found:
        lengths = packer.lengths(batch.words).reshape(shares, -1)
        assert (np.diff(lengths, axis=1) >= 0).all()
        assert batch.packing.titles.shape == (shares * packer.rows[0], 8)
    kept = np.minimum(packer.lengths(every.reshape(len(every), -1)), 8)
    fewest = -(-int(kept.sum()) // len(found) // 8 // shares)
    assert fewest <= packer.rows[0] <= fewest * 1.3 + 2  # one plan for all of them wastes little
