"""Tests of row decoding, choice of negatives, and filters of histories."""

import numpy as np
import pytest

from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import as_words
from jaxrec.models.layers import rng as rng_module
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.inputs import pool_negatives

LAYOUT = Layout(
    50, 8, 3, (4, 5, 3, 2), 20,
    (
        FeatureSpec("g", "category", "user", 4, size=5), FeatureSpec("n", "number", "context", 4),
        FeatureSpec("thumb", "number", "interaction", 4), FeatureSpec("add", "number", "interaction", 4),
    ),
)  # fmt: skip


def random_rows(dtype, n=7):
    rng = np.random.default_rng(0)
    rows = np.zeros(n, dtype)
    for name in dtype.names:
        field = rows[name]
        rows[name] = (
            rng.normal(size=field.shape) if field.dtype.kind == "f" else rng.integers(0, 200, field.shape)
        )
    return rows


@pytest.mark.parametrize("dtype", [LAYOUT.row_dtype(), LAYOUT.query_dtype()])
def test_decoding_equals_the_structured_dtype(dtype):
    rows = random_rows(dtype)
    assert dtype.itemsize % 4 == 0
    decoded = ranking_inputs.decode(as_words(rows), dtype)
    assert set(decoded) == set(dtype.names)
    for name in dtype.names:
        np.testing.assert_array_equal(np.asarray(decoded[name]), rows[name], err_msg=name)
        assert decoded[name].dtype == rows[name].dtype


def history_rows():
    rows = np.zeros(2, LAYOUT.row_dtype())
    rows["history_title"] = [[0, 0, 11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26, 27, 28]]
    rows["history_abandoned"] = [[0, 0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    rows["history_sessions"] = rows["history_title"] % 10
    rows["history_signals"][..., 1] = rows["history_title"] % 10
    rows["history_signals"][..., 0] = np.nan
    return rows


def view(keep_abandoned, window=4, rate=0.0):
    return ranking_inputs.HistoryView(LAYOUT, (window,), keep_abandoned, rate)


def test_abandoned_titles_are_replaced_by_older_titles():
    decoded = ranking_inputs.decode(as_words(history_rows()), LAYOUT.row_dtype())
    filtered = ranking_inputs.history(decoded, view(keep_abandoned=False))
    assert filtered.title.tolist() == [[11, 13, 14, 16], [24, 25, 26, 27]]
    assert filtered.sessions.tolist() == [[1, 3, 4, 6], [4, 5, 6, 7]]
    assert filtered.past.signals[..., 1].tolist() == filtered.sessions.tolist()
    assert np.isnan(filtered.past.signals[..., 0]).all()
    unfiltered = ranking_inputs.history(decoded, view(keep_abandoned=True))
    assert unfiltered.title.tolist() == [[13, 14, 15, 16], [25, 26, 27, 28]]
    long = ranking_inputs.history(decoded, view(keep_abandoned=False, window=8))
    assert long.title.tolist() == [[0, 0, 0, 0, 11, 13, 14, 16], [0, 21, 22, 23, 24, 25, 26, 27]]


def test_the_unknown_title_replaces_titles_but_not_padding():
    rows = np.repeat(history_rows(), 2000)
    decoded = ranking_inputs.decode(as_words(rows), LAYOUT.row_dtype())
    key = rng_module.row_keys(0, 0, np.arange(len(rows)))
    title = np.asarray(
        ranking_inputs.history(decoded, view(keep_abandoned=True, window=8, rate=0.1), key).title
    )
    assert (title[rows["history_title"] == 0] == 0).all()
    fraction = (title == 1).sum() / (rows["history_title"] != 0).sum()
    assert abs(fraction - 0.1) < 0.01
    assert (
        np.asarray(ranking_inputs.history(decoded, view(keep_abandoned=True, window=8, rate=0.1)).title) != 1
    ).all()


def pool_rows(n_hard):
    rows = np.zeros(1, LAYOUT.row_dtype())
    rows["pool_hard"], rows["pool_trending"] = [10, 11, 12, 13], [20, 21, 22, 23, 24]
    rows["pool_tailing"], rows["pool_random"] = [30, 31, 32], [40, 41]
    rows["pool_hard_filled"] = np.arange(4) >= n_hard
    return ranking_inputs.decode(as_words(rows), LAYOUT.row_dtype())


@pytest.mark.parametrize(
    "n_hard, epoch, expected, hard",
    [
        (4, 0, [10, 11], [1, 1]),
        (4, 1, [12, 13], [1, 1]),
        (3, 1, [12, 10], [1, 1]),  # the width is the number of real hard negatives, 3
        (1, 0, [10, 11], [1, 0]),
        (1, 1, [10, 12], [1, 0]),  # the real negative stays, the filled negatives rotate
        (0, 1, [12, 13], [0, 0]),
    ],
)
def test_hard_columns_rotate_over_real_hard_negatives(n_hard, epoch, expected, hard):
    negative, flags = pool_negatives.choose_negatives(pool_rows(n_hard), (2, 0, 0, 0), epoch)
    assert negative.tolist() == [expected] and flags.astype(int).tolist() == [hard]


def test_other_pools_rotate_by_epoch():
    rows = pool_rows(4)
    assert pool_negatives.choose_negatives(rows, (0, 2, 2, 1), 0)[0].tolist() == [[20, 21, 30, 31, 40]]
    assert pool_negatives.choose_negatives(rows, (0, 2, 2, 1), 2)[0].tolist() == [[24, 20, 31, 32, 40]]
