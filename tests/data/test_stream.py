"""Batch t is a function of (seed, t): not of workers, hosts, or what was read before."""

import numpy as np
import pytest

from jaxrec.data import stream as streams
from jaxrec.data.store import BLOCK_ROWS, as_words
from jaxrec.data.stream import EvalBatches, TrainBatches, stream
from jaxrec.errors import InputError


@pytest.fixture
def rows(tiny, monkeypatch):
    monkeypatch.setattr(streams, "WINDOW_BLOCKS", 1)  # so that batches cross windows
    return tiny.rows("train")


def make(rows, **more):
    steps = 3 * (rows.rows // 100)
    return TrainBatches(rows, 100, 5, steps, **more)


def test_an_epoch_is_every_row_once_but_the_tail(tiny, rows):
    batches = make(rows)
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


@pytest.mark.parametrize("threads", [1, 4])
def test_resuming_is_starting_at_the_step(rows, threads):
    whole = [b.words for b in stream(make(rows), prefetch=threads)]
    rest = [b.words for b in stream(make(rows), start=7, prefetch=threads)]
    assert len(whole) == 3 * (rows.rows // 100)
    for a, b in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_take_their_shares_of_the_same_batches(rows):
    whole = make(rows)
    shares = [make(rows, process=p, processes=4) for p in range(4)]
    for t in (0, 3, len(whole) - 1):
        np.testing.assert_array_equal(whole[t].words, np.concatenate([s[t].words for s in shares]))


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
