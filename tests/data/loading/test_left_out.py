"""Titles left out of rankings: pairs, bits, repeated targets, and batches that carry the bits."""

import json
import shutil
from functools import partial

import numpy as np
from absl import logging

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.loading import left_out as left_out_module
from jaxrec.data.loading.batches import EvalBatches, PackedEvalBatches, stream
from jaxrec.data.loading.left_out import LeftOutTitles, bit_words, left_out_titles
from jaxrec.data.loading.packing import Packer
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.evaluation_arrays import SeenTitles

SEEN = SeenTitles(
    np.array([40, 2, 33, 5, 2], np.int32), np.array([0, 3, 3, 5]), np.array([2, 0, 3, 2], np.uint32),
    np.zeros(4, np.uint32),
)  # fmt: skip
USER = np.array([0, 1, 0, 2])  # of four queries


def pairs_of(left_out, query):
    row, title = left_out.pairs(np.array(query))
    return list(zip(row.tolist(), title.tolist(), strict=True))


def test_pairs_by_hand():
    left_out = LeftOutTitles.of_users(SEEN, USER)
    assert pairs_of(left_out, [0, 1, 2, 3]) == [(0, 40), (0, 2), (2, 40), (2, 2), (2, 33), (3, 5), (3, 2)]
    assert pairs_of(left_out, [3, -1, 0]) == [(0, 5), (0, 2), (2, 40), (2, 2)]
    history = np.array([[0, 1, 7, 7], [0, 0, 0, 0], [3, 4, 5, 6]], np.int32)
    assert pairs_of(LeftOutTitles.of_histories(history), [2, 0]) == [
        (0, 3),
        (0, 4),
        (0, 5),
        (0, 6),
        (1, 7),
        (1, 7),
    ]
    assert pairs_of(LeftOutTitles.nothing(3), [0, 1, 2]) == []


def test_a_repeated_target_is_one_that_is_left_out(monkeypatch):
    left_out = LeftOutTitles.of_users(SEEN, USER)
    for most in (2**18, 1):  # one chunk, and one for each query
        monkeypatch.setattr(left_out_module, "_PAIRS", most)
        assert left_out.contain(np.array([33, 2, 33, 2])).tolist() == [False, False, True, True]
        chunks = list(left_out.chunks(np.arange(4)))
        assert np.concatenate(chunks).tolist() == [0, 1, 2, 3] and len(chunks) == (1 if most > 1 else 4)


def test_bits_by_hand():
    bits = LeftOutTitles.of_users(SEEN, USER).bits(np.array([2, -1, 3]), 41)
    assert bits.dtype == np.uint32 and bits.shape == (3, bit_words(41)) == (3, 2)
    assert bits.tolist() == [[1 << 2, 1 << 8 | 1 << 1], [0, 0], [1 << 5 | 1 << 2, 0]]


def test_every_batch_carries_the_bits_of_its_rows(tiny):
    rows, titles = tiny.rows("test"), tiny.layout.num_titles
    stored = rows.all()
    left_out = left_out_titles(tiny, "test", stored, "all")
    expected = left_out.bits(np.arange(len(stored)), titles)
    wide, words = rows.with_words(partial(left_out.bits, titles=titles)), rows.dtype.itemsize // 4
    packer = partial(Packer, rows.dtype, (4,), False)
    for batches, plain in (
        (EvalBatches(wide, 48, 1, 2), EvalBatches(rows, 48, 1, 2)),
        (PackedEvalBatches(wide, 48, 2, packer()), PackedEvalBatches(rows, 48, 2, packer())),
    ):
        for t, (batch, narrow) in enumerate(zip(stream(batches), stream(plain), strict=True)):
            np.testing.assert_array_equal(batch.words[:, :words], narrow.words)
            index = batch.place if batch.place is not None else t * 48 + 24 + np.arange(24)
            valid = batch.valid
            np.testing.assert_array_equal(batch.words[valid, words:], expected[index[valid]])
            assert not batch.words[~valid, words:].any()
            if batch.packing is not None:
                np.testing.assert_array_equal(batch.packing.titles, narrow.packing.titles)


def test_without_seen_sets_the_stored_history_is_left_out(tiny, tiny_directory, tmp_path, monkeypatch):
    rows, messages = tiny.rows("test").all(), []
    monkeypatch.setattr(logging, "warning", lambda text, *values: messages.append(text % values))
    assert left_out_titles(tiny, "test", rows, "all").seen == "all" and messages == []
    without = shutil.ignore_patterns("seen_*", "daily_*")
    folder = shutil.copytree(tiny_directory, tmp_path / "d", ignore=without)
    manifest = {k: v for k, v in tiny.manifest.items() if k not in ("files", "checksum")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    old = Dataset(folder)
    assert old.fingerprint == tiny.fingerprint
    assert old.seen_titles("test") is None and old.daily_plays() is None
    left_out = left_out_titles(old, "test", rows, "all")
    assert left_out.seen == "stored"
    assert messages == [
        f"dataset {tmp_path / 'd'} was prepared before seen sets were stored; "
        "titles of the stored history are left out"
    ]
    assert left_out.num_titles.tolist() == (rows["history_title"] >= FIRST_TITLE).sum(1).tolist()
    assert left_out_titles(old, "test", rows, "kept").seen == "kept" and len(messages) == 1
