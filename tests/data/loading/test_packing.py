"""Packing of histories: whole, without overlap, in nearly the fewest rows."""

import jax
import numpy as np
import pytest

from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.loading import packing
from jaxrec.data.loading.packing import Packer, plan
from jaxrec.data.storage.dataset import as_words
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.inputs.device_packing import DevicePacking

SIGNALS = tuple(FeatureSpec(name, "number", "interaction", 4) for name in ("thumb", "add"))
LAYOUT = Layout(50, 8, 1, (4, 1, 1, 1), 20, SIGNALS)
WINDOWS = (6, 3)


@pytest.mark.parametrize("width", [1, 7, 20])
@pytest.mark.parametrize("count", [1, 50, 1000])
def test_a_plan_gives_each_history_its_own_positions(width, count):
    lengths = np.random.default_rng(count).integers(0, width + 1, count)
    row, first, used = plan(lengths, width)
    taken = np.zeros((used, width), int)
    for r, f, n in zip(row[lengths > 0], first[lengths > 0], lengths[lengths > 0], strict=True):
        assert f + n <= width
        taken[r, f : f + n] += 1
    assert taken.sum() == lengths.sum() and taken.max(initial=0) <= 1
    assert (taken[:, 0] == 1).all()  # no row is empty


def test_a_plan_by_hand():
    # The history of 5 fills a row alone; 3 and 2 share a row; the other 2 and 1 share a row.
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
    present = np.arange(8) >= rng.integers(0, 9, (count, 1))
    rows["history_title"] = np.where(present, rng.integers(2, 50, (count, 8)), 0)
    rows["history_abandoned"] = present & (rng.random((count, 8)) < 0.3)
    rows["history_sessions"] = rng.integers(1, 9, (count, 8))
    rows["history_completion"] = rng.random((count, 8))
    rows["history_age"] = rng.random((count, 8))
    rows["history_signals"] = rng.random((count, 8, 2))
    return rows


def packer(rows, shards, keeps=False):
    return Packer(rows.dtype, WINDOWS, keeps).fit(as_words(rows), len(rows), shards)


def shard_and_pack(rows, shards, keeps):
    """Return rows in the order of the training stream, their packing, and the packer."""
    packer_ = packer(rows, shards, keeps)
    lengths = packer_.lengths(as_words(rows))
    order = np.argsort(lengths, kind="stable")
    sharded = order.reshape(-1, shards).T.reshape(-1)
    return rows[sharded], packer_(as_words(rows[sharded]), lengths[order][shards - 1 :: shards]), packer_


def titles(history, window):
    """Return {(example, newer titles): the title's fields} of a window's positions."""
    example, newer = np.asarray(history.example).reshape(-1), np.asarray(history.newer).reshape(-1)
    columns = [history.title, history.past.completion, history.sessions, history.age]
    columns += np.moveaxis(np.asarray(history.past.signals), -1, 0).tolist()
    fields = [np.asarray(column).reshape(-1) for column in columns]
    positions = (
        np.arange(example.size) if window == WINDOWS[0] else np.asarray(history.shorter[window]).reshape(-1)
    )
    filled = [int(i) for i in positions if i < example.size and fields[0][i]]
    by_title = {(int(example[i]), int(newer[i])): tuple(float(t[i]) for t in fields) for i in filled}
    assert len(by_title) == len(filled)  # no title is repeated
    return by_title


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_packed_histories_equal_unpacked_ones(shards, keeps):
    rows, packing, packer_ = shard_and_pack(stored(), shards, keeps)
    view = ranking_inputs.HistoryView(LAYOUT, WINDOWS, keeps)
    size = len(rows) // shards
    assert packing.titles.shape == (shards * packer_.rows[0], 6)
    assert [x.shape for x in packing.shorter] == [(shards * packer_.rows[1], 3)]
    for d in range(shards):
        shard = ranking_inputs.decode(as_words(rows[d * size : (d + 1) * size]), rows.dtype)
        part = type(packing)(
            packing.titles.reshape(shards, -1, 6)[d], (packing.shorter[0].reshape(shards, -1, 3)[d],)
        )
        unpacked, packed = ranking_inputs.history(shard, view), ranking_inputs.packed(shard, view, part)
        for window in WINDOWS:
            assert titles(packed, window) == titles(unpacked, window)
        row_examples = np.asarray(packed.example)
        for example in range(size):  # attention reads within a row only
            assert len({int(r) for r, _ in np.argwhere(row_examples == example)}) <= 1


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_device_packs_as_the_host(shards, keeps):
    """Also histories that are longer than the longest window, which lose their oldest titles."""
    rows, packing, packer_ = shard_and_pack(stored(), shards, keeps)
    longest = np.sort(packer_.lengths(as_words(rows)), kind="stable")[shards - 1 :: shards]
    on_device = DevicePacking(packer_.dtype, WINDOWS, packer_.rows, keeps)
    assert packer_.kept_titles(as_words(rows)).sum(axis=1).max() > WINDOWS[0]
    actual = jax.jit(on_device)(as_words(rows), packer_.plan(longest))
    jax.tree.map(np.testing.assert_array_equal, actual, packing)


def test_a_batch_longer_than_the_sample_is_not_packed():
    rows = stored()
    short = rows.copy()
    short["history_title"][:, :-1] = 0
    fitted = packer(short, 1)
    longest = np.sort(fitted.lengths(as_words(rows)))
    assert fitted(as_words(rows), longest) is None and fitted.plan(longest) is None
    assert fitted(as_words(short), np.sort(fitted.lengths(as_words(short)))) is not None


@pytest.mark.parametrize("width", [7, 20])
def test_rows_are_padded_to_512_positions_where_few_are_added(width):
    """At most a twentieth of the rows is added; where more would be needed, none is."""
    r = np.random.default_rng(0)
    for shard_size in (20, 256, 3000, 8192, 8200, 20_000):
        lengths = r.integers(0, width + 1, shard_size)
        rows, needed = packing._packed_rows(lengths, width, shard_size, shard_size), plan(lengths, width)[2]
        assert needed <= rows <= shard_size
        whole = 512 // np.gcd(512, width)
        least = int(np.ceil(packing._PACKING_OVERHEAD * lengths.sum() / width))
        if least > 21 * whole:  # the next multiple is then at most a twentieth more
            assert rows % whole == 0
        if shard_size <= 256:
            assert rows % whole and rows < 1.1 * needed + 10


def test_coarse_rows_are_equal_for_days_of_similar_histories():
    rows = stored(400)
    other = rows.copy()
    other["history_title"][:20] = 0  # a day with a few more users without a history
    fine, coarse = [], []
    for sample in (rows, other):
        packer_of_day = Packer(rows.dtype, WINDOWS, True)
        fine.append(packer_of_day.fit(as_words(sample), 160, 1).rows)
        coarse.append(packer_of_day.fit(as_words(sample), 160, 1, coarse=True).rows)
    assert fine[0] != fine[1] and coarse[0] == coarse[1]
    for exact, rounded in zip(fine, coarse, strict=True):
        assert all(r % 20 == 0 and e <= r <= min(e + 19, 160) for e, r in zip(exact, rounded, strict=True))
