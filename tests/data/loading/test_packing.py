"""Histories that share rows: each whole, none over another, no row where one less would do by much."""

import numpy as np
import pytest

from jaxrec.core.row_format import Layout
from jaxrec.data.loading import packing
from jaxrec.data.loading.packing import Packer, plan
from jaxrec.data.storage.dataset import as_words
from jaxrec.tasks import ranking_inputs

LAYOUT = Layout(50, 8, 1, (4, 1, 1, 1), 20, ())
WINDOWS = (6, 3)


@pytest.mark.parametrize("width", [1, 7, 20])
@pytest.mark.parametrize("count", [1, 50, 1000])
def test_a_plan_gives_each_history_places_of_its_own(width, count):
    lengths = np.random.default_rng(count).integers(0, width + 1, count)
    row, first, used = plan(lengths, width)
    taken = np.zeros((used, width), int)
    for r, f, n in zip(row[lengths > 0], first[lengths > 0], lengths[lengths > 0], strict=True):
        assert f + n <= width
        taken[r, f : f + n] += 1
    assert taken.sum() == lengths.sum() and taken.max(initial=0) <= 1
    assert (taken[:, 0] == 1).all()  # no row is empty


def test_a_plan_by_hand():
    # the five is alone, for nothing else fits but a zero; three with two; the last two with one
    row, first, used = plan(np.array([2, 5, 0, 3, 2, 1]), 5)
    assert used == 3
    assert (row[[1, 3, 4, 5]].tolist(), first[[1, 3, 5]].tolist()) in (
        ([0, 1, 1, 2], [0, 0, 2]),
        ([0, 1, 2, 2], [0, 0, 2]),
    )


def test_plans_waste_little_on_many_short_histories():
    lengths = np.minimum(np.random.default_rng(0).geometric(0.15, 1000), 20)
    assert plan(lengths, 20)[2] <= 1.02 * lengths.sum() / 20 + 1


def stored(count=40):
    rng = np.random.default_rng(0)
    rows = np.zeros(count, LAYOUT.row_dtype())
    there = np.arange(8) >= rng.integers(0, 9, (count, 1))
    rows["history_title"] = np.where(there, rng.integers(2, 50, (count, 8)), 0)
    rows["history_abandoned"] = there & (rng.random((count, 8)) < 0.3)
    rows["history_sessions"] = rng.integers(1, 9, (count, 8))
    rows["history_completion"] = rng.random((count, 8))
    rows["history_age"] = rng.random((count, 8))
    return rows


def packer(rows, shares, keeps=False):
    return Packer(rows.dtype, WINDOWS, keeps).fit(as_words(rows), len(rows), shares)


def deal(rows, shares, keeps):
    """Rows as the stream deals them, their packing, and its packer."""
    found = packer(rows, shares, keeps)
    lengths = found.lengths(as_words(rows))
    order = np.argsort(lengths, kind="stable")
    dealt = order.reshape(-1, shares).T.reshape(-1)
    return rows[dealt], found(as_words(rows[dealt]), lengths[order][shares - 1 :: shares]), found


def titles(history, window):
    """{(example, newer): what is told of the title} of a window's places."""
    of, newer = np.asarray(history.example).reshape(-1), np.asarray(history.newer).reshape(-1)
    told = [np.asarray(getattr(history, n)).reshape(-1) for n in ("title", "completion", "sessions", "age")]
    at = np.arange(of.size) if window == WINDOWS[0] else np.asarray(history.shorter[window]).reshape(-1)
    rows = [int(i) for i in at if i < of.size and told[0][i]]
    found = {(int(of[i]), int(newer[i])): tuple(float(t[i]) for t in told) for i in rows}
    assert len(found) == len(rows)  # none twice
    return found


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("shares", [1, 2, 4])
def test_packed_histories_are_the_plain_ones(shares, keeps):
    rows, packing, found = deal(stored(), shares, keeps)
    view = ranking_inputs.HistoryView(LAYOUT, WINDOWS, keeps)
    size = len(rows) // shares
    assert packing.titles.shape == (shares * found.rows[0], 6)
    assert [x.shape for x in packing.shorter] == [(shares * found.rows[1], 3)]
    for d in range(shares):
        share = ranking_inputs.decode(as_words(rows[d * size : (d + 1) * size]), rows.dtype)
        part = type(packing)(
            packing.titles.reshape(shares, -1, 6)[d], (packing.shorter[0].reshape(shares, -1, 3)[d],)
        )
        plain, packed = ranking_inputs.history(share, view), ranking_inputs.packed(share, view, part)
        for window in WINDOWS:
            assert titles(packed, window) == titles(plain, window)
        in_row = np.asarray(packed.example)
        for example in range(size):  # attention looks along rows alone
            assert len({int(r) for r, _ in np.argwhere(in_row == example)}) <= 1


def test_a_batch_of_longer_histories_than_the_sample_is_not_packed():
    rows = stored()
    short = rows.copy()
    short["history_title"][:, :-1] = 0
    found = packer(short, 1)
    longest = np.sort(found.lengths(as_words(rows)))
    assert found(as_words(rows), longest) is None
    assert found(as_words(short), np.sort(found.lengths(as_words(short)))) is not None


@pytest.mark.parametrize("width", [7, 20])
def test_rows_hold_a_multiple_of_512_places_where_few_are_added(width):
    """Few: a twentieth at most. Where that is not enough there are as many as are needed, and no more."""
    r = np.random.default_rng(0)
    for share in (20, 256, 3000, 8192, 8200, 20_000):
        lengths = r.integers(0, width + 1, share)
        rows, needed = packing._rows(lengths, width, share, share), plan(lengths, width)[2]
        assert needed <= rows <= share
        whole = 512 // np.gcd(512, width)
        least = int(np.ceil(packing._LOSS * lengths.sum() / width))
        if least > 21 * whole:  # so that to the next multiple it is a twentieth at most
            assert rows % whole == 0
        if share <= 256:
            assert rows % whole and rows < 1.1 * needed + 10
